// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/forward"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/unixsocket"
)

// Files that "up" hands to the monitor.
const (
	lockFD        = 3 // the locked file; held open for the monitor's whole life
	apiListenerFD = 4 // the host's listener for kube-apiserver
)

// Sockets in <dir>/run.
const (
	hostControl  = "host.sock"  // control interface of the monitor's components
	innerControl = "inner.sock" // control interface of the supervisor's components
	apiSocket    = "api.sock"   // supervisor -> kube-apiserver
	s3Socket     = "s3.sock"    // monitor -> S3 server
)

// Monitor is the outermost process of an instance. It runs until ctx ends or
// the instance's process 1 does, and then leaves no process behind.
func Monitor(ctx context.Context, dir string) error {
	lock := os.NewFile(lockFD, "lock")
	defer lock.Close()
	syscall.CloseOnExec(lockFD)
	syscall.CloseOnExec(apiListenerFD)

	i := &Instance{Name: filepath.Base(dir), Dir: dir}
	env, err := i.Env()
	if err != nil {
		return err
	}
	if err := i.writeIdentity("monitor", os.Getpid()); err != nil {
		return err
	}
	for _, entry := range env.Families {
		hold, err := build.Hold(entry)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = hold.Close() })
	}
	apiFile := os.NewFile(apiListenerFD, "api")
	apiListener, err := net.FileListener(apiFile)
	if err != nil {
		return fmt.Errorf("the host's listener for kube-apiserver: %w", err)
	}
	apiFile.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)

	s3Listener, err := unixsocket.Listen(i.path("run", s3Socket))
	if err != nil {
		return err
	}
	serve := func(what string, work func() error) {
		group.Go(func() {
			if err := work(); err != nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	serve("forward to kube-apiserver", func() error {
		return forward.Serve(ctx, apiListener, func(ctx context.Context) (net.Conn, error) {
			return unixsocket.Dial(ctx, i.path("run", apiSocket))
		})
	})
	serve("forward to the S3 server", func() error {
		return forward.Serve(ctx, s3Listener, dialTCP(env.S3Port))
	})
	if env.S3From == "" {
		server, err := s3Component(env)
		if err != nil {
			return err
		}
		supervisor, err := component.NewSupervisor(i.path("logs"), BaseEnvironment(dir), []component.Component{server})
		if err != nil {
			return err
		}
		group.Go(func() { supervisor.Run(ctx) })
		serve("control interface", func() error {
			return serveControl(ctx, i.path("run", hostControl), supervisor)
		})
	}
	return i.runInit(ctx, env)
}

// runInit starts process 1 in new namespaces and waits for it; when ctx ends it is killed.
func (i *Instance) runInit(ctx context.Context, env *component.Env) error {
	// The parent-death signal is tied to this thread: it must live as long as the monitor.
	runtime.LockOSThread()
	cmd := exec.Command(env.Executable, "init", "--dir", i.Dir)
	cmd.Env = BaseEnvironment(i.Dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start process 1 in new namespaces (needs root): %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := i.writeIdentity("init", cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			return cause
		}
		return nil
	}
	return fmt.Errorf("process 1 of the instance ended: %w", err)
}

// BaseEnvironment is what every component gets: nothing of the user's own
// environment, which may hold credentials and a KUBECONFIG.
func BaseEnvironment(dir string) []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"LANG=C.UTF-8",
		Marker + "=" + dir,
	}
}

// s3Component is the S3 server, which the host and all instances that share it reach on loopback.
func s3Component(env *component.Env) (component.Component, error) {
	credentials, err := component.ReadS3Credentials(env)
	if err != nil {
		return component.Component{}, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", env.S3Port)
	return component.Component{
		Name:  "s3",
		Role:  component.Real,
		About: "versitygw, the backup target's S3 server (on the host, " + address + ")",
		Path:  env.Binary(build.CSIAndS3, "versitygw"),
		Args:  []string{"--port", address, "--region", "us-east-1", "posix", env.Path("s3")},
		Env: []string{
			"ROOT_ACCESS_KEY_ID=" + credentials.AccessKeyID,
			"ROOT_SECRET_ACCESS_KEY=" + credentials.SecretAccessKey,
		},
		Ready: component.TCPReady(address),
	}, nil
}

func dialTCP(port int) forward.Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}
}

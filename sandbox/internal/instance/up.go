// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// UpOptions says what to bring up.
type UpOptions struct {
	// Profile says what runs in the instance, e.g. component.Default.
	Profile string
	// Families are the entries of the build cache.
	Families map[string]string
	// S3From shares the S3 server of another running instance; nil starts an own one.
	S3From *Instance
	// Timeout for the whole start.
	Timeout time.Duration
	// Out receives the progress.
	Out io.Writer
}

// errEarly is for a monitor that ends without an error while it is waited for.
var errEarly = errors.New("too early")

// ErrRunning is returned by Up when the instance runs already.
var ErrRunning = errors.New("already running")

// Up starts the instance and returns when every component is ready. State of
// an earlier run that ended badly is removed first.
func (i *Instance) Up(ctx context.Context, o UpOptions) error {
	started := time.Now()
	if err := os.MkdirAll(filepath.Dir(i.Dir), 0o755); err != nil {
		return err
	}
	lock, err := i.lock()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("instance %s: %w", i.Name, ErrRunning)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	apiListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer apiListener.Close()
	if _, err := i.create(o, apiListener.Addr().(*net.TCPAddr).Port); err != nil {
		return fmt.Errorf("instance %s: %w", i.Name, err)
	}
	monitor, err := i.startMonitor(lock, apiListener.(*net.TCPListener))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := i.follow(ctx, monitor, o.Out, started); err != nil {
		return fmt.Errorf("instance %s is not up: %w\nlogs: %s; remove it with \"sandbox down --name %s\"",
			i.Name, err, i.path("logs"), i.Name)
	}
	fmt.Fprintf(o.Out, "instance %s is up after %s\n", i.Name, time.Since(started).Round(time.Second))
	return nil
}

// startMonitor starts the monitor in a session of its own and returns a
// channel that receives when it ends.
func (i *Instance) startMonitor(lock *os.File, api *net.TCPListener) (<-chan error, error) {
	apiFile, err := api.File()
	if err != nil {
		return nil, err
	}
	defer apiFile.Close()
	log, err := os.OpenFile(i.Log("monitor"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(i.path("bin", "sandbox"), "monitor", "--dir", i.Dir)
	cmd.Env = BaseEnvironment(i.Dir)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock, apiFile} // lockFD, apiListenerFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the monitor: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

// follow prints what becomes ready until everything is.
func (i *Instance) follow(ctx context.Context, monitor <-chan error, out io.Writer, started time.Time) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-monitor:
			cancel(fmt.Errorf("the monitor ended: %w: see %s", cmp.Or(err, errEarly), i.Log("monitor")))
		case <-ctx.Done():
		}
	}()
	report := &progress{out: out, started: started, told: map[string]component.State{}}
	var group sync.WaitGroup
	errs := make([]error, 2)
	for n, socket := range i.controls() {
		group.Go(func() { errs[n] = waitReady(ctx, i.path("run", socket), report) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
			return cause
		}
		return err
	}
	return nil
}

// controls are the sockets of the instance's supervisors.
func (i *Instance) controls() []string {
	env, err := i.Env()
	if err != nil || env.S3From != "" {
		return []string{innerControl}
	}
	return []string{hostControl, innerControl}
}

// waitReady watches one supervisor until all its components are ready. The
// supervisor may not be there yet.
func waitReady(ctx context.Context, socket string, report *progress) error {
	const retry = 100 * time.Millisecond
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	client := component.NewClient(socket)
	var last []component.Status
	for {
		_ = client.Watch(ctx, func(statuses []component.Status) bool {
			last = statuses
			report.show(statuses)
			return !component.AllReady(statuses)
		})
		if component.AllReady(last) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return notReady(last, ctx.Err())
		}
	}
}

func notReady(statuses []component.Status, cause error) error {
	err := cause
	for _, s := range statuses {
		if s.State != component.Ready && s.State != component.Waiting {
			err = fmt.Errorf("%w\n  %s is %s: %s", err, s.Name, s.State, s.Message)
		}
	}
	return err
}

// progress prints each state of a component once.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	started time.Time
	told    map[string]component.State
}

func (p *progress) show(statuses []component.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range statuses {
		if p.told[s.Name] == s.State {
			continue
		}
		p.told[s.Name] = s.State
		switch s.State {
		case component.Ready:
			fmt.Fprintf(p.out, "%4.0fs  %s ready\n", time.Since(p.started).Seconds(), s.Name)
		case component.Restarting:
			fmt.Fprintf(p.out, "%4.0fs  %s restarts: %s\n", time.Since(p.started).Seconds(), s.Name, s.Message)
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// Init is process 1 of an instance: it builds the root, starts the supervisor
// and reaps orphans until the supervisor ends, which ends everything.
func Init(dir string) error {
	if os.Getpid() != 1 {
		return errors.New("init must be process 1 of its own namespaces; it is started by the monitor")
	}
	i := &Instance{Name: filepath.Base(dir), Dir: dir}
	env, err := i.Env()
	if err != nil {
		return err
	}
	if err := i.buildRoot(env); err != nil {
		return err
	}
	if err := raiseLoopback(netip.MustParseAddr(component.RoutableIP).As4()); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(component.NodeName)); err != nil {
		return err
	}
	pid, err := syscall.ForkExec(env.Executable, []string{"sandbox", "supervise", "--dir", dir}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	for {
		var status syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case ended == pid:
			return fmt.Errorf("the supervisor ended with status %d", status)
		}
	}
}

// buildRoot prepares what the components expect to find on a node.
func (i *Instance) buildRoot(env *component.Env) error {
	longhorn := "/var/lib/longhorn"
	binds := map[string]string{
		i.Dir: i.Dir,
		// Replica files are read by their extents, which tmpfs and overlay do not tell: a real file system is needed.
		longhorn: i.path("longhorn"),
	}
	var readOnly []string
	for _, entry := range env.Families {
		readOnly = append(readOnly, entry)
	}
	if err := enterRoot(i.path("rootfs"), binds, readOnly); err != nil {
		return err
	}
	links := map[string]string{
		"/host":            "/",
		"/engine-binaries": longhorn + "/engine-binaries",
		"/data":            longhorn,
		// The names under which container images hold these programs.
		"/usr/local/bin/grpc_health_probe":     env.Binary(build.CSIAndS3, "grpc_health_probe"),
		"/usr/local/bin/instance-manager":      env.Binary(build.InstanceManager, "longhorn-instance-manager"),
		"/usr/local/bin/backing-image-manager": env.Binary(build.BackingImageManager, "backing-image-manager"),
		"/usr/local/sbin/iscsid":               env.Executable,
	}
	for link, target := range links {
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return err
		}
		if err := os.RemoveAll(link); err != nil {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	for _, dir := range []string{
		longhorn + "/engine-binaries", "/run/secrets/kubernetes.io/serviceaccount", "/run/csi", "/log",
		longhorn + "/unix-domain-socket",
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"/etc/hosts": "127.0.0.1 localhost " + component.NodeName + "\n" +
			"127.0.0.1 longhorn-admission-webhook.longhorn-system.svc\n" +
			component.RoutableIP + " longhorn-backend longhorn-backend.longhorn-system longhorn-backend.longhorn-system.svc\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\n",
	}
	for name, content := range files {
		if err := replaceFile(name, content, 0o644); err != nil {
			return err
		}
	}
	// Longhorn asks only for the version of the iSCSI initiator, which cannot work without the kernel's part.
	return replaceFile("/usr/local/sbin/iscsiadm", "#!/bin/sh\necho 'iscsiadm version 2.1.9 (stand-in of the sandbox)'\n", 0o755)
}

// replaceFile writes a new file, never through a symbolic link.
func replaceFile(name, content string, mode os.FileMode) error {
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), mode)
}

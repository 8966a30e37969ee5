// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// mountStep is one mount of the instance's root.
type mountStep struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// enterRoot builds the instance's root and pivots into it. The root is the
// host's with every write kept in memory; below it are private /proc, /tmp and
// /run, and the given directories at their own paths. It must run as process 1
// of new mount and PID namespaces. stage is an empty directory to build in.
func enterRoot(stage string, binds map[string]string, readOnly []string) error {
	root := filepath.Join(stage, "root")
	steps := []mountStep{
		// Nothing that follows may propagate to the host.
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"sandbox", stage, "tmpfs", 0, "mode=0755"},
	}
	if err := mountAll(steps); err != nil {
		return err
	}
	upper, work := filepath.Join(stage, "upper"), filepath.Join(stage, "work")
	for _, dir := range []string{root, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	steps = []mountStep{
		{"overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=/,upperdir=%s,workdir=%s", upper, work)},
		{"proc", root + "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", root + "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"sysfs", root + "/sys", "sysfs", unix.MS_RDONLY, ""},
		{"tmp", root + "/tmp", "tmpfs", 0, "mode=1777"},
		{"run", root + "/run", "tmpfs", 0, "mode=0755"},
	}
	// The inner path may lie in one of the fresh file systems, so these come after them,
	// outer directories before inner ones.
	targets := make([]string, 0, len(binds)+len(readOnly))
	sources := map[string]string{}
	for target, source := range binds {
		sources[target] = source
		targets = append(targets, target)
	}
	for _, dir := range readOnly {
		if _, ok := sources[dir]; !ok {
			sources[dir] = dir
			targets = append(targets, dir)
		}
	}
	slices.Sort(targets)
	if err := mountAll(steps); err != nil {
		return err
	}
	for _, target := range targets {
		inside := filepath.Join(root, target)
		if err := os.MkdirAll(inside, 0o755); err != nil {
			return err
		}
		steps := []mountStep{{sources[target], inside, "", unix.MS_BIND, ""}}
		if slices.Contains(readOnly, target) {
			steps = append(steps, mountStep{"", inside, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
		}
		if err := mountAll(steps); err != nil {
			return err
		}
	}
	old := filepath.Join(root, ".host")
	if err := os.MkdirAll(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot into %s: %w", root, err)
	}
	return errors.Join(os.Chdir("/"), unix.Unmount("/.host", unix.MNT_DETACH), os.Remove("/.host"))
}

func mountAll(steps []mountStep) error {
	for _, s := range steps {
		if err := unix.Mount(s.source, s.target, s.fstype, s.flags, s.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", s.source, s.target, err)
		}
	}
	return nil
}

// raiseLoopback brings lo up and gives it one more address, which is not a
// loopback address in the eyes of programs that refuse those.
func raiseLoopback(extra [4]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr(extra[:]); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
		return fmt.Errorf("add an address to lo: %w", err)
	}
	mask, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := mask.SetInet4Addr([]byte{255, 255, 255, 255}); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, mask); err != nil {
		return fmt.Errorf("narrow the address of lo: %w", err)
	}
	return nil
}

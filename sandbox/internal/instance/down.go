// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// Down ends the instance and removes its state. It also removes what an
// instance that was killed left on disk. Nothing to do is no error.
func (i *Instance) Down(ctx context.Context) error {
	if err := i.endMonitor(ctx); err != nil {
		return err
	}
	lock, err := i.waitLock(ctx)
	if err != nil {
		return fmt.Errorf("instance %s does not end: %w", i.Name, err)
	}
	defer lock.Close()
	return errors.Join(i.remove(), os.Remove(lock.Name()))
}

// remove deletes the state directory, its mark last, so that an interrupted
// removal is known for what it is.
func (i *Instance) remove() error {
	if err := i.checkOurs(); err != nil {
		return err
	}
	entries, err := os.ReadDir(i.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == ownerFile {
			continue
		}
		if err := removeAll(i.path(e.Name())); err != nil {
			return err
		}
	}
	return removeAll(i.Dir)
}

// removeAll tries again when a process that is being killed wrote a last file.
func removeAll(path string) error {
	const attempts = 5
	var err error
	for range attempts {
		if err = os.RemoveAll(path); err == nil || !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return err
}

// endMonitor asks the monitor to end, and kills it when it does not; either way the kernel ends the rest.
func (i *Instance) endMonitor(ctx context.Context) error {
	const grace = 15 * time.Second
	id, err := i.process("monitor")
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	// A process descriptor cannot hit another process that got the number meanwhile.
	process, err := os.FindProcess(id.PID)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	if !id.Alive() {
		return nil
	}
	if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the monitor of instance %s: %w", i.Name, err)
	}
	waiting, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	lock, err := i.waitLock(waiting)
	if err == nil {
		return lock.Close()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the monitor of instance %s: %w", i.Name, err)
	}
	return nil
}

// waitLock takes the lock as soon as the monitor is gone.
func (i *Instance) waitLock(ctx context.Context) (*os.File, error) {
	const retry = 50 * time.Millisecond
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for {
		lock, err := i.lock()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return lock, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Status asks the supervisors of a running instance.
func (i *Instance) Status(ctx context.Context) ([]component.Status, error) {
	running, err := i.Running()
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, fmt.Errorf("instance %s: %w", i.Name, ErrNotRunning)
	}
	var all []component.Status
	for _, socket := range i.controls() {
		statuses, err := component.NewClient(i.path("run", socket)).Status(ctx)
		if err != nil {
			return all, err
		}
		all = append(all, statuses...)
	}
	return all, nil
}

// Control stops, starts or restarts a component and returns when that is done.
func (i *Instance) Control(ctx context.Context, name, action string) error {
	running, err := i.Running()
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("instance %s: %w", i.Name, ErrNotRunning)
	}
	for _, socket := range i.controls() {
		err = component.NewClient(i.path("run", socket)).Do(ctx, name, action)
		if !errors.Is(err, component.ErrUnknown) {
			return err
		}
	}
	return err
}

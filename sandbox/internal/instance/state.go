// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package instance brings sandbox instances up and takes them down.
//
// An instance is three layers of processes: the monitor in the host's
// namespaces, which holds the lock on the state directory and runs what the
// host must reach; the init, process 1 of the instance's own mount, process,
// network, host name and IPC namespaces; and the supervisor below it, which
// runs the components. Each layer is killed by the kernel when the one above it
// dies, and with process 1 everything inside goes, mounts included.
package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/procid"
)

// Marker is the environment variable, set to the state directory, that every
// process of an instance carries.
const Marker = "SANDBOX_INSTANCE"

// Instance is the state directory of one instance.
type Instance struct {
	// Name is the instance's name.
	Name string
	// Dir is its state directory.
	Dir string
}

// ownerFile marks a directory as the state of an instance. It is made first and removed last.
const ownerFile = "SANDBOX"

// ErrNotRunning is returned where a running instance is needed.
var ErrNotRunning = errors.New("not running")

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// At returns the instance called name below home; it need not exist.
func At(home, name string) (*Instance, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("instance name %q: use at most 32 of a-z, 0-9 and -", name)
	}
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, err
	}
	return &Instance{Name: name, Dir: filepath.Join(home, name)}, nil
}

// List returns the instances below home, running or not.
func List(home string) ([]*Instance, error) {
	entries, err := os.ReadDir(home)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*Instance
	for _, e := range entries {
		if !e.IsDir() || !validName.MatchString(e.Name()) {
			continue
		}
		i, err := At(home, e.Name())
		if err != nil {
			return nil, err
		}
		if i.checkOurs() == nil {
			all = append(all, i)
		}
	}
	return all, nil
}

// checkOurs fails when the state directory exists and is not the sandbox's: it
// is removed as a whole at the start and at the end.
func (i *Instance) checkOurs() error {
	entries, err := os.ReadDir(i.Dir)
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(i.path(ownerFile)); err != nil {
		return fmt.Errorf("%s is not the state of a sandbox instance: move it away, or set SANDBOX_HOME to another directory", i.Dir)
	}
	return nil
}

func (i *Instance) path(elem ...string) string {
	return filepath.Join(append([]string{i.Dir}, elem...)...)
}

// Kubeconfig is the path of the administrator's kubeconfig for the host.
func (i *Instance) Kubeconfig() string { return i.path("kubeconfig") }

// Log is the path of a component's log.
func (i *Instance) Log(name string) string { return i.path("logs", name+".log") }

// Env reads what the instance was made with.
func (i *Instance) Env() (*component.Env, error) {
	data, err := os.ReadFile(i.path("env.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("instance %s: %w", i.Name, ErrNotRunning)
	}
	if err != nil {
		return nil, err
	}
	env := &component.Env{}
	if err := json.Unmarshal(data, env); err != nil {
		return nil, fmt.Errorf("%s: %w", i.path("env.json"), err)
	}
	return env, nil
}

func (i *Instance) writeEnv(env *component.Env) error {
	data, err := json.MarshalIndent(env, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(i.path("env.json"), append(data, '\n'), 0o600)
}

// lock takes the lock that a monitor holds for its whole life. It fails with
// EWOULDBLOCK when another process has it. The lock belongs to the open file,
// so a child that inherits the file holds it too.
func (i *Instance) lock() (*os.File, error) {
	for {
		f, err := os.OpenFile(i.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, err
		}
		// "down" removes the file while it holds the lock: a lock on a removed file excludes nobody.
		locked, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if present, err := os.Stat(f.Name()); err == nil && os.SameFile(locked, present) {
			return f, nil
		}
		f.Close()
	}
}

// Running says whether a monitor holds the instance.
func (i *Instance) Running() (bool, error) {
	if _, err := os.Stat(i.Dir + ".lock"); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	f, err := i.lock()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

func (i *Instance) writeIdentity(role string, pid int) error {
	id, err := procid.Of(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return os.WriteFile(i.path("run", role+".json"), data, 0o600)
}

// process returns a process of the instance (monitor, init) if it is alive.
func (i *Instance) process(role string) (procid.Identity, error) {
	data, err := os.ReadFile(i.path("run", role+".json"))
	if errors.Is(err, os.ErrNotExist) {
		return procid.Identity{}, fmt.Errorf("instance %s: %w", i.Name, ErrNotRunning)
	}
	if err != nil {
		return procid.Identity{}, err
	}
	var id procid.Identity
	if err := json.Unmarshal(data, &id); err != nil {
		return procid.Identity{}, err
	}
	if !id.Alive() {
		return procid.Identity{}, fmt.Errorf("instance %s: %w", i.Name, ErrNotRunning)
	}
	return id, nil
}

// PID is the host's number of one of the instance's processes: "monitor", or
// "init", its process 1, whose namespaces nsenter can enter.
func (i *Instance) PID(role string) (int, error) {
	id, err := i.process(role)
	return id.PID, err
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Timings of a Supervisor.
const (
	probeInterval  = 200 * time.Millisecond
	probeDeadline  = 5 * time.Second
	firstBackoff   = 500 * time.Millisecond
	longestBackoff = 10 * time.Second
	// A process that ran this long starts its back-off anew.
	healthyAfter = 30 * time.Second
	// A process that does not end on SIGTERM is killed after this.
	stopGrace = 5 * time.Second
)

// ErrUnknown is returned for a component that the supervisor does not run.
var ErrUnknown = errors.New("no such component")

// Supervisor runs a set of components.
type Supervisor struct {
	logDir string
	env    []string

	mu      sync.Mutex
	units   []*unit
	changed chan struct{} // closed and replaced on every change
}

// unit is the state of one component, guarded by Supervisor.mu.
type unit struct {
	Component
	status    Status
	wasReady  bool
	wanted    bool               // false: stopped on request
	interrupt context.CancelFunc // ends the current attempt
}

// NewSupervisor validates the set. Logs go to <logDir>/<name>.log; env is the
// whole environment of every process, to which Component.Env is added.
func NewSupervisor(logDir string, env []string, set []Component) (*Supervisor, error) {
	if err := Validate(set); err != nil {
		return nil, err
	}
	s := &Supervisor{logDir: logDir, env: env, changed: make(chan struct{})}
	for _, c := range set {
		s.units = append(s.units, &unit{
			Component: c,
			wanted:    true,
			status:    Status{Name: c.Name, Role: c.Role, About: c.About, State: Waiting, Since: time.Now()},
		})
	}
	return s, nil
}

// Run runs the components until ctx ends and all processes are gone.
func (s *Supervisor) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, u := range s.units {
		group.Go(func() { s.keep(ctx, u) })
	}
	group.Wait()
}

// Snapshot returns the statuses in the order of definition and a channel that
// is closed at the next change.
func (s *Supervisor) Snapshot() ([]Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	statuses := make([]Status, 0, len(s.units))
	for _, u := range s.units {
		statuses = append(statuses, u.status)
	}
	return statuses, s.changed
}

// Stop ends a component and keeps it stopped; it returns when the process is gone.
func (s *Supervisor) Stop(ctx context.Context, name string) error {
	u, err := s.find(name)
	if err != nil {
		return err
	}
	s.update(func() {
		u.wanted = false
		if u.interrupt != nil {
			u.interrupt()
		}
	})
	return s.waitFor(ctx, u, func() bool { return u.status.State == Stopped })
}

// Start starts a stopped component again and returns when it is ready.
func (s *Supervisor) Start(ctx context.Context, name string) error {
	u, err := s.find(name)
	if err != nil {
		return err
	}
	s.update(func() { u.wanted = true })
	return s.waitFor(ctx, u, func() bool { return u.status.State == Ready })
}

// Restart is Stop followed by Start.
func (s *Supervisor) Restart(ctx context.Context, name string) error {
	if err := s.Stop(ctx, name); err != nil {
		return err
	}
	return s.Start(ctx, name)
}

func (s *Supervisor) find(name string) (*unit, error) {
	for _, u := range s.units {
		if u.Name == name && u.Role == Task {
			return nil, fmt.Errorf("%s is a task that runs once: it cannot be stopped or started", name)
		}
		if u.Name == name {
			return u, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknown, name)
}

func (s *Supervisor) waitFor(ctx context.Context, u *unit, reached func() bool) error {
	for {
		s.mu.Lock()
		ok, changed, status := reached(), s.changed, u.status
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("component %s is %s (%s): %w", u.Name, status.State, status.Message, ctx.Err())
		}
	}
}

// update changes state under the lock and wakes the observers.
func (s *Supervisor) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Supervisor) enter(u *unit, state State, message string) {
	s.update(func() {
		if u.status.State != state {
			u.status.Since = time.Now()
		}
		u.status.State, u.status.Message = state, message
		if state != Starting && state != Ready {
			u.status.PID = 0
		}
		if state == Ready {
			u.wasReady = true
		}
	})
}

// keep holds one component up until ctx ends.
func (s *Supervisor) keep(ctx context.Context, u *unit) {
	backoff := firstBackoff
	for first := true; ; first = false {
		if err := s.await(ctx, u); err != nil {
			return
		}
		if !first {
			s.update(func() { u.status.Restarts++ })
		}
		attempt, cancel := context.WithCancel(ctx)
		s.update(func() { u.interrupt = cancel })
		started := time.Now()
		err := s.attempt(attempt, u)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if u.Role == Task && err == nil {
			s.enter(u, Ready, "")
			return
		}
		message := "ended"
		if err != nil {
			message = err.Error()
		}
		s.logf(u.Name, "%s", message)
		if time.Since(started) > healthyAfter {
			backoff = firstBackoff
		}
		s.enter(u, Restarting, message)
		if !s.pause(ctx, u, backoff) {
			backoff = firstBackoff
			continue
		}
		backoff = min(2*backoff, longestBackoff)
	}
}

// await blocks until the component is wanted and everything it starts after
// has been ready once. Later failures of those do not hold it back, as nothing
// would hold back a pod.
func (s *Supervisor) await(ctx context.Context, u *unit) error {
	for {
		s.mu.Lock()
		wanted, changed := u.wanted, s.changed
		var missing []string
		for _, dep := range s.units {
			if slices.Contains(u.After, dep.Name) && !dep.wasReady {
				missing = append(missing, dep.Name)
			}
		}
		state := u.status.State
		s.mu.Unlock()
		switch {
		case wanted && len(missing) == 0:
			return nil
		case !wanted && state != Stopped:
			s.enter(u, Stopped, "on request")
			continue
		case wanted && state != Waiting:
			s.enter(u, Waiting, "")
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause waits for the back-off; it returns false when a request ended it early.
func (s *Supervisor) pause(ctx context.Context, u *unit, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		s.mu.Lock()
		wanted, changed := u.wanted, s.changed
		s.mu.Unlock()
		if !wanted {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// attempt runs the component once, until it ends or ctx does.
func (s *Supervisor) attempt(ctx context.Context, u *unit) error {
	s.enter(u, Starting, "")
	if u.Prepare != nil {
		if err := u.Prepare(ctx); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if u.Role == Task {
		return u.Run(ctx)
	}
	p, err := startProcess(u.Component, s.env, filepath.Join(s.logDir, u.Name+".log"))
	if err != nil {
		return err
	}
	s.update(func() { u.status.PID = p.pid })
	probing, cancel := context.WithCancel(ctx)
	defer cancel()
	go s.probe(probing, u)
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		p.stop(stopGrace)
		return ctx.Err()
	}
}

// probe marks the component ready at its first good answer.
func (s *Supervisor) probe(ctx context.Context, u *unit) {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for {
		var err error
		if u.Ready != nil {
			probe, cancel := context.WithTimeout(ctx, probeDeadline)
			err = u.Ready(probe)
			cancel()
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			s.enter(u, Ready, "")
			return
		}
		s.mu.Lock()
		told := u.status.Message == err.Error()
		s.mu.Unlock()
		if !told {
			s.enter(u, Starting, err.Error())
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// logf adds a line of the supervisor's own to a component's log.
func (s *Supervisor) logf(name, format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(s.logDir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "--- sandbox %s: %s\n", time.Now().Format(time.RFC3339), fmt.Sprintf(format, args...))
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package guest is the stand-in for the operating system in a virtual machine
// and its QEMU guest agent. No guest is executed: what is kept is the state
// that a backup depends on (frozen or not, until when, paused, off), the record
// of every freeze, and the rule that a frozen guest writes nothing.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Key names a guest: a VirtualMachineInstance and one of its lives.
type Key struct {
	// Namespace and Name of the VirtualMachineInstance (and of its VirtualMachine).
	Namespace, Name string
	// UID of the VirtualMachineInstance; a restart makes a new one.
	UID string
}

// ErrFrozen is returned for a write to a frozen guest.
var ErrFrozen = errors.New("the guest's file systems are frozen")

// ErrStopped is returned once the guest is off.
var ErrStopped = errors.New("the guest is off")

// ErrPaused is returned for what a paused guest cannot do.
var ErrPaused = errors.New("the guest is paused")

// Guest is one running guest. Its methods may be called concurrently.
type Guest struct {
	key     Key
	clock   clock.WithDelayedExecution
	journal *Journal
	changed func()

	// writes is held shared by every write and exclusively by a freeze: like the
	// kernel's freeze, it waits for the writes in flight and holds back later ones.
	writes sync.RWMutex

	mu      sync.Mutex
	paused  bool
	stopped bool
	window  *Window
	timer   clock.Timer
	thawed  chan struct{} // closed at the next thaw or stop; nil while not frozen
}

// Start returns the guest of a VirtualMachineInstance that starts or, after a
// restart of the stand-in, goes on: a freeze that the journal holds open
// continues with its old deadline. changed is called after every change of state.
func Start(key Key, journal *Journal, clk clock.WithDelayedExecution, changed func()) (*Guest, error) {
	g := &Guest{key: key, clock: clk, journal: journal, changed: changed}
	open, err := journal.Open()
	if err != nil || open == nil {
		return g, err
	}
	if open.UID != key.UID {
		// The guest that was frozen is gone without a farewell.
		return g, journal.Close(*open, clk.Now(), ThawedByShutdown)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enterFrozen(open)
	return g, nil
}

// Key names the guest.
func (g *Guest) Key() Key { return g.key }

// Freeze freezes the file systems and thaws them by itself after timeout; zero
// is no deadline. It waits for writes in flight. Freezing a frozen guest
// succeeds and leaves its deadline as it is, as KubeVirt's launcher does.
func (g *Guest) Freeze(timeout time.Duration) error {
	g.writes.Lock()
	defer g.writes.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.stopped:
		return ErrStopped
	case g.paused:
		return ErrPaused
	case g.window != nil:
		return nil
	}
	window := &Window{
		Namespace:      g.key.Namespace,
		VM:             g.key.Name,
		UID:            g.key.UID,
		Start:          g.clock.Now(),
		TimeoutSeconds: timeout.Seconds(),
	}
	if err := g.journal.Begin(*window); err != nil {
		return err
	}
	g.enterFrozen(window)
	g.changed()
	return nil
}

// enterFrozen takes a window over and arms its deadline; g.mu is held.
func (g *Guest) enterFrozen(window *Window) {
	g.window, g.thawed = window, make(chan struct{})
	if window.TimeoutSeconds == 0 {
		return
	}
	left := max(0, window.Deadline().Sub(g.clock.Now()))
	// Some clocks call back under their own lock.
	g.timer = g.clock.AfterFunc(left, func() { go g.expire(window) })
}

// expire is the deadline of one window; a later window is none of its business.
func (g *Guest) expire(window *Window) {
	g.mu.Lock()
	mine := g.window == window
	if mine {
		if err := g.leaveFrozen(ThawedByDeadline); err != nil {
			fmt.Fprintf(os.Stderr, "guest %s/%s: record the thaw at the deadline: %v\n", g.key.Namespace, g.key.Name, err)
		}
	}
	g.mu.Unlock()
	if mine {
		g.changed()
	}
}

// Thaw thaws a frozen guest on a client's request; a thawed one stays as it is.
func (g *Guest) Thaw() error {
	g.mu.Lock()
	if g.stopped || g.paused {
		err := ErrStopped
		if !g.stopped {
			err = ErrPaused
		}
		g.mu.Unlock()
		return err
	}
	frozen := g.window != nil
	var err error
	if frozen {
		err = g.leaveFrozen(ThawedByClient)
	}
	g.mu.Unlock()
	if frozen {
		g.changed()
	}
	return err
}

// leaveFrozen ends the window; g.mu is held. The guest is thawed even if the
// journal cannot be written.
func (g *Guest) leaveFrozen(by ThawedBy) error {
	window := *g.window
	if g.timer != nil {
		g.timer.Stop()
	}
	close(g.thawed)
	g.window, g.timer, g.thawed = nil, nil, nil
	return g.journal.Close(window, g.clock.Now(), by)
}

// Frozen returns the open freeze window, or nil.
func (g *Guest) Frozen() *Window {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.window == nil {
		return nil
	}
	window := *g.window
	return &window
}

// SetPaused pauses or resumes the guest's processors.
func (g *Guest) SetPaused(paused bool) error {
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		return ErrStopped
	}
	g.paused = paused
	g.mu.Unlock()
	g.changed()
	return nil
}

// Paused says whether the guest's processors are stopped.
func (g *Guest) Paused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused
}

// Reboot restarts the guest's kernel: nothing stays frozen.
func (g *Guest) Reboot() error {
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		return ErrStopped
	}
	var err error
	if g.window != nil {
		err = g.leaveFrozen(ThawedByShutdown)
	}
	g.mu.Unlock()
	g.changed()
	return err
}

// Stop turns the guest off for good. A freeze that is still open ends with it.
func (g *Guest) Stop() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return nil
	}
	g.stopped = true
	if g.window == nil {
		return nil
	}
	return g.leaveFrozen(ThawedByShutdown)
}

// Detach forgets the guest without ending it: the stand-in ends, the guest
// goes on in its journal. No timer runs afterwards.
func (g *Guest) Detach() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
}

// Write runs write as the guest's own: not while it is frozen, paused or off.
// With wait a write to a frozen guest blocks until the thaw, as it would in the
// guest; without, ErrFrozen is returned.
func (g *Guest) Write(ctx context.Context, wait bool, write func(context.Context) error) error {
	for {
		done, thawed, err := g.tryWrite(ctx, write)
		if done {
			return err
		}
		if !wait {
			return fmt.Errorf("%s/%s: %w", g.key.Namespace, g.key.Name, ErrFrozen)
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			return fmt.Errorf("%s/%s: %w: %w", g.key.Namespace, g.key.Name, ErrFrozen, ctx.Err())
		}
	}
}

// tryWrite writes unless the guest is frozen; then it returns the channel that tells of the thaw.
func (g *Guest) tryWrite(ctx context.Context, write func(context.Context) error) (done bool, thawed <-chan struct{}, err error) {
	g.writes.RLock()
	defer g.writes.RUnlock()
	g.mu.Lock()
	stopped, paused, frozen := g.stopped, g.paused, g.thawed
	g.mu.Unlock()
	switch {
	case stopped:
		return true, nil, fmt.Errorf("%s/%s: %w", g.key.Namespace, g.key.Name, ErrStopped)
	case paused:
		return true, nil, fmt.Errorf("%s/%s: %w", g.key.Namespace, g.key.Name, ErrPaused)
	case frozen != nil:
		return false, frozen, nil
	}
	return true, nil, write(ctx)
}

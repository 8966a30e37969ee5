// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// interruptRestore makes the backup, starts the restore and ends its run when it waits for data.
func interruptRestore(t *testing.T, c RestoreCluster) {
	t.Helper()
	e := c.Engine()
	startRestore(t, c, e)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	events := &Events{On: func(e vmbackup.Event) {
		if e.Step == "data" {
			stop()
		}
	}}
	r, err := e.RunRestore(ctx, restoreRef(c), vmbackup.RunOptions{Sink: events})
	wantReason(t, err, false, vmbackup.ReasonCanceled)
	stillRuns(t, r, events.All())
}

// stillRuns fails unless a run was ended by its context, and its restore was not.
func stillRuns(t *testing.T, r *vmbackup.Restore, events []vmbackup.Event) {
	t.Helper()
	if r == nil || r.Status.Phase != vmbackup.PhaseRunning || r.Status.Ready {
		t.Errorf("%+v", r)
	}
	wantStream(t, events)
	if last := events[len(events)-1]; last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseRunning {
		t.Errorf("the last event is %+v", last)
	}
}

func restoreGoesOn(t *testing.T, c RestoreCluster) {
	ready(t, c)
	release := c.Hold()
	interruptRestore(t, c)
	release()
	r, err := c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	oneRestore(t, c)
}

func restoreTimesOut(t *testing.T, c RestoreCluster) {
	ready(t, c)
	release := c.Hold()
	e := c.Engine()
	startRestore(t, c, e)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	events := &Events{}
	r, err := e.RunRestore(ctx, restoreRef(c), vmbackup.RunOptions{Sink: events})
	wantReason(t, err, false, vmbackup.ReasonTimeout)
	stillRuns(t, r, events.All())
	release()
	if r, err = c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	oneRestore(t, c)
}

func restoreWithoutWaiting(t *testing.T, c RestoreCluster) {
	ready(t, c)
	release := c.Hold()
	e := c.Engine()
	startRestore(t, c, e)
	r, err := e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status.Phase != vmbackup.PhaseRunning || r.Status.Ready || r.Status.VM != copyRef(c).String() || c.Machine(copyRef(c)) == nil {
		t.Errorf("%+v", r.Status)
	}
	release()
	if r, err = c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	oneRestore(t, c)
}

// twoRestoreRuns end as Ready, or the one that comes second gives way.
func twoRestoreRuns(t *testing.T, c RestoreCluster) {
	ready(t, c)
	startRestore(t, c, c.Engine())
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		e := c.Engine()
		both.Go(func() { _, errs[i] = e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}) })
	}
	both.Wait()
	for _, err := range errs {
		if err != nil {
			wantReason(t, err, false, vmbackup.ReasonConflict)
		}
	}
	r, err := c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	oneRestore(t, c)
}

func followRestore(t *testing.T, c RestoreCluster) {
	ready(t, c)
	e := c.Engine()
	startRestore(t, c, e)
	events := &Events{}
	var following sync.WaitGroup
	var err error
	other := c.Engine()
	following.Go(func() { err = other.FollowRestore(t.Context(), restoreRef(c), events) })
	release := c.Hold()
	if _, err := e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{NoWait: true}); err != nil {
		t.Fatal(err)
	}
	release()
	if _, err := e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	following.Wait()
	if err != nil {
		t.Fatal(err)
	}
	wantStream(t, events.All())
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func cancelRestore(t *testing.T, c RestoreCluster) {
	ready(t, c)
	objects := c.Objects()
	release := c.Hold()
	defer release()
	interruptRestore(t, c)
	events := &Events{}
	r, err := c.Engine().CancelRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{Sink: events})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status.Phase != vmbackup.PhaseCanceled || r.Status.Ready || r.Status.CompletedAt == nil || vmbackup.ReasonOf(r.Status.Error) != vmbackup.ReasonCanceled {
		t.Errorf("%+v", r.Status)
	}
	all := events.All()
	wantStream(t, all)
	if last := all[len(all)-1]; last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseCanceled {
		t.Errorf("the last event is %+v", last)
	}
	if now := c.Objects(); !slices.Equal(now, objects) {
		t.Errorf("there is %v, and was %v", now, objects)
	}
	// Again, it is done already.
	before := len(c.Writes())
	if r, err = c.Engine().CancelRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}); err != nil || r.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("canceled again: %+v, %v", r, err)
	}
	// And it does not go on.
	r, err = c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonCanceled)
	if r == nil || r.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("%+v", r)
	}
	unwritten(t, c, before)
	// Without its record the name is free.
	if err := c.Engine().DeleteRestore(t.Context(), restoreRef(c)); err != nil {
		t.Fatal(err)
	}
	_, err = c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonNotFound)
	release()
	e := c.Engine()
	startRestore(t, c, e)
	if r, err = e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	oneRestore(t, c)
}

func cancelStopsRestoreRun(t *testing.T, c RestoreCluster) {
	ready(t, c)
	objects := c.Objects()
	release := c.Hold()
	defer release()
	e, other := c.Engine(), c.Engine()
	startRestore(t, c, e)
	waits := make(chan struct{})
	once := sync.OnceFunc(func() { close(waits) })
	var running sync.WaitGroup
	var stopped error
	running.Go(func() {
		defer once()
		events := &Events{On: func(e vmbackup.Event) {
			if e.Step == "data" {
				once()
			}
		}}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		_, stopped = e.RunRestore(ctx, restoreRef(c), vmbackup.RunOptions{Sink: events})
	})
	<-waits
	if _, err := other.CancelRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{}); err != nil {
		t.Error(err)
	}
	running.Wait()
	wantReason(t, stopped, false, vmbackup.ReasonCanceled)
	if now := c.Objects(); !slices.Equal(now, objects) {
		t.Errorf("there is %v, and was %v", now, objects)
	}
}

func cancelEndedRestore(t *testing.T, c RestoreCluster) {
	restoreReady(t, c)
	before, objects := len(c.Writes()), c.Objects()
	_, err := c.Engine().CancelRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	wantReason(t, err, true, vmbackup.ReasonConflict)
	unwritten(t, c, before)
	if now := c.Objects(); !slices.Equal(now, objects) {
		t.Errorf("there is %v, and was %v", now, objects)
	}
}

// deleteRestore deletes the record of a restore that has ended, and nothing of the
// machine. A platform on whose own object the machine rests has it refused.
func deleteRestore(t *testing.T, c RestoreCluster) {
	ready(t, c)
	release := c.Hold()
	interruptRestore(t, c)
	before := len(c.Writes())
	err := c.Engine().DeleteRestore(t.Context(), restoreRef(c))
	wantReason(t, err, true, vmbackup.ReasonConflict)
	unwritten(t, c, before)
	release()
	r, err := c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	before = len(c.Writes())
	if err = c.Engine().DeleteRestore(t.Context(), restoreRef(c)); err != nil {
		wantReason(t, err, true, vmbackup.ReasonConflict)
		unwritten(t, c, before)
	} else {
		err = c.Engine().DeleteRestore(t.Context(), restoreRef(c))
		wantReason(t, err, true, vmbackup.ReasonNotFound)
	}
	oneRestore(t, c)
	if c.Machine(copyRef(c)) == nil {
		t.Error("the restored machine went with the record")
	}
}

func unknownRestore(t *testing.T, c RestoreCluster) {
	before := len(c.Writes())
	e := c.Engine()
	_, err := e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonNotFound)
	_, err = e.CancelRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	wantReason(t, err, true, vmbackup.ReasonNotFound)
	err = e.DeleteRestore(t.Context(), restoreRef(c))
	wantReason(t, err, true, vmbackup.ReasonNotFound)
	err = e.FollowRestore(t.Context(), restoreRef(c), vmbackup.NopSink{})
	wantReason(t, err, false, vmbackup.ReasonNotFound)
	unwritten(t, c, before)
}

func foreignRestorePlan(t *testing.T, c RestoreCluster) {
	before := len(c.Writes())
	_, err := c.Engine().StartRestore(t.Context(), &vmbackup.RestorePlan{Request: restoreRequest(c), Restore: vmbackup.NewRestore(restoreRef(c))})
	wantReason(t, err, false, vmbackup.ReasonInternal)
	unwritten(t, c, before)
}

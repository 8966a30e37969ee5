// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package enginetest is one suite of tests that every engine passes: what the rest of
// the tool relies on, whoever does the work.
package enginetest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Cluster is a cluster with one machine of two volumes that runs, and an engine on it.
type Cluster interface {
	// Engine is an engine that has started nothing, as another process has one.
	Engine() vmbackup.Engine
	// VM is the machine.
	VM() vmbackup.Ref
	// Writes are the requests by which something was changed, in the cluster or on
	// the target, since the cluster began.
	Writes() []string
	// Uploads is how many backups of volumes Longhorn has begun.
	Uploads() int
	// Left is what a backup has made and is there, in the cluster or on the target,
	// but for records of what was canceled.
	Left() []string
}

// Factory runs a test on a cluster of its own.
type Factory func(t *testing.T, test func(t *testing.T, c Cluster))

// Backups tests the half of an engine that is about backups.
func Backups(t *testing.T, on Factory) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Cluster)
	}{
		{"a plan changes nothing", planChangesNothing},
		{"what a plan refuses is refused before any change", refusedByPlan},
		{"a run tells its steps and ends ready", runEndsReady},
		{"a name is taken once", nameIsTakenOnce},
		{"a started backup is gone on with", startedIsGoneOnWith},
		{"an interrupted run is gone on with elsewhere", interruptedGoesOn},
		{"a run that does not wait", runWithoutWaiting},
		{"two runs make one backup", twoRuns},
		{"somebody else follows it", follow},
		{"a backup is canceled", cancel},
		{"what has ended is not canceled", cancelEnded},
		{"a backup is deleted", deleteBackup},
		{"what nobody knows", unknown},
		{"a plan of somebody else", foreignPlan},
	} {
		t.Run(test.name, func(t *testing.T) { on(t, test.run) })
	}
}

// request asks for the backup of the suite.
func request(c Cluster) vmbackup.BackupRequest {
	return vmbackup.BackupRequest{Name: "contract", Namespace: c.VM().Namespace, VM: c.VM().Name}
}

func ref(c Cluster) vmbackup.Ref { return request(c).Ref() }

// start plans and starts the backup.
func start(t *testing.T, c Cluster, e vmbackup.Engine) *vmbackup.Backup {
	t.Helper()
	plan, err := e.PlanBackup(t.Context(), request(c))
	if err != nil {
		t.Fatal(err)
	}
	backup, err := e.StartBackup(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	return backup
}

// ready makes the backup.
func ready(t *testing.T, c Cluster) *vmbackup.Backup {
	t.Helper()
	e := c.Engine()
	start(t, c, e)
	backup, err := e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, backup)
	return backup
}

func isReady(t *testing.T, b *vmbackup.Backup) {
	t.Helper()
	if b == nil || b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready || b.Status.Error != nil || len(b.Status.Volumes) != 2 {
		t.Fatalf("%+v", b)
	}
	for _, v := range b.Status.Volumes {
		if v.State != vmbackup.StateReady || v.Progress != 100 || v.LonghornBackup == "" || v.SnapshotHandle == "" {
			t.Errorf("volume %+v", v)
		}
	}
}

// wantReason fails for an error of another reason, or one that is no refusal by a
// preflight check where preflight says that it must be.
func wantReason(t *testing.T, err error, preflight bool, reasons ...vmbackup.Reason) {
	t.Helper()
	e := vmbackup.AsError(err, "none")
	if e == nil {
		t.Fatalf("no error, want one of %v", reasons)
	}
	if !slices.Contains(reasons, e.Reason) || e.Message == "" || preflight && !e.Preflight {
		t.Errorf("reason %q (preflight %t), want one of %v: %v", e.Reason, e.Preflight, reasons, err)
	}
}

// Events takes the events of one operation.
type Events struct {
	mu     sync.Mutex
	events []vmbackup.Event
	// On is called for each, if it is set.
	On func(vmbackup.Event)
}

// Emit implements vmbackup.Sink.
func (r *Events) Emit(e vmbackup.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.On != nil {
		r.On(e)
	}
}

// All are the events so far.
func (r *Events) All() []vmbackup.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// wantStream fails unless the events are one whole stream: numbered from 1, of one
// operation, the first announces the steps, and others name no step but those.
func wantStream(t *testing.T, events []vmbackup.Event) {
	t.Helper()
	if len(events) == 0 {
		t.Fatal("no events")
	}
	first := events[0]
	if first.Type != vmbackup.EventPlan || len(first.Steps) == 0 {
		t.Errorf("the first event is %+v", first)
	}
	for i, e := range events {
		if e.Seq != int64(i+1) || e.Operation != first.Operation || e.Time.IsZero() {
			t.Errorf("event %d is %+v", i+1, e)
		}
		if i > 0 && len(e.Steps) > 0 {
			t.Errorf("event %d announces steps again", i+1)
		}
		known := func(s vmbackup.StepStatus) bool { return s.ID == e.Step }
		if e.Step != "" && !slices.ContainsFunc(first.Steps, known) {
			t.Errorf("event %d is of step %q, which was not announced", i+1, e.Step)
		}
	}
}

func planChangesNothing(t *testing.T, c Cluster) {
	before := len(c.Writes())
	e := c.Engine()
	plan, err := e.PlanBackup(t.Context(), request(c))
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written: %v", w)
	}
	b := plan.Backup
	if b.Status.Phase != vmbackup.PhasePlanned || b.Status.Ready || b.Status.Engine != e.Name() || b.Ref() != ref(c) || b.Spec.VM != c.VM().Name || b.Status.SourceUID == "" {
		t.Errorf("%+v", b)
	}
	if len(b.Status.Volumes) != 2 || len(plan.Steps) == 0 || !slices.ContainsFunc(plan.Objects, func(o vmbackup.PlannedObject) bool { return o.Action == vmbackup.ActionCreate }) {
		t.Errorf("%+v", plan)
	}
}

func refusedByPlan(t *testing.T, c Cluster) {
	before := len(c.Writes())
	for reason, change := range map[vmbackup.Reason]func(*vmbackup.BackupRequest){
		vmbackup.ReasonNotFound:       func(r *vmbackup.BackupRequest) { r.VM = "nobody" },
		vmbackup.ReasonInvalidRequest: func(r *vmbackup.BackupRequest) { r.Type = "tape" },
	} {
		r := request(c)
		change(&r)
		plan, err := c.Engine().PlanBackup(t.Context(), r)
		if plan != nil {
			t.Errorf("%s: a plan with the error", reason)
		}
		wantReason(t, err, true, reason)
	}
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written: %v", w)
	}
}

func runEndsReady(t *testing.T, c Cluster) {
	e := c.Engine()
	if b := start(t, c, e); b.Status.Phase != vmbackup.PhaseRunning || b.Status.StartedAt == nil {
		t.Errorf("started as %+v", b.Status)
	}
	events := &Events{}
	b, err := e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{Sink: events})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, b)
	if b.Status.Engine != e.Name() || b.Status.CompletedAt == nil || b.Status.Consistency == "" || b.Status.Metadata.State != vmbackup.StateReady {
		t.Errorf("%+v", b.Status)
	}
	all := events.All()
	wantStream(t, all)
	if last := all[len(all)-1]; last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseReady {
		t.Errorf("the last event is %+v", last)
	}
	done := map[string]bool{}
	for _, e := range all {
		if e.Type == vmbackup.EventStep && e.State == vmbackup.StateReady {
			done[e.Step] = true
		}
	}
	for _, s := range all[0].Steps {
		if !done[s.ID] {
			t.Errorf("step %s is never told done", s.ID)
		}
	}
	// Once more, it is only told.
	before := len(c.Writes())
	again, err := c.Engine().RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, again)
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written by the second run: %v", w)
	}
}

func nameIsTakenOnce(t *testing.T, c Cluster) {
	one, other := c.Engine(), c.Engine()
	first, err := one.PlanBackup(t.Context(), request(c))
	if err != nil {
		t.Fatal(err)
	}
	second, err := other.PlanBackup(t.Context(), request(c))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.StartBackup(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := other.StartBackup(t.Context(), second); err == nil {
		t.Error("the name was taken twice")
	} else {
		wantReason(t, err, false, vmbackup.ReasonAlreadyExists)
	}
	if _, err := one.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = other.PlanBackup(t.Context(), request(c))
	wantReason(t, err, true, vmbackup.ReasonAlreadyExists)
}

func startedIsGoneOnWith(t *testing.T, c Cluster) {
	start(t, c, c.Engine())
	// The same command again, from another machine.
	e := c.Engine()
	start(t, c, e)
	b, err := e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, b)
	if n := c.Uploads(); n != 2 {
		t.Errorf("%d uploads of two volumes", n)
	}
}

// interrupt starts the backup and ends its run when the first volume moves.
func interrupt(t *testing.T, c Cluster) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	events := &Events{On: func(e vmbackup.Event) {
		if e.Type == vmbackup.EventVolume {
			stop()
		}
	}}
	e := c.Engine()
	start(t, c, e)
	b, err := e.RunBackup(ctx, ref(c), vmbackup.RunOptions{Sink: events})
	wantReason(t, err, false, vmbackup.ReasonCanceled)
	if b == nil || b.Status.Phase != vmbackup.PhaseRunning || b.Status.Ready {
		t.Errorf("%+v", b)
	}
	all := events.All()
	wantStream(t, all)
	if last := all[len(all)-1]; last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseRunning {
		t.Errorf("the last event is %+v", last)
	}
}

func interruptedGoesOn(t *testing.T, c Cluster) {
	interrupt(t, c)
	b, err := c.Engine().RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, b)
	if n := c.Uploads(); n != 2 {
		t.Errorf("%d uploads of two volumes", n)
	}
}

func runWithoutWaiting(t *testing.T, c Cluster) {
	e := c.Engine()
	start(t, c, e)
	b, err := e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	if b.Status.Phase != vmbackup.PhaseRunning || b.Status.Ready {
		t.Errorf("%+v", b.Status)
	}
	b, err = c.Engine().RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, b)
}

// twoRuns of one backup end as Ready, or the one that comes second gives way.
func twoRuns(t *testing.T, c Cluster) {
	start(t, c, c.Engine())
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		e := c.Engine()
		both.Go(func() { _, errs[i] = e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{}) })
	}
	both.Wait()
	if errs[0] != nil && errs[1] != nil {
		t.Fatalf("both runs failed: %v; %v", errs[0], errs[1])
	}
	for _, err := range errs {
		if err != nil {
			wantReason(t, err, false, vmbackup.ReasonConflict)
		}
	}
	b, err := c.Engine().RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isReady(t, b)
	if n := c.Uploads(); n != 2 {
		t.Errorf("%d uploads of two volumes", n)
	}
}

func follow(t *testing.T, c Cluster) {
	e := c.Engine()
	start(t, c, e)
	events := &Events{}
	var following sync.WaitGroup
	var err error
	other := c.Engine()
	following.Go(func() { err = other.FollowBackup(t.Context(), ref(c), events) })
	if _, err := e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	following.Wait()
	if err != nil {
		t.Fatal(err)
	}
	all := events.All()
	wantStream(t, all)
	if !slices.ContainsFunc(all, func(e vmbackup.Event) bool { return e.Type == vmbackup.EventVolume && e.Total > 0 }) {
		t.Errorf("no volume is told: %+v", all)
	}
}

func cancel(t *testing.T, c Cluster) {
	interrupt(t, c)
	events := &Events{}
	b, err := c.Engine().CancelBackup(t.Context(), ref(c), vmbackup.RunOptions{Sink: events})
	if err != nil {
		t.Fatal(err)
	}
	if b.Status.Phase != vmbackup.PhaseCanceled || b.Status.Ready || vmbackup.ReasonOf(b.Status.Error) != vmbackup.ReasonCanceled {
		t.Errorf("%+v", b.Status)
	}
	all := events.All()
	wantStream(t, all)
	if last := all[len(all)-1]; last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseCanceled {
		t.Errorf("the last event is %+v", last)
	}
	if left := c.Left(); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, ", "))
	}
	// Again, it is done already, or nobody knows it any more.
	before := len(c.Writes())
	if b, err = c.Engine().CancelBackup(t.Context(), ref(c), vmbackup.RunOptions{}); err != nil {
		wantReason(t, err, true, vmbackup.ReasonNotFound)
	} else if b.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("%+v", b.Status)
	}
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written by the second cancellation: %v", w)
	}
	// And it does not go on.
	_, err = c.Engine().RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonCanceled, vmbackup.ReasonNotFound)
}

func cancelEnded(t *testing.T, c Cluster) {
	ready(t, c)
	before := len(c.Writes())
	_, err := c.Engine().CancelBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	wantReason(t, err, true, vmbackup.ReasonConflict)
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written: %v", w)
	}
}

func deleteBackup(t *testing.T, c Cluster) {
	ready(t, c)
	if len(c.Left()) == 0 {
		t.Fatal("a ready backup is nowhere")
	}
	e := c.Engine()
	req := vmbackup.DeleteRequest{Backup: ref(c), From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget}
	before := len(c.Writes())
	plan, err := e.PlanDelete(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written by the plan: %v", w)
	}
	if !plan.LastReady || len(plan.OtherReady) > 0 || len(plan.Objects) == 0 || plan.Bytes == 0 {
		t.Errorf("%+v", plan)
	}
	events := &Events{}
	if err := e.Delete(t.Context(), plan, vmbackup.RunOptions{Sink: events}); err != nil {
		t.Fatal(err)
	}
	wantStream(t, events.All())
	if left := c.Left(); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, ", "))
	}
	_, err = c.Engine().PlanDelete(t.Context(), req)
	wantReason(t, err, true, vmbackup.ReasonNotFound, vmbackup.ReasonTargetEmpty)
	_, err = c.Engine().RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonNotFound)
	// The name is free again.
	ready(t, c)
}

func unknown(t *testing.T, c Cluster) {
	before := len(c.Writes())
	e := c.Engine()
	_, err := e.RunBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonNotFound)
	_, err = e.CancelBackup(t.Context(), ref(c), vmbackup.RunOptions{})
	wantReason(t, err, true, vmbackup.ReasonNotFound)
	_, err = e.PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: ref(c), From: vmbackup.SourceCluster, Target: vmbackup.DefaultTarget})
	wantReason(t, err, true, vmbackup.ReasonNotFound)
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written: %v", w)
	}
}

func foreignPlan(t *testing.T, c Cluster) {
	before := len(c.Writes())
	_, err := c.Engine().StartBackup(t.Context(), &vmbackup.BackupPlan{Request: request(c)})
	wantReason(t, err, false, vmbackup.ReasonInternal)
	err = c.Engine().Delete(t.Context(), &vmbackup.DeletePlan{Request: vmbackup.DeleteRequest{Backup: ref(c)}}, vmbackup.RunOptions{})
	wantReason(t, err, false, vmbackup.ReasonInternal)
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written: %v", w)
	}
}

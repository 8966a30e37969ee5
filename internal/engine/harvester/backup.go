// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// createLimit is how long an API server that is away is borne before anything is begun.
	createLimit = time.Minute
	// createPause is between two attempts.
	createPause = time.Second
)

// StartBackup makes the object that asks Harvester for the backup. It is the record:
// from now on Harvester works, whoever looks.
func (e *Engine) StartBackup(ctx context.Context, plan *vmbackup.BackupPlan) (*vmbackup.Backup, error) {
	own, ok := plan.State.(*backupPlan)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "the plan of backup %s was not made by this engine", plan.Request.Ref())
	}
	if own.resumes {
		return plan.Backup, nil
	}
	object, err := e.create(ctx, own.object)
	if err != nil {
		return nil, err
	}
	e.started.Store(object.Annotations[AnnotationOperation], startedBackup{own.machine, plan.Warnings})
	backup := *plan.Backup
	at := object.CreationTimestamp.UTC()
	backup.Status.Phase, backup.Status.StartedAt, backup.Status.FoundOn = vmbackup.PhaseRunning, &at, string(vmbackup.SourceCluster)
	return &backup, nil
}

// startedBackup is what the plan of a backup that was just started knows.
type startedBackup struct {
	machine  *capture.Machine
	warnings []string
}

// create makes the object. An answer that is lost may have made it all the same: the
// operation's token on it tells.
func (e *Engine) create(ctx context.Context, object *hv.VirtualMachineBackup) (*hv.VirtualMachineBackup, error) {
	ref := vmbackup.Ref{Namespace: object.Namespace, Name: object.Name}
	client := e.clients.Harvester.Backups(ref.Namespace)
	for began := e.clock(); ; {
		made, err := client.Create(ctx, object, metav1.CreateOptions{FieldManager: kube.FieldManager})
		if err == nil {
			return made, nil
		}
		have, readErr := client.Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case readErr == nil && have.Annotations[AnnotationOperation] == object.Annotations[AnnotationOperation]:
			return have, nil
		case readErr == nil:
			return nil, nameTaken(ref, "started a moment ago")
		case !kube.Away(err) || e.clock().Sub(began) > createLimit:
			if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
				return nil, refusal(err, vmbackup.BackupRequest{Type: vmbackup.BackupType(object.Spec.Type), Namespace: ref.Namespace, VM: object.Spec.Source.Name})
			}
			return nil, kube.Error(err, "create", what(ref))
		}
		if pause(ctx, createPause) != nil {
			return nil, kube.Error(err, "create", what(ref))
		}
	}
}

// pause waits, or returns ctx's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RunBackup follows what Harvester does, to its end, sees the data on the target
// itself, and adds what Harvester's description lacks.
func (e *Engine) RunBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	events := flow.NewEvents(sinkOf(opts), "backup/"+ref.String(), e.clock)
	run := &backupRun{engine: e, ref: ref, events: events}
	object, err := e.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, noBackup(ref)
	}
	if err != nil {
		return nil, kube.Error(err, "read", what(ref))
	}
	run.begin(object)
	err = run.follow(ctx, opts.NoWait)
	if err == nil && run.last.backup.Status.Phase == vmbackup.PhaseReady && run.kind() == vmbackup.TypeBackup && run.operation != "" {
		err = flow.Run(ctx, run.tail(), false, events, nil)
	}
	return run.finish(ctx, err)
}

func noBackup(ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no backup %s (%s)", ref, what(ref)).
		WithHint("see what is there with: kubectl vmbackup list -A --from all")
}

// backupRun is one run of a backup, from wherever it stands.
type backupRun struct {
	engine *Engine
	ref    vmbackup.Ref
	events *flow.Events
	tell   *teller
	// operation is the token, empty for a backup that somebody else has asked for.
	operation string
	machine   *capture.Machine
	last      seen
	store     target.Store
	// warnings are the run's own, beside those of the view.
	warnings []string
}

func (r *backupRun) kind() vmbackup.BackupType { return r.last.backup.Spec.Type }

// begin announces the steps.
func (r *backupRun) begin(object *hv.VirtualMachineBackup) {
	r.last = seen{object: object, backup: object.View(hv.Evidence{TargetName: vmbackup.DefaultTarget, Unseen: "not looked at yet"})}
	r.operation = object.Annotations[AnnotationOperation]
	var planned startedBackup
	if known, found := r.engine.started.LoadAndDelete(r.operation); found {
		planned, _ = known.(startedBackup)
		r.machine = planned.machine
	}
	all, own := steps(r.kind()), followed(r.kind())
	if r.operation == "" {
		all = own
	}
	r.tell = newTeller(r.events, own)
	r.events.Plan(flow.Statuses(all), fmt.Sprintf("back up VirtualMachine %s/%s by Harvester", r.ref.Namespace, object.Spec.Source.Name))
	if r.machine != nil {
		r.tell.estimates = map[string]int64{}
		for _, v := range r.machine.Volumes {
			r.tell.estimates[v.Name] = v.Estimate
		}
	}
	for _, w := range planned.warnings {
		r.warn(w)
	}
}

// warn tells a warning now and keeps it with the backup.
func (r *backupRun) warn(text string) {
	r.warnings = append(r.warnings, text)
	r.events.Warning(text)
}

// follow follows the object until the backup is whole or will not be.
func (r *backupRun) follow(ctx context.Context, noWait bool) error {
	err := r.engine.follow(ctx, r.ref, func(s seen) (bool, error) {
		r.last = s
		r.tell.see(s)
		if id := r.tell.running(); noWait && (id == stepUpload || id == stepDescribe) {
			return true, flow.ErrDetached
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	if failure := r.last.backup.Status.Error; failure != nil && r.last.backup.Status.Phase != vmbackup.PhaseReady {
		r.tell.fail(failure)
		return failure
	}
	return nil
}

// tail are the steps that the tool does itself once Harvester is done.
func (r *backupRun) tail() []flow.Step {
	all := steps(vmbackup.TypeBackup)
	tail := all[len(followed(vmbackup.TypeBackup)):]
	for i := range tail {
		switch tail[i].ID {
		case stepVerify:
			tail[i].Ensure = r.verify
		case stepMetadata:
			tail[i].Ensure = r.describe
		}
	}
	return tail
}

// finish tells the end.
func (r *backupRun) finish(ctx context.Context, err error) (*vmbackup.Backup, error) {
	backup := r.last.backup
	status := &backup.Status
	for _, w := range r.warnings {
		if !slices.Contains(status.Warnings, w) {
			status.Warnings = append(status.Warnings, w)
		}
	}
	goOn := fmt.Sprintf("kubectl vmbackup resume %s -n %s", r.ref.Name, r.ref.Namespace)
	switch {
	case errors.Is(err, flow.ErrDetached):
		r.events.Result(vmbackup.PhaseRunning, nil, "Harvester goes on by itself; see it to its end with: "+goOn)
		status.Phase = vmbackup.PhaseRunning
		return backup, nil
	case err == nil:
		r.events.Result(status.Phase, nil, "")
		return backup, nil
	case vmbackup.ReasonOf(err) == vmbackup.ReasonCanceled && ctx.Err() == nil:
		status.Phase, status.Ready, status.Error = vmbackup.PhaseCanceled, false, vmbackup.AsError(err, vmbackup.ReasonCanceled)
	case ctx.Err() != nil, !status.Phase.Done():
		status.Phase, status.Ready = vmbackup.PhaseRunning, false
	case status.Phase == vmbackup.PhaseReady && lostData(err):
		status.Phase, status.Ready, status.Error = vmbackup.PhaseIncomplete, false, vmbackup.AsError(err, vmbackup.ReasonInternal)
	case status.Phase == vmbackup.PhaseReady:
		// Harvester's backup is whole; the tool's own part may be added by another run.
		status.Ready = false
		status.Phase = vmbackup.PhaseRunning
	}
	r.events.Result(status.Phase, err, "")
	return backup, err
}

// lostData reports whether an error says that data is not where it should be.
func lostData(err error) bool {
	switch vmbackup.ReasonOf(err) {
	case vmbackup.ReasonDataLost, vmbackup.ReasonDataDamaged:
		return true
	}
	return false
}

// Observe has nothing to add: Harvester's object tells how far it is.
func (e *Engine) Observe(context.Context, *vmbackup.Backup) error { return nil }

// FollowBackup tells the progress of a backup that Harvester makes.
func (e *Engine) FollowBackup(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	object, err := e.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return noBackup(ref)
	}
	if err != nil {
		return kube.Error(err, "read", what(ref))
	}
	kind := object.View(hv.Evidence{Unseen: "not looked at"}).Spec.Type
	events := flow.NewEvents(sink, "backup/"+ref.String(), e.clock)
	events.Plan(flow.Statuses(followed(kind)), "follow backup "+ref.String())
	tell := newTeller(events, followed(kind))
	return e.follow(ctx, ref, func(s seen) (bool, error) {
		tell.see(s)
		return false, nil
	})
}

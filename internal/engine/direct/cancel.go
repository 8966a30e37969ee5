// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// CancelBackup gives a backup up that has not ended: its record is marked, so that a
// run of it stops wherever it is, the guest thaws, and what the backup has made is
// removed. The record stays, as Canceled.
func (e *Engine) CancelBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	entry, err := e.journal.Get(ctx, journal.KindBackup, ref)
	if err != nil {
		return nil, preflight(err)
	}
	record, err := metadata.DecodeJournal(ref, entry.Data)
	if err != nil {
		return nil, preflight(cannotRead(err, ref.Name, ref.Namespace))
	}
	backup := &record.Backup
	events := flow.NewEvents(sinkOf(opts), "cancel/backup/"+ref.String(), e.clock)
	if backup.Status.Phase == vmbackup.PhaseCanceled {
		events.Plan(nil, "backup "+ref.String()+" is canceled already")
		events.Result(vmbackup.PhaseCanceled, nil, "")
		return backup, nil
	}
	if err := cancelable(journal.KindBackup, ref, backup.Status.Phase, fateOf(entry)); err != nil {
		return backup, preflight(err)
	}
	c := &cancellation{deletion{
		engine: e, events: events, fate: fateCancel,
		request: vmbackup.DeleteRequest{Backup: ref, From: vmbackup.SourceCluster, Target: backup.Spec.Target},
		own:     &deletePlan{record: record, journaled: true},
	}}
	steps := []flow.Step{
		{ID: "mark", Title: "Mark the backup as being canceled", Ensure: c.mark},
		{ID: "thaw", Title: "Thaw the guest", Ensure: c.thaw},
	}
	steps = append(steps, c.removal(backup.Spec.Type)...)
	for i := range steps {
		if steps[i].ID == "files" {
			steps[i].Ensure = c.ownFiles
		}
	}
	steps = append(steps, flow.Step{ID: "record", Title: "Record the backup as Canceled", Ensure: c.record})
	events.Plan(flow.Statuses(steps), "cancel backup "+ref.String())
	patient := newPatience(events, "run the same command again")
	if err = flow.Run(ctx, patient.steps(steps), false, events, nil); err != nil {
		events.Result(vmbackup.PhaseRunning, err, "")
		return c.backup(), err
	}
	events.Result(vmbackup.PhaseCanceled, nil, "canceled")
	return c.backup(), nil
}

// cannotRead is the error for a record that cannot be read.
func cannotRead(err error, name, namespace string) error {
	return vmbackup.AsError(err, vmbackup.ReasonDataDamaged).
		WithHint("what cannot be read can be deleted: kubectl vmbackup delete %s -n %s", name, namespace)
}

// cancelable refuses to cancel what has ended, or is being deleted.
func cancelable(kind journal.Kind, ref vmbackup.Ref, phase vmbackup.Phase, f fate) error {
	name := operationName(kind, ref.Name)
	switch {
	case f == fateDelete:
		return f.stops(kind, ref)
	case phase.Done():
		return vmbackup.Errorf(vmbackup.ReasonConflict, "%s %s has ended as %s: there is nothing to cancel", kind, ref, phase).
			WithHint("look at it with: kubectl vmbackup describe %s -n %s; remove it with: kubectl vmbackup delete %s -n %s", name, ref.Namespace, name, ref.Namespace)
	}
	return nil
}

// canceledError is what the record of a canceled operation says.
func canceledError(kind journal.Kind, ref vmbackup.Ref, again string) *vmbackup.Error {
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "%s %s was canceled, and what it had made is removed", kind, ref).
		WithHint("%s; remove its record with: kubectl vmbackup delete %s -n %s", again, operationName(kind, ref.Name), ref.Namespace)
}

// cancellation is the removal of what a backup that does not go on has made.
type cancellation struct{ deletion }

// thaw thaws a guest that a round of the backup may have frozen. The run thaws it
// too when it meets the mark; one that was killed does not.
func (c *cancellation) thaw(ctx context.Context) error {
	state := loadState(c.own.record)
	if state.cut() || state.FrozenUntil == nil {
		return nil
	}
	vm := vmbackup.Ref{Namespace: c.request.Backup.Namespace, Name: c.backup().Spec.VM}
	vmi, err := c.engine.instance(ctx, vm)
	if err != nil || !runs(vmi) {
		return err
	}
	if err := c.engine.clients.VMs.Unfreeze(ctx, vm.Namespace, vm.Name); err != nil && !apierrors.IsNotFound(err) {
		// It thaws itself at its deadline; the rest must not wait for that.
		c.events.Warning(fmt.Sprintf("the guest of VirtualMachine %s could not be thawed and thaws itself by %s: %v", vm, state.FrozenUntil.UTC().Format("15:04:05 MST"), kube.Error(err, "thaw", "VirtualMachine "+vm.String())))
		return nil
	}
	c.events.Step("thaw", vmbackup.StateRunning, "the guest of VirtualMachine "+vm.String()+" is thawed")
	return nil
}

// ownFiles removes the description that this backup may have written. One of the same
// name that is another backup's stays.
func (c *cancellation) ownFiles(ctx context.Context) error {
	store, err := c.engine.target(ctx, c.backup().Spec.Target)
	if err != nil {
		return err
	}
	for _, key := range descriptionKeys(c.request.Backup) {
		content, err := store.Get(ctx, key, metadata.FileLimit)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			continue
		}
		if err != nil {
			return err
		}
		if own, err := c.wrote(ctx, store, key, content); err != nil || !own {
			return err
		}
		if err := store.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// wrote reports whether a description is of this very backup: it has its token or, in
// Harvester's format, which has none, the data that it tells of is gone.
func (c *cancellation) wrote(ctx context.Context, store target.Store, key string, content []byte) (bool, error) {
	if key == metadata.RecordKey(c.request.Backup) {
		record, err := metadata.DecodeRecord(key, content)
		return err == nil && record.Operation == c.own.record.Operation, nil
	}
	record, err := metadata.DecodeHarvester(key, content)
	if err != nil {
		return false, nil //nolint:nilerr // this tool writes none that cannot be read
	}
	for _, v := range record.Backup.Status.Volumes {
		if v.LonghornBackup == "" {
			continue
		}
		if _, err := store.Stat(ctx, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return false, err
		}
	}
	return true, nil
}

// record looks whether a run that met the mark late has made something after all, and
// writes the end down.
func (c *cancellation) record(ctx context.Context) error {
	for {
		_, existing, err := c.engine.snapshotsMade(ctx, c.own.record)
		if err != nil {
			return err
		}
		if len(existing) == 0 {
			break
		}
		for _, step := range c.removal(c.backup().Spec.Type) {
			if step.ID != "files" {
				if err := step.Ensure(ctx); err != nil {
					return err
				}
			}
		}
	}
	record, now := c.own.record, c.engine.clock().UTC()
	status := &record.Backup.Status
	status.Phase, status.Ready, status.CompletedAt = vmbackup.PhaseCanceled, false, &now
	status.Error = canceledError(journal.KindBackup, c.request.Backup, "create a new backup")
	status.Metadata = vmbackup.MetadataStatus{}
	for i := range status.Volumes {
		v := &status.Volumes[i]
		v.VolumeSnapshot, v.SnapshotHandle, v.LonghornBackup, v.State, v.Progress, v.Message = "", "", "", vmbackup.StateSkipped, 0, ""
		v.UploadedBytes, v.BackupBytes = 0, 0
	}
	state := loadState(record)
	state.Snapshots, state.Leftovers, state.FrozenUntil, state.Fate = nil, nil, nil, ""
	state.store(record)
	entry, err := entryOf(record)
	if err != nil {
		return err
	}
	return c.engine.writeEnd(ctx, entry)
}

// writeEnd writes the end of a canceled operation. Its entry is marked, so that no run
// of it writes any more: what has changed is this very request, whose answer was
// lost, or another cancellation.
func (e *Engine) writeEnd(ctx context.Context, entry journal.Entry) error {
	for {
		have, err := e.journal.Get(ctx, entry.Kind, entry.Ref)
		if err != nil || vmbackup.Phase(have.Labels[journal.LabelPhase]) == vmbackup.PhaseCanceled {
			return err
		}
		if fateOf(have) != fateCancel {
			return fateOf(have).stops(entry.Kind, entry.Ref)
		}
		entry.Version = have.Version
		if _, err = e.journal.Update(ctx, entry); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
			return err
		}
	}
}

// CancelRestore gives a restore up that has not ended, and removes what it has made.
// The machine of a restore in place runs again as it did. A machine that has its
// restored disks, or was started, is left alone: it is too late then. The record
// stays, as Canceled.
func (e *Engine) CancelRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	entry, err := e.journal.Get(ctx, journal.KindRestore, ref)
	if err != nil {
		return nil, preflight(err)
	}
	record, err := decodeRestore(ref, entry.Data)
	if err != nil {
		return nil, preflight(err)
	}
	restore := &record.Restore
	events := flow.NewEvents(sinkOf(opts), "cancel/restore/"+ref.String(), e.clock)
	if restore.Status.Phase == vmbackup.PhaseCanceled {
		events.Plan(nil, "restore "+ref.String()+" is canceled already")
		events.Result(vmbackup.PhaseCanceled, nil, "")
		return restore, nil
	}
	phase := restore.Status.Phase
	if phase == vmbackup.PhaseFailed && record.InPlace != nil && record.Delegate == "" {
		phase = vmbackup.PhaseRunning // what it could not give back is given back
	}
	if err := cancelable(journal.KindRestore, ref, phase, fateOf(entry)); err != nil {
		return restore, preflight(err)
	}
	u := undo{restoreRun: &restoreRun{operation: e.operation(events, entry), record: record}, fence: true}
	u.operation.adopt = u.adopt
	if err := u.tooLate(ctx); err != nil {
		return restore, preflight(err)
	}
	steps := append([]flow.Step{{ID: "mark", Title: "Mark the restore as being canceled", Ensure: u.mark}}, u.steps()...)
	steps = append(steps, flow.Step{ID: "record", Title: "Record the restore as Canceled", Ensure: u.recordEnd})
	events.Plan(flow.Statuses(steps), "cancel restore "+ref.String())
	err = flow.Run(ctx, u.patience.steps(steps), false, events, nil)
	if err != nil {
		if vmbackup.ReasonOf(u.tooLate(ctx)) == vmbackup.ReasonConflict {
			err = u.unmark(ctx, err)
		}
		events.Result(vmbackup.PhaseRunning, err, "")
		return restore, err
	}
	events.Result(vmbackup.PhaseCanceled, nil, "canceled")
	return restore, nil
}

// mark writes into the record that the restore is given up: a run of it stops.
func (u undo) mark(ctx context.Context) error { return u.setFate(ctx, fateCancel) }

// unmark takes the mark back where a run was faster: the restore goes on, with resume.
func (u undo) unmark(ctx context.Context, cause error) error {
	if err := u.setFate(ctx, ""); err != nil {
		return err
	}
	return cause
}

func (u undo) setFate(ctx context.Context, f fate) error {
	for {
		entry, err := u.engine.journal.Get(ctx, journal.KindRestore, u.restore().Ref())
		if err != nil {
			return err
		}
		if err := u.adopt(entry); err != nil {
			return err
		}
		if phase := u.restore().Status.Phase; phase == vmbackup.PhaseReady || phase == vmbackup.PhaseCanceled {
			return vmbackup.Errorf(vmbackup.ReasonConflict, "restore %s has just ended as %s: there is nothing to cancel", u.restore().Ref(), phase)
		}
		if u.record.Fate == f {
			return nil
		}
		u.record.Fate = f
		marked, err := u.record.entry()
		if err != nil {
			return err
		}
		marked.Version = entry.Version
		updated, err := u.engine.journal.Update(ctx, marked)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonConflict {
			continue // a run of the restore has written meanwhile; it stops at the mark
		}
		u.last = updated
		return err
	}
}

// recordEnd writes the end down, once nothing of the restore is left.
func (u undo) recordEnd(ctx context.Context) error {
	for _, step := range u.steps()[1:] {
		// A run that met the mark late may have made something after all.
		if err := step.Ensure(ctx); err != nil {
			return err
		}
	}
	now := u.engine.clock().UTC()
	status := &u.restore().Status
	status.Phase, status.Ready, status.CompletedAt, status.VM = vmbackup.PhaseCanceled, false, &now, ""
	status.Error = canceledError(journal.KindRestore, u.restore().Ref(), "start a new restore")
	for i := range status.Volumes {
		v := &status.Volumes[i]
		v.LonghornVolume, v.State, v.Progress, v.Message = "", vmbackup.StateSkipped, 0, ""
	}
	u.record.Fate = ""
	entry, err := u.record.entry()
	if err != nil {
		return err
	}
	return u.engine.writeEnd(ctx, entry)
}

// DeleteRestore removes the record of a restore that has ended. What was restored stays.
func (e *Engine) DeleteRestore(ctx context.Context, ref vmbackup.Ref) error {
	entry, err := e.journal.Get(ctx, journal.KindRestore, ref)
	if err != nil {
		return preflight(err)
	}
	record, err := decodeRestore(ref, entry.Data)
	if err == nil && !record.Restore.Status.Phase.Done() {
		return preflight(vmbackup.Errorf(vmbackup.ReasonConflict, "restore %s has not ended; its record is needed", ref).
			WithHint("finish it with 'resume' or give it up first: kubectl vmbackup cancel restore/%s -n %s", ref.Name, ref.Namespace))
	}
	return e.journal.Delete(ctx, journal.KindRestore, ref)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"maps"
	"slices"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// deletePlan is the engine's own part of a vmbackup.DeletePlan.
type deletePlan struct {
	record *metadata.Record
	// journaled is true where there is an entry in the journal, readable or not.
	journaled bool
	// version is that of the entry, and readable whether the entry is: set by the mark.
	version  string
	readable bool
	// begun is true for a deletion that an earlier run has begun.
	begun bool
	// snapshots are Longhorn's snapshots that the backup made, by name.
	snapshots []string
}

// PlanDelete says what deleting a backup removes. A backup that never got ready,
// or that cannot be read any more, can be deleted too.
func (e *Engine) PlanDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	plan, err := e.planDelete(ctx, req)
	return plan, preflight(err)
}

func (e *Engine) planDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	own, backup, err := e.findDeleted(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := ownDeletion(backup); err != nil {
		return nil, err
	}
	plan := &vmbackup.DeletePlan{Request: req, Backup: backup, State: own}
	if err := e.notBeingRestored(ctx, req.Backup); err != nil {
		return nil, err
	}
	if err := e.checkDeletionTarget(ctx, plan, own); err != nil {
		return nil, err
	}
	snapshots, existing, err := e.snapshotsMade(ctx, own.record)
	if err != nil {
		return nil, err
	}
	own.snapshots = snapshots
	remove := func(api, kind, namespace, name, note string) {
		plan.Objects = append(plan.Objects, vmbackup.PlannedObject{Action: vmbackup.ActionDelete, APIVersion: api, Kind: kind, Namespace: namespace, Name: name, Note: note})
	}
	for _, s := range existing {
		remove(snapshotAPI, "VolumeSnapshot", s.Namespace, s.Name, "and its VolumeSnapshotContent")
	}
	if !req.KeepData {
		planDataDeletion(plan, own, remove)
	}
	if err := e.planForgetting(ctx, plan); err != nil {
		return nil, err
	}
	if own.journaled {
		remove("v1", "Secret", req.Backup.Namespace, journal.SecretName(journal.KindBackup, req.Backup), "the backup's record")
	}
	return plan, e.lookForOthers(ctx, plan)
}

// findDeleted reads the backup that is to be deleted, as far as it can be read.
func (e *Engine) findDeleted(ctx context.Context, req vmbackup.DeleteRequest) (*deletePlan, *vmbackup.Backup, error) {
	own := &deletePlan{}
	entry, err := e.journal.Get(ctx, journal.KindBackup, req.Backup)
	switch {
	case err == nil:
		own.journaled, own.begun = true, fateOf(entry) == fateDelete
	case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
		return nil, nil, err
	}
	own.record, err = e.records.Record(ctx, req.Backup, req.From)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonDataDamaged {
		// What cannot be read can be deleted: its objects carry its token.
		own.record, err = unreadable(req, entry, err), nil
	}
	if err != nil {
		return nil, nil, err
	}
	backup := &own.record.Backup
	foundOn(backup, req.Target)
	return own, backup, nil
}

// unreadable is what the name of a backup, and the labels of its entry if it has
// one, tell of it.
func unreadable(req vmbackup.DeleteRequest, entry journal.Entry, err error) *metadata.Record {
	b := vmbackup.NewBackup(req.Backup)
	b.Spec = vmbackup.BackupSpec{VM: entry.Labels[journal.LabelVM], Type: vmbackup.TypeBackup, Target: req.Target}
	b.Status.Phase, b.Status.Error = vmbackup.PhaseUnknown, vmbackup.AsError(err, vmbackup.ReasonDataDamaged)
	return &metadata.Record{Backup: *b, Operation: entry.Labels[LabelOperation]}
}

// snapshotsMade are Longhorn's snapshots that a backup has made, by name, and its
// VolumeSnapshots that exist.
func (e *Engine) snapshotsMade(ctx context.Context, record *metadata.Record) (names []string, existing []snapshotv1.VolumeSnapshot, err error) {
	state := loadState(record)
	if record.Operation != "" {
		var uids []string
		if uids, existing, err = e.madeSnapshots(ctx, record, state.Attempt); err != nil {
			return nil, nil, err
		}
		for _, uid := range uids {
			names = append(names, longhornSnapshot(uid))
		}
	}
	names = slices.AppendSeq(append(names, state.Leftovers...), maps.Values(state.Snapshots))
	slices.Sort(names)
	return slices.Compact(names), existing, nil
}

// planDataDeletion lists what holds the backup's data: Longhorn's backups and
// snapshots, and the files on the target.
func planDataDeletion(plan *vmbackup.DeletePlan, own *deletePlan, remove func(api, kind, namespace, name, note string)) {
	backup := plan.Backup
	if backup.Spec.Type == vmbackup.TypeBackup {
		for i := range backup.Status.Volumes {
			v := &backup.Status.Volumes[i]
			note := fmt.Sprintf("volume %s, on target %s", v.Name, backup.Spec.Target)
			if v.LonghornBackup == "" {
				remove(longhornAPI, "Backup", kube.LonghornNamespace, "(of "+v.LonghornVolume+")", note+", if it was begun")
				continue
			}
			remove(longhornAPI, "Backup", kube.LonghornNamespace, v.LonghornBackup, note)
			plan.Bytes += v.UploadedBytes
		}
		if len(backup.Status.Volumes) == 0 && backup.Status.Phase == vmbackup.PhaseUnknown {
			plan.Warnings = append(plan.Warnings, "the backup cannot be read, so only what its snapshots lead to is removed; data on the target that they do not lead to stays: "+backup.Status.Error.Message)
		}
		plan.Warnings = append(plan.Warnings, "blocks that other backups of the same volumes share stay on the target")
		for _, key := range descriptionKeys(plan.Request.Backup) {
			remove("", vmbackup.KindFile, "", key, "on target "+backup.Spec.Target)
		}
	}
	for _, name := range own.snapshots {
		remove(longhornAPI, "Snapshot", kube.LonghornNamespace, name, "")
	}
}

// descriptionKeys are the files on the target that describe a backup.
func descriptionKeys(ref vmbackup.Ref) []string {
	return []string{metadata.HarvesterBackupKey(ref), metadata.RecordKey(ref)}
}

// checkDeletionTarget refuses to delete a backup's data against a target that has
// none of it: an empty target, or another one, would make a deletion of nothing
// look done, and the data would stay, known to nobody. A deletion that has begun
// is not stopped by what it has removed itself.
func (e *Engine) checkDeletionTarget(ctx context.Context, plan *vmbackup.DeletePlan, own *deletePlan) error {
	b, ref := plan.Backup, plan.Request.Backup
	if plan.Request.KeepData || b.Spec.Type != vmbackup.TypeBackup {
		return nil
	}
	hint := fmt.Sprintf("forget the backup in this cluster alone, and leave the target as it is, with: kubectl vmbackup delete %s -n %s --keep-data", ref.Name, ref.Namespace)
	store, err := e.openTarget(ctx, b.Spec.Target)
	if err != nil {
		failure := vmbackup.AsError(err, vmbackup.ReasonTargetUnavailable)
		if failure.Hint != "" {
			hint = failure.Hint + "; " + hint
		}
		return failure.WithHint("%s", hint)
	}
	// What was read from the target a moment ago is there.
	if own.begun || b.Status.FoundOn == string(vmbackup.SourceTarget) {
		return nil
	}
	keys := descriptionKeys(ref)
	for _, v := range b.Status.Volumes {
		if v.LonghornBackup != "" {
			keys = append(keys, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
		}
	}
	for _, key := range keys {
		if _, err := store.Stat(ctx, key); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return err
		}
	}
	if b.Status.Ready || b.Status.Metadata.State == vmbackup.StateReady {
		return vmbackup.Errorf(vmbackup.ReasonTargetEmpty, "backup target %s (%s) holds nothing of backup %s, neither data nor description: it is empty, or not the target that the backup was made on; nothing was deleted", b.Spec.Target, store, ref).
			WithHint("check the target with: kubectl get backuptargets.longhorn.io %s -n %s; %s", b.Spec.Target, kube.LonghornNamespace, hint)
	}
	return nil // it never got that far
}

// notBeingRestored refuses to delete a backup while a restore reads its data.
func (e *Engine) notBeingRestored(ctx context.Context, ref vmbackup.Ref) error {
	entries, err := e.journal.List(ctx, journal.ListOptions{Kind: journal.KindRestore})
	if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
		// Who may not look everywhere looks where the backup is.
		entries, err = e.journal.List(ctx, journal.ListOptions{Kind: journal.KindRestore, Namespace: ref.Namespace})
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		r, err := decodeRestore(entry.Ref, entry.Data)
		if err != nil || r.Restore.Spec.Backup != ref.String() || r.Restore.Status.Phase.Done() || r.DataRestored {
			continue // one that cannot be read cannot go on either
		}
		name, namespace := r.Restore.Metadata.Name, r.Restore.Metadata.Namespace
		return vmbackup.Errorf(vmbackup.ReasonConflict, "restore %s/%s reads the data of backup %s; nothing was deleted", namespace, name, ref).
			WithHint("wait for it with: kubectl vmbackup watch restore/%s -n %s; or, when nobody runs it any more, finish it with 'resume' or give it up with 'cancel'", name, namespace)
	}
	return nil
}

// lookForOthers finds the machine's other Ready backups: whoever deletes the last
// one should know it. A target that does not answer does not hold a deletion up.
func (e *Engine) lookForOthers(ctx context.Context, plan *vmbackup.DeletePlan) error {
	b := plan.Backup
	// Data that stays on the target can be restored from there.
	if !b.Status.Ready || plan.Request.KeepData && b.Spec.Type == vmbackup.TypeBackup {
		return nil
	}
	all, _, err := e.records.Backups(ctx, vmbackup.ListOptions{Namespace: plan.Request.Backup.Namespace, VM: b.Spec.VM, Source: vmbackup.SourceAll})
	if err != nil {
		return err
	}
	for i := range all {
		if ref := all[i].Ref(); all[i].Status.Ready && ref != plan.Request.Backup {
			plan.OtherReady = append(plan.OtherReady, ref)
		}
	}
	plan.LastReady = len(plan.OtherReady) == 0
	return nil
}

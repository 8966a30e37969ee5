// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Observe fills in how far the uploads of a running backup are.
func (e *Engine) Observe(ctx context.Context, backup *vmbackup.Backup) error {
	if backup.Status.Phase != vmbackup.PhaseRunning || backup.Spec.Type != vmbackup.TypeBackup {
		return nil
	}
	if backup.Status.Engine == vmbackup.EngineHarvester {
		return nil // its object tells
	}
	record, err := e.records.Record(ctx, backup.Ref(), vmbackup.SourceCluster)
	if err != nil {
		return err
	}
	state := loadState(record)
	if !state.cut() {
		return nil
	}
	list, err := e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).List(ctx, e.backupsOf(backup))
	if err != nil {
		return kube.Error(err, "list", "Backups of Longhorn")
	}
	items := make([]*longhornv1.Backup, len(list.Items))
	for i := range list.Items {
		items[i] = &list.Items[i]
	}
	for i := range backup.Status.Volumes {
		observeUpload(&backup.Status.Volumes[i], state, items)
	}
	return nil
}

// FollowBackup tells the progress of the uploads of a backup that somebody else runs.
func (e *Engine) FollowBackup(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	var run *backupRun
	err := e.journal.Watch(ctx, journal.KindBackup, ref, func(entry journal.Entry) (bool, error) {
		record, err := metadata.DecodeJournal(ref, entry.Data)
		if err != nil {
			return false, err
		}
		// Before the snapshots are cut nobody knows what to look for.
		run = &backupRun{operation: operation{engine: e, events: flow.NewEvents(sink, "backup/"+ref.String(), e.clock)}, record: record, state: loadState(record)}
		return record.Backup.Status.Phase.Done() || run.state.cut(), nil
	})
	if err != nil || run.backup().Status.Phase.Done() || run.backup().Spec.Type == vmbackup.TypeSnapshot {
		return err
	}
	run.events.Plan(flow.Statuses(run.steps()), "follow backup "+ref.String())
	run.events.Step("upload", vmbackup.StateRunning, "")
	return run.watchUploads(ctx, &uploadWatch{})
}

// FollowRestore tells the progress of the data of a restore that somebody else runs.
func (e *Engine) FollowRestore(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	var run *restoreRun
	err := e.journal.Watch(ctx, journal.KindRestore, ref, func(entry journal.Entry) (bool, error) {
		record, err := decodeRestore(ref, entry.Data)
		if err != nil {
			return false, err
		}
		run = &restoreRun{operation: operation{engine: e, events: flow.NewEvents(sink, "restore/"+ref.String(), e.clock)}, record: record}
		// Before the machine is there its volumes are not known yet.
		return record.Restore.Status.Phase.Done() || record.Restore.Status.VM != "", nil
	})
	if err != nil || run.restore().Status.Phase.Done() {
		return err
	}
	run.events.Plan(run.restore().Status.Steps, "follow restore "+ref.String())
	run.events.Step("data", vmbackup.StateRunning, "")
	if e.delegate != nil {
		return e.delegate.Follow(ctx, &Delegated{run})
	}
	return run.watchData(ctx)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// CancelBackup gives up a backup that has not ended: its object is deleted, with which
// Harvester removes what it has made, and what it leaves is removed too. The object is
// the record: nothing of the backup stays. A run of it stops when the object goes. The
// guest is frozen for one second at a time and thaws by itself.
func (e *Engine) CancelBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	object, err := e.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, preflight(noBackup(ref))
	}
	if err != nil {
		return nil, preflight(kube.Error(err, "read", what(ref)))
	}
	record, err := e.recordOf(ctx, object)
	if err != nil {
		return nil, preflight(err)
	}
	backup := &record.Backup
	// One that Harvester cannot make is tried again and again: it has not ended.
	if p := backup.Status.Phase; p.Done() && p != vmbackup.PhaseFailed && object.DeletionTimestamp == nil {
		return backup, preflight(vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s has ended as %s: there is nothing to cancel", ref, p).
			WithHint("look at it with: kubectl vmbackup describe %s -n %s; remove it with: kubectl vmbackup delete %s -n %s", ref.Name, ref.Namespace, ref.Name, ref.Namespace))
	}
	own := &deletePlan{object: object, record: record}
	if err := e.addMade(ctx, own); err != nil {
		return backup, preflight(err)
	}
	events := flow.NewEvents(sinkOf(opts), "cancel/backup/"+ref.String(), e.clock)
	d := &deletion{engine: e, ref: ref, own: own, events: events}
	steps := d.steps(ctx)
	events.Plan(flow.Statuses(steps), "cancel backup "+ref.String())
	if err := flow.Run(ctx, steps, false, events, nil); err != nil {
		events.Result(vmbackup.PhaseRunning, err, "")
		return backup, err
	}
	now := e.clock().UTC()
	status := &backup.Status
	status.Phase, status.Ready, status.CompletedAt = vmbackup.PhaseCanceled, false, &now
	status.Error = vmbackup.Errorf(vmbackup.ReasonCanceled, "backup %s was canceled, and what it had made is removed", ref).WithHint("create a new backup")
	status.Metadata = vmbackup.MetadataStatus{}
	for i := range status.Volumes {
		v := &status.Volumes[i]
		v.VolumeSnapshot, v.SnapshotHandle, v.LonghornBackup, v.State, v.Progress, v.Message = "", "", "", vmbackup.StateSkipped, 0, ""
		v.UploadedBytes, v.BackupBytes = 0, 0
	}
	events.Result(vmbackup.PhaseCanceled, nil, "canceled")
	return backup, nil
}

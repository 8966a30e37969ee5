// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// isOf reports whether a Longhorn Backup is of the snapshot. After Longhorn has
// read it again from the target, only its status says so.
func isOf(b *longhornv1.Backup, snapshot string) bool {
	return b.Spec.SnapshotName == snapshot || b.Status.SnapshotName == snapshot
}

// backupsOf selects Longhorn's Backups of the backup's volumes, or all of them
// where the volumes are not known.
func (e *Engine) backupsOf(b *vmbackup.Backup) metav1.ListOptions {
	if len(b.Status.Volumes) == 0 {
		return metav1.ListOptions{}
	}
	return metav1.ListOptions{LabelSelector: "backup-volume in (" + strings.Join(longhornVolumes(b), ",") + ")"}
}

// followUploads follows the Longhorn Backups until all have ended, and fails
// when one of them did.
func (r *backupRun) followUploads(ctx context.Context) error {
	if r.resumed {
		if err := r.renewUploads(ctx); err != nil {
			return err
		}
	}
	watched, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	u := &uploadWatch{}
	var side sync.WaitGroup
	side.Go(func() { r.explainUploads(watched, u) })
	side.Go(func() {
		if err := r.doubtUploads(watched, u); err != nil {
			stop(err)
		}
	})
	err := r.watchUploads(watched, u)
	if cause := context.Cause(watched); err != nil && ctx.Err() == nil && cause != nil {
		err = cause // what the watch was ended by
	}
	stop(nil)
	side.Wait()
	if err != nil {
		return err
	}
	return r.uploadsFailed(ctx)
}

// uploadsFailed is the error for the uploads that have failed, nil when none has. A
// target that is away is waited for by resuming: the snapshots are there still.
func (r *backupRun) uploadsFailed(ctx context.Context) error {
	backup := r.backup()
	var failures []error
	ofTarget, again := true, true
	for _, v := range backup.Status.Volumes {
		if v.State == vmbackup.StateFailed {
			why := strings.Join(append([]string{kube.Brief(v.Message)}, r.causes(ctx, &v)...), "; ")
			failures = append(failures, fmt.Errorf("volume %s (%s): %s", v.Name, v.PVC, why))
			ofTarget, again = ofTarget && saysTarget(v.Message), again && r.canUpload(ctx, &v)
		}
	}
	if len(failures) == 0 {
		return nil
	}
	what := fmt.Errorf("Longhorn could not back up %d of %d volumes of VirtualMachine %s: %w", len(failures), len(backup.Status.Volumes), backup.Spec.VM, errors.Join(failures...))
	if away := r.targetNow(ctx); away != nil && again {
		return r.reach(vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%w; the backup target cannot be used now: %w", what, away).WithHint("%s", vmbackup.AsError(away, vmbackup.ReasonTargetUnavailable).Hint))
	}
	if ofTarget && again {
		return r.reach(vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%w; the backup target answers again", what))
	}
	return vmbackup.Errorf(vmbackup.ReasonBackupFailed, "%w", what).
		WithHint("the machine and its earlier backups are untouched; mend the cause, create a new backup, and delete this one with: kubectl vmbackup delete %s -n %s", backup.Metadata.Name, backup.Metadata.Namespace)
}

// watchUploads tells the progress of the Longhorn Backups until all have ended, and
// keeps u up to date with them.
func (r *backupRun) watchUploads(ctx context.Context, u *uploadWatch) error {
	backup := r.backup()
	backups := kube.Select(r.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace), r.engine.backupsOf(backup))
	return kube.WatchAll(ctx, backups, "the uploads of backup "+backup.Ref().String(), func(list []*longhornv1.Backup) (bool, error) {
		ended := true
		for i := range backup.Status.Volumes {
			v := &backup.Status.Volumes[i]
			changed := observeUpload(v, r.state, list)
			if v.State != vmbackup.StateReady && v.State != vmbackup.StateFailed {
				ended = false
			}
			if changed {
				r.events.Volume("upload", v.Name, v.State, v.Progress, uploaded(v, r.state), total(v, r.state), v.Message)
			}
		}
		u.see(backup.Status.Volumes)
		return ended, nil
	})
}

// uploadOf finds the Longhorn Backup of a volume's snapshot. Of several, one that was
// asked for anew counts before one that has failed, and the newest before others.
func uploadOf(v *vmbackup.BackupVolume, snapshot string, list []*longhornv1.Backup) *longhornv1.Backup {
	var best *longhornv1.Backup
	for _, b := range list {
		if b.Status.VolumeName != "" && b.Status.VolumeName != v.LonghornVolume || !isOf(b, snapshot) {
			continue
		}
		if best == nil || longhorn.UploadFailed(best) && !longhorn.UploadFailed(b) ||
			longhorn.UploadFailed(best) == longhorn.UploadFailed(b) && best.CreationTimestamp.Before(&b.CreationTimestamp) {
			best = b
		}
	}
	return best
}

// observeUpload brings a volume up to date with Longhorn's Backups and reports
// whether anything about it changed.
func observeUpload(v *vmbackup.BackupVolume, state *backupState, list []*longhornv1.Backup) (changed bool) {
	before := *v
	b := uploadOf(v, state.Snapshots[v.Name], list)
	if b == nil {
		// What failed stays failed: Longhorn removes such backups after a while.
		if v.LonghornBackup != "" && v.State != vmbackup.StateFailed {
			// Longhorn drops its records of a target that looks empty for a moment, and
			// takes them up again when the target is back: not seen is not lost.
			v.State, v.Message = vmbackup.StateUnknown, "Longhorn does not list backup "+v.LonghornBackup+" at the moment"
		}
		return before != *v
	}
	if v.LonghornBackup != b.Name {
		v.Progress = 0
	}
	v.LonghornBackup = b.Name
	v.SnapshotHandle = "bak://" + v.LonghornVolume + "/" + b.Name
	v.Progress = max(v.Progress, b.Status.Progress)
	v.Message = ""
	switch {
	case longhorn.UploadFailed(b):
		v.State, v.Message = vmbackup.StateFailed, cmp.Or(b.Status.Error, "Longhorn gives no reason")
	case longhorn.UploadDone(b):
		v.State, v.Progress = vmbackup.StateReady, 100
		v.BackupBytes, v.UploadedBytes = longhorn.Bytes(b.Status.Size), longhorn.Bytes(b.Status.NewlyUploadedDataSize)
	case b.Status.State == longhornv1.BackupStateCompleted:
		v.State, v.Progress = vmbackup.StateRunning, 100 // not read back yet
	default:
		v.State, v.Message = vmbackup.StateRunning, cmp.Or(b.Status.Error, longhorn.WaitsFor(b))
	}
	if longhorn.BeingDeleted(b) {
		v.State, v.Message = vmbackup.StateFailed, "its Longhorn backup "+b.Name+" is being deleted"
	}
	return before != *v
}

// uploaded estimates the bytes done from Longhorn's percentage; exact at the end.
func uploaded(v *vmbackup.BackupVolume, state *backupState) int64 {
	if v.State == vmbackup.StateReady {
		return v.BackupBytes
	}
	return total(v, state) * int64(v.Progress) / 100
}

// total is what the volume's backup holds, estimated until it is complete.
func total(v *vmbackup.BackupVolume, state *backupState) int64 {
	if v.State == vmbackup.StateReady {
		return v.BackupBytes
	}
	return state.Estimates[v.Name]
}

// followImages waits until the backing images below the volumes are on the target.
// Longhorn backs them up by itself with the first volume that rests on them.
func (r *backupRun) followImages(ctx context.Context) error {
	status := &r.backup().Status
	images := kube.Select(r.engine.clients.Longhorn.LonghornV1beta2().BackupBackingImages(kube.LonghornNamespace), metav1.ListOptions{})
	err := kube.WatchAll(ctx, images, "the backing image backups", func(list []*longhornv1.BackupBackingImage) (bool, error) {
		ready := true
		for i := range status.Images {
			image := &status.Images[i]
			for _, b := range list {
				if longhorn.ImageOf(b) != image.Name || b.Spec.BackupTargetName != r.backup().Spec.Target {
					continue
				}
				switch b.Status.State {
				case longhornv1.BackupStateCompleted:
					image.State, image.Message = vmbackup.StateReady, ""
				case longhornv1.BackupStateError:
					image.State, image.Message = vmbackup.StateFailed, b.Status.Error
					return false, vmbackup.Errorf(vmbackup.ReasonBackupFailed, "the backing image %s below the volumes could not be backed up: %s", image.Name, b.Status.Error).
						WithHint("without it the volumes cannot be restored where the image is missing; mend the cause and create a new backup")
				default:
					image.State, image.Message = vmbackup.StateRunning, fmt.Sprintf("%d %%", b.Status.Progress)
				}
			}
			if image.State != vmbackup.StateReady {
				ready = false
				r.events.Step("images", vmbackup.StateRunning, strings.TrimSpace("waiting for backing image "+image.Name+" "+image.Message))
			}
		}
		return ready, nil
	})
	if err != nil {
		return err
	}
	for i := range status.Images {
		// Without it the image comes back all the same, under its backing image's name alone.
		if err := r.engine.images().Describe(ctx, status.Images[i].Name, r.backup().Spec.Target); err != nil && ctx.Err() == nil {
			r.events.Warning(err.Error())
		}
	}
	return ctx.Err()
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// uploadStalls is after how long without progress an upload that has to end is not
	// waited for any more.
	uploadStalls = 10 * time.Minute
	// uploadBegins is how long an upload may take to begin; one that has not by then
	// waits for something, and writes nothing when it is deleted.
	uploadBegins = 20 * time.Second
	// volumeListed is how long Longhorn may take to list a volume whose first backup
	// has ended: it looks at the target at once.
	volumeListed = 2 * time.Minute
)

// isSurplus reports whether a Longhorn Backup is of the backup's machine and run, and
// none that counts: of a broken round, or of a snapshot that has another one. Longhorn's
// CSI plugin asks for a second one when the answer to its first request was lost.
func (r *backupRun) isSurplus(b *longhornv1.Backup) bool {
	for _, v := range r.backup().Status.Volumes {
		if isOf(b, r.state.Snapshots[v.Name]) {
			return v.LonghornBackup != "" && v.LonghornBackup != b.Name
		}
	}
	return r.isLeftover(b)
}

func (r *backupRun) isLeftover(b *longhornv1.Backup) bool {
	return slices.ContainsFunc(r.state.Leftovers, func(snapshot string) bool { return isOf(b, snapshot) })
}

// removeSurplus removes Longhorn's backups that do not count, once the uploads are
// done, and the snapshots of broken rounds. A request of the CSI driver that was under
// way may have brought one after its round was removed.
func (r *backupRun) removeSurplus(ctx context.Context) error {
	say := func(message string) { r.events.Step("verify", vmbackup.StateRunning, message) }
	if err := r.takeCSIs(ctx); err != nil {
		return err
	}
	if err := r.engine.removeUploads(ctx, r.engine.backupsOf(r.backup()), r.isSurplus, say); err != nil {
		return err
	}
	for _, name := range r.state.Leftovers {
		if err := r.engine.removeLonghornSnapshot(ctx, name); err != nil {
			return err
		}
	}
	r.state.Leftovers = nil
	return nil
}

// takeCSIs takes, of several whole backups of a volume's snapshot, the one whose handle
// the CSI snapshot has: a claim that somebody makes from it needs that one.
func (r *backupRun) takeCSIs(ctx context.Context) error {
	list, err := r.engine.uploads(ctx, r.engine.backupsOf(r.backup()), longhorn.UploadDone)
	if err != nil {
		return err
	}
	for i := range r.backup().Status.Volumes {
		v := &r.backup().Status.Volumes[i]
		snapshot := r.state.Snapshots[v.Name]
		whole := slices.DeleteFunc(slices.Clone(list), func(b longhornv1.Backup) bool { return !isOf(&b, snapshot) })
		if len(whole) < 2 {
			continue
		}
		name := "snapcontent-" + strings.TrimPrefix(snapshot, "snapshot-")
		content, err := r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshotContents().Get(ctx, name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "read", "VolumeSnapshotContent "+name)
		}
		if err != nil || content.Status == nil || content.Status.SnapshotHandle == nil {
			continue
		}
		for i := range whole {
			if handle := "bak://" + v.LonghornVolume + "/" + whole[i].Name; handle == *content.Status.SnapshotHandle {
				observeUpload(v, r.state, []*longhornv1.Backup{&whole[i]})
			}
		}
	}
	return nil
}

// removeLeftovers removes what Longhorn has of broken rounds, before the next one: the
// machine's disks are to be snapshotted now, so that an upload which has to end first
// is left to removeSurplus.
func (r *backupRun) removeLeftovers(ctx context.Context) error {
	if len(r.state.Leftovers) == 0 {
		return nil
	}
	list, err := r.engine.uploads(ctx, r.engine.backupsOf(r.backup()), r.isLeftover)
	if err != nil {
		return err
	}
	under, err := r.engine.irremovable(ctx, list)
	if err != nil {
		return err
	}
	for _, name := range r.state.Leftovers {
		if slices.ContainsFunc(under, func(b longhornv1.Backup) bool { return isOf(&b, name) }) {
			continue
		}
		for i := range list {
			if isOf(&list[i], name) {
				if err := r.engine.deleteUpload(ctx, &list[i]); err != nil {
					return err
				}
			}
		}
		if err := r.engine.removeLonghornSnapshot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// uploads are Longhorn's Backups that fit.
func (e *Engine) uploads(ctx context.Context, selector metav1.ListOptions, fits func(*longhornv1.Backup) bool) ([]longhornv1.Backup, error) {
	list, err := e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).List(ctx, selector)
	if err != nil {
		return nil, kube.Error(err, "list", "Backups of Longhorn")
	}
	return slices.DeleteFunc(list.Items, func(b longhornv1.Backup) bool { return !fits(&b) }), nil
}

// removeUploads removes Longhorn's Backups that fit, with their data, and waits until
// they are gone.
func (e *Engine) removeUploads(ctx context.Context, selector metav1.ListOptions, fits func(*longhornv1.Backup) bool, say func(string)) error {
	list, err := e.uploads(ctx, selector, fits)
	if err != nil || len(list) == 0 {
		return err
	}
	if err := e.awaitRemovable(ctx, list, say); err != nil {
		return err
	}
	for i := range list {
		if err := e.deleteUpload(ctx, &list[i]); err != nil {
			return err
		}
	}
	client := e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	for _, b := range list {
		if err := kube.WaitGone[*longhornv1.Backup](ctx, kube.One(client, b.Name), "Longhorn Backup "+b.Name+" to be gone", b.UID); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) deleteUpload(ctx context.Context, b *longhornv1.Backup) error {
	err := e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).Delete(ctx, b.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return kube.Error(err, "delete", "Longhorn Backup "+b.Name)
	}
	return nil
}

// removeLonghornSnapshot deletes a Snapshot of Longhorn, which merges it when it sees fit.
func (e *Engine) removeLonghornSnapshot(ctx context.Context, name string) error {
	err := e.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return kube.Error(err, "delete", "Longhorn Snapshot "+name)
	}
	return nil
}

// irremovable are those of the Backups whose data Longhorn would leave on the target:
// it removes none of a volume that it does not list on the target yet, which it does
// after the volume's first backup has ended, and it does not end an upload whose
// Backup is deleted (backup_controller.go). The upload would write the backup's file,
// and Longhorn would list it again.
func (e *Engine) irremovable(ctx context.Context, backups []longhornv1.Backup) ([]longhornv1.Backup, error) {
	if len(backups) == 0 {
		return nil, nil
	}
	volumes, err := e.clients.Longhorn.LonghornV1beta2().BackupVolumes(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "BackupVolumes of Longhorn")
	}
	var left []longhornv1.Backup
	for _, b := range backups {
		known := slices.ContainsFunc(volumes.Items, func(v longhornv1.BackupVolume) bool { return listsVolumeOf(&v, &b) })
		if !known && !longhorn.UploadFailed(&b) && b.DeletionTimestamp == nil {
			left = append(left, b)
		}
	}
	return left, nil
}

// listsVolumeOf reports whether a BackupVolume is the one of a Backup's volume and target.
func listsVolumeOf(v *longhornv1.BackupVolume, b *longhornv1.Backup) bool {
	volume := v.Spec.VolumeName
	if volume == "" {
		volume = v.Name // before Longhorn had several targets
	}
	target := b.Labels["backup-target"]
	return volume == volumeOf(b) && (target == "" || v.Spec.BackupTargetName == "" || v.Spec.BackupTargetName == target)
}

// awaitRemovable waits until Longhorn removes the data of the Backups together with
// them: until the first uploads of their volumes have ended, and Longhorn lists the
// volumes on the target.
func (e *Engine) awaitRemovable(ctx context.Context, backups []longhornv1.Backup, say func(string)) error {
	left, err := e.irremovable(ctx, backups)
	if err != nil || len(left) == 0 {
		return err
	}
	ended, err := e.awaitUploads(ctx, left, say)
	if err != nil || len(ended) == 0 {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, volumeListed)
	defer cancel()
	volumes := kube.Select(e.clients.Longhorn.LonghornV1beta2().BackupVolumes(kube.LonghornNamespace), metav1.ListOptions{})
	err = kube.WatchAll(waiting, volumes, "Longhorn to list the volumes of the uploads that have ended", func(list []*longhornv1.BackupVolume) (bool, error) {
		return !slices.ContainsFunc(ended, func(b *longhornv1.Backup) bool {
			return !slices.ContainsFunc(list, func(v *longhornv1.BackupVolume) bool { return listsVolumeOf(v, b) })
		}), nil
	})
	if waiting.Err() != nil && ctx.Err() == nil {
		return nil // the target is looked at afterwards, and what is left there is told
	}
	return err
}

// awaitUploads waits until the uploads have ended, and returns those that have written
// a backup. One that does not begin is not waited for.
func (e *Engine) awaitUploads(ctx context.Context, backups []longhornv1.Backup, say func(string)) (written []*longhornv1.Backup, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(uploadBegins, func() { cancel(errUploadStalls) })
	defer stalled.Stop()
	seen, begun := map[string]string{}, false
	client := e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	err = kube.WatchAll(ctx, kube.Select(client, metav1.ListOptions{}), "uploads of Longhorn to end", func(list []*longhornv1.Backup) (bool, error) {
		done, now, moved := true, false, false
		written = nil
		for _, want := range backups {
			i := slices.IndexFunc(list, func(b *longhornv1.Backup) bool { return b.UID == want.UID })
			switch {
			case i < 0 || list[i].DeletionTimestamp != nil || longhorn.UploadFailed(list[i]):
				continue
			case list[i].Status.State == longhornv1.BackupStateCompleted:
				written = append(written, list[i])
				continue
			}
			done, now = false, now || list[i].Status.State == longhornv1.BackupStateInProgress
			if state := fmt.Sprintf("%s %d %%", list[i].Status.State, list[i].Status.Progress); seen[want.Name] != state {
				seen[want.Name], moved = state, true
				say(fmt.Sprintf("waiting for the upload of Longhorn Backup %s to end (%d %%): Longhorn cannot stop it, and would leave what it writes", want.Name, list[i].Status.Progress))
			}
		}
		if begun = now; moved && begun {
			stalled.Reset(uploadStalls)
		}
		return done, nil
	})
	if errors.Is(context.Cause(ctx), errUploadStalls) {
		if begun {
			return nil, errUploadStalls
		}
		return written, nil
	}
	return written, err
}

var errUploadStalls = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "an upload that Longhorn cannot stop has made no progress for %s; its backup was not removed, since Longhorn would leave on the target what it writes", uploadStalls).
	WithHint("look at it with: kubectl get backups.longhorn.io -n %s; then run the same command again", kube.LonghornNamespace)

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// doubtEvery is how often uploads that do not move are looked into. Longhorn polls a
// target every five minutes by default.
const doubtEvery = 15 * time.Second

// targetPatience is how long a run waits for a target that uploads wait for.
const targetPatience = 5 * time.Minute

// uploadWatch is what the watch of the uploads has seen, for those who explain it.
type uploadWatch struct {
	mu      sync.Mutex
	volumes map[string]vmbackup.BackupVolume
}

func (u *uploadWatch) see(volumes []vmbackup.BackupVolume) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.volumes = make(map[string]vmbackup.BackupVolume, len(volumes))
	for _, v := range volumes {
		u.volumes[v.Name] = v
	}
}

// now are the volumes by their names.
func (u *uploadWatch) now() map[string]vmbackup.BackupVolume {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.volumes)
}

// explainUploads tells what the VolumeSnapshots say of uploads that have not begun.
// Their errors are no failures: the sidecars try again, and one that has stopped
// waiting leaves its error there while Longhorn uploads.
func (r *backupRun) explainUploads(ctx context.Context, u *uploadWatch) {
	told := map[string]bool{}
	snapshots := kube.Select(r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshots(r.backup().Metadata.Namespace), metav1.ListOptions{LabelSelector: r.selector()})
	_ = kube.WatchAll(ctx, snapshots, "the VolumeSnapshots", func(list []*snapshotv1.VolumeSnapshot) (bool, error) {
		for _, s := range list {
			if s.Status == nil || s.Status.Error == nil || s.Status.Error.Message == nil {
				continue
			}
			v, known := u.now()[s.Annotations[AnnotationVolume]]
			if !known || v.VolumeSnapshot != s.Name || v.State == vmbackup.StateReady || v.State == vmbackup.StateFailed {
				continue
			}
			message := *s.Status.Error.Message
			if v.LonghornBackup != "" {
				message = "the upload goes on; its VolumeSnapshot still shows an error of the CSI sidecar: " + message
			}
			if !told[s.Name+message] {
				told[s.Name+message] = true
				r.events.Volume("upload", v.Name, v.State, v.Progress, uploaded(&v, r.state), total(&v, r.state), message)
			}
		}
		return false, nil
	})
}

// doubtUploads looks into uploads that Longhorn does not list any more or has not
// begun, until ctx ends. It returns an error once it is sure that one will not come,
// or when the target has been away for long: Longhorn asks for an upload again and
// again only as long as the sidecar does, and a run that is resumed asks anew.
func (r *backupRun) doubtUploads(ctx context.Context, u *uploadWatch) error {
	told := map[string]string{}
	say := func(v vmbackup.BackupVolume, message string) {
		if message != "" && told[v.Name] != message {
			told[v.Name] = message
			r.events.Volume("upload", v.Name, v.State, v.Progress, uploaded(&v, r.state), total(&v, r.state), message)
		}
	}
	var since time.Time // when the target was first seen away, zero while it is not
	for pause(ctx, doubtEvery) == nil {
		var away error
		volumes := u.now()
		for _, name := range slices.Sorted(maps.Keys(volumes)) {
			v := volumes[name]
			message, err := "", error(nil)
			switch {
			case v.State == vmbackup.StateUnknown:
				message, err = r.doubt(ctx, &v)
			case v.State == vmbackup.StateRunning && v.Progress == 0:
				message, err = r.blocked(ctx, &v)
			}
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the watch is over; its own result counts
			}
			var waits *targetAway
			if errors.As(err, &waits) {
				away, message, err = waits.err, "waiting for the backup target: "+waits.err.Error(), nil
			}
			if err != nil {
				return err
			}
			say(v, message)
		}
		switch {
		case away == nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= targetPatience:
			e := vmbackup.AsError(away, vmbackup.ReasonTargetUnavailable)
			return r.reach(vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "the uploads wait for the backup target, which cannot be used for %s: %w", targetPatience, e).WithHint("%s", e.Hint))
		}
	}
	return nil
}

// targetAway is why something about the target cannot be known now.
type targetAway struct{ err error }

func (t *targetAway) Error() string { return t.err.Error() }
func (t *targetAway) Unwrap() error { return t.err }

// doubt looks for a volume's backup that Longhorn does not list. It is waited for
// when the target has it, or cannot say; Longhorn lists it again by itself. When the
// target answers and does not have it, Longhorn has cleaned a failed one away, or
// somebody has deleted it.
func (r *backupRun) doubt(ctx context.Context, v *vmbackup.BackupVolume) (message string, err error) {
	store, err := r.engine.openTarget(ctx, r.backup().Spec.Target)
	if err == nil {
		_, err = store.Stat(ctx, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
	}
	switch {
	case err == nil:
		_ = r.engine.askForSync(ctx, r.backup()) // a shortcut: Longhorn polls anyway
		return "Longhorn does not list backup " + v.LonghornBackup + ", which the target has; it was asked to look there", nil
	case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
		return "", &targetAway{err}
	}
	what := fmt.Sprintf("Longhorn has removed its backup %s of volume %s, and %s does not hold it", v.LonghornBackup, v.Name, store)
	empty, err := target.Empty(ctx, store)
	switch {
	case err != nil:
		return "", &targetAway{err}
	case empty:
		return "", target.EmptyError(store, what)
	}
	if list, err := r.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).List(ctx, r.engine.backupsOf(r.backup())); err != nil || listed(v, r.state.Snapshots[v.Name], list) {
		return "", nil //nolint:nilerr // another one is under way, or it is back; the watch tells
	}
	return "", vmbackup.Errorf(vmbackup.ReasonBackupFailed, "%s: it had failed or was deleted", what).
		WithHint("the machine and its earlier backups are untouched; see why in the events and logs of Longhorn, create a new backup, and delete this one with: kubectl vmbackup delete %s -n %s", r.backup().Metadata.Name, r.backup().Metadata.Namespace)
}

func listed(v *vmbackup.BackupVolume, snapshot string, list *longhornv1.BackupList) bool {
	for i := range list.Items {
		if uploadOf(v, snapshot, []*longhornv1.Backup{&list.Items[i]}) != nil {
			return true
		}
	}
	return false
}

// blocked says why an upload has not begun: the volume cannot be attached, or the
// target cannot be used. A faulted volume has no data left that could be read.
func (r *backupRun) blocked(ctx context.Context, v *vmbackup.BackupVolume) (message string, err error) {
	if v.LonghornBackup == "" {
		// Longhorn is not asked for an upload while it cannot use the target.
		if err := r.targetNow(ctx); err != nil {
			return "", &targetAway{err}
		}
	}
	lv, err := r.engine.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace).Get(ctx, v.LonghornVolume, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", vmbackup.Errorf(vmbackup.ReasonBackupFailed, "Longhorn volume %s of volume %s is gone, and with it the snapshot that was to be uploaded", v.LonghornVolume, v.Name).
			WithHint("earlier backups are untouched; delete this one with: kubectl vmbackup delete %s -n %s", r.backup().Metadata.Name, r.backup().Metadata.Namespace)
	case err != nil:
		return "", nil //nolint:nilerr // it explains only; the watch tells an API server that is away
	case lv.Status.Robustness == longhornv1.VolumeRobustnessFaulted:
		return "", vmbackup.Errorf(vmbackup.ReasonBackupFailed, "Longhorn volume %s of volume %s is faulted, so that its snapshot cannot be read: %s", v.LonghornVolume, v.Name, longhorn.ConditionMessage(lv)).
			WithHint("mend the volume first (kubectl get volumes.longhorn.io %s -n %s -o yaml), then create a new backup; earlier backups are untouched", v.LonghornVolume, kube.LonghornNamespace)
	case lv.Status.State != longhornv1.VolumeStateAttached:
		return fmt.Sprintf("not begun: Longhorn volume %s is %s, and must be attached for the upload: %s", v.LonghornVolume, lv.Status.State, longhorn.ConditionMessage(lv)), nil
	}
	return "", nil
}

// causes are what Longhorn notes beside the error of a failed upload: the state of
// the volume, and the warnings of its objects. They are for the eye alone, and not
// being allowed to look is no error.
func (r *backupRun) causes(ctx context.Context, v *vmbackup.BackupVolume) []string {
	var causes []string
	lv, err := r.engine.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace).Get(ctx, v.LonghornVolume, metav1.GetOptions{})
	if err == nil && (lv.Status.Robustness == longhornv1.VolumeRobustnessFaulted || lv.Status.Robustness == longhornv1.VolumeRobustnessDegraded) {
		causes = append(causes, fmt.Sprintf("the volume is %s: %s", lv.Status.Robustness, longhorn.ConditionMessage(lv)))
	}
	events, err := r.engine.clients.Core.CoreV1().Events(kube.LonghornNamespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning", Limit: 500})
	if err != nil {
		return causes
	}
	began := time.Time{}
	if at := r.backup().Status.StartedAt; at != nil {
		began = at.Truncate(time.Second) // events have whole seconds
	}
	const most = 3
	slices.SortStableFunc(events.Items, func(a, b corev1.Event) int { return b.LastTimestamp.Compare(a.LastTimestamp.Time) })
	seen := 0
	for _, e := range events.Items {
		name := e.InvolvedObject.Name
		ofVolume := name == v.LonghornVolume || strings.HasPrefix(name, v.LonghornVolume+"-")
		if e.LastTimestamp.Time.Before(began) {
			break // of what came before this backup
		}
		if e.Type != corev1.EventTypeWarning || !ofVolume && name != v.LonghornBackup || strings.Contains(e.Message, v.Message) || slices.Contains(causes, e.Message) {
			continue
		}
		if causes, seen = append(causes, e.Reason+" "+name+": "+kube.Brief(e.Message)), seen+1; seen == most {
			break
		}
	}
	return causes
}

// renewUploads asks Longhorn for another backup of each snapshot whose upload has
// failed in an earlier run: the snapshots are those of the one moment still. The
// failed one is removed after its successor is there, or the CSI sidecar, which
// looks for a backup of the snapshot, would make one more.
func (r *backupRun) renewUploads(ctx context.Context) error {
	client := r.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	list, err := client.List(ctx, r.engine.backupsOf(r.backup()))
	if err != nil {
		return kube.Error(err, "list", "Backups of Longhorn")
	}
	backups := make([]*longhornv1.Backup, len(list.Items))
	for i := range list.Items {
		backups[i] = &list.Items[i]
	}
	asked := false
	for i := range r.backup().Status.Volumes {
		v := &r.backup().Status.Volumes[i]
		failed := uploadOf(v, r.state.Snapshots[v.Name], backups)
		if failed == nil || !longhorn.UploadFailed(failed) || failed.DeletionTimestamp != nil || !r.canUpload(ctx, v) {
			continue // without its snapshot there is nothing to upload from, and the failure stands
		}
		if !asked {
			// Longhorn may not have noticed yet that the target is away.
			if err := r.targetNow(ctx); err != nil {
				return r.reach(err)
			}
			asked = true
		}
		if err := r.renewUpload(ctx, v, failed); err != nil {
			return err
		}
	}
	return nil
}

func (r *backupRun) renewUpload(ctx context.Context, v *vmbackup.BackupVolume, failed *longhornv1.Backup) error {
	longhorn := r.engine.clients.Longhorn.LonghornV1beta2()
	snapshot := r.state.Snapshots[v.Name]
	r.events.Volume("upload", v.Name, vmbackup.StateRunning, 0, 0, total(v, r.state), "the upload failed ("+kube.Brief(failed.Status.Error)+"); trying again from the same snapshot")
	anew := &longhornv1.Backup{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.LonghornNamespace, Name: nextBackup(failed.Name),
			Labels: map[string]string{"backup-target": r.backup().Spec.Target, "backup-volume": v.LonghornVolume},
		},
		Spec: longhornv1.BackupSpec{SnapshotName: snapshot, Labels: failed.Spec.Labels, BackupMode: failed.Spec.BackupMode},
	}
	_, err := longhorn.Backups(kube.LonghornNamespace).Create(ctx, anew, metav1.CreateOptions{FieldManager: kube.FieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		if away := r.targetNow(ctx); away != nil && ctx.Err() == nil {
			return r.reach(vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "the upload of volume %s cannot be tried again: %w", v.Name, away))
		}
		// Whoever may not ask for it can be given the right, or somebody else resumes.
		return r.reach(kube.Error(err, "create", "Longhorn Backup "+anew.Name))
	}
	err = longhorn.Backups(kube.LonghornNamespace).Delete(ctx, failed.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(failed.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return kube.Error(err, "delete", "Longhorn Backup "+failed.Name)
	}
	return nil
}

// canUpload reports whether a volume's Longhorn snapshot is still there to be
// uploaded. One that cannot be asked for is taken to be there.
func (r *backupRun) canUpload(ctx context.Context, v *vmbackup.BackupVolume) bool {
	cut, err := r.engine.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace).Get(ctx, r.state.Snapshots[v.Name], metav1.GetOptions{})
	return !apierrors.IsNotFound(err) && (err != nil || cut.DeletionTimestamp == nil)
}

// nextBackup is the name of the backup that follows a failed one, in Longhorn's form.
func nextBackup(failed string) string {
	sum := sha256.Sum256([]byte(failed))
	return "backup-" + hex.EncodeToString(sum[:8])
}

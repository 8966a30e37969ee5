// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// syncDeadline is how long Longhorn may take to list a backup that is on the target.
const syncDeadline = 5 * time.Minute

// ensureBackups waits until Longhorn knows the backup of every volume under its
// name, which it needs for the restore; where it does not, it is asked to look at
// the target again.
func (r *restoreRun) ensureBackups(ctx context.Context) error {
	if r.record.DataRestored {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, syncDeadline, errSyncDeadline)
	defer cancel()
	err := r.engine.awaitBackups(ctx, &r.record.Backup, func(message string) { r.events.Step("sync", vmbackup.StateRunning, message) })
	if errors.Is(context.Cause(ctx), errSyncDeadline) {
		return errSyncDeadline
	}
	return err
}

var errSyncDeadline = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn has not listed the backups of this target in %s; nothing was restored yet", syncDeadline).
	WithHint("look at the target in Longhorn: kubectl get backuptargets.longhorn.io -n %s; then resume the restore", kube.LonghornNamespace)

// awaitBackups waits until Longhorn lists every volume's backup as complete, and
// asks it to look at the target where it misses one.
func (e *Engine) awaitBackups(ctx context.Context, backup *vmbackup.Backup, say func(string)) error {
	return e.awaitListed(ctx, backup, say, func(b *longhornv1.Backup) bool { return b.Status.State == longhornv1.BackupStateCompleted })
}

// awaitListed waits until Longhorn lists a fitting backup of every volume, and asks
// it to look at the target where it misses one.
func (e *Engine) awaitListed(ctx context.Context, backup *vmbackup.Backup, say func(string), fits func(*longhornv1.Backup) bool) error {
	asked := false
	backups := kube.Select(e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace), e.backupsOf(backup))
	return kube.WatchAll(ctx, backups, "Longhorn to list the backups of "+backup.Ref().String(), func(list []*longhornv1.Backup) (bool, error) {
		var missing []string
		for _, v := range backup.Status.Volumes {
			known := slices.ContainsFunc(list, func(b *longhornv1.Backup) bool { return b.Name == v.LonghornBackup && fits(b) })
			if !known {
				missing = append(missing, v.Name)
			}
		}
		if len(missing) == 0 {
			return true, nil
		}
		if asked {
			return false, nil
		}
		asked = true
		say("asking Longhorn to look at the backup target for " + strings.Join(missing, ", "))
		return false, e.askForSync(ctx, backup)
	})
}

// askForSync has Longhorn look at the backup target, and at the volumes of the
// backup that it lists already, now rather than at its next poll.
func (e *Engine) askForSync(ctx context.Context, backup *vmbackup.Backup) error {
	patch := fmt.Appendf(nil, `{"spec":{"syncRequestedAt":%q}}`, e.clock().UTC().Format(time.RFC3339))
	options := metav1.PatchOptions{FieldManager: kube.FieldManager}
	client := e.clients.Longhorn.LonghornV1beta2()
	if _, err := client.BackupTargets(kube.LonghornNamespace).Patch(ctx, backup.Spec.Target, types.MergePatchType, patch, options); err != nil {
		return kube.Error(err, "ask for a sync of", "Longhorn BackupTarget "+backup.Spec.Target)
	}
	volumes, err := client.BackupVolumes(kube.LonghornNamespace).List(ctx, e.backupsOf(backup))
	if err != nil {
		return kube.Error(err, "list", "BackupVolumes of Longhorn")
	}
	for _, v := range volumes.Items {
		if _, err := client.BackupVolumes(kube.LonghornNamespace).Patch(ctx, v.Name, types.MergePatchType, patch, options); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "ask for a sync of", "Longhorn BackupVolume "+v.Name)
		}
	}
	return nil
}

// ensureSnapshots composes a VolumeSnapshotContent and its VolumeSnapshot for
// every volume, and waits until they are bound. The policy is Retain, so that removing them leaves the data alone.
func (r *restoreRun) ensureSnapshots(ctx context.Context) error {
	if r.record.DataRestored {
		return nil
	}
	if err := r.stillOwn(ctx); err != nil {
		return err // another run may have restored the data and removed its own
	}
	class, err := r.engine.ensureClass(ctx, r.record.Backup.Spec.Type)
	if err != nil {
		return err
	}
	r.record.Class = class // another one, where the planned one is gone
	told := map[string]bool{}
	for {
		if err := r.composeSnapshots(ctx); err != nil {
			return err
		}
		bound, err := r.awaitBound(ctx, told)
		if err != nil || bound {
			return err
		}
		if err := r.stillOwn(ctx); err != nil {
			return err
		}
	}
}

// composeSnapshots creates what is not there of the VolumeSnapshotContents and
// their VolumeSnapshots.
func (r *restoreRun) composeSnapshots(ctx context.Context) error {
	client := r.engine.clients.Snapshot.SnapshotV1()
	for i := range r.restore().Status.Volumes {
		v := &r.restore().Status.Volumes[i]
		name := r.record.snapshotName(v)
		labels := map[string]string{LabelOperation: r.record.Operation, LabelManagedBy: kube.FieldManager}
		content := &snapshotv1.VolumeSnapshotContent{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec: snapshotv1.VolumeSnapshotContentSpec{
				DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain, Driver: Driver, VolumeSnapshotClassName: &r.record.Class,
				Source:            snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: &v.SnapshotHandle},
				VolumeSnapshotRef: corev1.ObjectReference{Kind: "VolumeSnapshot", Namespace: r.namespace(), Name: name},
			},
		}
		if _, err := client.VolumeSnapshotContents().Create(ctx, content, metav1.CreateOptions{FieldManager: kube.FieldManager}); err != nil && !apierrors.IsAlreadyExists(err) {
			return kube.Error(err, "create", "VolumeSnapshotContent "+name)
		}
		snapshot := &snapshotv1.VolumeSnapshot{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: r.namespace(), Labels: labels, Annotations: map[string]string{AnnotationVolume: v.Name}},
			Spec: snapshotv1.VolumeSnapshotSpec{
				VolumeSnapshotClassName: &r.record.Class,
				Source:                  snapshotv1.VolumeSnapshotSource{VolumeSnapshotContentName: &name},
			},
		}
		if _, err := client.VolumeSnapshots(r.namespace()).Create(ctx, snapshot, metav1.CreateOptions{FieldManager: kube.FieldManager}); err != nil && !apierrors.IsAlreadyExists(err) {
			return kube.Error(err, "create", "VolumeSnapshot "+r.namespace()+"/"+name)
		}
	}
	return nil
}

// ensureObjects creates the Secrets and ConfigMaps that the machine refers to.
func (r *restoreRun) ensureObjects(ctx context.Context) error {
	for _, raw := range r.record.Secrets {
		s := &corev1.Secret{}
		if err := metadata.ReadObject(raw, s); err != nil {
			return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "a Secret of restore %s cannot be read: %w", r.restore().Ref(), err)
		}
		_, err := r.engine.clients.Core.CoreV1().Secrets(r.namespace()).Create(ctx, s, metav1.CreateOptions{FieldManager: kube.FieldManager})
		if apierrors.IsAlreadyExists(err) {
			have, readErr := r.engine.clients.Core.CoreV1().Secrets(r.namespace()).Get(ctx, s.Name, metav1.GetOptions{})
			err = r.own(have, readErr, "Secret "+s.Name)
		}
		if err != nil {
			return kube.Error(err, "create", "Secret "+r.namespace()+"/"+s.Name)
		}
	}
	for _, raw := range r.record.ConfigMaps {
		m := &corev1.ConfigMap{}
		if err := metadata.ReadObject(raw, m); err != nil {
			return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "a ConfigMap of restore %s cannot be read: %w", r.restore().Ref(), err)
		}
		_, err := r.engine.clients.Core.CoreV1().ConfigMaps(r.namespace()).Create(ctx, m, metav1.CreateOptions{FieldManager: kube.FieldManager})
		if apierrors.IsAlreadyExists(err) {
			have, readErr := r.engine.clients.Core.CoreV1().ConfigMaps(r.namespace()).Get(ctx, m.Name, metav1.GetOptions{})
			err = r.own(have, readErr, "ConfigMap "+m.Name)
		}
		if err != nil {
			return kube.Error(err, "create", "ConfigMap "+r.namespace()+"/"+m.Name)
		}
	}
	return nil
}

// own accepts an object that is there already when this restore made it.
func (r *restoreRun) own(object metav1.Object, err error, what string) error {
	if err != nil {
		return err
	}
	if object.GetLabels()[LabelOperation] == r.record.Operation || object.GetAnnotations()[LabelOperation] == r.record.Operation {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "%s in namespace %s appeared since the restore was planned, and is not its own; it was left as it is", what, r.namespace()).
		WithHint("rename or remove it, then start a new restore")
}

// ensureClaims creates the claims and waits until each has its Longhorn volume.
func (r *restoreRun) ensureClaims(ctx context.Context) error {
	client := r.engine.clients.Core.CoreV1().PersistentVolumeClaims(r.namespace())
	for i := range r.record.Claims {
		claim := r.record.Claims[i].DeepCopy()
		_, err := client.Create(ctx, claim, metav1.CreateOptions{FieldManager: kube.FieldManager})
		if apierrors.IsAlreadyExists(err) {
			have, readErr := client.Get(ctx, claim.Name, metav1.GetOptions{})
			err = r.own(have, readErr, "PersistentVolumeClaim "+claim.Name)
		}
		if err != nil {
			return kube.Error(err, "create", "PersistentVolumeClaim "+r.namespace()+"/"+claim.Name)
		}
	}
	volumes := r.restore().Status.Volumes
	claims := kube.Select(client, metav1.ListOptions{LabelSelector: LabelOperation + "=" + r.record.Operation})
	bound := map[string]string{} // PersistentVolume by claim
	names := map[string]string{} // the volume's name by claim
	for _, v := range volumes {
		names[v.PVC] = v.Name
	}
	side, stop := context.WithCancel(ctx)
	var explaining sync.WaitGroup
	explaining.Go(func() { r.explainClaims(side, names) })
	err := kube.WatchAll(ctx, claims, "the claims of restore "+r.restore().Ref().String()+" to be bound", func(list []*corev1.PersistentVolumeClaim) (bool, error) {
		for _, c := range list {
			if c.Status.Phase == corev1.ClaimLost {
				return false, vmbackup.Errorf(vmbackup.ReasonInternal, "PersistentVolumeClaim %s/%s has lost its volume while it was restored", c.Namespace, c.Name)
			}
			if c.Status.Phase == corev1.ClaimBound {
				bound[c.Name] = c.Spec.VolumeName
			}
		}
		return !slices.ContainsFunc(volumes, func(v vmbackup.RestoreVolume) bool { return bound[v.PVC] == "" }), nil
	})
	stop()
	explaining.Wait()
	if err != nil {
		return err
	}
	for i := range volumes {
		v := &volumes[i]
		pv, err := r.engine.clients.Core.CoreV1().PersistentVolumes().Get(ctx, bound[v.PVC], metav1.GetOptions{})
		if err != nil {
			return kube.Error(err, "read", "PersistentVolume "+bound[v.PVC])
		}
		if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Driver {
			return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "PersistentVolume %s of the restored claim %s is not Longhorn's", pv.Name, v.PVC)
		}
		v.LonghornVolume, v.State = pv.Spec.CSI.VolumeHandle, vmbackup.StateRunning
	}
	return nil
}

// explainClaims tells why claims are not bound: the warnings that the provisioner
// left at them. It is for the eye alone, and not being allowed to look is no error.
func (r *restoreRun) explainClaims(ctx context.Context, volumes map[string]string) {
	told := map[string]bool{}
	events := kube.Select(r.engine.clients.Core.CoreV1().Events(r.namespace()), metav1.ListOptions{FieldSelector: "involvedObject.kind=PersistentVolumeClaim,type=Warning"})
	_ = kube.WatchAll(ctx, events, "the events of the claims", func(list []*corev1.Event) (bool, error) {
		for _, e := range list {
			volume, ours := volumes[e.InvolvedObject.Name]
			if ours && !told[volume+e.Message] {
				told[volume+e.Message] = true
				r.events.Volume("volumes", volume, vmbackup.StatePending, 0, 0, 0, e.Message)
			}
		}
		return false, nil
	})
}

// ensureMachine creates the machine, halted.
func (r *restoreRun) ensureMachine(ctx context.Context) error {
	vm := vmbackup.Ref{Namespace: r.namespace(), Name: r.restore().Spec.TargetName}
	_, err := r.engine.clients.VMs.Create(ctx, vm.Namespace, r.record.VM, false)
	if apierrors.IsAlreadyExists(err) {
		var have metav1.PartialObjectMetadata
		raw, readErr := r.engine.clients.VMs.Get(ctx, vm.Namespace, vm.Name)
		if readErr == nil {
			readErr = json.Unmarshal(raw, &have)
		}
		err = r.own(&have, readErr, "VirtualMachine "+vm.Name)
	}
	if err != nil {
		return kube.Error(err, "create", "VirtualMachine "+vm.String())
	}
	r.restore().Status.VM = vm.String()
	// From here on the restore can be followed from anywhere.
	return r.save(ctx)
}

// removeSnapshots removes the composed objects; the data that they pointed at stays.
func (r *restoreRun) removeSnapshots(ctx context.Context) error {
	client := r.engine.clients.Snapshot.SnapshotV1()
	for i := range r.restore().Status.Volumes {
		name := r.record.snapshotName(&r.restore().Status.Volumes[i])
		if err := client.VolumeSnapshots(r.namespace()).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "VolumeSnapshot "+r.namespace()+"/"+name)
		}
	}
	// What another run of this restore has made anew meanwhile goes too.
	selector := metav1.ListOptions{LabelSelector: LabelOperation + "=" + r.record.Operation}
	err := kube.WatchAll(ctx, kube.Select(client.VolumeSnapshots(r.namespace()), selector), "the composed VolumeSnapshots to be gone",
		func(list []*snapshotv1.VolumeSnapshot) (bool, error) {
			for _, o := range list {
				if err := deleteAgain(ctx, o, client.VolumeSnapshots(r.namespace()).Delete); err != nil {
					return false, kube.Error(err, "delete", "VolumeSnapshot "+r.namespace()+"/"+o.Name)
				}
			}
			return len(list) == 0, nil
		})
	if err != nil {
		return err
	}
	for i := range r.restore().Status.Volumes {
		name := r.record.snapshotName(&r.restore().Status.Volumes[i])
		if err := client.VolumeSnapshotContents().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "VolumeSnapshotContent "+name)
		}
	}
	return kube.WatchAll(ctx, kube.Select(client.VolumeSnapshotContents(), selector), "the composed VolumeSnapshotContents to be gone",
		func(list []*snapshotv1.VolumeSnapshotContent) (bool, error) {
			for _, o := range list {
				if err := deleteAgain(ctx, o, client.VolumeSnapshotContents().Delete); err != nil {
					return false, kube.Error(err, "delete", "VolumeSnapshotContent "+o.Name)
				}
			}
			return len(list) == 0, nil
		})
}

// deleteAgain deletes an object that nobody has deleted yet.
func deleteAgain(ctx context.Context, object metav1.Object, del func(context.Context, string, metav1.DeleteOptions) error) error {
	if object.GetDeletionTimestamp() != nil {
		return nil
	}
	if err := del(ctx, object.GetName(), metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

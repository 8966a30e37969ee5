// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"

	"golang.org/x/sync/errgroup"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restorable refuses a backup that is not whole.
func restorable(b *vmbackup.Backup) error {
	if b.Status.Phase == vmbackup.PhaseReady && b.Status.Ready {
		return nil
	}
	reason, hint := vmbackup.ReasonConflict, fmt.Sprintf("look at it with: kubectl vmbackup describe %s -n %s", b.Metadata.Name, b.Metadata.Namespace)
	switch b.Status.Phase {
	case vmbackup.PhaseRunning, vmbackup.PhasePlanned:
		hint = fmt.Sprintf("wait for it with: kubectl vmbackup watch %s -n %s", b.Metadata.Name, b.Metadata.Namespace)
	case vmbackup.PhaseFailed:
		reason = vmbackup.ReasonBackupFailed
	case vmbackup.PhaseIncomplete:
		reason = vmbackup.ReasonDataLost
	}
	what := fmt.Sprintf("backup %s is %s, not Ready, and cannot be restored", b.Ref(), b.Status.Phase)
	if b.Status.Error != nil {
		what += ": " + b.Status.Error.Message
	}
	return vmbackup.Errorf(reason, "%s", what).WithHint("%s", hint)
}

// checkDestination refuses a namespace, name or StorageClass that cannot take the machine.
func (e *Engine) checkDestination(ctx context.Context, n *renaming, backup *vmbackup.Backup) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		ns, err := e.clients.Core.CoreV1().Namespaces().Get(ctx, n.to.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no namespace %q to restore into", n.to.Namespace).
				WithHint("create it with: kubectl create namespace %s", n.to.Namespace)
		}
		if err != nil {
			return kube.Error(err, "read", "Namespace "+n.to.Namespace)
		}
		if ns.DeletionTimestamp != nil {
			return vmbackup.Errorf(vmbackup.ReasonConflict, "namespace %q is being deleted", n.to.Namespace).WithHint("restore into another one, or wait until it is gone and create it anew")
		}
		return nil
	})
	group.Go(func() error {
		_, err := e.clients.VMs.Get(ctx, n.to.Namespace, n.to.Name)
		if err == nil {
			return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a VirtualMachine %s already; a restore never overwrites a machine", n.to).
				WithHint("restore beside it with --to-name NAME or --to-namespace NAMESPACE")
		}
		if !apierrors.IsNotFound(err) {
			return kube.Error(err, "read", "VirtualMachine "+n.to.String())
		}
		return nil
	})
	classes := map[string]bool{}
	for _, v := range backup.Status.Volumes {
		classes[v.StorageClass] = true
	}
	for name := range classes {
		group.Go(func() error { return e.checkClass(ctx, name, backup) })
	}
	return group.Wait()
}

func (e *Engine) checkClass(ctx context.Context, name string, backup *vmbackup.Backup) error {
	if name == "" {
		return vmbackup.Errorf(vmbackup.ReasonStorageClassMissing, "a volume of backup %s names no StorageClass, so it cannot be provisioned", backup.Ref())
	}
	class, err := e.clients.Core.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return vmbackup.Errorf(vmbackup.ReasonStorageClassMissing, "StorageClass %q, which the volumes of backup %s had, does not exist in this cluster", name, backup.Ref()).
			WithHint("create a StorageClass of this name with the provisioner %s; list those there are with: kubectl get storageclasses", Driver)
	}
	if err != nil {
		return kube.Error(err, "read", "StorageClass "+name)
	}
	if class.Provisioner != Driver {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "StorageClass %q provisions with %s, which cannot restore Longhorn's backups", name, class.Provisioner).
			WithHint("the StorageClass must have the provisioner %s", Driver)
	}
	if class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "StorageClass %q waits for its first consumer (volumeBindingMode WaitForFirstConsumer), so its volumes would be restored only when the machine starts", name).
			WithHint("the StorageClass must have volumeBindingMode Immediate, which is Longhorn's default")
	}
	return nil
}

// sourceExists reports whether the backed-up machine itself is still in this cluster.
func (e *Engine) sourceExists(ctx context.Context, ref vmbackup.Ref, uid string) (bool, error) {
	raw, err := e.clients.VMs.Get(ctx, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if apierrors.IsForbidden(err) {
		return true, nil // not known to be gone: two machines must not share a MAC address
	}
	if err != nil {
		return false, kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	var vm metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &vm); err != nil {
		return false, fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	return uid == "" || string(vm.UID) == uid, nil
}

// checkData sees the data of every volume where it should be.
func (e *Engine) checkData(ctx context.Context, backup *vmbackup.Backup) error {
	if backup.Spec.Type == vmbackup.TypeSnapshot {
		return e.checkSnapshots(ctx, backup)
	}
	store, err := e.openTarget(ctx, backup.Spec.Target)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, v := range backup.Status.Volumes {
		group.Go(func() error {
			kind, volume, name, ok := handleParts(v.SnapshotHandle)
			if !ok || kind != "bak" {
				return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "volume %s of backup %s has no handle of a Longhorn backup (%q)", v.Name, backup.Ref(), v.SnapshotHandle)
			}
			_, err := store.Stat(ctx, target.BackupConfigKey(volume, name))
			if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
				return vmbackup.Errorf(vmbackup.ReasonDataLost, "the data of volume %s is not on %s: backup %s of Longhorn volume %s is missing there", v.Name, store, name, volume).
					WithHint("check that the backup target is the one that the backup was made on; choose another backup with: kubectl vmbackup list --from target")
			}
			return err
		})
	}
	return group.Wait()
}

func (e *Engine) checkSnapshots(ctx context.Context, backup *vmbackup.Backup) error {
	for _, v := range backup.Status.Volumes {
		kind, volume, name, ok := handleParts(v.SnapshotHandle)
		if !ok || kind != "snap" {
			return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "volume %s of backup %s has no handle of a Longhorn snapshot (%q)", v.Name, backup.Ref(), v.SnapshotHandle)
		}
		s, err := e.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && s.DeletionTimestamp != nil {
			return vmbackup.Errorf(vmbackup.ReasonDataLost, "snapshot %s of Longhorn volume %s is gone, and with it the data of volume %s in backup %s", name, volume, v.Name, backup.Ref()).
				WithHint("a backup of type snapshot lives only as long as its source volume; choose another one with: kubectl vmbackup list -n %s", backup.Metadata.Namespace)
		}
		if err != nil {
			return kube.Error(err, "read", "Longhorn Snapshot "+name)
		}
	}
	return nil
}

// restoreRights are the rights that a restore needs and that reading and the dry
// run did not prove.
func restoreRights(namespace string) []right {
	return []right{
		{"create", "", "secrets", namespace},
		{"update", "", "secrets", namespace},
		{"create", "", "configmaps", namespace},
		{"watch", "", "persistentvolumeclaims", namespace},
		{"create", "snapshot.storage.k8s.io", "volumesnapshots", namespace},
		{"delete", "snapshot.storage.k8s.io", "volumesnapshots", namespace},
		{"create", "snapshot.storage.k8s.io", "volumesnapshotcontents", ""},
		{"delete", "snapshot.storage.k8s.io", "volumesnapshotcontents", ""},
		{"patch", "kubevirt.io", "virtualmachines", namespace},
		{"watch", "kubevirt.io", "virtualmachines", namespace},
		{"watch", "longhorn.io", "volumes", kube.LonghornNamespace},
		{"watch", "longhorn.io", "engines", kube.LonghornNamespace},
		{"watch", "longhorn.io", "backups", kube.LonghornNamespace},
	}
}

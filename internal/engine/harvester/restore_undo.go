// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// TooLate implements direct.Delegate. Harvester's webhook lets no restore be deleted
// whose machine is there, so that one in place cannot be given up once it was begun.
func (r *restoreDelegate) TooLate(ctx context.Context, d *direct.Delegated) error {
	ref := d.Restore().Ref()
	resume := fmt.Sprintf("end the restore with: kubectl vmbackup resume restore/%s -n %s", ref.Name, ref.Namespace)
	if d.InPlace() {
		if _, err := r.engine.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
		if back := d.GoBack(); back != "" {
			resume += "; afterwards go back to the old volumes, which are kept, with the machine off, with: " + back
		}
		return vmbackup.Errorf(vmbackup.ReasonConflict, "restore %s cannot be canceled: Harvester exchanges the disks of VirtualMachine %s at once, and gives up no restore whose machine is there; nothing was changed", ref, d.Machine()).WithHint("%s", resume)
	}
	vmi, err := d.Instance(ctx)
	if err != nil || vmi == nil || vmi.Status.Phase != kubevirtv1.Running {
		return err
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "it is too late to cancel restore %s: VirtualMachine %s was started by Harvester, and its guest may have written to its disks; nothing was changed", ref, d.Machine()).
		WithHint("%s; or delete the machine if it is not wanted, with which its disks go", resume)
}

// Undo implements direct.Delegate.
func (r *restoreDelegate) Undo(d *direct.Delegated) []flow.Step {
	u := &restoreUndo{restoreSteps{restoreDelegate: r, d: d}}
	return []flow.Step{
		{ID: "keep", Title: "Keep the record", Ensure: u.keepRecord},
		{ID: "machine", Title: "Remove the machine and Harvester's restore", Ensure: u.remove},
		{ID: "volumes", Title: "See the new volumes gone", Ensure: u.awaitClaimsGone},
		{ID: "objects", Title: "Remove restored objects", Ensure: d.RemoveObjects},
	}
}

// restoreUndo takes back what Harvester has made.
type restoreUndo struct{ restoreSteps }

// keepRecord writes the record to the journal: it goes with Harvester's object else,
// and what was half removed would not be known.
func (u *restoreUndo) keepRecord(ctx context.Context) error {
	ref := u.d.Restore().Ref()
	object, err := u.engine.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return kube.Error(err, "read", restoreName(ref))
	}
	u.object = object
	entry, err := entryOf(object)
	if err != nil {
		return err
	}
	entry.Version = ""
	if _, err := u.engine.direct.Journal().Create(ctx, entry); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
		return err
	}
	return nil
}

// remove deletes the machine that Harvester has made, and its restore while the
// machine goes: Harvester's webhook lets it be deleted then, and its controller would
// make the machine anew.
func (u *restoreUndo) remove(ctx context.Context) error {
	ref, vm := u.d.Restore().Ref(), u.d.Machine()
	restores := u.engine.clients.Harvester.Restores(ref.Namespace)
	machines := u.engine.clients.KubeVirt.KubevirtV1().VirtualMachines(vm.Namespace)
	for {
		object, err := restores.Get(ctx, ref.Name, metav1.GetOptions{})
		gone := apierrors.IsNotFound(err)
		if err != nil && !gone {
			return kube.Error(err, "read", restoreName(ref))
		}
		m, err := machines.Get(ctx, vm.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "read", "VirtualMachine "+vm.String())
		}
		ours := err == nil && m.Annotations[hv.RestoreNameAnnotation] == ref.Name && (u.d.IsPutBack(m) || !gone && m.Annotations[hv.LastRestoreAnnotation] == ref.Name+"-"+string(object.UID))
		if gone && !ours {
			return nil
		}
		if ours {
			if err := u.TooLate(ctx, u.d); err != nil {
				return err
			}
			err := machines.Delete(ctx, vm.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(m.UID))})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return kube.Error(err, "delete", "VirtualMachine "+vm.String())
			}
		}
		if !gone {
			err := restores.Delete(ctx, ref.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(object.UID))})
			switch {
			case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
			case ours: // the webhook's cache has not seen the machine go yet
				if err := u.awaitGoing(ctx, m.UID); err != nil {
					return err
				}
				continue
			default:
				return kube.Error(err, "delete", restoreName(ref))
			}
			if err := kube.WaitGone[*hv.VirtualMachineRestore](ctx, kube.One(restores, ref.Name), restoreName(ref)+" to be gone", object.UID); err != nil {
				return err
			}
		}
		if ours {
			if err := kube.WaitGone[*kubevirtv1.VirtualMachine](ctx, kube.One(machines, vm.Name), "VirtualMachine "+vm.String()+" to be gone", m.UID); err != nil {
				return err
			}
		}
	}
}

// awaitGoing waits until a machine that was deleted goes, or is gone.
func (u *restoreUndo) awaitGoing(ctx context.Context, uid types.UID) error {
	vm := u.d.Machine()
	one := kube.One(u.engine.clients.KubeVirt.KubevirtV1().VirtualMachines(vm.Namespace), vm.Name)
	return kube.WatchAll(ctx, one, "VirtualMachine "+vm.String()+" to go", func(list []*kubevirtv1.VirtualMachine) (bool, error) {
		return len(list) == 0 || list[0].UID != uid || list[0].DeletionTimestamp != nil, nil
	})
}

// awaitClaimsGone waits until the claims are gone, which belong to Harvester's restore
// up to 1.8, and deletes them where they belong to nobody.
func (u *restoreUndo) awaitClaimsGone(ctx context.Context) error {
	client := u.engine.clients.Core.CoreV1().PersistentVolumeClaims(u.namespace())
	for _, v := range u.d.Restore().Status.Volumes {
		name := v.PVC
		if u.object != nil {
			name = claimName(u.d.Restore().Spec.Backup, string(u.object.UID), v.Name)
		}
		c, err := client.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return kube.Error(err, "read", "PersistentVolumeClaim "+u.namespace()+"/"+name)
		}
		if c.Annotations[hv.RestoreNameAnnotation] != u.d.Restore().Metadata.Name {
			continue // none that Harvester has made for it
		}
		err = client.Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(c.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return kube.Error(err, "delete", "PersistentVolumeClaim "+u.namespace()+"/"+c.Name)
		}
		if err := kube.WaitGone[*corev1.PersistentVolumeClaim](ctx, kube.One(client, c.Name), "PersistentVolumeClaim "+c.Name+" to be gone", c.UID); err != nil {
			return err
		}
	}
	return nil
}

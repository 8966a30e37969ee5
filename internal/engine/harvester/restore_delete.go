// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// DeleteRestore takes a restore that has ended off the list. The claims of its
// machine belong to Harvester's object and would go with it, so that they are cut
// off first; Harvester itself keeps the object for as long as the machine is there.
func (e *Engine) DeleteRestore(ctx context.Context, ref vmbackup.Ref) error {
	client := e.clients.Harvester.Restores(ref.Namespace)
	object, err := client.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if _, err := e.direct.Journal().Get(ctx, journal.KindRestore, ref); err != nil {
			return preflight(err)
		}
		return e.direct.Journal().Delete(ctx, journal.KindRestore, ref)
	}
	if err != nil {
		return preflight(kube.Error(err, "read", restoreName(ref)))
	}
	if err := e.deletable(ctx, object); err != nil {
		return preflight(err)
	}
	orphan := metav1.DeletePropagationOrphan
	err = client.Delete(ctx, ref.Name, metav1.DeleteOptions{PropagationPolicy: &orphan, Preconditions: metav1.NewUIDPreconditions(string(object.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return kube.Error(err, "delete", restoreName(ref))
	}
	if err := kube.WaitGone[*hv.VirtualMachineRestore](ctx, kube.One(client, ref.Name), restoreName(ref)+" to be gone", object.UID); err != nil {
		return err
	}
	return e.removeComposed(ctx, object)
}

// deletable refuses to delete a restore that has not ended, or whose machine is there.
func (e *Engine) deletable(ctx context.Context, object *hv.VirtualMachineRestore) error {
	ref := vmbackup.Ref{Namespace: object.Namespace, Name: object.Name}
	if !object.Ended() {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "restore %s has not ended; its record is needed", ref).
			WithHint("wait for it with 'watch' or give it up first: kubectl vmbackup cancel restore/%s -n %s", ref.Name, ref.Namespace)
	}
	_, err := e.clients.VMs.Get(ctx, ref.Namespace, object.Spec.Target.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return kube.Error(err, "read", "VirtualMachine "+ref.Namespace+"/"+object.Spec.Target.Name)
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "Harvester keeps restore %s for as long as VirtualMachine %s is there: the claims of the machine's disks belong to it; nothing was deleted", ref, object.Spec.Target.Name).
		WithHint("leave it: it goes together with the machine, and so do those claims")
}

// removeComposed removes the VolumeSnapshots that Harvester has composed for a restore
// into another namespace, and that nobody owns any more. Their policy is Retain: no
// data goes with them.
func (e *Engine) removeComposed(ctx context.Context, object *hv.VirtualMachineRestore) error {
	if object.Namespace == object.BackupRef().Namespace {
		return nil // the backup's own
	}
	client := e.clients.Snapshot.SnapshotV1().VolumeSnapshots(object.Namespace)
	for _, v := range object.Status.VolumeRestores {
		name := concatenated("restore", object.Name, v.VolumeBackupName)
		if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "VolumeSnapshot "+object.Namespace+"/"+name)
		}
	}
	return nil
}

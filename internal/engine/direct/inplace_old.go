// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// oldDeadline is how long a deleted claim may take to go.
const oldDeadline = 2 * time.Minute

// deleteOld deletes the claims that the restored ones have replaced: those that were
// recorded, as they were then, and only when nothing uses them.
func (r *restoreRun) deleteOld(ctx context.Context) error {
	old := r.record.InPlace.replaced()
	used, err := r.engine.usersOf(ctx, r.namespace(), "", func(claim string) bool {
		return slices.ContainsFunc(old, func(c oldClaim) bool { return c.Claim == claim })
	})
	if err != nil {
		return err
	}
	if len(used) > 0 {
		r.keepOld("they are in use: " + strings.Join(used, "; "))
		return nil
	}
	if err := r.engine.noSnapshotsIn(ctx, r.namespace(), old); err != nil {
		r.keepOld(err.Error())
		return nil
	}
	for _, c := range old {
		if err := r.deleteOldClaim(ctx, c); err != nil {
			return err
		}
		status := &r.restore().Status
		status.OldVolumes = slices.DeleteFunc(status.OldVolumes, func(claim string) bool { return claim == c.Claim })
		r.events.Step("old-volumes", vmbackup.StateRunning, "PersistentVolumeClaim "+c.Claim+" is deleted")
	}
	return nil
}

// keepOld says why the old volumes stay. The machine is restored all the same.
func (r *restoreRun) keepOld(why string) {
	r.warn(fmt.Sprintf("the old volumes were not deleted: %s; when they are not needed any more, remove them with: %s", why, removeOldCommand(r.namespace(), r.restore().Status.OldVolumes)))
}

func (r *restoreRun) deleteOldClaim(ctx context.Context, c oldClaim) error {
	client := r.engine.clients.Core.CoreV1().PersistentVolumeClaims(r.namespace())
	claim, err := client.Get(ctx, c.Claim, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && claim.UID != c.UID {
		return nil // it is gone, and one of that name is another one
	}
	if err != nil {
		return kube.Error(err, "read", "PersistentVolumeClaim "+r.namespace()+"/"+c.Claim)
	}
	if err := r.onLonghorn(ctx, claim); err != nil {
		return err
	}
	// CDI makes the claim of a DataVolume anew as long as the DataVolume is there.
	if owner := metav1.GetControllerOf(claim); owner != nil && owner.Kind == "DataVolume" {
		err := r.engine.clients.Lookup.Delete(ctx, dataVolumeResource, r.namespace(), owner.Name, string(owner.UID))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return kube.Error(err, "delete", "DataVolume "+r.namespace()+"/"+owner.Name)
		}
	}
	err = client.Delete(ctx, c.Claim, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(c.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return kube.Error(err, "delete", "PersistentVolumeClaim "+r.namespace()+"/"+c.Claim)
	}
	waiting, cancel := context.WithTimeout(ctx, oldDeadline)
	defer cancel()
	err = kube.WaitGone[*corev1.PersistentVolumeClaim](waiting, kube.One(client, c.Claim), "PersistentVolumeClaim "+c.Claim+" to be gone", c.UID)
	if waiting.Err() != nil && ctx.Err() == nil {
		r.warn(fmt.Sprintf("PersistentVolumeClaim %s is deleted and still there after %s: something holds it", c.Claim, oldDeadline))
		return nil
	}
	return err
}

// onLonghorn refuses to delete a claim whose volume is not Longhorn's.
func (r *restoreRun) onLonghorn(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName == "" {
		return nil // bound to nothing: there is no data
	}
	pv, err := r.engine.clients.Core.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return kube.Error(err, "read", "PersistentVolume "+claim.Spec.VolumeName)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Driver {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "PersistentVolume %s of the old claim %s is not Longhorn's; it was left as it is", pv.Name, claim.Name)
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain {
		r.warn(fmt.Sprintf("PersistentVolume %s of the deleted claim %s stays, as its reclaim policy says: its space is not free yet", pv.Name, claim.Name))
	}
	return nil
}

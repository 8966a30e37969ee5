// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// copyLimit is how often one run has Longhorn copy the data of a restore again.
const copyLimit = 3

// copyFailed is a copy into a new volume that Longhorn has given up. It does not take
// it up again: the volume has to be made anew.
type copyFailed struct {
	error
	why string
}

func (e *copyFailed) Unwrap() error { return e.error }

// copyData waits until the data of every volume is there. A copy that the backup target
// has cut off is made anew once the target answers again.
func (r *restoreRun) copyData(ctx context.Context) error {
	for copies := 1; ; copies++ {
		err := r.watchData(ctx)
		var failed *copyFailed
		if !errors.As(err, &failed) || r.record.Backup.Spec.Type != vmbackup.TypeBackup {
			return err
		}
		wasAway, awayErr := r.awaitTarget(ctx, failed)
		switch {
		case awayErr != nil:
			return awayErr
		case !wasAway && !saysAway(failed.why), copies > copyLimit:
			return err
		}
		if again, renewErr := r.renewFailed(ctx); renewErr != nil || !again {
			return errors.Join(renewErr, err)
		}
	}
}

// awaitTarget waits until the backup target can be used, as long as uploads wait for it.
func (r *restoreRun) awaitTarget(ctx context.Context, failed *copyFailed) (wasAway bool, err error) {
	since := time.Now()
	for {
		store, empty, away := r.engine.lookAtTarget(ctx, r.record.Backup.Spec.Target)
		if empty {
			away = target.EmptyError(store, "the copy of the data was cut off")
		}
		if away == nil || ctx.Err() != nil || vmbackup.ReasonOf(away) == vmbackup.ReasonForbidden {
			return wasAway, ctx.Err() // who may not look knows what Longhorn says
		}
		if !wasAway {
			wasAway = true
			r.events.Step("data", vmbackup.StateRunning, "waiting for the backup target: "+away.Error())
		}
		if time.Since(since) >= targetPatience {
			e := vmbackup.AsError(away, vmbackup.ReasonTargetUnavailable)
			hint := r.goOn
			if e.Hint != "" {
				hint = e.Hint + "; then " + hint
			}
			return true, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%w; the backup target cannot be used for %s: %w; the volumes that have their data are kept", failed.error, targetPatience, e).WithHint("%s", hint)
		}
		if err := pause(ctx, doubtEvery); err != nil {
			return true, err
		}
	}
}

// renewFailed has Longhorn make the volumes anew whose copies have failed, under the
// names of their claims. It reports false where one of them must not be: of a claim
// that something else has taken over only its owner may decide.
func (r *restoreRun) renewFailed(ctx context.Context) (bool, error) {
	claims := r.engine.clients.Core.CoreV1().PersistentVolumeClaims(r.namespace())
	var failed []*vmbackup.RestoreVolume
	var uids []*corev1.PersistentVolumeClaim
	volumes := r.restore().Status.Volumes
	for i := range volumes {
		v := &volumes[i]
		lv, err := r.engine.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace).Get(ctx, v.LonghornVolume, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, kube.Error(err, "read", "Longhorn volume "+v.LonghornVolume)
		}
		if _, failure := longhorn.Restored(lv); failure == "" {
			continue
		}
		claim, err := claims.Get(ctx, v.PVC, metav1.GetOptions{})
		if err = r.own(claim, err, "PersistentVolumeClaim "+v.PVC); err != nil {
			return false, kube.Error(err, "read", "PersistentVolumeClaim "+r.namespace()+"/"+v.PVC)
		}
		if len(claim.OwnerReferences) > 0 {
			return false, nil
		}
		failed, uids = append(failed, v), append(uids, claim)
	}
	for i, v := range failed {
		r.events.Volume("data", v.Name, vmbackup.StateRunning, 0, 0, v.SizeBytes, fmt.Sprintf("the backup target has cut the copy into claim %s off; making the volume anew", v.PVC))
		err := claims.Delete(ctx, v.PVC, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(uids[i].UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return false, kube.Error(err, "delete", "PersistentVolumeClaim "+r.namespace()+"/"+v.PVC)
		}
	}
	for i, v := range failed {
		err := kube.WaitGone[*corev1.PersistentVolumeClaim](ctx, kube.One(claims, v.PVC), "PersistentVolumeClaim "+v.PVC+" to be gone", uids[i].UID)
		if err != nil {
			return false, err
		}
		v.Progress = 0
	}
	// Longhorn may have dropped what it knew of the target, and takes it up again under
	// new UIDs; the names are what counts.
	for _, again := range []func(context.Context) error{r.ensureBackups, r.ensureSnapshots, r.ensureClaims, r.save} {
		if err := again(ctx); err != nil {
			return false, err
		}
	}
	return len(failed) > 0, nil
}

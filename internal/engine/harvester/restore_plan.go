// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreDelegate has Harvester's controllers make the volumes and the machine of a restore.
type restoreDelegate struct {
	engine *Engine
	// backup is Harvester's object, while the restore is planned.
	backup *hv.VirtualMachineBackup
}

var _ direct.Delegate = (*restoreDelegate)(nil)

// Name implements direct.Delegate.
func (r *restoreDelegate) Name() string { return vmbackup.EngineHarvester }

// Secrets are those that Harvester holds: under their own names in place, and under
// names of its own for a new machine, which owns them.
func (r *restoreDelegate) Secrets(_ *metadata.Record, to vmbackup.Ref, inPlace bool) map[string]string {
	names := map[string]string{}
	for _, s := range r.backup.Status.SecretBackups {
		names[s.Name] = s.Name
		if !inPlace {
			names[s.Name] = secretName(to.Name, s.Name)
		}
	}
	return names
}

// secretName is Harvester's name of a new machine's Secret.
func secretName(vm, secret string) string {
	sum := md5.Sum([]byte(secret))
	return "vm-" + vm + "-" + hex.EncodeToString(sum[:])[:8] + "-ref"
}

// Plan implements direct.Delegate.
func (r *restoreDelegate) Plan(ctx context.Context, d *direct.Delegated, req vmbackup.RestoreRequest) ([]vmbackup.PlannedObject, error) {
	if left := d.Unrestorable(); len(left) > 0 {
		return nil, cannot(req.Backup, "it does not bring back "+strings.Join(left, ", "))
	}
	// Harvester's names of the claims hold the UID of an object that is still to be made.
	claims := map[string]string{}
	for _, v := range d.Restore().Status.Volumes {
		claims[v.Name] = claimName(d.Restore().Spec.Backup, d.Operation(), v.Name)
	}
	if err := d.SetClaims(claims); err != nil {
		return nil, err
	}
	if d.InPlace() {
		if err := r.keepsSecrets(ctx, req); err != nil {
			return nil, err
		}
	}
	if err := r.sourcesThere(ctx, d, req); err != nil {
		return nil, err
	}
	state := &restoreState{Spec: r.spec(d, req)}
	if err := r.judge(ctx, d, req, state); err != nil {
		return nil, err
	}
	if !d.EndsRunning() && !state.Halts {
		status := &d.Restore().Status
		status.Warnings = append(status.Warnings, startsOnce(d.RunStrategy()))
	}
	raw, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	d.SetState(raw)
	return r.objects(d), nil
}

// spec is what Harvester is asked for. The deletion policy is always Retain: an empty
// one means delete, and Harvester deletes before anybody has seen the machine run.
func (r *restoreDelegate) spec(d *direct.Delegated, req vmbackup.RestoreRequest) hv.VirtualMachineRestoreSpec {
	group := "kubevirt.io"
	return hv.VirtualMachineRestoreSpec{
		Target:                        corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VirtualMachine", Name: d.Machine().Name},
		VirtualMachineBackupName:      req.Backup.Name,
		VirtualMachineBackupNamespace: req.Backup.Namespace,
		NewVM:                         !d.InPlace(),
		DeletionPolicy:                hv.PolicyRetain,
		HaltAfterRestore:              !d.EndsRunning(),
	}
}

// judge has Harvester's webhook judge the restore, as a dry run. What comes back of
// the object tells whether this Harvester knows how to leave a machine off.
func (r *restoreDelegate) judge(ctx context.Context, d *direct.Delegated, req vmbackup.RestoreRequest, state *restoreState) error {
	ref := d.Restore().Ref()
	if d.InPlace() {
		// The webhook refuses while the machine runs, which the restore itself ends.
		if vmi, err := d.Instance(ctx); err != nil || vmi != nil {
			return err
		}
	}
	judged, err := r.engine.clients.Harvester.Restores(ref.Namespace).Create(ctx, newRestore(ref, &state.Spec), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager})
	switch {
	case apierrors.IsNotFound(err) && req.CreateNamespace:
		return nil
	case apierrors.IsAlreadyExists(err):
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a restore %s already; nothing was changed", ref).
			WithHint("choose another name with --name, or look at it with: kubectl vmbackup describe restore/%s -n %s", ref.Name, ref.Namespace)
	case err != nil:
		return denied(err, ref, &state.Spec)
	}
	state.Halts = judged.Spec.HaltAfterRestore
	return nil
}

// keepsSecrets refuses a restore in place by which a Secret would lose what it holds.
func (r *restoreDelegate) keepsSecrets(ctx context.Context, req vmbackup.RestoreRequest) error {
	now := map[string]map[string][]byte{}
	for _, s := range r.backup.Status.SecretBackups {
		secret, err := r.engine.clients.Core.CoreV1().Secrets(req.ToNamespace).Get(ctx, s.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return kube.Error(err, "read", "Secret "+req.ToNamespace+"/"+s.Name)
		default:
			now[s.Name] = secret.Data
		}
	}
	if names := overwritten(r.backup, now); len(names) > 0 {
		return cannot(req.Backup, "in place it would overwrite what has changed since in Secret "+strings.Join(names, ", "))
	}
	return nil
}

// sourcesThere refuses a restore for which Harvester would wait for ever: in the
// backup's namespace it needs the VolumeSnapshots of the backup, and out of it none
// of the objects that it makes may be there already.
func (r *restoreDelegate) sourcesThere(ctx context.Context, d *direct.Delegated, req vmbackup.RestoreRequest) error {
	snapshots := r.engine.clients.Snapshot.SnapshotV1()
	for _, v := range r.backup.Status.VolumeBackups {
		if v.Name == nil {
			continue
		}
		if req.ToNamespace == req.Backup.Namespace {
			_, err := snapshots.VolumeSnapshots(req.Backup.Namespace).Get(ctx, *v.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return cannot(req.Backup, fmt.Sprintf("VolumeSnapshot %s, from which it restores volume %s, is gone, and it would wait for it for ever", *v.Name, v.VolumeName))
			}
			if err != nil && !apierrors.IsForbidden(err) {
				return kube.Error(err, "read", "VolumeSnapshot "+req.Backup.Namespace+"/"+*v.Name)
			}
			continue
		}
		name := concatenated("restore", req.ToNamespace, d.Restore().Metadata.Name, *v.Name)
		_, err := snapshots.VolumeSnapshotContents().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			return vmbackup.Errorf(vmbackup.ReasonConflict, "VolumeSnapshotContent %s is there already, from an earlier restore of that name that came halfway: Harvester would wait for it for ever; nothing was changed", name).
				WithHint("choose another name with --name; or, when that restore is gone (kubectl get %s.%s -n %s), remove what it has left with: kubectl delete volumesnapshotcontents.snapshot.storage.k8s.io %s (its policy is Retain, so that no data goes with it)", hv.RestoreResource, hv.Group, req.ToNamespace, name)
		case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
			return kube.Error(err, "read", "VolumeSnapshotContent "+name)
		}
	}
	return nil
}

// concatenated is how Harvester makes names of several (SafeConcatName of
// github.com/rancher/wrangler): longer than 63 characters they end in a digest.
func concatenated(parts ...string) string {
	full := strings.Join(parts, "-")
	if len(full) < 64 {
		return full
	}
	sum := sha256.Sum256([]byte(full))
	digest := hex.EncodeToString(sum[:])
	if last := full[56]; last >= 'a' && last <= 'z' || last >= '0' && last <= '9' {
		return full[:57] + "-" + digest[:5]
	}
	return full[:56] + "-" + digest[:6]
}

// objects are those that Harvester makes, and what is done to them afterwards.
func (r *restoreDelegate) objects(d *direct.Delegated) []vmbackup.PlannedObject {
	restore := d.Restore()
	api := hv.GroupVersion().String()
	note := "Harvester's controllers do it; deletion policy retain; the restore's record"
	if d.Stops() {
		note += "; the machine is off until all data is there"
	}
	list := []vmbackup.PlannedObject{{
		Action: vmbackup.ActionCreate, APIVersion: api, Kind: hv.RestoreKind, Namespace: restore.Metadata.Namespace, Name: restore.Metadata.Name,
		Note: note,
	}}
	for _, v := range restore.Status.Volumes {
		list = append(list, vmbackup.PlannedObject{
			Action: vmbackup.ActionCreate, APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: restore.Metadata.Namespace,
			Name: claimName(restore.Spec.Backup, "UID", v.Name), Note: "volume " + v.Name + ", StorageClass " + v.StorageClass + "; by Harvester, with its object's UID",
		})
	}
	if !d.InPlace() {
		for _, s := range r.backup.Status.SecretBackups {
			list = append(list, vmbackup.PlannedObject{
				Action: vmbackup.ActionCreate, APIVersion: "v1", Kind: "Secret", Namespace: restore.Metadata.Namespace,
				Name: secretName(d.Machine().Name, s.Name), Note: "Secret " + s.Name + " of the backup; made by Harvester",
			})
		}
	}
	return list
}

// claimName is Harvester's name of a restored claim.
func claimName(backup, uid, volume string) string {
	_, name, _ := strings.Cut(backup, "/")
	return "restore-" + name + "-" + uid + "-" + volume
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"fmt"
	"slices"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// deletePlan is the engine's own part of a vmbackup.DeletePlan.
type deletePlan struct {
	object *hv.VirtualMachineBackup
	record *metadata.Record
	// made is what Harvester has made of the object.
	made made
	// elsewhere is true for a backup whose data lies on another target than the one
	// that is set: Harvester forgets it, and leaves the data.
	elsewhere bool
}

// made is what Harvester has made of a VirtualMachineBackup.
type made struct {
	snapshots []snapshotv1.VolumeSnapshot
	// contents are their VolumeSnapshotContents, by name.
	contents []string
	// longhorn are Longhorn's snapshots.
	longhorn []string
}

// PlanDelete says what goes with a VirtualMachineBackup.
func (e *Engine) PlanDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	plan, err := e.planDelete(ctx, req)
	return plan, preflight(err)
}

func (e *Engine) planDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	ref := req.Backup
	object, err := e.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, noBackup(ref)
	}
	if err != nil {
		return nil, kube.Error(err, "read", what(ref))
	}
	own := &deletePlan{object: object}
	if own.record, err = e.recordOf(ctx, object); err != nil {
		return nil, err
	}
	backup := &own.record.Backup
	if err := e.notBeingRestored(ctx, ref); err != nil {
		return nil, err
	}
	if own.elsewhere, err = e.liesElsewhere(ctx, object); err != nil {
		return nil, err
	}
	if err := checkKeepData(req, own); err != nil {
		return nil, err
	}
	if err := e.addMade(ctx, own); err != nil {
		return nil, err
	}
	plan := &vmbackup.DeletePlan{Request: req, Backup: backup, State: own}
	if err := e.checkDeletionTarget(ctx, plan, own); err != nil {
		return nil, err
	}
	e.listDeleted(plan, own)
	return plan, e.lookForOthers(ctx, plan)
}

// recordOf is what the object tells, with what Longhorn shows of it.
func (e *Engine) recordOf(ctx context.Context, object *hv.VirtualMachineBackup) (*metadata.Record, error) {
	ref := vmbackup.Ref{Namespace: object.Namespace, Name: object.Name}
	record, err := e.records.Record(ctx, ref, vmbackup.SourceCluster)
	switch vmbackup.ReasonOf(err) {
	case "":
	case vmbackup.ReasonDataDamaged, vmbackup.ReasonNotFound:
		// What cannot be read can be deleted.
		record = &metadata.Record{Backup: *object.View(hv.Evidence{TargetName: vmbackup.DefaultTarget, Unseen: "it cannot be read"})}
	default:
		return nil, err
	}
	record.Operation = object.Annotations[AnnotationOperation]
	return record, nil
}

// liesElsewhere reports whether the data is on another target than the one that is set.
func (e *Engine) liesElsewhere(ctx context.Context, object *hv.VirtualMachineBackup) (bool, error) {
	if object.Spec.Type == hv.TypeSnapshot || object.Status.BackupTarget == nil {
		return false, nil
	}
	set, err := e.harvesterTarget(ctx)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
		return false, nil
	}
	return err == nil && !set.Same(object.Status.BackupTarget), err
}

// checkKeepData refuses what Harvester's deletion does not do: with the object it
// removes the data and its description, unless they lie on a target that is not set
// any more; then it leaves both.
func checkKeepData(req vmbackup.DeleteRequest, own *deletePlan) error {
	ref := req.Backup
	switch {
	case req.KeepData && own.object.Spec.Type == hv.TypeSnapshot:
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "backup %s is a snapshot that lies in the volumes: Harvester removes it with its object, and there is nothing else to keep; nothing was deleted", ref)
	case req.KeepData && !own.elsewhere:
		return vmbackup.Errorf(vmbackup.ReasonConflict, "Harvester removes the data of backup %s and its description with its object, so that the data cannot be kept without it; nothing was deleted", ref).
			WithHint("leave the backup as it is; to have it in another cluster, set the same backup target there, and it is found")
	case !req.KeepData && own.elsewhere:
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "the data of backup %s lies on another backup target than the one that is set, where Harvester would leave it; nothing was deleted", ref).
			WithHint("set the target of the backup again, or forget the backup in this cluster alone with: kubectl vmbackup delete %s -n %s --keep-data", ref.Name, ref.Namespace)
	}
	return nil
}

// addMade finds what Harvester has made of the object by now.
func (e *Engine) addMade(ctx context.Context, own *deletePlan) error {
	object, m := own.object, &own.made
	list, err := e.clients.Snapshot.SnapshotV1().VolumeSnapshots(object.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return kube.Error(err, "list", "VolumeSnapshots in namespace "+object.Namespace)
	}
	for _, s := range list.Items {
		known := slices.ContainsFunc(m.snapshots, func(k snapshotv1.VolumeSnapshot) bool { return k.UID == s.UID })
		if owner := metav1.GetControllerOf(&s); known || owner == nil || owner.UID != object.UID {
			continue
		}
		m.snapshots = append(m.snapshots, s)
		if s.Spec.Source.VolumeSnapshotContentName != nil {
			// It was composed for a backup that was found on the target.
			m.contents = append(m.contents, *s.Spec.Source.VolumeSnapshotContentName)
			continue
		}
		m.contents = append(m.contents, "snapcontent-"+string(s.UID))
		m.longhorn = append(m.longhorn, "snapshot-"+string(s.UID))
	}
	return e.nameUploads(ctx, own)
}

// nameUploads names Longhorn's backups of volumes that Harvester does not name yet:
// once they are deleted, only the name leads to what they have written.
func (e *Engine) nameUploads(ctx context.Context, own *deletePlan) error {
	volumes := own.record.Backup.Status.Volumes
	if own.record.Backup.Spec.Type == vmbackup.TypeSnapshot || !slices.ContainsFunc(volumes, func(v vmbackup.BackupVolume) bool { return v.LonghornBackup == "" }) {
		return nil
	}
	list, err := e.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return nil // what they write cannot be looked for either
	}
	if err != nil {
		return kube.Error(err, "list", "Backups of Longhorn")
	}
	for i := range volumes {
		v := &volumes[i]
		for _, s := range own.made.snapshots {
			if s.Name != v.VolumeSnapshot || v.LonghornBackup != "" {
				continue
			}
			for _, b := range list.Items {
				if name := "snapshot-" + string(s.UID); b.Spec.SnapshotName == name || b.Status.SnapshotName == name {
					v.LonghornBackup = b.Name
				}
			}
		}
	}
	return nil
}

// checkDeletionTarget refuses to delete a Ready backup's data against a target that
// has none of it: it would look done. Who may not look at the target is told that.
func (e *Engine) checkDeletionTarget(ctx context.Context, plan *vmbackup.DeletePlan, own *deletePlan) error {
	b := plan.Backup
	if b.Spec.Type == vmbackup.TypeSnapshot || own.elsewhere {
		return nil
	}
	store, err := e.open(ctx, vmbackup.DefaultTarget)
	if err != nil {
		if ctx.Err() != nil || vmbackup.ReasonOf(err) == vmbackup.ReasonTargetUnavailable && e.longhornRefuses(ctx) {
			return err
		}
		plan.Warnings = append(plan.Warnings, fmt.Sprintf("the backup target cannot be reached from here (%v), so that nobody sees there whether the data goes", err))
		return nil
	}
	if !b.Status.Ready {
		return nil
	}
	keys := descriptions(plan.Request.Backup)
	for _, v := range b.Status.Volumes {
		if v.LonghornBackup != "" {
			keys = append(keys, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
		}
	}
	for _, key := range keys {
		if _, err := store.Stat(ctx, key); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return err
		}
	}
	return vmbackup.Errorf(vmbackup.ReasonTargetEmpty, "backup target %s (%s) holds nothing of backup %s, neither data nor description: it is empty, or not the target that the backup was made on; nothing was deleted", vmbackup.DefaultTarget, store, plan.Request.Backup).
		WithHint("check the target with: kubectl get backuptargets.longhorn.io %s -n %s", vmbackup.DefaultTarget, kube.LonghornNamespace)
}

// listDeleted lists what goes.
func (e *Engine) listDeleted(plan *vmbackup.DeletePlan, own *deletePlan) {
	remove := func(api, kind, namespace, name, note string) {
		plan.Objects = append(plan.Objects, vmbackup.PlannedObject{Action: vmbackup.ActionDelete, APIVersion: api, Kind: kind, Namespace: namespace, Name: name, Note: note})
	}
	b, ref := plan.Backup, plan.Request.Backup
	remove(hv.GroupVersion().String(), hv.BackupKind, ref.Namespace, ref.Name, "Harvester removes what it has made of it")
	for _, s := range own.made.snapshots {
		remove(snapshotAPI, "VolumeSnapshot", s.Namespace, s.Name, "and its VolumeSnapshotContent, by Harvester")
	}
	if own.elsewhere {
		plan.Warnings = append(plan.Warnings, "data and description stay on the backup target that was set when the backup was made")
		return
	}
	if b.Spec.Type == vmbackup.TypeBackup {
		for _, v := range b.Status.Volumes {
			name, note := v.LonghornBackup, fmt.Sprintf("volume %s, on target %s", v.Name, vmbackup.DefaultTarget)
			if name == "" {
				name, note = "(of "+v.LonghornVolume+")", note+", if it was begun"
			}
			remove(longhornAPI, "Backup", kube.LonghornNamespace, name, note)
			plan.Bytes += v.UploadedBytes
		}
		plan.Warnings = append(plan.Warnings, "blocks that other backups of the same volumes share stay on the target")
		for _, key := range descriptions(ref) {
			remove("", vmbackup.KindFile, "", key, "on target "+vmbackup.DefaultTarget)
		}
	}
	for _, name := range own.made.longhorn {
		remove(longhornAPI, "Snapshot", kube.LonghornNamespace, name, "")
	}
}

// notBeingRestored refuses to delete a backup while a restore needs it, whoever makes it.
func (e *Engine) notBeingRestored(ctx context.Context, ref vmbackup.Ref) error {
	if err := e.direct.NotBeingRestored(ctx, ref); err != nil {
		return err
	}
	list, err := e.clients.Harvester.Restores(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		// Who may not look everywhere looks where the backup is; the webhook knows all.
		list, err = e.clients.Harvester.Restores(ref.Namespace).List(ctx, metav1.ListOptions{})
	}
	if err != nil {
		if apierrors.IsForbidden(err) {
			return nil
		}
		return kube.Error(err, "list", "VirtualMachineRestores of Harvester")
	}
	for _, r := range list.Items {
		if r.Spec.VirtualMachineBackupNamespace != ref.Namespace || r.Spec.VirtualMachineBackupName != ref.Name || r.DeletionTimestamp != nil {
			continue
		}
		if c, _ := hv.FindCondition(r.Status.Conditions, hv.ConditionInProgress); c.Status == corev1.ConditionTrue {
			return vmbackup.Errorf(vmbackup.ReasonConflict, "Harvester's restore %s/%s reads backup %s; nothing was deleted", r.Namespace, r.Name, ref).
				WithHint("wait for it with: kubectl get %s.%s %s -n %s -w", hv.RestoreResource, hv.Group, r.Name, r.Namespace)
		}
	}
	return nil
}

// lookForOthers finds the machine's other Ready backups: whoever deletes the last
// one should know it.
func (e *Engine) lookForOthers(ctx context.Context, plan *vmbackup.DeletePlan) error {
	if b := plan.Backup; !b.Status.Ready || plan.Request.KeepData {
		return nil
	}
	all, _, err := e.records.Backups(ctx, vmbackup.ListOptions{Namespace: plan.Request.Backup.Namespace, VM: plan.Backup.Spec.VM, Source: vmbackup.SourceAll})
	if err != nil {
		return err
	}
	for i := range all {
		if ref := all[i].Ref(); all[i].Status.Ready && ref != plan.Request.Backup && !slices.Contains(plan.OtherReady, ref) {
			plan.OtherReady = append(plan.OtherReady, ref)
		}
	}
	plan.LastReady = len(plan.OtherReady) == 0
	return nil
}

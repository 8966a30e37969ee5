// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// PlanRestore checks everything that can be checked without changing anything.
func (e *Engine) PlanRestore(ctx context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	req = req.Default()
	if err := req.Validate(); err != nil {
		return nil, err
	}
	plan, err := e.planRestore(ctx, req)
	return plan, preflight(err)
}

func (e *Engine) planRestore(ctx context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	record, err := e.records.Record(ctx, req.Backup, req.From)
	if err != nil {
		return nil, err
	}
	backup := &record.Backup
	foundOn(backup, req.Target)
	if err := restorable(backup, req.AllowIncomplete); err != nil {
		return nil, err
	}
	if err := e.described(record); err != nil {
		return nil, err
	}
	if req.ToName == "" {
		req.ToName = backup.Spec.VM
	}
	if req.Name == "" {
		req.Name = vmbackup.TimedName(req.ToName, e.clock())
	}
	n := newRenaming(req, backup)
	if err := checkMappedClasses(backup, req.StorageClasses); err != nil {
		return nil, err
	}
	if err := checkMappedNetworks(record.VM, n); err != nil {
		return nil, err
	}
	var machine *liveMachine
	var inPlace *inPlaceRecord
	if req.InPlace {
		var err error
		if machine, inPlace, err = e.findInPlace(ctx, n.to, backup, req); err != nil {
			return nil, err
		}
	}
	d, err := e.lookAtDestination(ctx, n, record)
	if err != nil {
		return nil, err
	}
	if err := d.check(n, req); err != nil {
		return nil, err
	}
	if e.delegate == nil { // another one begins before any step of this engine's could make them
		if err := d.recallClasses(record, req.StorageClasses); err != nil {
			return nil, err
		}
		if err := e.recallImages(ctx, d, backup); err != nil {
			return nil, err
		}
	}
	if n.lost, err = d.leaveOut(record, req.AllowIncomplete); err != nil {
		return nil, err
	}
	n.sourceExists, n.newMACs = d.source && !req.InPlace, dropsMACs(req, d.source)
	restore := &restoreRecord{Operation: n.operation, Backup: *backup, Class: d.snapshotClass.Name, StorageClasses: d.newClasses, Images: d.newImages, createNamespace: d.namespace == nil}
	leftOut, err := keepWarranted(record)
	if err != nil {
		return nil, err
	}
	changed, err := d.changedClasses(record, req.StorageClasses)
	if err != nil {
		return nil, err
	}
	parts, err := e.planParts(ctx, restore, record, n, d, req)
	if err != nil {
		return nil, err
	}
	if inPlace != nil {
		if parts, err = e.planInPlace(ctx, restore, machine, inPlace, n, parts); err != nil {
			return nil, err
		}
	}
	restore.Restore.Status.Warnings = slices.Concat(leftOut, changed, restore.Restore.Status.Warnings)
	if e.delegate != nil {
		if parts, err = e.planDelegated(ctx, restore, req, parts); err != nil {
			return nil, err
		}
	}
	quotas := d.quotaUses(restore.needs())
	if err := checkQuotas(n.to.Namespace, quotas); err != nil {
		return nil, err
	}
	networks, err := e.checkParts(ctx, restore, record, n, d)
	if err != nil {
		return nil, err
	}
	if restore.Delegate != "" {
		restore.Claims = nil // they are not this engine's to make
	}
	return &vmbackup.RestorePlan{
		Request: req, Backup: backup, Restore: &restore.Restore, Objects: append(d.made(n.to.Namespace, backup, e.delegate == nil), parts...),
		Steps: flow.Statuses((&restoreRun{operation: operation{engine: e}, record: restore}).steps()), Warnings: restore.Restore.Status.Warnings, State: restore,
		MACs: fixedMACs(restore.VM), Networks: networks, Quotas: quotas,
	}, nil
}

// newRenaming is what the request alone says of how the machine comes back.
func newRenaming(req vmbackup.RestoreRequest, backup *vmbackup.Backup) *renaming {
	return &renaming{
		operation: newOperation(), backup: req.Backup,
		from:      vmbackup.Ref{Namespace: req.Backup.Namespace, Name: backup.Spec.VM},
		to:        vmbackup.Ref{Namespace: req.ToNamespace, Name: req.ToName},
		inPlace:   req.InPlace,
		macPolicy: req.MAC, startPolicy: req.Start, newIdentity: req.NewIdentity, networks: req.Networks, patch: req.Patch,
	}
}

// made lists what is made and changed for the restore to have from where and to where.
func (d *destination) made(namespace string, backup *vmbackup.Backup, itself bool) []vmbackup.PlannedObject {
	var objects []vmbackup.PlannedObject
	if d.namespace == nil {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: "v1", Kind: "Namespace", Name: namespace})
	}
	objects = append(objects, d.recalledImages()...)
	for i := range d.newClasses {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: "storage.k8s.io/v1", Kind: "StorageClass", Name: d.newClasses[i].Name, Note: "as it was where the backup was made"})
	}
	if !itself {
		return objects
	}
	if d.newSnapshotClass {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: snapshotAPI, Kind: "VolumeSnapshotClass", Name: d.snapshotClass.Name, Note: "deletion policy Retain"})
	}
	if backup.Spec.Type == vmbackup.TypeBackup {
		objects = append(objects, vmbackup.PlannedObject{
			Action: vmbackup.ActionUpdate, APIVersion: longhornAPI, Kind: "BackupTarget", Namespace: kube.LonghornNamespace, Name: backup.Spec.Target,
			Note: "asked to look at the target anew, where Longhorn does not list the backup",
		})
	}
	return objects
}

// checkParts holds what is to be made against the destination: networks, room, and the
// API server's own judgement.
func (e *Engine) checkParts(ctx context.Context, restore *restoreRecord, record *metadata.Record, n *renaming, d *destination) ([]vmbackup.NetworkUse, error) {
	networks, unseen, err := e.checkNetworks(ctx, d, record.VM, n)
	if err != nil {
		return nil, err
	}
	status := &restore.Restore.Status
	capacity, err := d.checkCapacity(status.Volumes)
	if err != nil {
		return nil, err
	}
	keys, err := e.checkKeys(ctx, d, restore.Claims)
	if err != nil {
		return nil, err
	}
	missing, err := e.missingParts(ctx, record.VM, n)
	if err != nil {
		return nil, err
	}
	status.Warnings = slices.Concat(status.Warnings, unseen, capacity, keys, missing)
	return networks, e.dryRun(ctx, restore)
}

// foundOn names the target of a backup that was read from there: the file knows it
// by its name in the cluster that wrote it, and Harvester's file names none.
func foundOn(b *vmbackup.Backup, target string) {
	if b.Spec.Type == vmbackup.TypeBackup && target != "" && (b.Spec.Target == "" || b.Status.FoundOn == string(vmbackup.SourceTarget)) {
		b.Spec.Target = target
	}
}

// planParts decides the names of everything that comes back and makes the manifests.
func (e *Engine) planParts(ctx context.Context, restore *restoreRecord, record *metadata.Record, n *renaming, d *destination, req vmbackup.RestoreRequest) ([]vmbackup.PlannedObject, error) {
	restore.Restore = *vmbackup.NewRestore(vmbackup.Ref{Namespace: n.to.Namespace, Name: req.Name})
	restore.Restore.Spec = vmbackup.RestoreSpec{Backup: n.backup.String(), TargetNamespace: n.to.Namespace, TargetName: n.to.Name, Mode: vmbackup.ModeNew}
	status := &restore.Restore.Status
	status.Phase, status.Engine = vmbackup.PhasePlanned, vmbackup.EngineDirect

	n.tokens = claimTokens(record)
	n.claims = claimNames(&record.Backup, n, d.claims)
	var objects []vmbackup.PlannedObject
	planned := func(api, kind, namespace, name, note string) {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: api, Kind: kind, Namespace: namespace, Name: name, Note: note})
	}
	planned("v1", "Secret", n.to.Namespace, journal.SecretName(journal.KindRestore, restore.Restore.Ref()), "the restore's record")
	own, delegated, err := e.ownSecrets(record, n)
	if err != nil {
		return nil, err
	}
	secrets, err := e.planObjects(ctx, own, n, "Secret", e.readSecret)
	if err != nil {
		return nil, err
	}
	maps.Copy(secrets.names, delegated)
	configMaps, err := e.planObjects(ctx, record.ConfigMaps, n, "ConfigMap", e.readConfigMap)
	if err != nil {
		return nil, err
	}
	n.secrets, n.configMaps = secrets.names, configMaps.names
	restore.Secrets, restore.ConfigMaps = secrets.create, configMaps.create
	objects = slices.Concat(objects, secrets.planned, configMaps.planned)

	if n.templates, err = e.planTemplates(ctx, record.VM, n); err != nil {
		return nil, err
	}
	for _, v := range record.Backup.Status.Volumes {
		class, err := d.place(&record.Backup, &v, req.StorageClasses)
		if err != nil {
			return nil, err
		}
		if err := d.checkImage(&record.Backup, &v); err != nil {
			return nil, err
		}
		rv := vmbackup.RestoreVolume{
			Name: v.Name, SourcePVC: v.PVC, PVC: n.claims[v.PVC], StorageClass: class.Name, SizeBytes: v.SizeBytes,
			SnapshotHandle: v.SnapshotHandle, State: vmbackup.StatePending,
		}
		name := restore.snapshotName(&rv)
		planned(snapshotAPI, "VolumeSnapshotContent", "", name, rv.SnapshotHandle+", removed when done")
		planned(snapshotAPI, "VolumeSnapshot", n.to.Namespace, name, "removed when done")
		planned("v1", "PersistentVolumeClaim", n.to.Namespace, rv.PVC, "volume "+rv.Name+", StorageClass "+rv.StorageClass)
		backedUp, err := claimOf(record, v.PVC)
		if err != nil {
			return nil, err
		}
		claim, err := restoredClaim(backedUp, &rv, n, name)
		if err != nil {
			return nil, err
		}
		if err := checkMode(class, claim, v.StorageClass); err != nil {
			return nil, err
		}
		if claim.Labels[labelPersistentState] != "" && v.Name == capture.StateVolume(n.from.Name) {
			if !n.inPlace {
				if err := e.checkState(ctx, n); err != nil {
					return nil, err
				}
			}
			restore.StateClaim = claim.Name
		}
		restore.Claims = append(restore.Claims, *claim)
		status.Volumes = append(status.Volumes, rv)
	}
	if err := planRevisions(restore, record, n); err != nil {
		return nil, err
	}
	manifest, strategy, warnings, err := restoredMachine(record.VM, n)
	if err != nil {
		return nil, err
	}
	restore.VM, restore.RunStrategy, status.Warnings = manifest, strategy, warnings
	restore.StartByHand = strategy == kubevirtv1.RunStrategyManual && req.Start == vmbackup.StartYes
	note := "created halted"
	if strategy != kubevirtv1.RunStrategyHalted {
		note += ", run strategy " + string(strategy) + " once its disks are there"
	}
	planned(kubevirtAPI, "VirtualMachine", n.to.Namespace, n.to.Name, note)
	for _, field := range slices.Sorted(maps.Keys(n.revisions)) {
		planned("apps/v1", "ControllerRevision", n.to.Namespace, n.revisions[field], "the machine's "+field+" as it was")
	}
	return objects, nil
}

// dryRun has the API server judge the claims and the machine: rights, webhooks,
// admission, and nothing is changed. In a namespace that is still to be made it can
// judge the rights alone; the rest follows once the namespace is there.
func (e *Engine) dryRun(ctx context.Context, restore *restoreRecord) error {
	spec := restore.Restore.Spec
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	if !restore.createNamespace {
		group.Go(func() error { return e.judgeParts(ctx, restore) })
	}
	group.Go(func() error {
		rights := restoreRights(restore)
		if restore.Delegate != "" {
			rights = delegatedRights(restore)
		}
		missing, err := e.missingRights(ctx, spec.TargetNamespace, rights)
		if err != nil {
			return err
		}
		return forbidden(missing, spec.TargetNamespace)
	})
	return group.Wait()
}

// judgeParts sends the claims and the machine to the API server as a dry run.
func (e *Engine) judgeParts(ctx context.Context, restore *restoreRecord) error {
	to := vmbackup.Ref{Namespace: restore.Restore.Spec.TargetNamespace, Name: restore.Restore.Spec.TargetName}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range restore.Claims {
		if restore.Delegate != "" {
			break // whoever makes them has his own rights
		}
		claim := restore.Claims[i].DeepCopy()
		group.Go(func() error {
			_, err := e.clients.Core.CoreV1().PersistentVolumeClaims(to.Namespace).Create(ctx, claim, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager})
			return kube.Error(err, "create", "PersistentVolumeClaim "+to.Namespace+"/"+claim.Name)
		})
	}
	group.Go(func() error {
		if restore.InPlace != nil {
			return e.judgeSwap(ctx, restore)
		}
		_, err := e.clients.VMs.Create(ctx, to.Namespace, restore.VM, true)
		if restore.Delegate != "" && apierrors.IsForbidden(err) && vmbackup.ReasonOf(kube.Error(err, "create", "VirtualMachine")) == vmbackup.ReasonForbidden {
			return nil // who may leave a restore to the platform need not be allowed to make machines
		}
		return kube.Error(err, "create", "VirtualMachine "+to.String())
	})
	return group.Wait()
}

// handleParts takes a snapshot handle apart: bak://<volume>/<backup>.
func handleParts(handle string) (kind, volume, name string, ok bool) {
	kind, rest, found := strings.Cut(handle, "://")
	if !found {
		return "", "", "", false
	}
	volume, name, found = strings.Cut(rest, "/")
	return kind, volume, name, found && volume != "" && name != ""
}

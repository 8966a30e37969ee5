// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// backupPlan is the engine's own part of a vmbackup.BackupPlan.
type backupPlan struct {
	record *metadata.Record
	// resumes is true when the backup was started before and has not ended.
	resumes bool
}

// PlanBackup checks everything that can be checked without changing anything.
func (e *Engine) PlanBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	req = req.Default(e.clock())
	if err := req.Validate(); err != nil {
		return nil, err
	}
	plan, err := e.planBackup(ctx, req)
	return plan, preflight(err)
}

func (e *Engine) planBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	started, err := e.startedBackup(ctx, req)
	if err != nil || started != nil {
		return started, err
	}

	var (
		captured *capture.Machine
		rights   []right
		class    *snapshotv1.VolumeSnapshotClass
		newClass bool
	)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		captured, err = capture.Read(gctx, e.clients, vmbackup.Ref{Namespace: req.Namespace, Name: req.VM})
		return err
	})
	group.Go(func() (err error) {
		rights, err = e.missingRights(gctx, req.Namespace, backupRights(req))
		return err
	})
	group.Go(func() (err error) {
		class, newClass, err = e.findClass(gctx, req.Type)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if newClass {
		// Not everybody may make cluster-wide objects, and then somebody else has to.
		missing, err := e.missingRights(ctx, "", []right{{"create", "snapshot.storage.k8s.io", "volumesnapshotclasses", ""}})
		if err != nil {
			return nil, err
		}
		rights = append(rights, missing...)
	}
	if err := forbidden(rights, req.Namespace); err != nil {
		return nil, err
	}
	targetName, err := targetOf(captured, req)
	if err != nil {
		return nil, err
	}
	warnings := captured.Warnings
	quiesceWarning, err := checkQuiesce(req, captured.Running)
	if err != nil {
		return nil, err
	}
	if quiesceWarning != "" {
		warnings = append(warnings, quiesceWarning)
	}
	if req.Type == vmbackup.TypeBackup {
		if err := e.checkTarget(ctx, targetName, req.Ref()); err != nil {
			return nil, err
		}
	}

	record := newRecord(req, captured, targetName, warnings)
	if !newClass {
		state := loadState(record)
		state.Class = class.Name
		state.store(record)
	}
	return &vmbackup.BackupPlan{
		Request: req, Backup: &record.Backup, Warnings: warnings,
		Objects: plannedBackup(record, class, newClass),
		Steps:   flow.Statuses((&backupRun{record: record}).steps()),
		State:   &backupPlan{record: record},
	}, nil
}

// startedBackup finds a backup of this name that was started before: one that has
// not ended and fits the request is gone on with, any other one has the name.
func (e *Engine) startedBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	entry, err := e.journal.Get(ctx, journal.KindBackup, req.Ref())
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	record, err := metadata.DecodeJournal(req.Ref(), entry.Data)
	if err != nil {
		return nil, err
	}
	have := &record.Backup
	if have.Status.Phase.Done() || have.Spec.VM != req.VM || have.Spec.Type != req.Type {
		return nil, nameTaken(req.Ref(), fmt.Sprintf("of VirtualMachine %s, %s", have.Spec.VM, have.Status.Phase))
	}
	return &vmbackup.BackupPlan{
		Request: req, Backup: have, Warnings: have.Status.Warnings,
		Steps: flow.Statuses((&backupRun{record: record}).steps()),
		State: &backupPlan{record: record, resumes: true},
	}, nil
}

func nameTaken(ref vmbackup.Ref, what string) error {
	return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a backup %s already (%s)", ref, what).
		WithHint("choose another --name, or look at it with: kubectl vmbackup describe %s -n %s", ref.Name, ref.Namespace)
}

// backupRights are the rights that a backup needs and that reading did not prove.
func backupRights(req vmbackup.BackupRequest) []right {
	rights := []right{
		{"create", "", "secrets", req.Namespace},
		{"update", "", "secrets", req.Namespace},
		{"create", "snapshot.storage.k8s.io", "volumesnapshots", req.Namespace},
		{"watch", "longhorn.io", "snapshots", kube.LonghornNamespace},
	}
	if req.Type == vmbackup.TypeBackup {
		rights = append(rights, right{"watch", "longhorn.io", "backups", kube.LonghornNamespace})
	}
	if req.Quiesce == vmbackup.QuiesceRequire {
		rights = append(rights, right{"update", "subresources.kubevirt.io", "virtualmachineinstances/freeze", req.Namespace})
	}
	return rights
}

// targetOf returns the one backup target that all volumes have.
func targetOf(c *capture.Machine, req vmbackup.BackupRequest) (string, error) {
	if req.Type == vmbackup.TypeSnapshot {
		return "", nil
	}
	var names []string
	for _, v := range c.Volumes {
		if !slices.Contains(names, v.Target) {
			names = append(names, v.Target)
		}
	}
	if len(names) > 1 {
		return "", vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "the volumes of VirtualMachine %s back up to different targets (%s), and a backup must lie on one", req.VM, strings.Join(names, ", ")).
			WithHint("set the same backup target on every volume in Longhorn")
	}
	if req.Target != "" && req.Target != names[0] {
		return "", vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "the volumes of VirtualMachine %s back up to target %q, not to %q: Longhorn keeps the target with the volume", req.VM, names[0], req.Target).
			WithHint("leave --target out, or set the volumes' backup target in Longhorn first")
	}
	return names[0], nil
}

// checkQuiesce says what the freeze can be expected to do, before anything is changed.
func checkQuiesce(req vmbackup.BackupRequest, running *kubevirtv1.VirtualMachineInstance) (warning string, err error) {
	if running == nil || req.Quiesce == vmbackup.QuiesceSkip || agentConnected(running) {
		return "", nil
	}
	what := fmt.Sprintf("the guest agent of VirtualMachine %s does not answer, so its file systems cannot be frozen", req.VM)
	if req.Quiesce == vmbackup.QuiesceRequire {
		return "", vmbackup.Errorf(vmbackup.ReasonFreezeFailed, "%s, and --quiesce=require was asked for", what).
			WithHint("start qemu-guest-agent in the guest, stop the machine, or take a crash-consistent backup with --quiesce=auto")
	}
	return what + ": the backup will be crash consistent", nil
}

func agentConnected(vmi *kubevirtv1.VirtualMachineInstance) bool {
	for _, c := range vmi.Status.Conditions {
		if c.Type == kubevirtv1.VirtualMachineInstanceAgentConnected {
			return string(c.Status) == string(metav1.ConditionTrue)
		}
	}
	return false
}

// checkTarget proves that Longhorn and the client itself can use the target, and
// that the backup's name is free there.
func (e *Engine) checkTarget(ctx context.Context, name string, ref vmbackup.Ref) error {
	store, err := e.openTarget(ctx, name)
	if err != nil {
		return err
	}
	for _, key := range []string{metadata.RecordKey(ref), metadata.HarvesterBackupKey(ref)} {
		_, err := store.Stat(ctx, key)
		if err == nil {
			return nameTaken(ref, "on backup target "+name)
		}
		if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return err
		}
	}
	return nil
}

// newRecord makes the record of a backup that has not begun.
func newRecord(req vmbackup.BackupRequest, c *capture.Machine, targetName string, warnings []string) *metadata.Record {
	backup := vmbackup.NewBackup(req.Ref())
	backup.Metadata.Labels = c.VM.Labels
	backup.Spec = vmbackup.BackupSpec{VM: req.VM, Type: req.Type, Quiesce: req.Quiesce, Target: targetName}
	status := &backup.Status
	status.Phase, status.Engine, status.SourceUID = vmbackup.PhasePlanned, vmbackup.EngineDirect, string(c.VM.UID)
	status.Secrets, status.ConfigMaps, status.Warnings = c.SecretKeys, c.ConfigMapKeys, warnings
	status.InstanceType, status.Preference = c.InstanceType, c.Preference
	status.Metadata = vmbackup.MetadataStatus{State: vmbackup.StatePending}
	if req.Type == vmbackup.TypeBackup {
		status.Metadata.Path = metadata.RecordKey(req.Ref())
	}
	record := &metadata.Record{
		Operation: newOperation(), VM: c.Manifest, Secrets: c.Secrets, ConfigMaps: c.ConfigMaps, Others: c.Others(),
	}
	state := backupState{FreezeTimeout: req.FreezeTimeout, Estimates: map[string]int64{}, NotForHarvester: len(c.MissingSecrets) > 0 || !c.HasDisks()}
	for _, v := range c.Volumes {
		status.Volumes = append(status.Volumes, v.BackupVolume)
		record.Claims = append(record.Claims, v.Claim)
		state.Estimates[v.Name] = v.Estimate
		if v.Image != "" && req.Type == vmbackup.TypeBackup && !slices.ContainsFunc(status.Images, func(i vmbackup.BackupImage) bool { return i.Name == v.Image }) {
			status.Images = append(status.Images, vmbackup.BackupImage{Name: v.Image, State: vmbackup.StatePending})
		}
	}
	record.Backup = *backup
	state.store(record)
	return record
}

// plannedBackup lists the objects of a backup for the plan.
func plannedBackup(record *metadata.Record, class *snapshotv1.VolumeSnapshotClass, newClass bool) []vmbackup.PlannedObject {
	backup := &record.Backup
	ref := backup.Ref()
	action := vmbackup.ActionUse
	if newClass {
		action = vmbackup.ActionCreate
	}
	objects := []vmbackup.PlannedObject{
		{Action: action, APIVersion: snapshotAPI, Kind: "VolumeSnapshotClass", Name: class.Name, Note: "deletion policy " + string(class.DeletionPolicy)},
		{Action: vmbackup.ActionCreate, APIVersion: "v1", Kind: "Secret", Namespace: ref.Namespace, Name: journal.SecretName(journal.KindBackup, ref), Note: "the backup's record"},
	}
	for i := range backup.Status.Volumes {
		v := &backup.Status.Volumes[i]
		objects = append(objects, vmbackup.PlannedObject{
			Action: vmbackup.ActionCreate, APIVersion: snapshotAPI, Kind: "VolumeSnapshot", Namespace: ref.Namespace,
			Name: snapshotName(backup, v, 1), Note: "of PersistentVolumeClaim " + v.PVC,
		})
	}
	if backup.Spec.Type == vmbackup.TypeSnapshot {
		return objects
	}
	for _, v := range backup.Status.Volumes {
		objects = append(objects, vmbackup.PlannedObject{
			Action: vmbackup.ActionCreate, APIVersion: longhornAPI, Kind: "Backup", Namespace: kube.LonghornNamespace,
			Name: "(named by Longhorn)", Note: "of volume " + v.LonghornVolume + " on target " + backup.Spec.Target,
		})
	}
	keys := []string{metadata.HarvesterBackupKey(ref), metadata.RecordKey(ref)}
	if loadState(record).NotForHarvester {
		keys = keys[1:]
	}
	for _, key := range keys {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, Kind: vmbackup.KindFile, Name: key, Note: "on target " + backup.Spec.Target})
	}
	return objects
}

// APIs of the objects that plans name.
const (
	snapshotAPI = "snapshot.storage.k8s.io/v1"
	longhornAPI = "longhorn.io/v1beta2"
	kubevirtAPI = "kubevirt.io/v1"
)

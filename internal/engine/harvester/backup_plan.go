// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// backupPlan is the engine's own part of a vmbackup.BackupPlan.
type backupPlan struct {
	// object is what is created, or what is there where the backup was started before.
	object  *hv.VirtualMachineBackup
	machine *capture.Machine
	resumes bool
}

// PlanBackup checks everything that can be checked without changing anything, the
// rules of Harvester's own webhooks among it.
func (e *Engine) PlanBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	req = req.Default(e.clock())
	if err := req.Validate(); err != nil {
		return nil, err
	}
	plan, err := e.planBackup(ctx, req)
	return plan, preflight(err)
}

func (e *Engine) planBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	if err := checkOptions(req); err != nil {
		return nil, err
	}
	if plan, err := e.earlierBackup(ctx, req); err != nil || plan != nil {
		return plan, err
	}
	var (
		machine *capture.Machine
		lacks   []string
		class   string
	)
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		machine, err = capture.Read(gctx, e.clients, vmbackup.Ref{Namespace: req.Namespace, Name: req.VM})
		return err
	})
	group.Go(func() (err error) {
		lacks, err = e.checkRights(gctx, req)
		return err
	})
	group.Go(func() (err error) {
		class, err = e.checkClass(gctx, req.Type)
		return err
	})
	var unreached string
	if req.Type == vmbackup.TypeBackup {
		group.Go(func() (err error) {
			unreached, err = e.checkTarget(gctx, req.Ref())
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := checkMachine(req, machine); err != nil {
		return nil, err
	}
	consistency, warning, err := checkQuiesce(req, machine.Running)
	if err != nil {
		return nil, err
	}
	warnings := slices.Concat(machine.Warnings, lacks)
	for _, w := range []string{warning, unreached} {
		if w != "" {
			warnings = append(warnings, w)
		}
	}
	object := e.newObject(req, consistency)
	if _, err := e.clients.Harvester.Backups(req.Namespace).Create(ctx, object, metav1.CreateOptions{FieldManager: kube.FieldManager, DryRun: []string{metav1.DryRunAll}}); err != nil {
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
			return nil, refusal(err, req)
		}
		return nil, kube.Error(err, "create", what(req.Ref()))
	}
	backup := planned(req, object, machine, warnings)
	return &vmbackup.BackupPlan{
		Request: req, Backup: backup, Warnings: warnings,
		Objects: plannedObjects(backup, class, unreached == ""), Steps: flow.Statuses(steps(req.Type)),
		State: &backupPlan{object: object, machine: machine},
	}, nil
}

// newObject is the object that asks Harvester for the backup, as its UI makes it.
// What it cannot say is noted on it.
func (e *Engine) newObject(req vmbackup.BackupRequest, consistency vmbackup.Consistency) *hv.VirtualMachineBackup {
	object := &hv.VirtualMachineBackup{
		TypeMeta: metav1.TypeMeta{APIVersion: hv.GroupVersion().String(), Kind: hv.BackupKind},
		ObjectMeta: metav1.ObjectMeta{Name: req.Name, Namespace: req.Namespace, Annotations: map[string]string{
			AnnotationOperation: newOperation(), AnnotationVersion: e.version,
			hv.AnnotationQuiesce: string(req.Quiesce), hv.AnnotationConsistency: string(consistency),
		}},
		Spec: hv.VirtualMachineBackupSpec{Type: hv.BackupType(req.Type)},
	}
	group := "kubevirt.io"
	object.Spec.Source.APIGroup, object.Spec.Source.Kind, object.Spec.Source.Name = &group, "VirtualMachine", req.VM
	return object
}

// earlierBackup finds a backup of this name, and any other one of the machine that
// is under way. One of the tool's that has not ended and fits the request is gone on
// with, any other one has the name.
func (e *Engine) earlierBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	if taken, err := e.direct.Recorded(ctx, req.Ref()); err != nil || taken {
		if err == nil {
			err = nameTaken(req.Ref(), "made by the direct engine")
		}
		return nil, err
	}
	list, err := e.clients.Harvester.Backups(req.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "VirtualMachineBackups of Harvester in namespace "+req.Namespace)
	}
	var underWay *hv.VirtualMachineBackup
	for i := range list.Items {
		have := &list.Items[i]
		view := have.View(hv.Evidence{Unseen: "not looked at"})
		if have.Name == req.Name {
			if have.Annotations[AnnotationOperation] == "" || view.Status.Phase != vmbackup.PhaseRunning || have.Spec.Source.Name != req.VM || view.Spec.Type != req.Type {
				return nil, nameTaken(req.Ref(), fmt.Sprintf("of VirtualMachine %s, kept by Harvester", have.Spec.Source.Name))
			}
			return &vmbackup.BackupPlan{
				Request: req, Backup: view, Warnings: view.Status.Warnings, Steps: flow.Statuses(steps(req.Type)),
				State: &backupPlan{object: have, resumes: true},
			}, nil
		}
		// One that was discovered on the target has no source here.
		if have.Spec.Source.Name == req.VM && have.Status.SourceUID != nil && have.DeletionTimestamp == nil && view.Status.Phase == vmbackup.PhaseRunning {
			underWay = have
		}
	}
	if underWay != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s/%s of VirtualMachine %s is under way; nothing was begun", underWay.Namespace, underWay.Name, req.VM).
			WithHint("wait for it with: kubectl vmbackup watch %s -n %s; or give it up with: kubectl vmbackup cancel %s -n %s", underWay.Name, underWay.Namespace, underWay.Name, underWay.Namespace)
	}
	return nil, nil
}

func nameTaken(ref vmbackup.Ref, how string) error {
	return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a backup %s already (%s)", ref, how).
		WithHint("choose another --name, or look at it with: kubectl vmbackup describe %s -n %s", ref.Name, ref.Namespace)
}

// checkRights refuses a user who may not ask Harvester, and says what one may not look at.
func (e *Engine) checkRights(ctx context.Context, req vmbackup.BackupRequest) (lacks []string, err error) {
	needed := []kube.Right{
		{Verb: "create", Group: hv.Group, Resource: hv.BackupResource, Namespace: req.Namespace},
		{Verb: "watch", Group: hv.Group, Resource: hv.BackupResource, Namespace: req.Namespace},
	}
	wanted := needed
	if req.Type == vmbackup.TypeBackup {
		wanted = append(wanted,
			kube.Right{Verb: "watch", Group: "longhorn.io", Resource: "backups", Namespace: kube.LonghornNamespace},
			kube.Right{Verb: "watch", Group: "longhorn.io", Resource: "backupbackingimages", Namespace: kube.LonghornNamespace})
	}
	missing, err := e.clients.MissingRights(ctx, req.Namespace, wanted)
	if err != nil {
		return nil, err
	}
	var refused []kube.Right
	for _, m := range missing {
		if m.Group == hv.Group {
			refused = append(refused, m)
			continue
		}
		lacks = append(lacks, fmt.Sprintf("this user may not %s: whether the data is on the target cannot be seen, and the backup will be called Unknown", m))
	}
	return lacks, kube.ForbiddenWithout(refused, req.Namespace)
}

// checkClass finds the VolumeSnapshotClass that Harvester will use.
func (e *Engine) checkClass(ctx context.Context, kind vmbackup.BackupType) (string, error) {
	setting, err := e.clients.Harvester.Settings().Get(ctx, hv.CSIDriverSetting, metav1.GetOptions{})
	if err != nil {
		return "", kube.Error(err, "read", "Harvester's setting "+hv.CSIDriverSetting)
	}
	name, err := snapshotClass(setting, kind)
	if err != nil {
		return "", err
	}
	_, err = e.clients.Snapshot.SnapshotV1().VolumeSnapshotClasses().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("VolumeSnapshotClass %s, which Harvester's setting %s names, does not exist", name, hv.CSIDriverSetting))
	}
	if err != nil && !apierrors.IsForbidden(err) {
		return "", kube.Error(err, "read", "VolumeSnapshotClass "+name)
	}
	return name, nil
}

// checkTarget refuses a target that Harvester or Longhorn cannot use, and a name that
// is taken there. A target that this user cannot reach refuses nothing: unreached says why.
func (e *Engine) checkTarget(ctx context.Context, ref vmbackup.Ref) (unreached string, err error) {
	set, err := e.harvesterTarget(ctx)
	if err != nil {
		return "", err
	}
	if set == nil {
		return "", unfit(vmbackup.ReasonTargetUnavailable, fmt.Sprintf("Harvester has no backup target: its setting %s is empty", hv.BackupTargetSetting))
	}
	store, err := e.open(ctx, vmbackup.DefaultTarget)
	if err == nil {
		for _, key := range descriptions(ref) {
			if _, err = store.Stat(ctx, key); err == nil {
				return "", nameTaken(ref, "on backup target "+vmbackup.DefaultTarget)
			}
			if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
				break
			}
			err = nil
		}
	} else if vmbackup.ReasonOf(err) == vmbackup.ReasonTargetUnavailable && e.longhornRefuses(ctx) {
		return "", err
	}
	if err == nil {
		return "", nil
	}
	if ctx.Err() != nil {
		return "", err
	}
	return notReached(err), nil
}

// notReached says what comes of it that the client cannot reach the target itself.
func notReached(err error) string {
	return fmt.Sprintf("the backup target cannot be reached from here (%v): Harvester writes to it all the same; what its description lacks (instance type, config maps, other secrets) is not written beside it", err)
}

// longhornRefuses reports whether it is Longhorn that cannot use the target.
func (e *Engine) longhornRefuses(ctx context.Context) bool {
	_, err := e.clients.ReadBackupTarget(ctx, vmbackup.DefaultTarget)
	return vmbackup.ReasonOf(err) == vmbackup.ReasonTargetUnavailable
}

// harvesterTarget is the target of Harvester's setting, nil when none is set.
func (e *Engine) harvesterTarget(ctx context.Context) (*hv.Target, error) {
	setting, err := e.clients.Harvester.Settings().Get(ctx, hv.BackupTargetSetting, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Error(err, "read", "Harvester's setting "+hv.BackupTargetSetting)
	}
	return hv.DecodeTarget(setting)
}

// planned is the backup as a plan shows it.
func planned(req vmbackup.BackupRequest, object *hv.VirtualMachineBackup, m *capture.Machine, warnings []string) *vmbackup.Backup {
	backup := object.View(hv.Evidence{TargetName: vmbackup.DefaultTarget})
	status := &backup.Status
	backup.Metadata.Labels, status.SourceUID = m.VM.Labels, string(m.VM.UID)
	status.Phase, status.FoundOn, status.StartedAt = vmbackup.PhasePlanned, "", nil
	status.Secrets, status.ConfigMaps, status.Warnings = m.SecretKeys, m.ConfigMapKeys, warnings
	status.InstanceType, status.Preference = m.InstanceType, m.Preference
	status.Metadata = vmbackup.MetadataStatus{State: vmbackup.StatePending}
	if req.Type == vmbackup.TypeBackup {
		status.Metadata.Path = metadata.HarvesterBackupKey(req.Ref())
	}
	seen := map[string]bool{}
	for _, v := range m.Volumes {
		status.Volumes = append(status.Volumes, v.BackupVolume)
		if v.Image != "" && req.Type == vmbackup.TypeBackup && !seen[v.Image] {
			seen[v.Image] = true
			status.Images = append(status.Images, vmbackup.BackupImage{Name: v.Image, State: vmbackup.StatePending})
		}
	}
	return backup
}

// plannedObjects lists what the tool makes, and what Harvester makes of that.
func plannedObjects(backup *vmbackup.Backup, class string, reached bool) []vmbackup.PlannedObject {
	ref := backup.Ref()
	objects := []vmbackup.PlannedObject{
		{Action: vmbackup.ActionCreate, APIVersion: hv.GroupVersion().String(), Kind: hv.BackupKind, Namespace: ref.Namespace, Name: ref.Name, Note: "for Harvester's controllers, which do the rest"},
		{Action: vmbackup.ActionUse, APIVersion: snapshotAPI, Kind: "VolumeSnapshotClass", Name: class, Note: "of Harvester's setting " + hv.CSIDriverSetting},
	}
	for _, v := range backup.Status.Volumes {
		objects = append(objects, vmbackup.PlannedObject{
			Action: vmbackup.ActionCreate, APIVersion: snapshotAPI, Kind: "VolumeSnapshot", Namespace: ref.Namespace,
			Name: ref.Name + "-volume-" + v.PVC, Note: "by Harvester, of PersistentVolumeClaim " + v.PVC,
		})
	}
	if backup.Spec.Type == vmbackup.TypeSnapshot {
		return objects
	}
	for _, v := range backup.Status.Volumes {
		objects = append(objects, vmbackup.PlannedObject{
			Action: vmbackup.ActionCreate, APIVersion: longhornAPI, Kind: "Backup", Namespace: kube.LonghornNamespace,
			Name: "(named by Longhorn)", Note: "of volume " + v.LonghornVolume + " on target " + vmbackup.DefaultTarget,
		})
	}
	objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, Kind: vmbackup.KindFile, Name: metadata.HarvesterBackupKey(ref), Note: "by Harvester, on target " + vmbackup.DefaultTarget})
	if reached {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, Kind: vmbackup.KindFile, Name: metadata.RecordKey(ref), Note: "what Harvester's description lacks, on target " + vmbackup.DefaultTarget})
	}
	return objects
}

// APIs of the objects that plans name.
const (
	snapshotAPI = "snapshot.storage.k8s.io/v1"
	longhornAPI = "longhorn.io/v1beta2"
)

func what(ref vmbackup.Ref) string {
	return fmt.Sprintf("%s.%s %s", hv.BackupResource, hv.Group, ref)
}

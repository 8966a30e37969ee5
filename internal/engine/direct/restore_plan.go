// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
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
	if err := restorable(backup); err != nil {
		return nil, err
	}
	if req.ToName == "" {
		req.ToName = backup.Spec.VM
	}
	if req.Name == "" {
		req.Name = vmbackup.TimedName(req.ToName, e.clock())
	}
	n := &renaming{
		operation: newOperation(), backup: req.Backup,
		from: vmbackup.Ref{Namespace: req.Backup.Namespace, Name: backup.Spec.VM},
		to:   vmbackup.Ref{Namespace: req.ToNamespace, Name: req.ToName},
	}
	if err := e.checkDestination(ctx, n, backup); err != nil {
		return nil, err
	}
	if n.newMACs, err = e.sourceExists(ctx, n.from, backup.Status.SourceUID); err != nil {
		return nil, err
	}
	if err := e.checkData(ctx, backup); err != nil {
		return nil, err
	}
	class, newClass, err := e.findClass(ctx, backup.Spec.Type)
	if err != nil {
		return nil, err
	}
	restore := &restoreRecord{Operation: n.operation, Backup: *backup, Class: class.Name}
	var objects []vmbackup.PlannedObject
	if newClass {
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: snapshotAPI, Kind: "VolumeSnapshotClass", Name: class.Name, Note: "deletion policy Retain"})
	}
	parts, err := e.planParts(ctx, restore, record, n, req)
	if err != nil {
		return nil, err
	}
	if err := e.dryRun(ctx, restore, n); err != nil {
		return nil, err
	}
	return &vmbackup.RestorePlan{
		Request: req, Restore: &restore.Restore, Objects: append(objects, parts...),
		Steps: flow.Statuses((&restoreRun{record: restore}).steps()), Warnings: restore.Restore.Status.Warnings, State: restore,
	}, nil
}

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
		return false, fmt.Errorf("VirtualMachine %s: %w", ref, err)
	}
	return uid == "" || string(vm.UID) == uid, nil
}

// checkData sees the data of every volume where it should be.
func (e *Engine) checkData(ctx context.Context, backup *vmbackup.Backup) error {
	if backup.Spec.Type == vmbackup.TypeSnapshot {
		return e.checkSnapshots(ctx, backup)
	}
	store, err := e.open(ctx, backup.Spec.Target)
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

// planParts decides the names of everything that comes back and makes the manifests.
func (e *Engine) planParts(ctx context.Context, restore *restoreRecord, record *metadata.Record, n *renaming, req vmbackup.RestoreRequest) ([]vmbackup.PlannedObject, error) {
	restore.Restore = *vmbackup.NewRestore(vmbackup.Ref{Namespace: n.to.Namespace, Name: req.Name})
	restore.Restore.Spec = vmbackup.RestoreSpec{Backup: n.backup.String(), TargetNamespace: n.to.Namespace, TargetName: n.to.Name, Mode: vmbackup.ModeNew}
	status := &restore.Restore.Status
	status.Phase, status.Engine = vmbackup.PhasePlanned, vmbackup.EngineDirect

	var err error
	n.claims, err = e.claimNames(ctx, record, n)
	if err != nil {
		return nil, err
	}
	var objects []vmbackup.PlannedObject
	planned := func(action vmbackup.Action, api, kind, namespace, name, note string) {
		objects = append(objects, vmbackup.PlannedObject{Action: action, APIVersion: api, Kind: kind, Namespace: namespace, Name: name, Note: note})
	}
	planned(vmbackup.ActionCreate, "v1", "Secret", n.to.Namespace, journal.SecretName(journal.KindRestore, restore.Restore.Ref()), "the restore's record")
	secrets, err := e.planObjects(ctx, record.Secrets, n, "Secret", e.readSecret)
	if err != nil {
		return nil, err
	}
	configMaps, err := e.planObjects(ctx, record.ConfigMaps, n, "ConfigMap", e.readConfigMap)
	if err != nil {
		return nil, err
	}
	n.secrets, n.configMaps = secrets.names, configMaps.names
	restore.Secrets, restore.ConfigMaps = secrets.create, configMaps.create
	objects = slices.Concat(objects, secrets.planned, configMaps.planned)

	for i, v := range record.Backup.Status.Volumes {
		rv := vmbackup.RestoreVolume{
			Name: v.Name, SourcePVC: v.PVC, PVC: n.claims[v.PVC], StorageClass: v.StorageClass, SizeBytes: v.SizeBytes,
			SnapshotHandle: v.SnapshotHandle, State: vmbackup.StatePending,
		}
		name := restore.snapshotName(&rv)
		planned(vmbackup.ActionCreate, snapshotAPI, "VolumeSnapshotContent", "", name, rv.SnapshotHandle+", removed when done")
		planned(vmbackup.ActionCreate, snapshotAPI, "VolumeSnapshot", n.to.Namespace, name, "removed when done")
		planned(vmbackup.ActionCreate, "v1", "PersistentVolumeClaim", n.to.Namespace, rv.PVC, "volume "+rv.Name+", StorageClass "+rv.StorageClass)
		claim, err := restoredClaim(record.Claims[i], &rv, n, name)
		if err != nil {
			return nil, err
		}
		restore.Claims = append(restore.Claims, *claim)
		status.Volumes = append(status.Volumes, rv)
	}
	manifest, strategy, warnings, err := restoredMachine(record.VM, n)
	if err != nil {
		return nil, err
	}
	restore.VM, restore.RunStrategy, status.Warnings = manifest, strategy, warnings
	note := "created halted"
	if strategy != kubevirtv1.RunStrategyHalted {
		note += ", run strategy " + string(strategy) + " once its disks are there"
	}
	planned(vmbackup.ActionCreate, kubevirtAPI, "VirtualMachine", n.to.Namespace, n.to.Name, note)
	return objects, nil
}

// claimNames chooses the claims' names: the old ones where they are free.
func (e *Engine) claimNames(ctx context.Context, record *metadata.Record, n *renaming) (map[string]string, error) {
	names := map[string]string{}
	for _, v := range record.Backup.Status.Volumes {
		name := v.PVC
		if n.renamed() {
			name = shorten(n.to.Name+"-"+v.Name, 253)
		}
		_, err := e.clients.Core.CoreV1().PersistentVolumeClaims(n.to.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			name = shorten(name+"-"+n.operation, 253)
		case !apierrors.IsNotFound(err):
			return nil, kube.Error(err, "read", "PersistentVolumeClaim "+n.to.Namespace+"/"+name)
		}
		names[v.PVC] = name
	}
	return names, nil
}

// plannedObjects is what planObjects decided.
type plannedObjects struct {
	names   map[string]string
	create  []json.RawMessage
	planned []vmbackup.PlannedObject
}

// planObjects chooses the names of Secrets or ConfigMaps: a machine under its old
// name shares an object that is there with the same content; in every other case
// it gets its own.
func (e *Engine) planObjects(ctx context.Context, backedUp []json.RawMessage, n *renaming, kind string, read func(ctx context.Context, namespace, name string) (*metadata.Manifest, error)) (*plannedObjects, error) {
	result := &plannedObjects{names: map[string]string{}}
	for _, raw := range backedUp {
		old, err := metadata.ParseManifest(raw)
		if err != nil {
			return nil, fmt.Errorf("a %s of backup %s: %w", kind, n.backup, err)
		}
		name := old.Metadata.Name
		if n.renamed() {
			name = shorten(n.to.Name+"-"+old.Metadata.Name, 253)
		}
		have, err := read(ctx, n.to.Namespace, name)
		if err != nil {
			return nil, err
		}
		if have != nil && !n.renamed() && sameContent(old, have) {
			result.names[old.Metadata.Name] = name
			result.planned = append(result.planned, vmbackup.PlannedObject{Action: vmbackup.ActionUse, APIVersion: "v1", Kind: kind, Namespace: n.to.Namespace, Name: name, Note: "is there already with the same content"})
			continue
		}
		if have != nil {
			name = shorten(name+"-"+n.operation, 253)
		}
		manifest, err := restoredObject(raw, name, n)
		if err != nil {
			return nil, err
		}
		result.names[old.Metadata.Name] = name
		result.create = append(result.create, manifest)
		result.planned = append(result.planned, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: "v1", Kind: kind, Namespace: n.to.Namespace, Name: name})
	}
	return result, nil
}

func (e *Engine) readSecret(ctx context.Context, namespace, name string) (*metadata.Manifest, error) {
	s, err := e.clients.Core.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Error(err, "read", "Secret "+namespace+"/"+name)
	}
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	return manifestOf(s)
}

func (e *Engine) readConfigMap(ctx context.Context, namespace, name string) (*metadata.Manifest, error) {
	m, err := e.clients.Core.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Error(err, "read", "ConfigMap "+namespace+"/"+name)
	}
	m.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	return manifestOf(m)
}

func manifestOf(object any) (*metadata.Manifest, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	return metadata.ParseManifest(raw)
}

// sameContent compares everything but the objects' metadata.
func sameContent(a, b *metadata.Manifest) bool {
	decode := func(m *metadata.Manifest) map[string]any {
		fields := map[string]any{}
		for key, raw := range m.Fields {
			var value any
			if json.Unmarshal(raw, &value) == nil {
				fields[key] = value
			}
		}
		return fields
	}
	return slices.Equal(slices.Sorted(maps.Keys(a.Fields)), slices.Sorted(maps.Keys(b.Fields))) && reflect.DeepEqual(decode(a), decode(b))
}

// dryRun has the API server judge the claims and the machine: rights, quota,
// webhooks, networks of admission, and nothing is changed.
func (e *Engine) dryRun(ctx context.Context, restore *restoreRecord, n *renaming) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range restore.Claims {
		claim := restore.Claims[i].DeepCopy()
		group.Go(func() error {
			_, err := e.clients.Core.CoreV1().PersistentVolumeClaims(n.to.Namespace).Create(ctx, claim, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: kube.FieldManager})
			return kube.Error(err, "create", "PersistentVolumeClaim "+n.to.Namespace+"/"+claim.Name)
		})
	}
	group.Go(func() error {
		_, err := e.clients.VMs.Create(ctx, n.to.Namespace, restore.VM, true)
		return kube.Error(err, "create", "VirtualMachine "+n.to.String())
	})
	group.Go(func() error {
		missing, err := e.missingRights(ctx, n.to.Namespace, restoreRights(n.to.Namespace))
		if err != nil {
			return err
		}
		return forbidden(missing, n.to.Namespace)
	})
	return group.Wait()
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

// handleParts takes a snapshot handle apart: bak://<volume>/<backup>.
func handleParts(handle string) (kind, volume, name string, ok bool) {
	kind, rest, found := strings.Cut(handle, "://")
	if !found {
		return "", "", "", false
	}
	volume, name, found = strings.Cut(rest, "/")
	return kind, volume, name, found && volume != "" && name != ""
}

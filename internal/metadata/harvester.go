// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"fmt"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// The fields below mirror Harvester's, in the order in which it writes them.

type harvesterBackup struct {
	Name          string              `json:"name"`
	Namespace     string              `json:"namespace"`
	BackupSpec    harvesterBackupSpec `json:"backupSpec"`
	VMSourceSpec  *harvesterObject    `json:"vmSourceSpec,omitempty"`
	VolumeBackups []harvesterVolume   `json:"volumeBackups,omitempty"`
	SecretBackups []harvesterSecret   `json:"secretBackups,omitempty"`
}

type harvesterBackupSpec struct {
	Source harvesterSource     `json:"source"`
	Type   vmbackup.BackupType `json:"type,omitempty"`
}

type harvesterSource struct {
	APIGroup *string `json:"apiGroup"`
	Kind     string  `json:"kind"`
	Name     string  `json:"name"`
}

type harvesterObject struct {
	Metadata harvesterMeta   `json:"metadata"`
	Spec     json.RawMessage `json:"spec"`
}

type harvesterMeta struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// CreationTimestamp is null: Harvester copies names, labels and annotations
	// only, and its Kubernetes libraries write an empty time so.
	CreationTimestamp json.RawMessage   `json:"creationTimestamp"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
}

type harvesterVolume struct {
	Name                  *string         `json:"name,omitempty"`
	VolumeName            string          `json:"volumeName"`
	CSIDriverName         string          `json:"csiDriverName"`
	PersistentVolumeClaim harvesterObject `json:"persistentVolumeClaim"`
	LonghornBackupName    *string         `json:"longhornBackupName,omitempty"`
	VolumeSize            int64           `json:"volumeSize,omitempty"`
	Progress              int             `json:"progress,omitempty"`
}

type harvesterSecret struct {
	Name string            `json:"name,omitempty"`
	Data map[string][]byte `json:"data,omitempty"`
}

// longhornDriver is the name of Longhorn's CSI driver.
const longhornDriver = "driver.longhorn.io"

// defaultNamespace is what Harvester takes a missing namespace for.
const defaultNamespace = "default"

// harvesterVolumeName is Harvester's name of a volume's backup and VolumeSnapshot.
func harvesterVolumeName(backup, claim string) string { return backup + "-volume-" + claim }

// DecodeHarvester reads Harvester's description of a backup. The key is where it
// lay (see ParseKey); the content must be of the backup that the key names. The
// error is DataDamaged and names the key and the field.
//
// The file says what was backed up, not whether it is all there: phase and
// volumes are Unknown until somebody looks at the backup store. A volume without
// a Longhorn backup, which Harvester writes when Longhorn's answer was late, has
// a Message and no handle.
//
// After a restore in place Harvester 1.8 writes the file again with the restored
// claim in the machine's volumes. The claim that was backed up is still in the
// name of the volume's backup, and it is put back.
func DecodeHarvester(key string, content []byte) (*Record, error) {
	kind, ref, ok := ParseKey(key)
	if !ok || kind != FileHarvesterBackup && kind != FileHarvesterFlat {
		return nil, damaged(key, "the name is not that of a Harvester backup")
	}
	file := &harvesterBackup{}
	if err := decode(key, content, file); err != nil {
		return nil, err
	}
	if file.Namespace == "" {
		file.Namespace = defaultNamespace
	}
	got := vmbackup.Ref{Namespace: file.Namespace, Name: file.Name}
	switch {
	case kind == FileHarvesterBackup && got != ref:
		return nil, damaged(key, "fields namespace and name are of backup %s, the file is of %s", got, ref)
	case kind == FileHarvesterFlat && got.Namespace+"-"+got.Name != ref.Name:
		return nil, damaged(key, "fields namespace and name are of backup %s, the file is of %s", got, ref.Name)
	}
	rec, err := file.record(key)
	if err != nil {
		return nil, damaged(key, "%w", err)
	}
	clean, err := checked(rec)
	if err != nil {
		return nil, damaged(key, "%w", err)
	}
	return clean, nil
}

// record turns the file into a record. Names are checked by checked.
func (f *harvesterBackup) record(key string) (*Record, error) {
	source := f.BackupSpec.Source
	switch {
	case source.Kind != vmKind || source.APIGroup == nil || *source.APIGroup != vmGroup:
		return nil, fmt.Errorf("field backupSpec.source is no %s of %s", vmKind, vmGroup)
	case f.BackupSpec.Type != "" && f.BackupSpec.Type != vmbackup.TypeBackup:
		return nil, fmt.Errorf("field backupSpec.type %q is not %s", f.BackupSpec.Type, vmbackup.TypeBackup)
	case f.VMSourceSpec == nil:
		return nil, fmt.Errorf("field vmSourceSpec is missing")
	case !isObject(f.VMSourceSpec.Spec):
		return nil, fmt.Errorf("field vmSourceSpec.spec is missing")
	}
	vm := f.VMSourceSpec
	if vm.Metadata.Namespace == "" {
		vm.Metadata.Namespace = f.Namespace
	}
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: f.Namespace, Name: f.Name})
	b.Metadata.Labels = vm.Metadata.Labels
	b.Spec = vmbackup.BackupSpec{VM: source.Name, Type: vmbackup.TypeBackup}
	b.Status.Phase = vmbackup.PhaseUnknown
	b.Status.FoundOn = string(vmbackup.SourceTarget)
	b.Status.Metadata = vmbackup.MetadataStatus{Path: key, State: vmbackup.StateReady}
	rec := &Record{}
	claims := map[string]string{} // by the volume's name in the machine
	for i, vb := range f.VolumeBackups {
		volume, claim, err := vb.decode(f.Name, vm.Metadata.Namespace)
		if err != nil {
			return nil, fmt.Errorf("field volumeBackups[%d].%w", i, err)
		}
		claims[volume.Name] = volume.PVC
		b.Status.Volumes = append(b.Status.Volumes, volume)
		rec.Claims = append(rec.Claims, claim)
	}
	for i, s := range f.SecretBackups {
		secret, keys, err := s.manifest(vm.Metadata.Namespace)
		if err != nil {
			return nil, fmt.Errorf("field secretBackups[%d]: %w", i, err)
		}
		b.Status.Secrets = append(b.Status.Secrets, vmbackup.KeyedObject{Name: s.Name, Keys: keys})
		rec.Secrets = append(rec.Secrets, secret)
	}
	spec, err := withClaims(vm.Spec, claims)
	if err != nil {
		return nil, fmt.Errorf("field vmSourceSpec.spec: %w", err)
	}
	rec.VM, err = vm.manifest(vmGroup+"/v1", vmKind, spec)
	rec.Backup = *b
	return rec, err
}

// decode turns the backup of one volume into the view of it and its claim.
func (v *harvesterVolume) decode(backup, namespace string) (vmbackup.BackupVolume, json.RawMessage, error) {
	none := vmbackup.BackupVolume{}
	var claim struct {
		VolumeName       string `json:"volumeName"`
		StorageClassName string `json:"storageClassName"`
	}
	pvc := &v.PersistentVolumeClaim
	switch {
	case v.CSIDriverName != longhornDriver:
		return none, nil, fmt.Errorf("csiDriverName %q is not %s", v.CSIDriverName, longhornDriver)
	case v.Name == nil:
		return none, nil, fmt.Errorf("name is missing")
	case pvc.Metadata.Namespace != "" && pvc.Metadata.Namespace != namespace:
		return none, nil, fmt.Errorf("persistentVolumeClaim.metadata.namespace %q is not the virtual machine's %q", pvc.Metadata.Namespace, namespace)
	case !isObject(pvc.Spec):
		return none, nil, fmt.Errorf("persistentVolumeClaim.spec is missing")
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(pvc.Spec, &claim); err != nil {
		return none, nil, fmt.Errorf("persistentVolumeClaim.spec: %w", err)
	}
	if !IsStoreName(claim.VolumeName) {
		return none, nil, fmt.Errorf("persistentVolumeClaim.spec.volumeName %q is no volume of Longhorn", claim.VolumeName)
	}
	pvc.Metadata.Namespace = namespace
	if original, found := strings.CutPrefix(*v.Name, harvesterVolumeName(backup, "")); found {
		pvc.Metadata.Name = original
	}
	volume := vmbackup.BackupVolume{
		Name:           v.VolumeName,
		PVC:            pvc.Metadata.Name,
		StorageClass:   claim.StorageClassName,
		SizeBytes:      v.VolumeSize,
		LonghornVolume: claim.VolumeName,
		VolumeSnapshot: *v.Name,
		State:          vmbackup.StateUnknown,
		Progress:       v.Progress,
	}
	if v.LonghornBackupName != nil && *v.LonghornBackupName != "" {
		volume.LonghornBackup = *v.LonghornBackupName
		volume.SnapshotHandle = BackupHandle(volume.LonghornVolume, volume.LonghornBackup)
	} else {
		volume.Message = "the file names no Longhorn backup of this volume"
	}
	manifest, err := pvc.manifest("v1", "PersistentVolumeClaim", pvc.Spec)
	return volume, manifest, err
}

// manifest is the object as Kubernetes knows it.
func (o *harvesterObject) manifest(apiVersion, kind string, spec json.RawMessage) (json.RawMessage, error) {
	m := &Manifest{
		APIVersion: apiVersion,
		Kind:       kind,
		Metadata:   Meta{Name: o.Metadata.Name, Namespace: o.Metadata.Namespace, Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations},
		Fields:     map[string]json.RawMessage{"spec": spec},
	}
	return m.JSON()
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	vmKind  = "VirtualMachine"
	vmGroup = "kubevirt.io"
)

// checked returns the record with its kind set and its manifests sanitized, or
// an error that names the first field that no backup of the tool would have. It
// holds for writing and for reading, so that nothing is written that could not be read.
func checked(rec *Record) (*Record, error) {
	if rec == nil {
		return nil, fmt.Errorf("no record")
	}
	out := *rec
	out.APIVersion, out.Kind = vmbackup.APIVersion, RecordKind
	if ref := out.Backup.Ref(); !isNamespace(ref.Namespace) {
		return nil, fmt.Errorf("backup.metadata.namespace %q is no name of a namespace", ref.Namespace)
	} else if !isName(ref.Name) {
		return nil, fmt.Errorf("backup.metadata.name %q is no name of Kubernetes", ref.Name)
	}
	switch out.Backup.Spec.Type {
	case vmbackup.TypeBackup, vmbackup.TypeSnapshot:
	default:
		return nil, fmt.Errorf("backup.spec.type %q is neither %s nor %s", out.Backup.Spec.Type, vmbackup.TypeBackup, vmbackup.TypeSnapshot)
	}
	if len(validation.IsValidLabelValue(out.Operation)) > 0 {
		return nil, fmt.Errorf("operation %q is no value of a label", out.Operation)
	}
	out.Backup.APIVersion, out.Backup.Kind = vmbackup.APIVersion, vmbackup.KindBackup

	vm, raw, err := checkedManifest(rec.VM)
	switch {
	case err != nil:
		return nil, fmt.Errorf("vm: %w", err)
	case vm.Kind != vmKind || vm.Group() != vmGroup:
		return nil, fmt.Errorf("vm: %s %s is no virtual machine", vm.APIVersion, vm.Kind)
	case vm.Metadata.Name != out.Backup.Spec.VM:
		return nil, fmt.Errorf("vm: metadata.name %q is not backup.spec.vm %q", vm.Metadata.Name, out.Backup.Spec.VM)
	case vm.Metadata.Namespace == "":
		return nil, fmt.Errorf("vm: metadata.namespace is missing")
	case !isObject(vm.Fields["spec"]):
		return nil, fmt.Errorf("vm: spec is missing")
	}
	out.VM = raw
	for _, list := range []struct {
		field, apiVersion, kind string
		in                      []json.RawMessage
		out                     *[]json.RawMessage
	}{
		{"claims", "v1", "PersistentVolumeClaim", rec.Claims, &out.Claims},
		{"secrets", "v1", "Secret", rec.Secrets, &out.Secrets},
		{"configMaps", "v1", "ConfigMap", rec.ConfigMaps, &out.ConfigMaps},
		{"others", "", "", rec.Others, &out.Others},
	} {
		if *list.out, err = checkedList(list.in, list.apiVersion, list.kind, vm.Metadata.Namespace); err != nil {
			return nil, fmt.Errorf("%s%w", list.field, err)
		}
	}
	if err := checkVolumes(out.Backup.Status.Volumes); err != nil {
		return nil, err
	}
	return &out, nil
}

func checkedManifest(raw json.RawMessage) (*Manifest, json.RawMessage, error) {
	m, err := ParseManifest(raw)
	if err != nil {
		return nil, nil, err
	}
	clean, err := m.JSON()
	return m, clean, err
}

// checkedList sanitizes manifests of one kind. An empty kind stands for the kinds
// that a virtual machine may refer to.
func checkedList(manifests []json.RawMessage, apiVersion, kind, namespace string) ([]json.RawMessage, error) {
	if len(manifests) == 0 {
		return nil, nil
	}
	clean := make([]json.RawMessage, 0, len(manifests))
	seen := map[string]bool{}
	for i, raw := range manifests {
		m, out, err := checkedManifest(raw)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		switch {
		case kind == "" && !mayRefer(m):
			return nil, fmt.Errorf("[%d]: %s %s is nothing that a virtual machine refers to", i, m.APIVersion, m.Kind)
		case kind != "" && (m.APIVersion != apiVersion || m.Kind != kind):
			return nil, fmt.Errorf("[%d]: %s %s is no %s", i, m.APIVersion, m.Kind, kind)
		case kind != "" && m.Metadata.Namespace != namespace:
			return nil, fmt.Errorf("[%d]: %s %q is in namespace %q, not in the virtual machine's %q", i, kind, m.Metadata.Name, m.Metadata.Namespace, namespace)
		}
		id := m.Group() + "/" + m.Kind + "/" + m.Metadata.Namespace + "/" + m.Metadata.Name
		if seen[id] {
			return nil, fmt.Errorf("[%d]: %s %q is there twice", i, m.Kind, m.Metadata.Name)
		}
		seen[id] = true
		clean = append(clean, out)
	}
	return clean, nil
}

// mayRefer lists the kinds of Record.Others. What a virtual machine does not
// refer to, roles and webhooks before all, has no place in a backup: a restore
// creates what the record holds with the rights of whoever runs it.
func mayRefer(m *Manifest) bool {
	switch m.Group() + "/" + m.Kind {
	case "instancetype.kubevirt.io/VirtualMachineInstancetype",
		"instancetype.kubevirt.io/VirtualMachineClusterInstancetype",
		"instancetype.kubevirt.io/VirtualMachinePreference",
		"instancetype.kubevirt.io/VirtualMachineClusterPreference",
		"apps/ControllerRevision",
		"cdi.kubevirt.io/DataVolume",
		"k8s.cni.cncf.io/NetworkAttachmentDefinition",
		"harvesterhci.io/KeyPair",
		"harvesterhci.io/VirtualMachineImage",
		"storage.k8s.io/StorageClass",
		"/ServiceAccount",
		"/PersistentVolume":
		return true
	}
	return false
}

// checkVolumes looks at the names that become paths in the backup store and
// snapshot handles. A volume of a running backup may lack any of them.
func checkVolumes(volumes []vmbackup.BackupVolume) error {
	seen := map[string]bool{}
	for i, v := range volumes {
		var field, value string
		switch {
		case !IsStoreName(v.Name) || seen[v.Name]:
			field, value = "name", v.Name
		case !isName(v.PVC):
			field, value = "pvc", v.PVC
		case v.StorageClass != "" && !isName(v.StorageClass):
			field, value = "storageClass", v.StorageClass
		case v.VolumeSnapshot != "" && !isName(v.VolumeSnapshot):
			field, value = "volumeSnapshot", v.VolumeSnapshot
		case v.LonghornVolume != "" && !IsStoreName(v.LonghornVolume):
			field, value = "longhornVolume", v.LonghornVolume
		case v.LonghornBackup != "" && !IsStoreName(v.LonghornBackup):
			field, value = "longhornBackup", v.LonghornBackup
		case v.SnapshotHandle != "" && !handleFits(v):
			field, value = "snapshotHandle", v.SnapshotHandle
		case v.SizeBytes < 0:
			field, value = "sizeBytes", fmt.Sprint(v.SizeBytes)
		case v.Progress < 0 || v.Progress > 100:
			field, value = "progress", fmt.Sprint(v.Progress)
		default:
			seen[v.Name] = true
			continue
		}
		return fmt.Errorf("backup.status.volumes[%d].%s %q is not valid", i, field, value)
	}
	return nil
}

// handleFits reports whether the volume's snapshot handle is one of Longhorn's
// and names the volume and the backup that the other fields name.
func handleFits(v vmbackup.BackupVolume) bool {
	scheme, rest, found := strings.Cut(v.SnapshotHandle, "://")
	volume, snapshot, two := strings.Cut(rest, "/")
	if !found || !two || !IsStoreName(volume) || !IsStoreName(snapshot) {
		return false
	}
	if v.LonghornVolume != "" && volume != v.LonghornVolume {
		return false
	}
	switch scheme {
	case "bak":
		return v.LonghornBackup == "" || snapshot == v.LonghornBackup
	case "snap":
		return true
	}
	return false
}

// BackupHandle is Longhorn's CSI snapshot handle of a backup on the target.
func BackupHandle(longhornVolume, longhornBackup string) string {
	return "bak://" + longhornVolume + "/" + longhornBackup
}

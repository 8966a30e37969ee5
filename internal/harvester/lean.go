// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Lean is the backup with what its view needs and nothing else: no machine, no values
// of secrets. The view of it is the same.
func (b *VirtualMachineBackup) Lean() *VirtualMachineBackup {
	lean := *b
	lean.ManagedFields = nil
	if source := b.Status.SourceSpec; source != nil {
		lean.Status.SourceSpec = &SourceSpec{
			ObjectMeta: metav1.ObjectMeta{Name: source.ObjectMeta.Name, Labels: source.ObjectMeta.Labels},
			Spec:       narrowed(source.Spec, &machineVolumes{}),
		}
	}
	lean.Status.VolumeBackups = make([]VolumeBackup, len(b.Status.VolumeBackups))
	for i, v := range b.Status.VolumeBackups {
		claim := v.PersistentVolumeClaim
		v.PersistentVolumeClaim = SourceSpec{
			ObjectMeta: metav1.ObjectMeta{Name: claim.ObjectMeta.Name, Namespace: claim.ObjectMeta.Namespace},
			Spec:       narrowed(claim.Spec, &claimNames{}),
		}
		lean.Status.VolumeBackups[i] = v
	}
	lean.Status.SecretBackups = make([]SecretBackup, len(b.Status.SecretBackups))
	for i, s := range b.Status.SecretBackups {
		keys := make(map[string][]byte, len(s.Data))
		for key := range s.Data {
			keys[key] = nil
		}
		lean.Status.SecretBackups[i] = SecretBackup{Name: s.Name, Data: keys}
	}
	return &lean
}

// narrowed keeps of JSON what shape has fields for; JSON of another shape is kept.
func narrowed(raw json.RawMessage, shape any) json.RawMessage {
	if json.Unmarshal(raw, shape) != nil {
		return raw
	}
	small, err := json.Marshal(shape)
	if err != nil {
		return raw
	}
	return small
}

// machineVolumes is the part of a machine that orders its volumes.
type machineVolumes struct {
	Template struct {
		Spec struct {
			Volumes []struct {
				Name string `json:"name"`
			} `json:"volumes"`
		} `json:"spec"`
	} `json:"template"`
}

// claimNames is the part of a claim that a view shows.
type claimNames struct {
	VolumeName       string  `json:"volumeName,omitempty"`
	StorageClassName *string `json:"storageClassName,omitempty"`
}

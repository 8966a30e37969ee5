// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DeletionPolicy says what becomes of the volumes that a restore in place replaces.
type DeletionPolicy string

// Deletion policies.
const (
	// PolicyDelete deletes them. It is what an empty policy means.
	PolicyDelete DeletionPolicy = "delete"
	// PolicyRetain keeps them.
	PolicyRetain DeletionPolicy = "retain"
)

// VirtualMachineRestore is one restore of a backup, to a new machine or in place.
// Once the machine is there, it owns the restore.
type VirtualMachineRestore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineRestoreSpec   `json:"spec"`
	Status VirtualMachineRestoreStatus `json:"status,omitempty"`
}

// VirtualMachineRestoreSpec says what is restored to where. It cannot be changed.
type VirtualMachineRestoreSpec struct {
	// Target is a VirtualMachine of kubevirt.io in the restore's own namespace.
	Target                        corev1.TypedLocalObjectReference `json:"target"`
	VirtualMachineBackupName      string                           `json:"virtualMachineBackupName"`
	VirtualMachineBackupNamespace string                           `json:"virtualMachineBackupNamespace"`
	// NewVM makes a machine; without it the target is replaced in place.
	NewVM bool `json:"newVM,omitempty"`
	// DeletionPolicy is for a restore in place; empty means PolicyDelete.
	DeletionPolicy DeletionPolicy `json:"deletionPolicy,omitempty"`
	// KeepMacAddress is for a new machine; in place the addresses stay anyway.
	KeepMacAddress bool `json:"keepMacAddress,omitempty"`
	// HaltAfterRestore leaves the machine off. Harvester has it from 1.9 on; before,
	// its API server drops the field.
	HaltAfterRestore bool `json:"haltAfterRestore,omitempty"`
}

// VirtualMachineRestoreStatus is how far Harvester's controller has come.
type VirtualMachineRestoreStatus struct {
	VolumeRestores []VolumeRestore `json:"restores,omitempty"`
	RestoreTime    *metav1.Time    `json:"restoreTime,omitempty"`
	// DeletedVolumes are the claims that a restore in place replaces. With
	// PolicyDelete and none of them Harvester waits for ever.
	DeletedVolumes []string `json:"deletedVolumes,omitempty"`
	// Complete is false from the start and true after the machine was seen running.
	Complete   *bool       `json:"complete,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
	// TargetUID is the machine's, once it exists.
	TargetUID *types.UID `json:"targetUID,omitempty"`
	// Progress is in percent; it stays at 90 until the machine starts.
	Progress int `json:"progress,omitempty"`
}

// VolumeRestore is one volume of a restore.
type VolumeRestore struct {
	// VolumeName is the volume's in the machine.
	VolumeName string `json:"volumeName,omitempty"`
	// PersistentVolumeClaim is the new one.
	PersistentVolumeClaim SourceSpec `json:"persistentVolumeClaimSpec,omitempty"`
	VolumeBackupName      string     `json:"volumeBackupName,omitempty"`
	LonghornEngineName    *string    `json:"longhornEngineName,omitempty"`
	// Progress is in percent.
	Progress int `json:"progress,omitempty"`
	// VolumeSize is in bytes.
	VolumeSize int64 `json:"volumeSize,omitempty"`
}

// VirtualMachineRestoreList is a list of them.
type VirtualMachineRestoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []VirtualMachineRestore `json:"items"`
}

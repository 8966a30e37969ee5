// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Conditions of a VirtualMachineImage.
const (
	ConditionInitialized = "Initialized"
	// ConditionImported is Unknown while the image comes in, and True once one
	// replica of it is ready.
	ConditionImported            = "Imported"
	ConditionRetryLimitExceeded  = "RetryLimitExceeded"
	ConditionBackingImageMissing = "BackingImageMissing"
)

// VirtualMachineImage is an image from which disks of machines are made.
type VirtualMachineImage struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineImageSpec   `json:"spec"`
	Status VirtualMachineImageStatus `json:"status,omitempty"`
}

// VirtualMachineImageSpec says where an image comes from.
type VirtualMachineImageSpec struct {
	// Backend is backingimage (the default) or cdi.
	Backend     string `json:"backend,omitempty"`
	Description string `json:"description,omitempty"`
	DisplayName string `json:"displayName"`
	// SourceType is download, upload, export-from-volume, restore or clone.
	SourceType   string `json:"sourceType"`
	PVCName      string `json:"pvcName,omitempty"`
	PVCNamespace string `json:"pvcNamespace,omitempty"`
	// URL is of the download, or of the image's backup (?backingImage=NAME).
	URL                    string            `json:"url,omitempty"`
	Checksum               string            `json:"checksum,omitempty"`
	StorageClassParameters map[string]string `json:"storageClassParameters,omitempty"`
	// Retry is how often a failed import is tried again.
	Retry                  *int                `json:"retry,omitempty"`
	SecurityParameters     *SecurityParameters `json:"securityParameters,omitempty"`
	TargetStorageClassName string              `json:"targetStorageClassName,omitempty"`
}

// SecurityParameters say from which image an encrypted or decrypted one is made.
type SecurityParameters struct {
	// CryptoOperation is encrypt or decrypt.
	CryptoOperation      string `json:"cryptoOperation"`
	SourceImageName      string `json:"sourceImageName"`
	SourceImageNamespace string `json:"sourceImageNamespace"`
}

// VirtualMachineImageStatus is how far the import has come.
type VirtualMachineImageStatus struct {
	AppliedURL string `json:"appliedUrl,omitempty"`
	// Progress is in percent; 99 until a replica is ready.
	Progress int `json:"progress,omitempty"`
	// Size and VirtualSize are in bytes.
	Size        int64 `json:"size,omitempty"`
	VirtualSize int64 `json:"virtualSize,omitempty"`
	// StorageClassName is the class of disks from this image: never compute it.
	StorageClassName       string        `json:"storageClassName,omitempty"`
	BackupTarget           *BackupTarget `json:"backupTarget,omitempty"`
	Failed                 int           `json:"failed,omitempty"`
	LastFailedTime         string        `json:"lastFailedTime,omitempty"`
	Conditions             []Condition   `json:"conditions,omitempty"`
	TargetStorageClassName string        `json:"targetStorageClassName,omitempty"`
}

// VirtualMachineImageList is a list of them.
type VirtualMachineImageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []VirtualMachineImage `json:"items"`
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Conditions of a VirtualMachineBackup and of a VirtualMachineRestore.
const (
	// ConditionReady becomes True when every VolumeSnapshot is ready to use; the
	// metadata may not be on the target yet.
	ConditionReady = "Ready"
	// ConditionInProgress is False with reason Error while Harvester waits to try again.
	ConditionInProgress = "InProgress"
	// ConditionMetadataReady says that the description is on the backup target.
	// Harvester sets it also when a Longhorn backup is not named in it yet.
	ConditionMetadataReady = "MetadataReady"
)

// BackupType says where the data of a backup goes.
type BackupType string

// Types of a VirtualMachineBackup.
const (
	// TypeBackup goes to the backup target.
	TypeBackup BackupType = "backup"
	// TypeSnapshot stays on the volumes' own replicas.
	TypeSnapshot BackupType = "snapshot"
)

// VirtualMachineBackup is one backup or snapshot of a machine.
type VirtualMachineBackup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VirtualMachineBackupSpec   `json:"spec"`
	Status VirtualMachineBackupStatus `json:"status,omitempty"`
}

// VirtualMachineBackupSpec says what is backed up.
type VirtualMachineBackupSpec struct {
	// Source is a VirtualMachine of kubevirt.io in the backup's own namespace.
	Source corev1.TypedLocalObjectReference `json:"source"`
	// Type is TypeBackup when it is empty.
	Type BackupType `json:"type,omitempty"`
}

// VirtualMachineBackupStatus is what Harvester's controllers found and did.
type VirtualMachineBackupStatus struct {
	// SourceUID is empty in a backup that was discovered on the target.
	SourceUID    *types.UID   `json:"sourceUID,omitempty"`
	CreationTime *metav1.Time `json:"creationTime,omitempty"`
	// BackupTarget is the one that was set when the backup was made.
	BackupTarget *BackupTarget `json:"backupTarget,omitempty"`
	// CSIDriverVolumeSnapshotClassNames maps a CSI driver to its VolumeSnapshotClass.
	CSIDriverVolumeSnapshotClassNames map[string]string `json:"csiDriverVolumeSnapshotClassNames,omitempty"`
	// SourceSpec is the machine as it was.
	SourceSpec *SourceSpec `json:"source,omitempty"`
	// VolumeBackups are in no particular order.
	VolumeBackups []VolumeBackup `json:"volumeBackups,omitempty"`
	SecretBackups []SecretBackup `json:"secretBackups,omitempty"`
	// Progress is in percent, of the uploads.
	Progress int `json:"progress,omitempty"`
	// ReadyToUse stays true in Harvester 1.8 when a backup becomes not ready again:
	// the condition Ready is what counts.
	ReadyToUse *bool `json:"readyToUse,omitempty"`
	// Error stays after a retry has succeeded, until the backup is ready.
	Error      *Error      `json:"error,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
}

// BackupTarget is where a backup lies, without credentials.
type BackupTarget struct {
	Endpoint     string `json:"endpoint,omitempty"`
	BucketName   string `json:"bucketName,omitempty"`
	BucketRegion string `json:"bucketRegion,omitempty"`
}

// SourceSpec is an object with the part of its metadata that is backed up.
type SourceSpec struct {
	// ObjectMeta has name, namespace, labels and annotations.
	ObjectMeta metav1.ObjectMeta `json:"metadata,omitempty"`
	// Spec is the object's, as it was.
	Spec json.RawMessage `json:"spec,omitempty"`
}

// VolumeBackup is the backup of one volume.
type VolumeBackup struct {
	// Name is that of the VolumeSnapshot too: <backup>-volume-<claim>.
	Name *string `json:"name,omitempty"`
	// VolumeName is the volume's in the machine.
	VolumeName            string       `json:"volumeName"`
	CSIDriverName         string       `json:"csiDriverName"`
	CreationTime          *metav1.Time `json:"creationTime,omitempty"`
	PersistentVolumeClaim SourceSpec   `json:"persistentVolumeClaim"`
	// LonghornBackupName is missing until Harvester has seen Longhorn's Backup,
	// and in a snapshot.
	LonghornBackupName *string `json:"longhornBackupName,omitempty"`
	// VolumeSize is in bytes.
	VolumeSize int64 `json:"volumeSize,omitempty"`
	// Progress is in percent.
	Progress   int    `json:"progress,omitempty"`
	ReadyToUse *bool  `json:"readyToUse,omitempty"`
	Error      *Error `json:"error,omitempty"`
}

// SecretBackup is a Secret that the machine refers to, with its values.
type SecretBackup struct {
	Name string            `json:"name"`
	Data map[string][]byte `json:"data,omitempty"`
}

// Error is the last one that a controller met.
type Error struct {
	Time    *metav1.Time `json:"time,omitempty"`
	Message *string      `json:"message,omitempty"`
}

// Condition is Harvester's: its times are RFC 3339 in strings.
type Condition struct {
	Type               string                 `json:"type"`
	Status             corev1.ConditionStatus `json:"status"`
	LastUpdateTime     string                 `json:"lastUpdateTime,omitempty"`
	LastTransitionTime string                 `json:"lastTransitionTime,omitempty"`
	Reason             string                 `json:"reason,omitempty"`
	Message            string                 `json:"message,omitempty"`
}

// VirtualMachineBackupList is a list of them.
type VirtualMachineBackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []VirtualMachineBackup `json:"items"`
}

// FindCondition returns the condition of a type; false when it is not there.
func FindCondition(conditions []Condition, kind string) (Condition, bool) {
	for _, c := range conditions {
		if c.Type == kind {
			return c, true
		}
	}
	return Condition{}, false
}

// Text is the message of an error; empty when there is none.
func (e *Error) Text() string {
	if e == nil || e.Message == nil {
		return ""
	}
	return *e.Message
}

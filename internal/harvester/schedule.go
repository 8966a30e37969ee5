// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConditionBackupSuspend of a ScheduleVMBackup says why it is suspended.
const ConditionBackupSuspend = "BackupSuspend"

// What a scheduled VirtualMachineBackup carries.
const (
	// ScheduleAnnotation is the schedule that made it, namespace/name.
	ScheduleAnnotation = "harvesterhci.io/svmbackupId"
	// ScheduleUIDLabel is the schedule's UID.
	ScheduleUIDLabel = "harvesterhci.io/svmbackupUID"
	// ScheduleTimeLabel is when it was due: YYYYMMDD.HHMM.
	ScheduleTimeLabel = "harvesterhci.io/svmbackupTimestamp"
)

// ScheduleVMBackup backs a machine up by the clock.
type ScheduleVMBackup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ScheduleVMBackupSpec   `json:"spec"`
	Status ScheduleVMBackupStatus `json:"status,omitempty"`
}

// ScheduleVMBackupSpec says when, and how many backups stay.
type ScheduleVMBackupSpec struct {
	// Cron is in the time zone of kube-controller-manager, as a CronJob's; Harvester
	// refuses one that is due more than once an hour.
	Cron string `json:"cron"`
	// Retain is how many backups stay, 2 to 250.
	Retain int `json:"retain"`
	// MaxFailure failures in a row suspend it; at least 2, less than Retain.
	MaxFailure int                      `json:"maxFailure"`
	Suspend    bool                     `json:"suspend,omitempty"`
	VMBackup   VirtualMachineBackupSpec `json:"vmbackup"`
}

// ScheduleVMBackupStatus is what came of it.
type ScheduleVMBackupStatus struct {
	VMBackupInfo []VMBackupInfo `json:"vmbackupInfo,omitempty"`
	// Failure is how many backups failed since the last good one.
	Failure    int         `json:"failure,omitempty"`
	Suspended  bool        `json:"suspended,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
}

// VMBackupInfo is one backup of a schedule.
type VMBackupInfo struct {
	Name             string             `json:"name,omitempty"`
	VolumeBackupInfo []VolumeBackupInfo `json:"volumeBackupInfo,omitempty"`
	ReadyToUse       *bool              `json:"readyToUse,omitempty"`
	Error            *Error             `json:"error,omitempty"`
}

// VolumeBackupInfo is one volume of a backup of a schedule.
type VolumeBackupInfo struct {
	Name       *string `json:"name,omitempty"`
	ReadyToUse *bool   `json:"readyToUse,omitempty"`
	Error      *Error  `json:"error,omitempty"`
}

// ScheduleVMBackupList is a list of them.
type ScheduleVMBackupList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []ScheduleVMBackup `json:"items"`
}

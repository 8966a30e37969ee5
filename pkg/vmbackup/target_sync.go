// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import "time"

// KindTargetSync is the kind of a printed TargetSync.
const KindTargetSync = "TargetSync"

// TargetSync is what came of having the cluster look at a backup target again.
type TargetSync struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Metadata   ObjectMeta         `json:"metadata"`
	Spec       TargetContentsSpec `json:"spec"`
	Status     TargetSyncStatus   `json:"status"`
}

// TargetSyncStatus is what was observed.
type TargetSyncStatus struct {
	// LonghornSyncedAt is when Longhorn has read the target, by its own clock.
	LonghornSyncedAt *time.Time `json:"longhornSyncedAt,omitempty"`
	// HarvesterRefreshedAt is when Harvester has read the descriptions; nil where it
	// does not use the target.
	HarvesterRefreshedAt *time.Time `json:"harvesterRefreshedAt,omitempty"`
	// Holds is what Longhorn lists now.
	Holds TargetHoldings `json:"holds"`
	// Appeared and Disappeared are what the cluster knows since, or knows no more. What
	// has disappeared is not deleted by that: Longhorn and Harvester only list it no more.
	Appeared    []TargetObject `json:"appeared,omitempty"`
	Disappeared []TargetObject `json:"disappeared,omitempty"`
	Warnings    []string       `json:"warnings,omitempty"`
}

// TargetObject is an object of the cluster that stands for something on a target.
type TargetObject struct {
	// Kind is BackupVolume, Backup or BackupBackingImage of Longhorn, or
	// VirtualMachineBackup or VirtualMachineImage of Harvester.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

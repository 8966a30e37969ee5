// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

// Action is what a plan does to an object.
type Action string

// The actions.
const (
	ActionCreate Action = "create"
	ActionUpdate Action = "update"
	ActionDelete Action = "delete"
	ActionUse    Action = "use" // exists already and is left as it is
)

// PlannedObject is one object that a plan touches. Things on the backup target
// have the kind "file" and their path as name.
type PlannedObject struct {
	Action     Action `json:"action"`
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	// Note says why, or what is special.
	Note string `json:"note,omitempty"`
}

// KindFile is the kind of a PlannedObject on the backup target.
const KindFile = "file"

// Comparison sets something of the cluster that a backup comes from beside the same
// of the cluster that it goes to.
type Comparison struct {
	// Subject is what is compared, in words: "Longhorn", "StorageClass".
	Subject string `json:"subject"`
	// Source and Destination are empty where nothing is known.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	// Note says what becomes of a difference.
	Note string `json:"note,omitempty"`
}

// QuotaUse is one resource of a ResourceQuota that a restore takes from. The amounts
// are quantities of Kubernetes ("20Gi", "3").
type QuotaUse struct {
	// Quota is the ResourceQuota's name, Resource what it limits: "requests.storage".
	Quota, Resource   string
	Needs, Used, Hard string
	// Fits says whether what is used and needed is within Hard.
	Fits bool
}

// NetworkUse is a NetworkAttachmentDefinition that a restored machine is on, as
// namespace/name.
type NetworkUse struct {
	// Source is the network at the time of the backup, Destination the one that takes
	// its place: "pod" for the cluster's own.
	Source, Destination string
	// Known is false where this user may not see whether it exists.
	Known bool
}

// BackupPlan is a checked BackupRequest and what it would do.
type BackupPlan struct {
	Request  BackupRequest
	Backup   *Backup
	Objects  []PlannedObject
	Steps    []StepStatus
	Warnings []string
	// State is the engine's own knowledge, carried from plan to start.
	State any
}

// RestorePlan is a checked RestoreRequest and what it would do.
type RestorePlan struct {
	Request RestoreRequest
	// Backup is what is restored, as it was found.
	Backup   *Backup
	Restore  *Restore
	Objects  []PlannedObject
	Steps    []StepStatus
	Warnings []string
	// MACs are the fixed addresses that the machine comes back with.
	MACs []string
	// Networks are those of the machine that the cluster does not have by itself, and
	// those that are mapped.
	Networks []NetworkUse
	// Quotas are what the namespace's ResourceQuotas limit of what the restore makes.
	// They have room for it: a restore without room is refused.
	Quotas []QuotaUse
	// Comparison is of a restore into another cluster than the backup's.
	Comparison []Comparison
	// Note says in a line why this engine does it and not the one that goes first;
	// empty where there is nothing to say.
	Note string
	// State is the engine's own knowledge, carried from plan to start.
	State any
}

// DeletePlan is what deleting a backup removes.
type DeletePlan struct {
	Request DeleteRequest
	Backup  *Backup
	Objects []PlannedObject
	// Bytes is what the removed Longhorn backups uploaded; blocks that other
	// backups share stay, so that less may be freed.
	Bytes int64
	// LastReady is true for the only Ready backup that is known of its machine.
	LastReady bool
	// OtherReady are the machine's other Ready backups.
	OtherReady []Ref
	Warnings   []string
	// State is the engine's own knowledge, carried from plan to deletion.
	State any
}

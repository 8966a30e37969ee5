// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import "time"

// APIVersion is the version of every object that the tool prints.
const APIVersion = Group + "/v1alpha1"

// Group is the prefix of the tool's labels, annotations and printed objects.
const Group = "vmbackup.io"

// Kinds of printed objects.
const (
	KindBackup  = "Backup"
	KindRestore = "Restore"
	KindPlan    = "Plan"
	KindList    = "List"
)

// Phase is where a Backup or a Restore stands.
type Phase string

// The phases of a Backup and of a Restore.
const (
	PhasePlanned    Phase = "Planned"
	PhaseRunning    Phase = "Running"
	PhaseReady      Phase = "Ready"      // every part was seen where it belongs
	PhaseIncomplete Phase = "Incomplete" // usable in part; the error says what is missing
	PhaseFailed     Phase = "Failed"
	PhaseCanceled   Phase = "Canceled"
	PhaseUnknown    Phase = "Unknown" // could not be observed; says nothing about the data
)

// Done reports whether nothing moves any more.
func (p Phase) Done() bool {
	switch p {
	case PhaseReady, PhaseIncomplete, PhaseFailed, PhaseCanceled:
		return true
	}
	return false
}

// BackupType says where the data of a backup lies.
type BackupType string

// The types of a backup.
const (
	TypeBackup   BackupType = "backup"   // on the backup target, outside the cluster
	TypeSnapshot BackupType = "snapshot" // in the volumes' own replicas, inside the cluster
)

// Quiesce is what is done when the guest's file systems cannot be frozen.
type Quiesce string

// The quiesce policies.
const (
	QuiesceAuto    Quiesce = "auto"    // freeze when the guest agent answers, else go on crash consistent
	QuiesceRequire Quiesce = "require" // fail rather than take a crash-consistent backup
	QuiesceSkip    Quiesce = "skip"    // never freeze
)

// Consistency is what a backup promises of the disks' content.
type Consistency string

// The consistencies.
const (
	ConsistencyApplication Consistency = "application" // file systems frozen while the snapshots were taken
	ConsistencyCrash       Consistency = "crash"       // as after a power cut
	ConsistencyOffline     Consistency = "offline"     // the machine was off
)

// Engine names.
const (
	EngineDirect = "direct"
	// EngineHarvester is Harvester's own controllers.
	EngineHarvester = "harvester"
)

// State is where one part of an operation (a volume, an image, a step) stands.
type State string

// The states of a part.
const (
	StatePending State = "Pending"
	StateRunning State = "Running"
	StateReady   State = "Ready"
	StateFailed  State = "Failed"
	StateUnknown State = "Unknown"
	StateSkipped State = "Skipped"
)

// Ref names a namespaced object.
type Ref struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String is namespace/name.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// ObjectMeta is the part of Kubernetes' object metadata that printed objects carry.
type ObjectMeta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Backup is one backup of one virtual machine, wherever it was found.
type Backup struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   ObjectMeta   `json:"metadata"`
	Spec       BackupSpec   `json:"spec"`
	Status     BackupStatus `json:"status"`
}

// NewBackup returns an empty backup with its kind set.
func NewBackup(ref Ref) *Backup {
	return &Backup{APIVersion: APIVersion, Kind: KindBackup, Metadata: ObjectMeta{Name: ref.Name, Namespace: ref.Namespace}}
}

// Ref is the backup's namespace and name.
func (b *Backup) Ref() Ref { return Ref{Namespace: b.Metadata.Namespace, Name: b.Metadata.Name} }

// BackupSpec is what was asked for.
type BackupSpec struct {
	VM      string     `json:"vm"`
	Type    BackupType `json:"type"`
	Quiesce Quiesce    `json:"quiesce,omitempty"`
	// Target is the name of Longhorn's BackupTarget.
	Target string `json:"target,omitempty"`
}

// BackupStatus is what was observed.
type BackupStatus struct {
	Phase       Phase       `json:"phase"`
	Ready       bool        `json:"ready"`
	Consistency Consistency `json:"consistency,omitempty"`
	// FreezeSeconds is how long the guest's file systems stood still.
	FreezeSeconds float64        `json:"freezeSeconds,omitempty"`
	StartedAt     *time.Time     `json:"startedAt,omitempty"`
	CompletedAt   *time.Time     `json:"completedAt,omitempty"`
	Engine        string         `json:"engine,omitempty"`
	SourceUID     string         `json:"sourceUID,omitempty"` // UID of the virtual machine
	Volumes       []BackupVolume `json:"volumes,omitempty"`
	Secrets       []KeyedObject  `json:"secrets,omitempty"`
	ConfigMaps    []KeyedObject  `json:"configMaps,omitempty"`
	// InstanceType and Preference are held with the content that they had for the
	// machine; these are their names.
	InstanceType string         `json:"instanceType,omitempty"`
	Preference   string         `json:"preference,omitempty"`
	Images       []BackupImage  `json:"images,omitempty"`
	Metadata     MetadataStatus `json:"metadata"`
	// FoundOn says where this view comes from: cluster, target or both.
	FoundOn  string   `json:"foundOn,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Error    *Error   `json:"error,omitempty"`
}

// BackupVolume is one disk of a backup.
type BackupVolume struct {
	// Name is the volume's name in the virtual machine's template.
	Name         string `json:"name"`
	PVC          string `json:"pvc"`
	StorageClass string `json:"storageClass,omitempty"`
	SizeBytes    int64  `json:"sizeBytes"`
	// LonghornVolume is the volume's name in Longhorn and in its backup store.
	LonghornVolume string `json:"longhornVolume,omitempty"`
	// VolumeSnapshot is the CSI snapshot's name in the machine's namespace.
	VolumeSnapshot string `json:"volumeSnapshot,omitempty"`
	// SnapshotHandle is Longhorn's CSI handle: bak://<volume>/<backup> or snap://<volume>/<snapshot>.
	SnapshotHandle string `json:"snapshotHandle,omitempty"`
	LonghornBackup string `json:"longhornBackup,omitempty"`
	State          State  `json:"state"`
	// Progress is 0..100.
	Progress int `json:"progress"`
	// UploadedBytes is what this backup added to the target, after compression.
	UploadedBytes int64 `json:"uploadedBytes,omitempty"`
	// BackupBytes is what the backup's blocks hold.
	BackupBytes int64  `json:"backupBytes,omitempty"`
	Image       string `json:"image,omitempty"`
	// Encrypted is whether Longhorn encrypts the volume; nil when that is not known.
	Encrypted *bool  `json:"encrypted,omitempty"`
	Message   string `json:"message,omitempty"`
}

// KeyedObject is a Secret or ConfigMap by its keys; values are never shown.
type KeyedObject struct {
	Name string   `json:"name"`
	Keys []string `json:"keys,omitempty"`
}

// BackupImage is a backing image that a volume of the backup rests on.
type BackupImage struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Message string `json:"message,omitempty"`
}

// MetadataStatus says where the machine's description lies on the target.
type MetadataStatus struct {
	Path  string `json:"path,omitempty"`
	State State  `json:"state,omitempty"`
}

// Restore is one restore of one backup.
type Restore struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Metadata   ObjectMeta    `json:"metadata"`
	Spec       RestoreSpec   `json:"spec"`
	Status     RestoreStatus `json:"status"`
}

// NewRestore returns an empty restore with its kind set.
func NewRestore(ref Ref) *Restore {
	return &Restore{APIVersion: APIVersion, Kind: KindRestore, Metadata: ObjectMeta{Name: ref.Name, Namespace: ref.Namespace}}
}

// Ref is the restore's namespace and name.
func (r *Restore) Ref() Ref { return Ref{Namespace: r.Metadata.Namespace, Name: r.Metadata.Name} }

// RestoreMode says what a restore does with a machine that exists.
type RestoreMode string

// The modes of a restore.
const (
	ModeNew     RestoreMode = "new"      // makes a new virtual machine and touches no existing one
	ModeInPlace RestoreMode = "in-place" // gives the machine of the backup its disks and specification of then
)

// RestoreSpec is what was asked for.
type RestoreSpec struct {
	// Backup is namespace/name.
	Backup          string      `json:"backup"`
	TargetNamespace string      `json:"targetNamespace"`
	TargetName      string      `json:"targetName"`
	Mode            RestoreMode `json:"mode"`
}

// RestoreStatus is what was observed.
type RestoreStatus struct {
	Phase       Phase           `json:"phase"`
	Ready       bool            `json:"ready"`
	StartedAt   *time.Time      `json:"startedAt,omitempty"`
	CompletedAt *time.Time      `json:"completedAt,omitempty"`
	Engine      string          `json:"engine,omitempty"`
	Steps       []StepStatus    `json:"steps,omitempty"`
	Volumes     []RestoreVolume `json:"volumes,omitempty"`
	// VM is the restored machine, namespace/name, once it exists.
	VM string `json:"vm,omitempty"`
	// OldVolumes are the claims that a restore in place has replaced and kept.
	OldVolumes []string `json:"oldVolumes,omitempty"`
	// Objects is what the restore would create, change and delete: of a dry run only.
	Objects []PlannedObject `json:"objects,omitempty"`
	// Comparison is of the two clusters: of a dry run into another one only.
	Comparison []Comparison `json:"comparison,omitempty"`
	Warnings   []string     `json:"warnings,omitempty"`
	Error      *Error       `json:"error,omitempty"`
}

// StepStatus is one step of an operation.
type StepStatus struct {
	ID       string `json:"id"`
	Title    string `json:"title"`
	State    State  `json:"state"`
	Progress int    `json:"progress,omitempty"`
	Message  string `json:"message,omitempty"`
}

// RestoreVolume is one disk of a restore.
type RestoreVolume struct {
	// Name is the volume's name in the virtual machine's template.
	Name           string `json:"name"`
	SourcePVC      string `json:"sourcePVC"`
	PVC            string `json:"pvc"`
	StorageClass   string `json:"storageClass,omitempty"`
	SizeBytes      int64  `json:"sizeBytes"`
	SnapshotHandle string `json:"snapshotHandle,omitempty"`
	LonghornVolume string `json:"longhornVolume,omitempty"`
	State          State  `json:"state"`
	// Progress is 0..100.
	Progress int    `json:"progress"`
	Message  string `json:"message,omitempty"`
}

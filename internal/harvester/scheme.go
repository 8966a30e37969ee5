// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Group is the API group of Harvester.
const Group = "harvesterhci.io"

// Resources, by which they are asked for and named to the user.
const (
	BackupResource   = "virtualmachinebackups"
	RestoreResource  = "virtualmachinerestores"
	ImageResource    = "virtualmachineimages"
	ScheduleResource = "schedulevmbackups"
	SettingResource  = "settings"
)

// RunStrategyAnnotation of a VirtualMachine is the run strategy that Harvester gives
// it when it is started.
const RunStrategyAnnotation = "harvesterhci.io/vmRunStrategy"

// RecordAnnotation is on a VirtualMachineRestore that the tool has made, and holds
// what the tool must remember of it.
const RecordAnnotation = "vmbackup.io/record"

// Annotations of a restored machine, by which Harvester knows it.
const (
	// RestoreNameAnnotation is the name of the VirtualMachineRestore.
	RestoreNameAnnotation = "restore.harvesterhci.io/name"
	// LastRestoreAnnotation is its name and UID, joined by a dash.
	LastRestoreAnnotation = "restore.harvesterhci.io/last-restore-uid"
	// ClaimTemplatesAnnotation lists the machine's claims as JSON.
	ClaimTemplatesAnnotation = "harvesterhci.io/volumeClaimTemplates"
)

// What the tool notes on a VirtualMachineBackup that it makes, for what the object
// cannot say.
const (
	// AnnotationOperation is the token of the operation. An object without it was not
	// made by the tool.
	AnnotationOperation = vmbackup.Group + "/operation"
	// AnnotationVersion is the version of the tool.
	AnnotationVersion = vmbackup.Group + "/version"
	// AnnotationQuiesce is the quiesce policy that was asked for.
	AnnotationQuiesce = vmbackup.Group + "/quiesce"
	// AnnotationConsistency is what the backup promises of the disks' content.
	AnnotationConsistency = vmbackup.Group + "/consistency"
)

// Kinds, for references between objects.
const (
	BackupKind  = "VirtualMachineBackup"
	RestoreKind = "VirtualMachineRestore"
)

// GroupVersion is the one version that Harvester serves.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: Group, Version: "v1beta1"}
}

// newScheme knows the kinds of this package.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	gv := GroupVersion()
	scheme.AddKnownTypes(gv,
		&VirtualMachineBackup{}, &VirtualMachineBackupList{},
		&VirtualMachineRestore{}, &VirtualMachineRestoreList{},
		&VirtualMachineImage{}, &VirtualMachineImageList{},
		&ScheduleVMBackup{}, &ScheduleVMBackupList{},
		&Setting{}, &SettingList{},
	)
	metav1.AddToGroupVersion(scheme, gv)
	return scheme
}

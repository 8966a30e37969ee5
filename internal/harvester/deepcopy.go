// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeepCopyObject implements runtime.Object.
func (b *VirtualMachineBackup) DeepCopyObject() runtime.Object {
	c := *b
	b.DeepCopyInto(&c.ObjectMeta)
	c.Spec = b.Spec.copied()
	s := &c.Status
	s.SourceUID = pointer(s.SourceUID)
	s.CreationTime = s.CreationTime.DeepCopy()
	s.BackupTarget = pointer(s.BackupTarget)
	s.CSIDriverVolumeSnapshotClassNames = maps.Clone(s.CSIDriverVolumeSnapshotClassNames)
	if s.SourceSpec != nil {
		source := s.SourceSpec.copied()
		s.SourceSpec = &source
	}
	s.VolumeBackups = each(s.VolumeBackups, VolumeBackup.copied)
	s.SecretBackups = each(s.SecretBackups, SecretBackup.copied)
	s.ReadyToUse = pointer(s.ReadyToUse)
	s.Error = s.Error.copied()
	s.Conditions = slices.Clone(s.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (r *VirtualMachineRestore) DeepCopyObject() runtime.Object {
	c := *r
	r.DeepCopyInto(&c.ObjectMeta)
	c.Spec.Target.APIGroup = pointer(r.Spec.Target.APIGroup)
	s := &c.Status
	s.VolumeRestores = each(s.VolumeRestores, VolumeRestore.copied)
	s.RestoreTime = s.RestoreTime.DeepCopy()
	s.DeletedVolumes = slices.Clone(s.DeletedVolumes)
	s.Complete = pointer(s.Complete)
	s.Conditions = slices.Clone(s.Conditions)
	s.TargetUID = pointer(s.TargetUID)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (o *VirtualMachineImage) DeepCopyObject() runtime.Object {
	c := *o
	o.DeepCopyInto(&c.ObjectMeta)
	c.Spec.StorageClassParameters = maps.Clone(o.Spec.StorageClassParameters)
	c.Spec.Retry = pointer(o.Spec.Retry)
	c.Spec.SecurityParameters = pointer(o.Spec.SecurityParameters)
	c.Status.BackupTarget = pointer(o.Status.BackupTarget)
	c.Status.Conditions = slices.Clone(o.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (o *ScheduleVMBackup) DeepCopyObject() runtime.Object {
	c := *o
	o.DeepCopyInto(&c.ObjectMeta)
	c.Spec.VMBackup = o.Spec.VMBackup.copied()
	c.Status.VMBackupInfo = each(o.Status.VMBackupInfo, VMBackupInfo.copied)
	c.Status.Conditions = slices.Clone(o.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (s *Setting) DeepCopyObject() runtime.Object {
	c := *s
	s.DeepCopyInto(&c.ObjectMeta)
	c.Status.Conditions = slices.Clone(s.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *VirtualMachineBackupList) DeepCopyObject() runtime.Object {
	c := &VirtualMachineBackupList{TypeMeta: l.TypeMeta, Items: items(l.Items)}
	l.DeepCopyInto(&c.ListMeta)
	return c
}

// DeepCopyObject implements runtime.Object.
func (l *VirtualMachineRestoreList) DeepCopyObject() runtime.Object {
	c := &VirtualMachineRestoreList{TypeMeta: l.TypeMeta, Items: items(l.Items)}
	l.DeepCopyInto(&c.ListMeta)
	return c
}

// DeepCopyObject implements runtime.Object.
func (l *VirtualMachineImageList) DeepCopyObject() runtime.Object {
	c := &VirtualMachineImageList{TypeMeta: l.TypeMeta, Items: items(l.Items)}
	l.DeepCopyInto(&c.ListMeta)
	return c
}

// DeepCopyObject implements runtime.Object.
func (l *ScheduleVMBackupList) DeepCopyObject() runtime.Object {
	c := &ScheduleVMBackupList{TypeMeta: l.TypeMeta, Items: items(l.Items)}
	l.DeepCopyInto(&c.ListMeta)
	return c
}

// DeepCopyObject implements runtime.Object.
func (l *SettingList) DeepCopyObject() runtime.Object {
	c := &SettingList{TypeMeta: l.TypeMeta, Items: items(l.Items)}
	l.DeepCopyInto(&c.ListMeta)
	return c
}

func (s VirtualMachineBackupSpec) copied() VirtualMachineBackupSpec {
	s.Source.APIGroup = pointer(s.Source.APIGroup)
	return s
}

func (s SourceSpec) copied() SourceSpec {
	var m metav1.ObjectMeta
	s.ObjectMeta.DeepCopyInto(&m)
	return SourceSpec{ObjectMeta: m, Spec: slices.Clone(s.Spec)}
}

func (b VolumeBackup) copied() VolumeBackup {
	b.Name = pointer(b.Name)
	b.CreationTime = b.CreationTime.DeepCopy()
	b.PersistentVolumeClaim = b.PersistentVolumeClaim.copied()
	b.LonghornBackupName = pointer(b.LonghornBackupName)
	b.ReadyToUse = pointer(b.ReadyToUse)
	b.Error = b.Error.copied()
	return b
}

func (s SecretBackup) copied() SecretBackup {
	s.Data = maps.Clone(s.Data)
	for key, value := range s.Data {
		s.Data[key] = slices.Clone(value)
	}
	return s
}

func (v VolumeRestore) copied() VolumeRestore {
	v.PersistentVolumeClaim = v.PersistentVolumeClaim.copied()
	v.LonghornEngineName = pointer(v.LonghornEngineName)
	return v
}

func (i VMBackupInfo) copied() VMBackupInfo {
	i.VolumeBackupInfo = each(i.VolumeBackupInfo, VolumeBackupInfo.copied)
	i.ReadyToUse = pointer(i.ReadyToUse)
	i.Error = i.Error.copied()
	return i
}

func (i VolumeBackupInfo) copied() VolumeBackupInfo {
	i.Name = pointer(i.Name)
	i.ReadyToUse = pointer(i.ReadyToUse)
	i.Error = i.Error.copied()
	return i
}

func (e *Error) copied() *Error {
	if e == nil {
		return nil
	}
	return &Error{Time: e.Time.DeepCopy(), Message: pointer(e.Message)}
}

// pointer copies what p points at, which has no pointers itself.
func pointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// each copies a slice by its elements.
func each[T any](list []T, copied func(T) T) []T {
	if list == nil {
		return nil
	}
	c := make([]T, len(list))
	for i := range list {
		c[i] = copied(list[i])
	}
	return c
}

// items copies the objects of a list.
func items[T any, P interface {
	*T
	runtime.Object
}](list []T) []T {
	if list == nil {
		return nil
	}
	c := make([]T, len(list))
	for i := range list {
		object, _ := P(&list[i]).DeepCopyObject().(P)
		c[i] = *object
	}
	return c
}

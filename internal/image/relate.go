// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"slices"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// relate fills in the StorageClass, the users and the backup. own is the name of
// the image's own class where somebody has recorded it.
func (inv *inventory) relate(view *vmbackup.Image, own string) {
	s := &view.Status
	if s.BackingImage != "" {
		s.StorageClass, s.Users.StorageClasses = inv.classesOf(view, own)
	} else {
		s.StorageClass = own
	}
	inv.users(view)
	for _, kind := range []string{kindClasses, kindVolumes, kindClaims, kindMachines} {
		if !inv.sees(kind) {
			s.Users.Unseen = append(s.Users.Unseen, kind)
		}
	}
	s.Backup = inv.backupOf(s.BackingImage)
}

// classesOf finds the image's own StorageClass, and the others that name it.
func (inv *inventory) classesOf(view *vmbackup.Image, own string) (name string, others []string) {
	for n := range inv.classes {
		c := &inv.classes[n]
		if c.Provisioner == Driver && c.Parameters[parameterImage] == view.Status.BackingImage {
			others = append(others, c.Name)
		}
	}
	slices.Sort(others)
	// Harvester's record, what this tool has made for it, and the usual name, in this order.
	for _, is := range []func(string) bool{
		func(name string) bool { return name == own },
		func(name string) bool { return inv.madeFor(name) == view.Ref().String() },
		func(name string) bool { return name == ClassName(view.Metadata.Name) },
	} {
		if at := slices.IndexFunc(others, is); at >= 0 {
			name = others[at]
			return name, slices.Delete(others, at, at+1)
		}
	}
	if !inv.sees(kindClasses) {
		return own, nil
	}
	return "", others
}

// madeFor is the image that a StorageClass was made for by this tool.
func (inv *inventory) madeFor(class string) string {
	for n := range inv.classes {
		if inv.classes[n].Name == class {
			return inv.classes[n].Annotations[AnnotationImage]
		}
	}
	return ""
}

// ClassName is the usual name of the StorageClass of an image.
func ClassName(image string) string { return "longhorn-" + image }

// users finds the volumes on the image, their claims and the machines that have them.
func (inv *inventory) users(view *vmbackup.Image) {
	u, name := &view.Status.Users, view.Status.BackingImage
	if name == "" {
		return
	}
	claims := map[string]bool{}
	for n := range inv.volumes {
		v := &inv.volumes[n]
		if v.Spec.BackingImage != name {
			continue
		}
		u.Volumes = append(u.Volumes, v.Name)
		// A claim that is gone is named with the time at which it went.
		if k := v.Status.KubernetesStatus; k.PVCName != "" && k.LastPVCRefAt == "" {
			claims[k.Namespace+"/"+k.PVCName] = true
		}
	}
	for n := range inv.claims {
		c := &inv.claims[n]
		if c.Spec.StorageClassName != nil && inv.imageOfClass(*c.Spec.StorageClassName) == name {
			claims[c.Namespace+"/"+c.Name] = true
		}
	}
	for n := range inv.machines {
		if vm := &inv.machines[n]; inv.rests(vm, name, claims) {
			u.Machines = append(u.Machines, vm.Namespace+"/"+vm.Name)
		}
	}
	for claim := range claims {
		u.Claims = append(u.Claims, claim)
	}
	slices.Sort(u.Volumes)
	slices.Sort(u.Claims)
	slices.Sort(u.Machines)
}

// imageOfClass is the backing image that a StorageClass makes volumes of.
func (inv *inventory) imageOfClass(class string) string {
	for n := range inv.classes {
		if c := &inv.classes[n]; c.Name == class && c.Provisioner == Driver {
			return c.Parameters[parameterImage]
		}
	}
	return ""
}

// rests reports whether a machine has, or will have, a disk on the image.
func (inv *inventory) rests(vm *kubevirtv1.VirtualMachine, image string, claims map[string]bool) bool {
	for i := range vm.Spec.DataVolumeTemplates {
		t := &vm.Spec.DataVolumeTemplates[i]
		for _, class := range []*string{classOfPVC(t), classOfStorage(t)} {
			if class != nil && inv.imageOfClass(*class) == image {
				return true
			}
		}
	}
	if vm.Spec.Template == nil {
		return false
	}
	return slices.ContainsFunc(vm.Spec.Template.Spec.Volumes, func(v kubevirtv1.Volume) bool {
		switch {
		case v.PersistentVolumeClaim != nil:
			return claims[vm.Namespace+"/"+v.PersistentVolumeClaim.ClaimName]
		case v.DataVolume != nil:
			return claims[vm.Namespace+"/"+v.DataVolume.Name]
		}
		return false
	})
}

func classOfPVC(t *kubevirtv1.DataVolumeTemplateSpec) *string {
	if t.Spec.PVC == nil {
		return nil
	}
	return t.Spec.PVC.StorageClassName
}

func classOfStorage(t *kubevirtv1.DataVolumeTemplateSpec) *string {
	if t.Spec.Storage == nil {
		return nil
	}
	return t.Spec.Storage.StorageClassName
}

// backupOf is the backup of a backing image. Of those on several targets, one that
// is whole counts before others.
func (inv *inventory) backupOf(image string) vmbackup.ImageBackup {
	if !inv.sees(kindImageBackups) {
		return vmbackup.ImageBackup{State: vmbackup.StateUnknown}
	}
	var best vmbackup.ImageBackup
	for n := range inv.backups {
		b := &inv.backups[n]
		if image == "" || Of(b) != image {
			continue
		}
		if view := viewOfBackup(b); best.State == "" || view.State == vmbackup.StateReady && best.State != vmbackup.StateReady {
			best = view
		}
	}
	return best
}

// Of is the backing image that a BackupBackingImage is of. After Longhorn has read
// it from the target only its status is sure to say so.
func Of(b *longhornv1.BackupBackingImage) string {
	if b.Status.BackingImage != "" {
		return b.Status.BackingImage
	}
	return b.Spec.BackingImage
}

func viewOfBackup(b *longhornv1.BackupBackingImage) vmbackup.ImageBackup {
	view := vmbackup.ImageBackup{
		Target: b.Spec.BackupTargetName, Progress: b.Status.Progress, SizeBytes: b.Status.Size,
		URL: b.Status.URL, Checksum: b.Status.Checksum,
	}
	if t, err := time.Parse(time.RFC3339, b.Status.BackupCreatedAt); err == nil {
		view.CompletedAt = timeOf(t)
	}
	switch b.Status.State {
	case longhornv1.BackupStateCompleted:
		view.State, view.Progress = vmbackup.StateReady, 100
	case longhornv1.BackupStateError:
		view.State, view.Message = vmbackup.StateFailed, kube.Brief(b.Status.Error)
	case longhornv1.BackupStateUnknown:
		view.State = vmbackup.StateUnknown
	case longhornv1.BackupStateNew, longhornv1.BackupStatePending:
		view.State = vmbackup.StatePending
	default:
		view.State = vmbackup.StateRunning
	}
	return view
}

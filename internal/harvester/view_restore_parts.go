// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// volume is one volume of the restore.
func (r *VirtualMachineRestore) volume(from *VolumeRestore, e RestoreEvidence) vmbackup.RestoreVolume {
	var claim struct {
		StorageClassName *string `json:"storageClassName"`
		Resources        struct {
			Requests corev1.ResourceList `json:"requests"`
		} `json:"resources"`
	}
	// A claim that is no claim has no such fields.
	_ = json.Unmarshal(from.PersistentVolumeClaim.Spec, &claim)
	v := vmbackup.RestoreVolume{
		Name: from.VolumeName, PVC: from.PersistentVolumeClaim.ObjectMeta.Name, StorageClass: text(claim.StorageClassName),
		SourcePVC: strings.TrimPrefix(from.VolumeBackupName, r.Spec.VirtualMachineBackupName+"-volume-"),
		SizeBytes: cmp.Or(from.VolumeSize, claim.Resources.Requests.Storage().Value()), Progress: from.Progress,
	}
	r.source(&v, e)
	got, looked := e.Claims[v.PVC]
	if got != nil {
		v.LonghornVolume = longhornVolume(got)
	}
	if r.complete() {
		v.State, v.Progress = vmbackup.StateReady, 100
		// Harvester looks at claims, which are bound before the data is there. What has
		// become of the volume since is none of the restore.
		if volume := e.Volumes[v.LonghornVolume]; volume != nil && longhorn.Awaited(volume) {
			v.State, v.Message = vmbackup.StateRunning, "Longhorn still puts the data there"
		}
		return v
	}
	v.State = vmbackup.StateRunning
	switch {
	case looked && got == nil:
		v.State = vmbackup.StatePending
	case got != nil && got.Status.Phase != corev1.ClaimBound:
		v.Message = e.Warnings[v.PVC]
	}
	volume := e.Volumes[v.LonghornVolume]
	switch {
	case volume != nil:
		done, failure := longhorn.Restored(volume)
		switch {
		case failure != "":
			v.State, v.Message = vmbackup.StateFailed, failure
		case done:
			v.State, v.Progress, v.Message = vmbackup.StateReady, 100, ""
		default:
			v.Message = cmp.Or(longhorn.Unscheduled(volume), v.Message)
		}
	case !looked && v.Progress == 100, got != nil && got.Status.Phase == corev1.ClaimBound && ofAnotherDriver(got):
		v.State, v.Progress = vmbackup.StateReady, 100 // as far as anybody but Harvester can be asked
	}
	if engine := e.Engines[v.LonghornVolume]; engine != nil && v.State == vmbackup.StateRunning {
		v.Progress = max(v.Progress, longhorn.RestoreProgress(engine))
	}
	return v
}

// source fills in what the backup tells of a volume.
func (r *VirtualMachineRestore) source(v *vmbackup.RestoreVolume, e RestoreEvidence) {
	if e.Backup == nil {
		return
	}
	for i := range e.Backup.Status.VolumeBackups {
		b := &e.Backup.Status.VolumeBackups[i]
		if b.VolumeName != v.Name {
			continue
		}
		v.SourcePVC = b.PersistentVolumeClaim.ObjectMeta.Name
		if name := b.longhornVolume(); e.Backup.Spec.Type != TypeSnapshot && name != "" && b.LonghornBackupName != nil {
			v.SnapshotHandle = metadata.BackupHandle(name, *b.LonghornBackupName)
		}
	}
}

// longhornVolume is the volume's name at Longhorn when it was backed up.
func (b *VolumeBackup) longhornVolume() string {
	var claim claimNames
	_ = json.Unmarshal(b.PersistentVolumeClaim.Spec, &claim)
	return claim.VolumeName
}

// longhornVolume is the volume's name at Longhorn: that of its PersistentVolume,
// which csi-provisioner names after the claim before it exists.
func longhornVolume(claim *corev1.PersistentVolumeClaim) string {
	return cmp.Or(claim.Spec.VolumeName, "pvc-"+string(claim.UID))
}

// ofAnotherDriver reports whether a claim's volume is not Longhorn's.
func ofAnotherDriver(claim *corev1.PersistentVolumeClaim) bool {
	driver := cmp.Or(claim.Annotations["volume.kubernetes.io/storage-provisioner"], claim.Annotations["volume.beta.kubernetes.io/storage-provisioner"])
	return driver != "" && driver != longhornDriver
}

// longhornDriver is the name of Longhorn's CSI driver.
const longhornDriver = "driver.longhorn.io"

// steps are those of Harvester's controller, as far as the evidence shows them: it
// says "waiting for the machine" while the data is still on its way.
func (r *VirtualMachineRestore) steps(v *vmbackup.Restore, e RestoreEvidence) []vmbackup.StepStatus {
	s := &v.Status
	machine := "Create the machine"
	if !r.Spec.NewVM {
		machine = "Exchange the machine's disks and specification"
	}
	steps := []vmbackup.StepStatus{
		{ID: stepVolumes, Title: "Create the volumes"},
		{ID: stepMachine, Title: machine},
		{ID: stepData, Title: "Restore the volumes' data"},
		{ID: stepStart, Title: "Start the machine"},
	}
	if r.replaces() {
		steps = append(steps, vmbackup.StepStatus{ID: stepCleanup, Title: "Delete the old volumes"})
	}
	reached := r.reached(v)
	for i := range steps {
		step := &steps[i]
		switch {
		case s.Phase == vmbackup.PhaseReady || i < reached:
			step.State = vmbackup.StateReady
		case i > reached:
			step.State = vmbackup.StatePending
		case s.Phase == vmbackup.PhaseFailed:
			step.State, step.Message = vmbackup.StateFailed, s.Error.Message
		default:
			step.State, step.Message = vmbackup.StateRunning, r.waits(step.ID, e)
		}
		if step.ID == stepData && step.State == vmbackup.StateRunning {
			step.Progress = dataProgress(s.Volumes)
		}
	}
	if r.replaces() && len(r.Status.DeletedVolumes) > 0 {
		steps[len(steps)-1].Message = strings.Join(r.Status.DeletedVolumes, ", ")
	}
	return steps
}

// reached is the index of the step that the restore is at.
func (r *VirtualMachineRestore) reached(v *vmbackup.Restore) int {
	volumes := v.Status.Volumes
	ready := func(v vmbackup.RestoreVolume) bool { return v.State == vmbackup.StateReady }
	switch {
	case len(volumes) == 0 || slices.ContainsFunc(volumes, func(v vmbackup.RestoreVolume) bool { return v.State == vmbackup.StatePending }):
		return 0
	case r.Status.TargetUID == nil:
		return 1
	case slices.ContainsFunc(volumes, func(v vmbackup.RestoreVolume) bool { return !ready(v) }):
		return 2
	}
	return 3
}

// waits says what a step that runs waits for; "" when there is nothing to say.
func (r *VirtualMachineRestore) waits(step string, e RestoreEvidence) string {
	if step != stepStart {
		return ""
	}
	state := ""
	if e.Machine != nil {
		state = machineState(e.Machine)
		if e.Machine.Status.PrintableStatus == kubevirtv1.VirtualMachineStatusRunning {
			return state // what its pods have met on the way is over
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Warnings)) {
		if name == r.Spec.Target.Name || strings.HasPrefix(name, "virt-launcher-"+r.Spec.Target.Name+"-") {
			return strings.TrimPrefix(fmt.Sprintf("%s; %s", state, e.Warnings[name]), "; ")
		}
	}
	return state
}

// dataProgress weighs the volumes by their sizes.
func dataProgress(volumes []vmbackup.RestoreVolume) int {
	var bytes, done int64
	for _, v := range volumes {
		bytes += v.SizeBytes
		done += v.SizeBytes * int64(v.Progress)
	}
	if bytes == 0 {
		return 0
	}
	return int(done / bytes)
}

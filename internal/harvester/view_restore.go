// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// RestoreEvidence is what the layers below tell of one restore. Harvester's own view
// ends at the claims, which are bound long before the data is there. What was not
// looked at, or may not be, is nil.
type RestoreEvidence struct {
	// Now is the time; zero makes every error of Harvester's a lasting one.
	Now time.Time
	// Backup is the one that is restored.
	Backup *VirtualMachineBackup
	// Claims are the new ones, by name; a name with nil is a claim that is not there.
	Claims map[string]*corev1.PersistentVolumeClaim
	// Volumes and Engines are Longhorn's, by the volume's name.
	Volumes map[string]*longhornv1.Volume
	Engines map[string]*longhornv1.Engine
	// Machine is the restored one.
	Machine *kubevirtv1.VirtualMachine
	// Warnings are what the cluster's events say now, by the name of their object.
	Warnings map[string]string
}

// errorStands is how long Harvester repeats what has failed before it counts as
// failed: the first attempts often meet its own caches, which lag behind.
const errorStands = 20 * time.Second

// Steps of a restore, in the words of the direct engine where they are the same.
const (
	stepVolumes = "volumes"
	stepMachine = "machine"
	stepData    = "data"
	stepStart   = "start"
	stepCleanup = "cleanup"
)

// View is the restore as the tool shows it.
func (r *VirtualMachineRestore) View(e RestoreEvidence) *vmbackup.Restore {
	v := vmbackup.NewRestore(vmbackup.Ref{Namespace: r.Namespace, Name: r.Name})
	target := vmbackup.Ref{Namespace: r.Namespace, Name: r.Spec.Target.Name}
	v.Spec = vmbackup.RestoreSpec{
		Backup:          r.BackupRef().String(),
		TargetNamespace: target.Namespace, TargetName: target.Name, Mode: vmbackup.ModeNew,
	}
	if !r.Spec.NewVM {
		v.Spec.Mode = vmbackup.ModeInPlace
	}
	if e.Backup != nil && e.Backup.Status.SourceSpec != nil {
		v.Metadata.Labels = maps.Clone(e.Backup.Status.SourceSpec.ObjectMeta.Labels)
	}
	s := &v.Status
	s.Engine, s.StartedAt = vmbackup.EngineHarvester, moment(r.CreationTimestamp.Time)
	if r.Status.TargetUID != nil || r.complete() {
		s.VM = target.String()
	}
	for i := range r.Status.VolumeRestores {
		s.Volumes = append(s.Volumes, r.volume(&r.Status.VolumeRestores[i], e))
	}
	r.judge(v, e)
	s.Steps = r.steps(v, e)
	if r.DeletionTimestamp != nil {
		s.Warnings = append(s.Warnings, "it is being deleted")
	}
	return v
}

// BackupRef is the VirtualMachineBackup that is restored.
func (r *VirtualMachineRestore) BackupRef() vmbackup.Ref {
	return vmbackup.Ref{Namespace: cmp.Or(r.Spec.VirtualMachineBackupNamespace, r.Namespace), Name: r.Spec.VirtualMachineBackupName}
}

// Ended reports whether Harvester does nothing about the restore any more.
func (r *VirtualMachineRestore) Ended() bool { return r.complete() }

func (r *VirtualMachineRestore) complete() bool { return isTrue(r.Status.Complete) }

// replaces reports whether Harvester deletes the volumes that the restore replaces.
func (r *VirtualMachineRestore) replaces() bool {
	return !r.Spec.NewVM && r.Spec.DeletionPolicy != PolicyRetain
}

// judge sets phase, times, error and warnings.
func (r *VirtualMachineRestore) judge(v *vmbackup.Restore, e RestoreEvidence) {
	s := &v.Status
	progress, _ := FindCondition(r.Status.Conditions, ConditionInProgress)
	failed := progress.Status == corev1.ConditionFalse && progress.Reason == "Error"
	s.Phase = vmbackup.PhaseRunning
	switch {
	case r.complete() && slices.ContainsFunc(s.Volumes, func(v vmbackup.RestoreVolume) bool { return v.State == vmbackup.StateRunning }):
		s.Warnings = append(s.Warnings, "Harvester calls it complete, and Longhorn still puts the data into its volumes")
	case r.complete():
		s.Phase, s.Ready = vmbackup.PhaseReady, true
		if r.Status.RestoreTime != nil {
			s.CompletedAt = moment(r.Status.RestoreTime.Time)
		}
		if m := e.Machine; m != nil && wantsToRun(m) && !m.Status.Ready {
			s.Warnings = append(s.Warnings, fmt.Sprintf("Harvester calls it complete, and its machine does not run: %s", machineState(m)))
		}
	case r.volumeFailed(v):
	case r.hangs():
		s.Phase = vmbackup.PhaseFailed
		s.Error = vmbackup.Errorf(vmbackup.ReasonConflict, "Harvester waits for ever: restore %s is to delete the volumes that it replaces, and VirtualMachine %s has none", v.Ref(), v.Spec.TargetName).
			WithHint("delete it with: kubectl delete %s.%s %s -n %s; then restore again and keep the old volumes (deletionPolicy: retain), or to a new machine", RestoreResource, Group, r.Name, r.Namespace)
	case failed && r.over(progress.Message, e):
		s.Warnings = append(s.Warnings, "Harvester keeps the text of an error that is over, and goes on by itself: "+progress.Message)
	case failed && !stands(progress, e.Now):
		s.Warnings = append(s.Warnings, "Harvester met an error and tries again: "+progress.Message)
	case failed:
		s.Phase = vmbackup.PhaseFailed
		s.Error = vmbackup.Errorf(restoreReason(progress.Message), "Harvester could not go on with restore %s: %s", v.Ref(), progress.Message).
			WithHint("the backup is untouched; Harvester tries again by itself, with growing pauses, so that it goes on once the cause is mended; the events say more: kubectl vmbackup describe restore/%s -n %s", r.Name, r.Namespace)
	}
}

// volumeFailed sets the phase of a restore of which a volume is lost already, which
// Harvester may not have noticed.
func (r *VirtualMachineRestore) volumeFailed(v *vmbackup.Restore) bool {
	for i := range v.Status.Volumes {
		if volume := &v.Status.Volumes[i]; volume.State == vmbackup.StateFailed {
			v.Status.Phase = vmbackup.PhaseFailed
			v.Status.Error = vmbackup.Errorf(vmbackup.ReasonBackupFailed, "Longhorn could not restore volume %s of backup %s into claim %s: %s", volume.Name, v.Spec.Backup, volume.PVC, volume.Message).
				WithHint("the backup is untouched; mend the cause, delete this restore with: kubectl delete %s.%s %s -n %s; and restore again", RestoreResource, Group, r.Name, r.Namespace)
			return true
		}
	}
	return false
}

// hangs reports the restore that Harvester's controller leaves alone without a word:
// it is to delete volumes and there are none, which it takes for not looked up yet.
func (r *VirtualMachineRestore) hangs() bool {
	return r.replaces() && len(r.Status.VolumeRestores) > 0 && len(r.Status.DeletedVolumes) == 0
}

// over reports whether what an error complains of is there by now. Harvester tries
// again only after a pause.
func (r *VirtualMachineRestore) over(message string, e RestoreEvidence) bool {
	if e.Backup != nil && strings.Contains(message, e.Backup.Name) {
		missing := strings.Contains(message, BackupResource+"."+Group) && strings.Contains(message, "not found")
		unready := strings.Contains(message, "is not ready") && isTrue(e.Backup.Status.ReadyToUse)
		if missing || unready {
			return true
		}
	}
	if e.Machine != nil && e.Machine.Status.Ready && strings.Contains(message, "failed to start vm") {
		return true
	}
	for name, claim := range e.Claims {
		if claim != nil && strings.Contains(message, name) && strings.Contains(message, "not found") {
			return true
		}
	}
	return false
}

// stands reports whether an error is repeated for long enough to be told as one.
// The time of a condition is that of its text's first appearance.
func stands(c Condition, now time.Time) bool {
	since, err := time.Parse(time.RFC3339, c.LastUpdateTime)
	return now.IsZero() || err != nil || now.Sub(since) >= errorStands
}

// restoreReason names the cause of an error of Harvester's.
func restoreReason(message string) vmbackup.Reason {
	for _, known := range []struct {
		says   string
		reason vmbackup.Reason
	}{
		{"exceeded quota", vmbackup.ReasonQuotaExceeded},
		{"is not ready", vmbackup.ReasonConflict},
		{"forbidden", vmbackup.ReasonForbidden},
		{"restore failed", vmbackup.ReasonBackupFailed},
	} {
		if strings.Contains(message, known.says) {
			return known.reason
		}
	}
	if strings.Contains(message, "not found") {
		switch lower := strings.ToLower(message); {
		case strings.Contains(lower, "storageclass"):
			return vmbackup.ReasonStorageClassMissing
		case strings.Contains(lower, "network-attachment-definition"):
			return vmbackup.ReasonNetworkMissing
		}
		return vmbackup.ReasonNotFound
	}
	return vmbackup.ReasonBackupFailed
}

// wantsToRun reports whether a machine is one that somebody wants to run.
func wantsToRun(m *kubevirtv1.VirtualMachine) bool {
	strategy := m.Spec.RunStrategy
	return strategy != nil && (*strategy == kubevirtv1.RunStrategyAlways || *strategy == kubevirtv1.RunStrategyRerunOnFailure)
}

// machineState says in words what a machine waits for.
func machineState(m *kubevirtv1.VirtualMachine) string {
	say := string(m.Status.PrintableStatus)
	for _, c := range m.Status.Conditions {
		if c.Type == kubevirtv1.VirtualMachineReady || c.Message == "" {
			continue
		}
		say += ": " + c.Message
	}
	return cmp.Or(say, "it has no status yet")
}

// AddClaim notes a claim of the restore; nil when it is not there.
func (e *RestoreEvidence) AddClaim(name string, claim *corev1.PersistentVolumeClaim) {
	if e.Claims == nil {
		e.Claims = map[string]*corev1.PersistentVolumeClaim{}
	}
	e.Claims[name] = claim
}

// AddVolume notes one of Longhorn's volumes.
func (e *RestoreEvidence) AddVolume(volume *longhornv1.Volume) {
	if e.Volumes == nil {
		e.Volumes = map[string]*longhornv1.Volume{}
	}
	e.Volumes[volume.Name] = volume
}

// AddEngine notes the engine of one of Longhorn's volumes.
func (e *RestoreEvidence) AddEngine(engine *longhornv1.Engine) {
	if e.Engines == nil {
		e.Engines = map[string]*longhornv1.Engine{}
	}
	e.Engines[engine.Spec.VolumeName] = engine
}

// LonghornVolumes are the names of Longhorn's volumes behind the claims, in order.
func (e *RestoreEvidence) LonghornVolumes() []string {
	var names []string
	for _, claim := range e.Claims {
		if claim != nil && !ofAnotherDriver(claim) {
			names = append(names, longhornVolume(claim))
		}
	}
	slices.Sort(names)
	return names
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// cannot refuses a restore that Harvester cannot do as it was asked for.
func cannot(backup vmbackup.Ref, why string) error {
	return vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "Harvester cannot restore backup %s so: %w; nothing was changed", backup, &Unfit{Why: why}).
		AsPreflight().WithHint("leave the choice of the engine to the tool (without --engine), or run the same command with --engine direct")
}

// Reservation says why the direct engine does a restore better that Harvester can do,
// empty where it does not.
func Reservation(plan *vmbackup.RestorePlan) string {
	d, ok := direct.DelegatedPlan(plan)
	if !ok {
		return ""
	}
	state, err := stateOf(d)
	switch {
	case err != nil:
		return ""
	case d.Stops():
		return "it restores in place only what is off, for as long as the data takes; so the machine runs on until its new disks are there"
	case !d.EndsRunning() && !state.Halts:
		return "it starts every machine that it restores, and this one is to be off"
	}
	return ""
}

// unservable says what of a request Harvester has no means for, empty for nothing.
func unservable(req vmbackup.RestoreRequest) string {
	var flags []string
	for flag, set := range map[string]bool{
		"--map-storage-class": len(req.StorageClasses) > 0, "--map-network": len(req.Networks) > 0,
		"--allow-incomplete": req.AllowIncomplete,
	} {
		if set {
			flags = append(flags, flag)
		}
	}
	slices.Sort(flags)
	switch {
	case len(flags) > 0:
		return "it has no means for " + strings.Join(flags, ", ")
	case req.From == vmbackup.SourceTarget:
		return "it restores from its own object of the backup, not from the target (--from target)"
	case req.Target != vmbackup.DefaultTarget:
		return "it knows one backup target, not " + req.Target
	}
	return ""
}

// sourceVolume is a volume of the machine as it was backed up.
type sourceVolume struct {
	Name                  string `json:"name"`
	PersistentVolumeClaim *struct {
		ClaimName string `json:"claimName"`
	} `json:"persistentVolumeClaim"`
	DataVolume *struct {
		Name string `json:"name"`
	} `json:"dataVolume"`
	Ephemeral  *json.RawMessage `json:"ephemeral"`
	MemoryDump *json.RawMessage `json:"memoryDump"`
}

// sourceVolumes are the volumes of the machine in a backup of Harvester's.
func sourceVolumes(b *hv.VirtualMachineBackup) []sourceVolume {
	var spec struct {
		Template struct {
			Spec struct {
				Volumes []sourceVolume `json:"volumes"`
			} `json:"spec"`
		} `json:"template"`
	}
	if b.Status.SourceSpec == nil || json.Unmarshal(b.Status.SourceSpec.Spec, &spec) != nil {
		return nil
	}
	return spec.Template.Spec.Volumes
}

// leftBehind says which volume of the machine Harvester would leave pointing at the
// source's disk, empty for none: it knows claims that it has backed up, and no other
// source of a volume.
func leftBehind(b *hv.VirtualMachineBackup) string {
	held := map[string]bool{}
	for _, v := range b.Status.VolumeBackups {
		held[v.VolumeName] = true
	}
	for _, v := range sourceVolumes(b) {
		switch {
		case v.DataVolume != nil:
			return fmt.Sprintf("volume %s is a DataVolume, and the restored machine would be left with the disk of its source", v.Name)
		case v.Ephemeral != nil || v.MemoryDump != nil:
			return fmt.Sprintf("volume %s is on a claim in a way that it does not know, and would be left with the disk of its source", v.Name)
		case v.PersistentVolumeClaim != nil && !held[v.Name]:
			return fmt.Sprintf("its backup does not hold volume %s, and the restored machine would be left with the disk of its source", v.Name)
		}
	}
	return ""
}

// unnamed says which volume names no Longhorn backup, empty where all do. Out of its
// namespace Harvester restores a volume by that name alone, and crashes over its lack.
func unnamed(b *hv.VirtualMachineBackup) string {
	for _, v := range b.Status.VolumeBackups {
		if v.LonghornBackupName == nil || *v.LonghornBackupName == "" {
			return v.VolumeName
		}
	}
	return ""
}

// readyFor refuses a backup that Harvester's webhook or controller would not take.
func readyFor(b *hv.VirtualMachineBackup, req vmbackup.RestoreRequest) error {
	ref := vmbackup.Ref{Namespace: b.Namespace, Name: b.Name}
	elsewhere := req.ToNamespace != b.Namespace
	switch {
	case b.DeletionTimestamp != nil:
		return vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s is being deleted", ref)
	case b.Status.ReadyToUse == nil || !*b.Status.ReadyToUse || b.Status.SourceSpec == nil:
		return nil // the view says more of it, and is judged with the rest
	case b.Spec.Type == hv.TypeSnapshot && elsewhere:
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "backup %s is a snapshot in the volumes of namespace %s, and Harvester restores it there only; nothing was changed", ref, b.Namespace).
			WithHint("restore it in its namespace, or make a backup of type backup, which can be restored anywhere")
	}
	if volume := unnamed(b); volume != "" && elsewhere && b.Spec.Type != hv.TypeSnapshot {
		return vmbackup.Errorf(vmbackup.ReasonDataLost, "Harvester's backup %s does not name the Longhorn backup of volume %s, without which it cannot be restored into another namespace; nothing was changed", ref, volume).
			WithHint("restore it in namespace %s, or make a new backup", b.Namespace)
	}
	return nil
}

// denied is a refusal of Harvester's webhook in the words of the tool. Its own have no
// reasons that could be read, and some pass for internal errors.
func denied(err error, ref vmbackup.Ref, spec *hv.VirtualMachineRestoreSpec) error {
	text := err.Error()
	backup := vmbackup.Ref{Namespace: spec.VirtualMachineBackupNamespace, Name: spec.VirtualMachineBackupName}
	for _, known := range []struct {
		says   string
		reason vmbackup.Reason
		hint   string
	}{
		{"Source schedule", vmbackup.ReasonConflict, "Harvester restores no backup of a schedule that runs. Suspend it, and resume it after the restore; what the schedules are shows: kubectl vmbackup list schedules -A"},
		{"Please stop the VM", vmbackup.ReasonVMRunning, "stop the machine, or let the restore do so with --stop"},
		{"Please wait for the previous VM restore", vmbackup.ReasonConflict, fmt.Sprintf("see which one it is with: kubectl vmbackup list restores -n %s", ref.Namespace)},
		{"network attachment definition", vmbackup.ReasonNetworkMissing, "make the network, or put the machine on another one with --map-network"},
		{"volumeSnapshotClass", vmbackup.ReasonStorageUnsupported, "make the VolumeSnapshotClass that the message names again"},
		{"same macaddress", vmbackup.ReasonConflict, "give the machine new addresses with --mac new"},
		{"is not matched in vmBackup", vmbackup.ReasonTargetUnavailable, "set the backup target in Harvester that the backup lies on"},
		{"backup target is not set", vmbackup.ReasonTargetUnavailable, "set the backup target in Harvester that the backup lies on"},
		{"is not ready", vmbackup.ReasonConflict, fmt.Sprintf("look at it with: kubectl vmbackup describe %s -n %s", backup.Name, backup.Namespace)},
		{"is already exists", vmbackup.ReasonAlreadyExists, "restore beside it with --to-name NAME"},
		{"esource", vmbackup.ReasonQuotaExceeded, "have the ResourceQuota of the namespace raised, or free what it counts"},
	} {
		if !strings.Contains(text, "denied the request") && !strings.Contains(text, "Internal error occurred") && !apierrors.IsInternalError(err) && !apierrors.IsInvalid(err) {
			break
		}
		if strings.Contains(text, known.says) && (known.reason != vmbackup.ReasonQuotaExceeded || strings.Contains(text, "Failed to restore") || strings.Contains(text, "ailed to restore the")) {
			return vmbackup.Errorf(known.reason, "Harvester refuses to restore backup %s: %s; nothing was changed", backup, plainly(text)).WithHint("%s", known.hint)
		}
	}
	return kube.Error(err, "create", restoreName(ref))
}

// plainly is what a webhook says without what the API server puts before it.
func plainly(text string) string {
	if _, said, found := strings.Cut(text, "denied the request: "); found {
		text = said
	}
	return strings.TrimPrefix(text, "Internal error occurred: ")
}

// startsOnce warns of a machine that Harvester starts although it is to be off. It
// has no way to leave a machine off before 1.9.
func startsOnce(strategy kubevirtv1.VirtualMachineRunStrategy) string {
	return fmt.Sprintf("Harvester starts every machine that it restores: this one runs until the restore is complete, and is then turned off again (run strategy %s); the direct engine does not start it at all", strategy)
}

// overwritten are the Secrets of a namespace that a restore in place by Harvester
// would overwrite with another content, by what they hold now.
func overwritten(b *hv.VirtualMachineBackup, now map[string]map[string][]byte) []string {
	var names []string
	for _, s := range b.Status.SecretBackups {
		have, found := now[s.Name]
		if found && !maps.EqualFunc(have, s.Data, func(a, b []byte) bool { return string(a) == string(b) }) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

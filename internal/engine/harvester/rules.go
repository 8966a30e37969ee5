// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// checkOptions refuses what a request asks for and a VirtualMachineBackup cannot say.
func checkOptions(req vmbackup.BackupRequest) error {
	switch {
	case req.Target != "" && req.Target != vmbackup.DefaultTarget:
		return unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("Harvester backs up to Longhorn's backup target %q alone, not to %q", vmbackup.DefaultTarget, req.Target))
	case req.FreezeTimeout != vmbackup.DefaultFreezeTimeout:
		return unfit(vmbackup.ReasonFreezeFailed, fmt.Sprintf("Harvester freezes a guest for one second a volume, whatever is asked for: a freeze time-out of %s cannot be kept", req.FreezeTimeout))
	}
	return nil
}

// checkQuiesce says what Harvester's freeze can be expected to do. It freezes the
// guest for one second before it asks for the snapshot of each volume, one volume
// after the other, and does not wait for the snapshot: nothing can be promised of it.
func checkQuiesce(req vmbackup.BackupRequest, running *kubevirtv1.VirtualMachineInstance) (consistency vmbackup.Consistency, warning string, err error) {
	if running == nil {
		return vmbackup.ConsistencyOffline, "", nil
	}
	answers := agentConnected(running)
	switch req.Quiesce {
	case vmbackup.QuiesceRequire:
		return "", "", unfit(vmbackup.ReasonFreezeFailed, fmt.Sprintf("Harvester freezes the guest of VirtualMachine %s for one second a volume, and takes the snapshots when they come: an application-consistent backup, which --quiesce=require asks for, cannot be promised", req.VM))
	case vmbackup.QuiesceSkip:
		if answers {
			return "", "", unfit(vmbackup.ReasonFreezeFailed, fmt.Sprintf("Harvester freezes a guest whose agent answers, as that of VirtualMachine %s does: --quiesce=skip cannot be kept", req.VM))
		}
		return vmbackup.ConsistencyCrash, "", nil
	}
	if answers {
		return vmbackup.ConsistencyCrash, "", nil
	}
	return vmbackup.ConsistencyCrash, fmt.Sprintf("the guest agent of VirtualMachine %s does not answer, so its file systems cannot be frozen: the backup will be crash consistent", req.VM), nil
}

func agentConnected(vmi *kubevirtv1.VirtualMachineInstance) bool {
	for _, c := range vmi.Status.Conditions {
		if c.Type == kubevirtv1.VirtualMachineInstanceAgentConnected {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// checkMachine refuses a machine of which Harvester's backup would not hold every
// disk, or that its controllers stumble over.
func checkMachine(req vmbackup.BackupRequest, m *capture.Machine) error {
	ref := vmbackup.Ref{Namespace: req.Namespace, Name: req.VM}
	if m.VM.DeletionTimestamp != nil {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "VirtualMachine %s is being deleted, and Harvester backs up no such machine", ref)
	}
	plain := map[string]bool{}
	for _, v := range m.VM.Spec.Template.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			plain[v.PersistentVolumeClaim.ClaimName] = true
		}
	}
	var left []string
	for _, v := range m.Volumes {
		if !plain[v.PVC] {
			left = append(left, fmt.Sprintf("%s (PersistentVolumeClaim %s)", v.Name, v.PVC))
		}
	}
	if len(left) > 0 {
		return unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("Harvester backs up the volumes alone that VirtualMachine %s names as a persistentVolumeClaim, and would leave out: %s", ref, strings.Join(left, ", ")))
	}
	for _, v := range m.Volumes {
		if v.StorageClass == "" {
			return unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("PersistentVolumeClaim %s of VirtualMachine %s has no StorageClass, and Harvester backs up no such volume", v.PVC, ref))
		}
		if v.Target != "" && v.Target != vmbackup.DefaultTarget && req.Type == vmbackup.TypeBackup {
			return unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("volume %s of VirtualMachine %s backs up to Longhorn's target %q, and Harvester knows %q alone", v.Name, ref, v.Target, vmbackup.DefaultTarget))
		}
	}
	if missing := missingForHarvester(m); len(missing) > 0 {
		return unfit(vmbackup.ReasonNotFound, fmt.Sprintf("VirtualMachine %s refers to the Secret %s, which does not exist, and Harvester backs up no such machine", ref, strings.Join(missing, ", ")))
	}
	return nil
}

// missingForHarvester are the missing Secrets that Harvester itself looks for.
func missingForHarvester(m *capture.Machine) []string {
	wanted := map[string]bool{}
	of := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			wanted[ref.Name] = true
		}
	}
	for _, v := range m.VM.Spec.Template.Spec.Volumes {
		if v.CloudInitNoCloud != nil {
			of(v.CloudInitNoCloud.UserDataSecretRef)
			of(v.CloudInitNoCloud.NetworkDataSecretRef)
		}
	}
	for _, c := range m.VM.Spec.Template.Spec.AccessCredentials {
		if c.SSHPublicKey != nil && c.SSHPublicKey.Source.Secret != nil {
			wanted[c.SSHPublicKey.Source.Secret.SecretName] = true
		}
		if c.UserPassword != nil && c.UserPassword.Source.Secret != nil {
			wanted[c.UserPassword.Source.Secret.SecretName] = true
		}
	}
	var missing []string
	for _, name := range m.MissingSecrets {
		if wanted[name] {
			missing = append(missing, name)
		}
	}
	return missing
}

// snapshotClass is the VolumeSnapshotClass that Harvester's setting names for Longhorn.
func snapshotClass(setting *hv.Setting, kind vmbackup.BackupType) (string, error) {
	var drivers map[string]struct {
		VolumeSnapshotClassName       string `json:"volumeSnapshotClassName"`
		BackupVolumeSnapshotClassName string `json:"backupVolumeSnapshotClassName"`
	}
	if err := json.Unmarshal([]byte(setting.Effective()), &drivers); err != nil {
		return "", unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("Harvester's setting %s cannot be read (%v), so it does not know how to take snapshots", hv.CSIDriverSetting, err))
	}
	driver, found := drivers[capture.Driver]
	class := driver.BackupVolumeSnapshotClassName
	if kind == vmbackup.TypeSnapshot {
		class = driver.VolumeSnapshotClassName
	}
	if !found || class == "" {
		return "", unfit(vmbackup.ReasonStorageUnsupported, fmt.Sprintf("Harvester's setting %s names no VolumeSnapshotClass of %s for a %s", hv.CSIDriverSetting, capture.Driver, kind))
	}
	return class, nil
}

// refusal is what the API server says of a VirtualMachineBackup in a dry run, which
// asks Harvester's own webhooks.
func refusal(err error, req vmbackup.BackupRequest) *vmbackup.Error {
	reason, text := vmbackup.ReasonConflict, err.Error()
	switch {
	case strings.Contains(text, "total snapshot size limit"):
		reason = vmbackup.ReasonQuotaExceeded
	case strings.Contains(text, "backup target is not set"):
		reason = vmbackup.ReasonTargetUnavailable
	}
	return vmbackup.Errorf(reason, "Harvester refuses a %s of VirtualMachine %s/%s: %w", req.Type, req.Namespace, req.VM, err)
}

// descriptions are the files on the target that tell of a backup.
func descriptions(ref vmbackup.Ref) []string {
	return []string{metadata.HarvesterBackupKey(ref), metadata.RecordKey(ref)}
}

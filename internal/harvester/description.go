// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"fmt"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Record is the backup with everything that the machine is made of, as the file on
// the target tells it. The object is the better source of the two: it keeps the
// claims' names when Harvester writes the file again after a restore. A backup that
// has just begun has the view alone.
func (b *VirtualMachineBackup) Record(e Evidence) (*metadata.Record, error) {
	view := b.View(e)
	operation := b.Annotations[AnnotationOperation]
	if b.Status.SourceSpec == nil {
		return &metadata.Record{Backup: *view, Operation: operation}, nil
	}
	spec := b.Spec
	spec.Type = TypeBackup // of a snapshot there is no file, and it would tell the same
	volumes := each(b.Status.VolumeBackups, VolumeBackup.copied)
	for i := range volumes {
		volumes[i].ReadyToUse, volumes[i].CreationTime, volumes[i].Error = nil, nil, nil
	}
	content, err := json.Marshal(struct {
		Name          string                   `json:"name"`
		Namespace     string                   `json:"namespace"`
		BackupSpec    VirtualMachineBackupSpec `json:"backupSpec"`
		VMSourceSpec  *SourceSpec              `json:"vmSourceSpec,omitempty"`
		VolumeBackups []VolumeBackup           `json:"volumeBackups,omitempty"`
		SecretBackups []SecretBackup           `json:"secretBackups,omitempty"`
	}{b.Name, b.Namespace, spec, b.Status.SourceSpec, volumes, b.Status.SecretBackups})
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", BackupKind, b.Namespace, b.Name, err)
	}
	record, err := metadata.DecodeHarvester(metadata.HarvesterBackupKey(view.Ref()), content)
	if err != nil {
		return nil, err
	}
	record.Backup.Status.Volumes = merged(record.Backup.Status.Volumes, view.Status.Volumes)
	view.Status.Volumes = record.Backup.Status.Volumes
	record.Backup, record.Operation = *view, operation
	return record, nil
}

// merged keeps the order of the record, whose claims are in it, and takes what is
// known of each volume from the view.
func merged(record, view []vmbackup.BackupVolume) []vmbackup.BackupVolume {
	byName := map[string]vmbackup.BackupVolume{}
	for _, v := range view {
		byName[v.Name] = v
	}
	for i := range record {
		if v, ok := byName[record[i].Name]; ok {
			record[i] = v
		}
	}
	return record
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"slices"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// teller tells what changes from one view of a backup to the next as the events of steps.
type teller struct {
	events *flow.Events
	steps  []flow.Step
	// current is the index of the step that runs, -1 before the first.
	current int
	// estimates are the bytes that a volume's data takes at most, by the volume's name.
	estimates map[string]int64
	volumes   map[string]vmbackup.BackupVolume
	warnings  []string
}

func newTeller(events *flow.Events, steps []flow.Step) *teller {
	return &teller{events: events, steps: steps, current: -1, volumes: map[string]vmbackup.BackupVolume{}}
}

// Steps of a backup, by which they are known.
const (
	stepSnapshot = "snapshot"
	stepUpload   = "upload"
	stepDescribe = "describe"
	stepVerify   = "verify"
	stepMetadata = "metadata"
)

// followed are the steps that Harvester's controllers do.
func followed(kind vmbackup.BackupType) []flow.Step {
	if kind == vmbackup.TypeSnapshot {
		return []flow.Step{{ID: stepSnapshot, Title: "Harvester snapshots every volume"}}
	}
	return []flow.Step{
		{ID: stepSnapshot, Title: "Harvester snapshots every volume"},
		{ID: stepUpload, Title: "Longhorn uploads the volumes to the backup target", Waits: true},
		{ID: stepDescribe, Title: "Harvester writes its description, and backing images are on the target", Waits: true},
	}
}

// steps are all steps of a backup that the tool has asked for.
func steps(kind vmbackup.BackupType) []flow.Step {
	if kind == vmbackup.TypeSnapshot {
		return followed(kind)
	}
	return append(followed(kind),
		flow.Step{ID: stepVerify, Title: "See every volume's backup on the target itself"},
		flow.Step{ID: stepMetadata, Title: "Add to the target what Harvester's description lacks"})
}

// see tells what is new.
func (t *teller) see(s seen) {
	for _, w := range s.backup.Status.Warnings {
		// What is not whole yet, or may not be seen, is told in the end.
		if s.backup.Status.Phase == vmbackup.PhaseRunning && s.backup.Status.Metadata.State == "" && !slices.Contains(t.warnings, w) {
			t.warnings = append(t.warnings, w)
			t.events.Warning(w)
		}
	}
	if t.current < 0 {
		t.begin(0)
	}
	for t.current < len(t.steps) {
		id := t.steps[t.current].ID
		if id == stepUpload {
			t.tellVolumes(s.backup)
		}
		if !over(id, s) {
			return
		}
		t.events.Step(id, vmbackup.StateReady, "")
		t.begin(t.current + 1)
	}
}

func (t *teller) begin(i int) {
	if t.current = i; i < len(t.steps) {
		t.events.Step(t.steps[i].ID, vmbackup.StateRunning, "")
	}
}

// running is the step that runs, empty when all are over.
func (t *teller) running() string {
	if t.current < 0 || t.current >= len(t.steps) {
		return ""
	}
	return t.steps[t.current].ID
}

// fail tells that the step that runs has failed.
func (t *teller) fail(err error) {
	if id := t.running(); id != "" {
		t.events.Step(id, vmbackup.StateFailed, err.Error())
	}
}

// over reports whether a step has been done, as the view shows.
func over(id string, s seen) bool {
	if s.backup.Status.Phase == vmbackup.PhaseReady {
		return true
	}
	if len(s.object.Status.VolumeBackups) == 0 {
		return false
	}
	ready, _ := hv.FindCondition(s.object.Status.Conditions, hv.ConditionReady)
	switch id {
	case stepSnapshot:
		if s.backup.Spec.Type == vmbackup.TypeSnapshot {
			return false // until it is Ready
		}
		for _, v := range s.object.Status.VolumeBackups {
			if v.CreationTime == nil && v.LonghornBackupName == nil && ready.Status != "True" {
				return false
			}
		}
		return true
	case stepUpload:
		return ready.Status == "True" && !slices.ContainsFunc(s.backup.Status.Volumes, func(v vmbackup.BackupVolume) bool { return v.State != vmbackup.StateReady })
	}
	return false
}

func (t *teller) tellVolumes(b *vmbackup.Backup) {
	for _, v := range b.Status.Volumes {
		had, known := t.volumes[v.Name]
		if known && had.State == v.State && had.Progress == v.Progress && had.Message == v.Message && had.BackupBytes == v.BackupBytes {
			continue
		}
		t.volumes[v.Name] = v
		total := v.BackupBytes
		if v.State != vmbackup.StateReady {
			if total = t.estimates[v.Name]; total == 0 {
				total = v.SizeBytes
			}
		}
		done := total * int64(v.Progress) / 100
		if v.State == vmbackup.StateReady {
			done = v.BackupBytes
		}
		t.events.Volume(stepUpload, v.Name, v.State, v.Progress, done, total, v.Message)
	}
}

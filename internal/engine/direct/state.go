// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// backupState is what a backup must remember between two runs beside what its
// record says anyway.
type backupState struct {
	FreezeTimeout time.Duration `json:"freezeTimeout"`
	// Class is the VolumeSnapshotClass.
	Class string `json:"class,omitempty"`
	// Attempt counts the rounds of snapshots, from 1: disks that were snapshotted
	// in two rounds do not fit together, so a broken round is thrown away.
	Attempt int `json:"attempt,omitempty"`
	// FrozenUntil is until when the round's guest may stand still at most, nil when
	// the round was given up: a run that comes in between lets it be.
	FrozenUntil *time.Time `json:"frozenUntil,omitempty"`
	// Snapshots are Longhorn's snapshots by the volume's name, once all were cut.
	Snapshots map[string]string `json:"snapshots,omitempty"`
	// Leftovers are Longhorn's snapshots of broken rounds, which go, with their
	// backups, once nothing in the cluster can ask for them again.
	Leftovers []string `json:"leftovers,omitempty"`
	// Estimates are the bytes that a volume's data takes at most, by its name.
	Estimates map[string]int64 `json:"estimates,omitempty"`
	// NotForHarvester is true when the machine refers to a Secret that does not
	// exist: Harvester's format cannot say that, and no file of its is written.
	NotForHarvester bool `json:"notForHarvester,omitempty"`
	// Fate is what somebody has decided about the backup.
	Fate fate `json:"fate,omitempty"`
}

// cut reports whether every volume has its snapshot.
func (s *backupState) cut() bool { return len(s.Snapshots) > 0 }

// remember adds snapshots to the leftovers, and reports whether one is new.
func (s *backupState) remember(snapshots []string) bool {
	before := len(s.Leftovers)
	for _, name := range snapshots {
		if !slices.Contains(s.Leftovers, name) {
			s.Leftovers = append(s.Leftovers, name)
		}
	}
	return len(s.Leftovers) > before
}

func loadState(record *metadata.Record) *backupState {
	s := &backupState{}
	if len(record.State) > 0 {
		// The journal's own decoder has checked that this is JSON; a state of
		// another shape is as good as none, since every step observes first.
		_ = json.Unmarshal(record.State, s)
	}
	s.keepSane()
	return s
}

// maxRounds is more rounds of snapshots than a backup takes.
const maxRounds = 1000

// keepSane drops what no run has written: whoever may edit the record must not have
// other objects of Longhorn removed by their names, nor a guest frozen for hours.
func (s *backupState) keepSane() {
	if s.FreezeTimeout <= 0 || s.FreezeTimeout > vmbackup.MaxFreezeTimeout {
		s.FreezeTimeout = vmbackup.DefaultFreezeTimeout
	}
	if !isName(s.Class) {
		s.Class = ""
	}
	s.Attempt = min(max(s.Attempt, 0), maxRounds)
	cut := func(name string) bool { return strings.HasPrefix(name, longhornSnapshot("")) && isName(name) }
	s.Leftovers = slices.DeleteFunc(s.Leftovers, func(name string) bool { return !cut(name) })
	for _, name := range s.Snapshots {
		if !cut(name) {
			s.Snapshots = nil // of one round, all or none
			break
		}
	}
}

func (s *backupState) store(record *metadata.Record) {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("state of a backup: %v", err)) // strings, numbers and maps of them
	}
	record.State = raw
}

// snapshotName is the name of a volume's VolumeSnapshot: Harvester's form, with
// the round where it is not the first.
func snapshotName(backup *vmbackup.Backup, v *vmbackup.BackupVolume, attempt int) string {
	name := backup.Metadata.Name + "-volume-" + v.PVC
	if attempt > 1 {
		name = fmt.Sprintf("%s-%d", name, attempt)
	}
	return shorten(name, 253)
}

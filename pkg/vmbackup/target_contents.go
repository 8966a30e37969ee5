// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import "time"

// KindTargetContents is the kind of a printed TargetContents.
const KindTargetContents = "TargetContents"

// TargetContents is what lies on a backup target, read from the target itself.
type TargetContents struct {
	APIVersion string               `json:"apiVersion"`
	Kind       string               `json:"kind"`
	Metadata   ObjectMeta           `json:"metadata"`
	Spec       TargetContentsSpec   `json:"spec"`
	Status     TargetContentsStatus `json:"status"`
}

// TargetContentsSpec is what was read.
type TargetContentsSpec struct {
	// URL is the target's without credentials.
	URL string `json:"url"`
}

// MostTold is how many orphans, gaps and broken files are listed at most; the counts
// beside them are of all.
const MostTold = 1000

// TargetContentsStatus is what was found. Bytes are blocks of data before
// compression, as Longhorn counts them.
type TargetContentsStatus struct {
	// Machines are the machines that have backups here, by namespace and name.
	Machines []TargetMachine `json:"machines"`
	Images   []TargetImage   `json:"images,omitempty"`
	// Backups are the machines' backups, VolumeBackups Longhorn's of single volumes.
	Backups       int   `json:"backups"`
	Volumes       int   `json:"volumes"`
	VolumeBackups int   `json:"volumeBackups"`
	Bytes         int64 `json:"bytes"`
	// Incomplete are backups of machines of which something is not here.
	Incomplete      []TargetGap `json:"incomplete,omitempty"`
	IncompleteCount int         `json:"incompleteCount"`
	// Orphans are data that no description of a machine or image names. They may be
	// backups that Longhorn was asked for without a machine, and are not garbage by that.
	Orphans     []TargetOrphan `json:"orphans,omitempty"`
	OrphanCount int            `json:"orphanCount"`
	OrphanBytes int64          `json:"orphanBytes"`
	// Broken are files that cannot be read as what they should be.
	Broken      []TargetFile `json:"broken,omitempty"`
	BrokenCount int          `json:"brokenCount"`
	// BlocksHarvester is whether one of the broken files stops Harvester from finding
	// any backup or image on the target.
	BlocksHarvester bool `json:"blocksHarvester"`
}

// TargetMachine is a machine by its backups on the target.
type TargetMachine struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Backups   int        `json:"backups"`
	Latest    *time.Time `json:"latest,omitempty"`
	Earliest  *time.Time `json:"earliest,omitempty"`
	// Incomplete are those of Backups of which something is missing.
	Incomplete int `json:"incomplete,omitempty"`
	// Bytes is what the volumes of the backups take; volumes that several machines
	// had are counted with each.
	Bytes int64 `json:"bytes"`
}

// TargetImage is an image that Harvester has described on the target.
type TargetImage struct {
	Namespace    string `json:"namespace"`
	Name         string `json:"name"`
	DisplayName  string `json:"displayName,omitempty"`
	BackingImage string `json:"backingImage"`
	// State is Ready when the data of the backing image is there, Failed when it is not.
	State State `json:"state"`
	Bytes int64 `json:"bytes,omitempty"`
}

// TargetGap is a backup of a machine with what is missing of it.
type TargetGap struct {
	Backup  Ref      `json:"backup"`
	Missing []string `json:"missing"`
}

// TargetOrphan is data that no description names.
type TargetOrphan struct {
	// Kind is volume, backup (of a volume that others name) or image.
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Volume string `json:"volume,omitempty"`
	// Claim is the PersistentVolumeClaim of a volume, namespace/name, as Longhorn has noted it.
	Claim   string `json:"claim,omitempty"`
	Backups int    `json:"backups,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
}

// Kinds of orphans.
const (
	OrphanVolume = "volume"
	OrphanBackup = "backup"
	OrphanImage  = "image"
)

// TargetFile is a file that cannot be read as what it should be.
type TargetFile struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
	// BlocksHarvester is whether Harvester stops at it, and so finds nothing on the target.
	BlocksHarvester bool `json:"blocksHarvester,omitempty"`
}

// Troubled reports whether something on the target is not as it should be. Orphans
// alone are no trouble.
func (s *TargetContentsStatus) Troubled() bool {
	return s.IncompleteCount > 0 || s.BrokenCount > 0 || s.hasLostImage()
}

func (s *TargetContentsStatus) hasLostImage() bool {
	for i := range s.Images {
		if s.Images[i].State == StateFailed {
			return true
		}
	}
	return false
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package longhorn

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LeanBackup is a Longhorn Backup with its name, labels and state alone: of thousands
// of them the rest, their volumes' parameters and messages among it, is not kept.
func LeanBackup(b *longhornv1.Backup) *longhornv1.Backup {
	lean := &longhornv1.Backup{ObjectMeta: metav1.ObjectMeta{
		Name: b.Name, Labels: b.Labels, CreationTimestamp: b.CreationTimestamp, DeletionTimestamp: b.DeletionTimestamp,
	}}
	lean.Spec.SnapshotName = b.Spec.SnapshotName
	lean.Status = longhornv1.BackupStatus{
		State: b.Status.State, Progress: b.Status.Progress, Error: b.Status.Error,
		SnapshotName: b.Status.SnapshotName, VolumeName: b.Status.VolumeName, VolumeBackingImageName: b.Status.VolumeBackingImageName,
		Size: b.Status.Size, NewlyUploadedDataSize: b.Status.NewlyUploadedDataSize, LastSyncedAt: b.Status.LastSyncedAt,
	}
	if b.Status.State != longhornv1.BackupStateCompleted {
		lean.Status.Messages = b.Status.Messages
	}
	return lean
}

// UploadFailed reports whether Longhorn has given a Backup up. It calls one Unknown
// whose engine it has lost, and ends with it when it notes a time.
func UploadFailed(b *longhornv1.Backup) bool {
	return b.Status.State == longhornv1.BackupStateError || b.Status.State == longhornv1.BackupStateUnknown && !b.Status.LastSyncedAt.IsZero()
}

// UploadDone reports whether a Backup is on the target, and Longhorn has read back
// from there what it wrote: sizes and all.
func UploadDone(b *longhornv1.Backup) bool {
	return b.Status.State == longhornv1.BackupStateCompleted && !b.Status.LastSyncedAt.IsZero()
}

// WaitsFor is what Longhorn says that a Backup waits for before it begins.
func WaitsFor(b *longhornv1.Backup) string {
	if b.Status.State != longhornv1.BackupStateNew && b.Status.State != longhornv1.BackupStatePending {
		return ""
	}
	return strings.Join(slices.Sorted(maps.Values(b.Status.Messages)), "; ")
}

// BeingDeleted reports whether a Backup is deleted together with its data. Longhorn
// drops its records of a target that looks empty, too, and leaves the data alone.
func BeingDeleted(b *longhornv1.Backup) bool {
	_, recordOnly := b.Labels["longhorn.io/delete-custom-resource-only"]
	return b.DeletionTimestamp != nil && !recordOnly
}

// Bytes reads Longhorn's decimal sizes; 0 for what is none.
func Bytes(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// ImageOf is the backing image that a BackupBackingImage is of.
func ImageOf(b *longhornv1.BackupBackingImage) string {
	if b.Status.BackingImage != "" {
		return b.Status.BackingImage
	}
	return b.Spec.BackingImage
}

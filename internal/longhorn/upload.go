// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package longhorn

import (
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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package longhorn reads what Longhorn's objects tell of uploads and restores, for
// everybody who follows one, whoever has asked Longhorn for it. It asks no cluster.
package longhorn

import (
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
)

// Restored reports whether a volume's data is there, of which a bound claim says
// nothing. failure is why it will never be there, empty while it may. A volume that is
// made from nothing is never restored.
func Restored(v *longhornv1.Volume) (done bool, failure string) {
	if v.Status.Robustness == longhornv1.VolumeRobustnessFaulted {
		return false, "the volume is faulted: " + ConditionMessage(v)
	}
	for _, c := range v.Status.Conditions {
		if c.Type == longhornv1.VolumeConditionTypeRestore && c.Status == longhornv1.ConditionStatusFalse && c.Reason == longhornv1.VolumeConditionReasonRestoreFailure {
			return false, c.Message
		}
	}
	if v.Spec.DataSource != "" { // a snapshot in the cluster
		if v.Status.CloneStatus.State == longhornv1.VolumeCloneStateFailed {
			return false, "the snapshot could not be cloned"
		}
		return v.Status.CloneStatus.State == longhornv1.VolumeCloneStateCompleted, ""
	}
	return v.Status.RestoreInitiated && !v.Status.RestoreRequired, ""
}

// Awaited reports whether Longhorn has yet to put data into a volume that is made from
// a backup or a snapshot, and still may.
func Awaited(v *longhornv1.Volume) bool {
	if v.Spec.FromBackup == "" && v.Spec.DataSource == "" {
		return false
	}
	done, failure := Restored(v)
	return !done && failure == ""
}

// Unscheduled is why no disk takes a volume's replicas, empty when one does.
func Unscheduled(v *longhornv1.Volume) string {
	for _, c := range v.Status.Conditions {
		if c.Type == longhornv1.VolumeConditionTypeScheduled && c.Status == longhornv1.ConditionStatusFalse {
			return "no disk takes its replicas: " + strings.TrimSpace(c.Reason+" "+c.Message)
		}
	}
	return ""
}

// ConditionMessage joins what a volume's unhealthy conditions say.
func ConditionMessage(v *longhornv1.Volume) string {
	var messages []string
	for _, c := range v.Status.Conditions {
		if c.Status == longhornv1.ConditionStatusFalse && c.Message != "" {
			messages = append(messages, c.Message)
		}
	}
	if len(messages) == 0 {
		return "Longhorn gave no reason"
	}
	return strings.Join(messages, "; ")
}

// RestoreProgress is the progress of the replica that is furthest behind, 0..100.
func RestoreProgress(e *longhornv1.Engine) int {
	progress, found := 100, false
	for _, s := range e.Status.RestoreStatus {
		if s != nil {
			progress, found = min(progress, s.Progress), true
		}
	}
	if !found {
		return 0
	}
	return progress
}

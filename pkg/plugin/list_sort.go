// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func sortBackups(backups []vmbackup.Backup, key string) {
	compare := map[string]func(a, b vmbackup.Backup) int{
		"name":  func(a, b vmbackup.Backup) int { return strings.Compare(a.Ref().String(), b.Ref().String()) },
		"age":   func(a, b vmbackup.Backup) int { return compareTimes(a.Status.StartedAt, b.Status.StartedAt) },
		"vm":    func(a, b vmbackup.Backup) int { return strings.Compare(a.Spec.VM, b.Spec.VM) },
		"phase": func(a, b vmbackup.Backup) int { return strings.Compare(string(a.Status.Phase), string(b.Status.Phase)) },
		"size":  func(a, b vmbackup.Backup) int { return cmp.Compare(sizeOf(a), sizeOf(b)) },
	}[key]
	if compare != nil {
		slices.SortStableFunc(backups, compare)
	}
}

func sortRestores(restores []vmbackup.Restore, key string) {
	compare := map[string]func(a, b vmbackup.Restore) int{
		"name": func(a, b vmbackup.Restore) int { return strings.Compare(a.Ref().String(), b.Ref().String()) },
		"age":  func(a, b vmbackup.Restore) int { return compareTimes(a.Status.StartedAt, b.Status.StartedAt) },
		"vm":   func(a, b vmbackup.Restore) int { return strings.Compare(a.Spec.TargetName, b.Spec.TargetName) },
		"phase": func(a, b vmbackup.Restore) int {
			return strings.Compare(string(a.Status.Phase), string(b.Status.Phase))
		},
		"size": func(a, b vmbackup.Restore) int {
			size := func(r vmbackup.Restore) (n int64) {
				for _, v := range r.Status.Volumes {
					n += v.SizeBytes
				}
				return n
			}
			return cmp.Compare(size(a), size(b))
		},
	}[key]
	if compare != nil {
		slices.SortStableFunc(restores, compare)
	}
}

func sizeOf(b vmbackup.Backup) (n int64) {
	for _, v := range b.Status.Volumes {
		n += v.SizeBytes
	}
	return n
}

// compareTimes orders times; an unknown one comes last.
func compareTimes(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(*b)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// withFile is a backup that foreign controllers have made for the tool: how it stands
// is in their object, and what that cannot hold in the tool's own file.
func withFile(foreign, own *metadata.Record) *metadata.Record {
	both := *own
	both.Backup = foreign.Backup
	status, filed := &both.Backup.Status, &own.Backup.Status
	status.Secrets, status.ConfigMaps = filed.Secrets, filed.ConfigMaps
	status.InstanceType, status.Preference = filed.InstanceType, filed.Preference
	status.FoundOn = vmbackup.FoundOn(vmbackup.SourceCluster, vmbackup.SourceTarget)
	for _, w := range filed.Warnings {
		warn(&both.Backup, w)
	}
	for i := range status.Volumes {
		for _, v := range filed.Volumes {
			if v.Name == status.Volumes[i].Name {
				status.Volumes[i].Encrypted = v.Encrypted
			}
		}
	}
	return &both
}

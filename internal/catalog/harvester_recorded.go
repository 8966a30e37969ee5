// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"encoding/base64"
	"maps"
	"slices"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreView is the view of one of Harvester's restores, with what the tool has
// recorded on it where it has asked for it.
func (h harvesterBackups) restoreView(object *harvester.VirtualMachineRestore, e harvester.RestoreEvidence) *vmbackup.Restore {
	view := object.View(e)
	text, found := object.Annotations[harvester.RecordAnnotation]
	if !found || h.decode == nil {
		return view
	}
	data, err := base64.StdEncoding.DecodeString(text)
	var record *vmbackup.Restore
	if err == nil {
		record, err = h.decode(view.Ref(), data)
	}
	if err != nil {
		view.Status.Warnings = append(view.Status.Warnings, "the tool's record on it cannot be read: "+err.Error())
		return view
	}
	return recorded(record, view)
}

// recorded joins the tool's record of a restore with Harvester's view of it. The
// restore has ended when the record says so: after Harvester's part the machine is
// still made to run, or not, as it was asked for.
func recorded(record, view *vmbackup.Restore) *vmbackup.Restore {
	r := *record
	r.Metadata.Labels = maps.Clone(view.Metadata.Labels)
	if r.Status.Phase.Done() {
		return &r
	}
	s, now := &r.Status, &view.Status
	s.Warnings = slices.Concat(s.Warnings, now.Warnings)
	if now.Error != nil {
		// Harvester tries again; who runs the restore says when it cannot go on.
		s.Warnings = append(s.Warnings, now.Error.Message)
	}
	for i := range s.Volumes {
		for _, v := range now.Volumes {
			if v.Name != s.Volumes[i].Name {
				continue
			}
			handle, source := s.Volumes[i].SnapshotHandle, s.Volumes[i].SourcePVC
			s.Volumes[i] = v
			s.Volumes[i].SnapshotHandle, s.Volumes[i].SourcePVC = handle, source
		}
	}
	for i := range s.Steps {
		for _, step := range now.Steps {
			if step.ID == s.Steps[i].ID && s.Steps[i].State != vmbackup.StateReady {
				s.Steps[i].State, s.Steps[i].Progress, s.Steps[i].Message = step.State, step.Progress, step.Message
			}
		}
	}
	return &r
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// What an engine beside this one needs to know of it, and has done by it.

// Recorded reports whether the engine keeps the record of a backup of that name.
func (e *Engine) Recorded(ctx context.Context, ref vmbackup.Ref) (bool, error) {
	_, err := e.journal.Get(ctx, journal.KindBackup, ref)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return false, nil
	}
	return err == nil, err
}

// NotBeingRestored refuses, with Conflict, while a restore of the engine's reads the
// data of a backup.
func (e *Engine) NotBeingRestored(ctx context.Context, ref vmbackup.Ref) error {
	return e.notBeingRestored(ctx, ref)
}

// Removal are the steps that remove what is left of a backup once nobody keeps it any
// more: the backups of its volumes in Longhorn, with their data on the target, the
// files that describe it, and its snapshots in Longhorn, whose names are given.
func (e *Engine) Removal(record *metadata.Record, snapshots []string, events *flow.Events) []flow.Step {
	b := &record.Backup
	d := &deletion{
		engine: e, events: events, fate: fateDelete, own: &deletePlan{record: record, snapshots: snapshots},
		request: vmbackup.DeleteRequest{Backup: b.Ref(), From: vmbackup.SourceCluster, Target: b.Spec.Target},
	}
	return d.removal(b.Spec.Type)[1:] // of the CSI snapshots there are none
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Discoverer makes objects of its own of the backups that it finds on a target, as
// Harvester's controllers do.
type Discoverer interface {
	// Discovered is the object that it has made of the backup; nil for none.
	Discovered(ctx context.Context, b *vmbackup.Backup) (*vmbackup.PlannedObject, error)
	// Forget removes that object, with what was made of it. None is no error.
	Forget(ctx context.Context, b *vmbackup.Backup, events *flow.Events) error
}

// DiscoveredBy has the deletions of the engine remove what somebody else has made of
// the deleted backups: it would show backups whose data is gone.
func (e *Engine) DiscoveredBy(d Discoverer) { e.discoverer = d }

// forgets reports whether a deletion has to look for objects of a discoverer. One that
// keeps the data leaves a backup that can be found again.
func (e *Engine) forgets(req vmbackup.DeleteRequest, b *vmbackup.Backup) bool {
	return e.discoverer != nil && !req.KeepData && b.Spec.Type == vmbackup.TypeBackup
}

// planForgetting adds what the discoverer has made to a plan.
func (e *Engine) planForgetting(ctx context.Context, plan *vmbackup.DeletePlan) error {
	if !e.forgets(plan.Request, plan.Backup) {
		return nil
	}
	object, err := e.discoverer.Discovered(ctx, plan.Backup)
	if err != nil || object == nil {
		return err
	}
	object.Action = vmbackup.ActionDelete
	plan.Objects = append(plan.Objects, *object)
	return nil
}

// forget is the step of a deletion that has the discoverer forget the backup, after its
// description is gone from the target: it would find it again.
func (d *deletion) forget(ctx context.Context) error {
	return d.engine.discoverer.Forget(ctx, d.backup(), d.events)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package router

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// PlanBackup plans with the engine that is chosen. Where the choice is the router's,
// and Harvester cannot do what is asked for, the direct engine does, and a warning says why.
func (r *Router) PlanBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	engine, why, err := r.chosen(ctx)
	if err != nil {
		return nil, err
	}
	if engine != backups(r.harvester) {
		return r.planDirect(ctx, req, why)
	}
	if r.choice == Auto && req.Name != "" {
		// One that was begun goes on where it was begun.
		own, err := r.direct.Recorded(ctx, vmbackup.Ref{Namespace: req.Namespace, Name: req.Name})
		if err != nil {
			return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
		}
		if own {
			return r.planDirect(ctx, req, "")
		}
	}
	plan, err := r.harvester.PlanBackup(ctx, req)
	if unfit := harvester.UnfitFor(err); r.choice == Auto && unfit != "" {
		return r.planDirect(ctx, req, unfit+"; so this is done without Harvester's controllers")
	}
	if err == nil {
		r.keepers.Store(plan, r.harvester)
	}
	return plan, err
}

// planDirect plans with the direct engine. A name that is Harvester's is taken.
func (r *Router) planDirect(ctx context.Context, req vmbackup.BackupRequest, why string) (*vmbackup.BackupPlan, error) {
	if req.Name != "" {
		served, err := r.serves(ctx)
		if err == nil && served {
			served, err = r.taken(ctx, vmbackup.Ref{Namespace: req.Namespace, Name: req.Name})
		}
		if err != nil {
			return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
		}
		if served {
			return nil, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a backup %s/%s already, kept by Harvester", req.Namespace, req.Name).AsPreflight().
				WithHint("choose another --name, or look at it with: kubectl vmbackup describe %s -n %s", req.Name, req.Namespace)
		}
	}
	plan, err := r.direct.PlanBackup(ctx, req)
	if err != nil {
		return plan, err
	}
	r.keepers.Store(plan, r.direct)
	if why != "" && plan.Backup.Status.Phase == vmbackup.PhasePlanned {
		plan.Warnings = append(plan.Warnings, why)
		plan.Backup.Status.Warnings = append(plan.Backup.Status.Warnings, why)
	}
	return plan, nil
}

// taken reports whether a name is Harvester's alone. An object that Harvester has made
// of the tool's own files on the target is no backup beside them.
func (r *Router) taken(ctx context.Context, ref vmbackup.Ref) (bool, error) {
	own, err := r.direct.Recorded(ctx, ref)
	if err != nil || own {
		return false, err
	}
	return r.harvester.Recorded(ctx, ref)
}

// planned is the engine that has made a plan.
func (r *Router) planned(plan any) backups {
	if engine, found := r.keepers.LoadAndDelete(plan); found {
		return engine.(backups)
	}
	return r.direct // which refuses a plan of somebody else
}

// StartBackup starts with the engine that has planned it.
func (r *Router) StartBackup(ctx context.Context, plan *vmbackup.BackupPlan) (*vmbackup.Backup, error) {
	engine := r.planned(plan)
	backup, err := engine.StartBackup(ctx, plan)
	if err == nil {
		r.keepers.Store(backup.Ref(), engine)
	}
	return backup, err
}

// RunBackup runs with the engine that keeps the record.
func (r *Router) RunBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	engine, err := r.keeper(ctx, ref)
	if err != nil {
		return nil, err
	}
	return engine.RunBackup(ctx, ref, opts)
}

// PlanDelete plans with the engine that keeps the record. A backup that is asked for
// from the target alone is the direct engine's, unless Harvester keeps it.
func (r *Router) PlanDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	engine, err := r.keeper(ctx, req.Backup)
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	plan, err := engine.PlanDelete(ctx, req)
	if err == nil {
		r.keepers.Store(plan, engine)
	}
	return plan, err
}

// Delete deletes with the engine that has planned it.
func (r *Router) Delete(ctx context.Context, plan *vmbackup.DeletePlan, opts vmbackup.RunOptions) error {
	err := r.planned(plan).Delete(ctx, plan, opts)
	if err == nil {
		r.keepers.Delete(plan.Request.Backup)
	}
	return err
}

// CancelBackup cancels with the engine that keeps the record.
func (r *Router) CancelBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	engine, err := r.keeper(ctx, ref)
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	backup, err := engine.CancelBackup(ctx, ref, opts)
	r.keepers.Delete(ref)
	return backup, err
}

// Observe asks the engine that the view names.
func (r *Router) Observe(ctx context.Context, backup *vmbackup.Backup) error {
	if backup.Status.Engine == vmbackup.EngineHarvester {
		return r.harvester.Observe(ctx, backup)
	}
	return r.direct.Observe(ctx, backup)
}

// FollowBackup follows with the engine that keeps the record.
func (r *Router) FollowBackup(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	engine, err := r.keeper(ctx, ref)
	if err != nil {
		return err
	}
	return engine.FollowBackup(ctx, ref, sink)
}

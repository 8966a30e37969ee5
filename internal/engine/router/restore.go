// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package router

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restores is the half of an engine that is about restores.
type restores interface {
	Name() string
	StartRestore(ctx context.Context, plan *vmbackup.RestorePlan) (*vmbackup.Restore, error)
	RunRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error)
	CancelRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error)
	DeleteRestore(ctx context.Context, ref vmbackup.Ref) error
	FollowRestore(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error
}

// restoreOf is the key of a restore's keeper: a backup may have its name.
type restoreOf vmbackup.Ref

// PlanRestore plans with Harvester what it keeps, where it can do what is asked for
// and nothing speaks against it; else with the direct engine, which restores what
// either engine has backed up. Why it is not Harvester that does it is told in a line.
func (r *Router) PlanRestore(ctx context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	engine, why, err := r.chosen(ctx)
	if err != nil {
		return nil, err
	}
	if engine != backups(r.harvester) {
		return r.restoreDirect(ctx, req, why)
	}
	if r.choice == vmbackup.EngineHarvester {
		return r.restoreHarvester(ctx, req)
	}
	// What the tool has backed up itself it restores itself: its record has more.
	own, err := r.direct.Recorded(ctx, req.Backup)
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	if own {
		return r.restoreDirect(ctx, req, "")
	}
	theirs, err := r.harvester.Recorded(ctx, req.Backup)
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	if !theirs {
		return r.restoreDirect(ctx, req, "")
	}
	plan, err := r.restoreHarvester(ctx, req)
	unfit := harvester.UnfitFor(err)
	switch reason := vmbackup.ReasonOf(err); {
	case err == nil:
		unfit = harvester.Reservation(plan)
	case reason == vmbackup.ReasonStorageClassMissing || reason == vmbackup.ReasonImageMissing:
		unfit = "it needs StorageClasses and images to be there, and this can make them first" // or refuses them, too
	}
	if unfit == "" {
		return plan, err
	}
	direct, directErr := r.restoreDirect(ctx, req, "this is done without Harvester's controllers: "+unfit)
	if directErr != nil && err == nil {
		return plan, nil // Harvester can, if not as well
	}
	return direct, directErr
}

func (r *Router) restoreHarvester(ctx context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	plan, err := r.harvester.PlanRestore(ctx, req)
	if err == nil {
		r.keepers.Store(plan, r.harvester)
	}
	return plan, err
}

// restoreDirect plans with the direct engine. A name that is Harvester's is taken.
func (r *Router) restoreDirect(ctx context.Context, req vmbackup.RestoreRequest, why string) (*vmbackup.RestorePlan, error) {
	plan, err := r.direct.PlanRestore(ctx, req)
	if err != nil {
		return plan, err
	}
	ref := plan.Restore.Ref()
	taken, err := r.serves(ctx)
	if err == nil && taken {
		taken, err = r.harvester.KeepsRestore(ctx, ref)
	}
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	if taken {
		return nil, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a restore %s already, kept by Harvester; nothing was changed", ref).AsPreflight().
			WithHint("choose another name with --name, or look at it with: kubectl vmbackup describe restore/%s -n %s", ref.Name, ref.Namespace)
	}
	plan.Note = why
	return plan, nil
}

// StartRestore starts with the engine that has planned it.
func (r *Router) StartRestore(ctx context.Context, plan *vmbackup.RestorePlan) (*vmbackup.Restore, error) {
	engine := restores(r.direct)
	if found, ok := r.keepers.LoadAndDelete(plan); ok {
		engine = found.(restores)
	}
	restore, err := engine.StartRestore(ctx, plan)
	if err == nil {
		r.keepers.Store(restoreOf(restore.Ref()), engine)
	}
	return restore, err
}

// restorer is the engine that keeps the record of a restore. No name has two: neither
// engine takes one that the other keeps.
func (r *Router) restorer(ctx context.Context, ref vmbackup.Ref) (restores, error) {
	if engine, found := r.keepers.Load(restoreOf(ref)); found {
		return engine.(restores), nil
	}
	served, err := r.serves(ctx)
	if err != nil || !served {
		return r.direct, err
	}
	theirs, err := r.harvester.KeepsRestore(ctx, ref)
	if err != nil || !theirs {
		return r.direct, err
	}
	return r.harvester, nil
}

// RunRestore runs with the engine that keeps the record.
func (r *Router) RunRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	engine, err := r.restorer(ctx, ref)
	if err != nil {
		return nil, err
	}
	return engine.RunRestore(ctx, ref, opts)
}

// CancelRestore cancels with the engine that keeps the record.
func (r *Router) CancelRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	engine, err := r.restorer(ctx, ref)
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	defer r.keepers.Delete(restoreOf(ref))
	return engine.CancelRestore(ctx, ref, opts)
}

// DeleteRestore deletes with the engine that keeps the record.
func (r *Router) DeleteRestore(ctx context.Context, ref vmbackup.Ref) error {
	engine, err := r.restorer(ctx, ref)
	if err != nil {
		return vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	return engine.DeleteRestore(ctx, ref)
}

// FollowRestore follows with the engine that keeps the record.
func (r *Router) FollowRestore(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	engine, err := r.restorer(ctx, ref)
	if err != nil {
		return err
	}
	return engine.FollowRestore(ctx, ref, sink)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package router

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Restores are the direct engine's: it restores what either engine has backed up.

// PlanRestore implements vmbackup.Engine.
func (r *Router) PlanRestore(ctx context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	return r.direct.PlanRestore(ctx, req)
}

// StartRestore implements vmbackup.Engine.
func (r *Router) StartRestore(ctx context.Context, plan *vmbackup.RestorePlan) (*vmbackup.Restore, error) {
	return r.direct.StartRestore(ctx, plan)
}

// RunRestore implements vmbackup.Engine.
func (r *Router) RunRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	return r.direct.RunRestore(ctx, ref, opts)
}

// CancelRestore implements vmbackup.Engine.
func (r *Router) CancelRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	return r.direct.CancelRestore(ctx, ref, opts)
}

// DeleteRestore implements vmbackup.Engine.
func (r *Router) DeleteRestore(ctx context.Context, ref vmbackup.Ref) error {
	return r.direct.DeleteRestore(ctx, ref)
}

// FollowRestore implements vmbackup.Engine.
func (r *Router) FollowRestore(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	return r.direct.FollowRestore(ctx, ref, sink)
}

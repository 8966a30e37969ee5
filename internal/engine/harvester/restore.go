// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"encoding/json"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restores is the direct engine with Harvester's controllers to make the volumes and
// the machine, and with its record on their object.
func (e *Engine) restores(d *restoreDelegate, spec *hv.VirtualMachineRestoreSpec) *direct.Engine {
	d.engine = e
	return e.direct.Delegating(d, &restoreJournal{Store: e.direct.Journal(), clients: e.clients, spec: spec})
}

// PlanRestore checks the request and says what would be done.
func (e *Engine) PlanRestore(ctx context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	req = req.Default()
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if why := unservable(req); why != "" {
		return nil, cannot(req.Backup, why)
	}
	backup, err := e.clients.Harvester.Backups(req.Backup.Namespace).Get(ctx, req.Backup.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, cannot(req.Backup, "it has no object of that backup (it has not discovered it on the target, or not yet)")
	}
	if err != nil {
		return nil, preflight(kube.Error(err, "read", hv.BackupResource+"."+hv.Group+" "+req.Backup.String()))
	}
	if err := readyFor(backup, req); err != nil {
		return nil, preflight(err)
	}
	if why := leftBehind(backup); why != "" {
		return nil, cannot(req.Backup, why)
	}
	return e.restores(&restoreDelegate{backup: backup}, nil).PlanRestore(ctx, req)
}

// StartRestore has Harvester begin: its object is the record.
func (e *Engine) StartRestore(ctx context.Context, plan *vmbackup.RestorePlan) (*vmbackup.Restore, error) {
	planned, ok := direct.DelegatedPlan(plan)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "the plan of restore %s was not made by this engine", plan.Restore.Ref())
	}
	state, err := stateOf(planned)
	if err != nil {
		return nil, err
	}
	return e.restores(&restoreDelegate{}, &state.Spec).StartRestore(ctx, plan)
}

// RunRestore takes a started restore to its end.
func (e *Engine) RunRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	return e.restores(&restoreDelegate{}, nil).RunRestore(ctx, ref, opts)
}

// KeepsRestore reports whether Harvester has an object of a restore of that name, or
// the tool the record of one that it had.
func (e *Engine) KeepsRestore(ctx context.Context, ref vmbackup.Ref) (bool, error) {
	_, err := e.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsForbidden(err):
		return false, nil
	case !apierrors.IsNotFound(err):
		return false, kube.Error(err, "read", restoreName(ref))
	}
	return e.direct.Delegated(ctx, ref)
}

// CancelRestore gives up a restore whose machine was not started yet.
func (e *Engine) CancelRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	return e.restores(&restoreDelegate{}, nil).CancelRestore(ctx, ref, opts)
}

// FollowRestore tells the progress of a restore that somebody else runs.
func (e *Engine) FollowRestore(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	return e.restores(&restoreDelegate{}, nil).FollowRestore(ctx, ref, sink)
}

// restoreState is what the engine keeps in the record of a restore.
type restoreState struct {
	Spec hv.VirtualMachineRestoreSpec `json:"spec"`
	// Halts is true where Harvester leaves the machine off by itself.
	Halts bool `json:"halts,omitempty"`
}

func stateOf(d *direct.Delegated) (*restoreState, error) {
	s := &restoreState{}
	if err := json.Unmarshal(d.State(), s); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "record of restore %s: what Harvester is asked for: %w", d.Restore().Ref(), err)
	}
	return s, nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"sync"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Delegate makes the volumes and the machine of a restore, as the controllers of a
// platform do, in place of the engine's own steps. What is looked at before, the
// record, interrupts, and what the machine is like in the end stay the engine's.
type Delegate interface {
	// Name is the engine's name in status.
	Name() string
	// Secrets maps the backup's Secrets that the delegate restores to the names that
	// they get.
	Secrets(record *metadata.Record, to vmbackup.Ref, inPlace bool) map[string]string
	// Plan refuses what the delegate cannot do, and returns the objects that it makes.
	Plan(ctx context.Context, d *Delegated, req vmbackup.RestoreRequest) ([]vmbackup.PlannedObject, error)
	// Begin does what must be done before the record is written. Where that fails
	// afterwards, unbegin takes it back.
	Begin(ctx context.Context, d *Delegated) (unbegin func(context.Context) error, err error)
	// Steps are those of a run.
	Steps(d *Delegated) []flow.Step
	// Follow tells the progress of the step "data" of a restore that somebody else runs,
	// and changes nothing.
	Follow(ctx context.Context, d *Delegated) error
	// TooLate says why the restore cannot be given up any more; nil when it can.
	TooLate(ctx context.Context, d *Delegated) error
	// Undo are the steps that take back what the delegate has made.
	Undo(d *Delegated) []flow.Step
}

// Journal is where the engine keeps its records.
func (e *Engine) Journal() journal.Store { return e.journal }

// Delegating is the engine with somebody else to make volumes and machines, and with
// the records of such restores in a store of their own.
func (e *Engine) Delegating(d Delegate, store journal.Store) *Engine {
	with := New(e.clients, store, e.records, e.open, e.clock)
	with.delegate = d
	return with
}

// Delegated reports whether the journal has the record of a restore that was left to
// a delegate.
func (e *Engine) Delegated(ctx context.Context, ref vmbackup.Ref) (bool, error) {
	entry, err := e.journal.Get(ctx, journal.KindRestore, ref)
	if err != nil {
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			err = nil
		}
		return false, err
	}
	record, err := decodeRestore(ref, entry.Data)
	if err != nil {
		return false, nil //nolint:nilerr // whoever reads it next says so
	}
	return record.Delegate != "", nil
}

// Delegated is one restore whose volumes and machine a Delegate makes.
type Delegated struct{ run *restoreRun }

// DelegatedPlan is the restore of a plan that a delegating engine has made.
func DelegatedPlan(plan *vmbackup.RestorePlan) (*Delegated, bool) {
	record, ok := plan.State.(*restoreRecord)
	if !ok || record.Delegate == "" {
		return nil, false
	}
	return &Delegated{&restoreRun{record: record}}, true
}

// Restore is the restore as it is recorded; its fields may be changed.
func (d *Delegated) Restore() *vmbackup.Restore { return d.run.restore() }

// Operation is the token of the restore.
func (d *Delegated) Operation() string { return d.run.record.Operation }

// Machine is the restored machine.
func (d *Delegated) Machine() vmbackup.Ref { return d.run.machineRef() }

// State is what the delegate keeps in the record.
func (d *Delegated) State() json.RawMessage { return d.run.record.DelegateState }

// SetState keeps something in the record.
func (d *Delegated) SetState(state json.RawMessage) { d.run.record.DelegateState = state }

// Save writes the record.
func (d *Delegated) Save(ctx context.Context) error { return d.run.save(ctx) }

// Events tell what happens.
func (d *Delegated) Events() *flow.Events { return d.run.events }

// Warn tells a warning now and keeps it with the restore.
func (d *Delegated) Warn(message string) { d.run.warn(message) }

// Manifest is the machine as it is to be.
func (d *Delegated) Manifest() json.RawMessage { return d.run.record.VM }

// RunStrategy is the one that the machine has in the end.
func (d *Delegated) RunStrategy() kubevirtv1.VirtualMachineRunStrategy {
	return d.run.record.RunStrategy
}

// EndsRunning reports whether the machine runs in the end. One of run strategy Manual
// does when that was asked for.
func (d *Delegated) EndsRunning() bool {
	r := d.run.record
	switch r.RunStrategy {
	case kubevirtv1.RunStrategyHalted:
		return false
	case kubevirtv1.RunStrategyManual:
		return r.StartByHand
	}
	return true
}

// InPlace reports whether the machine is there already and gets other disks.
func (d *Delegated) InPlace() bool { return d.run.record.InPlace != nil }

// Stops reports whether a machine of a restore in place is running and has to be stopped.
func (d *Delegated) Stops() bool {
	ip := d.run.record.InPlace
	return ip != nil && (ip.Was.Ran || ip.Was.Strategy == kubevirtv1.RunStrategyAlways)
}

// DeletesOldVolumes reports whether the replaced claims are deleted in the end.
func (d *Delegated) DeletesOldVolumes() bool {
	return d.InPlace() && d.run.record.InPlace.DeleteOld && d.run.record.InPlace.starts()
}

// GoBack is the command that gives a machine its old disks again, empty for none.
func (d *Delegated) GoBack() string { return d.run.record.goBack() }

// Unrestorable are the kinds and names of what the delegate would have to restore
// beside volumes, machine and its own Secrets.
func (d *Delegated) Unrestorable() []string {
	var list []string
	for _, objects := range [][]json.RawMessage{d.run.record.Secrets, d.run.record.ConfigMaps} {
		for _, raw := range objects {
			if m, err := metadata.ParseManifest(raw); err == nil {
				list = append(list, m.Kind+" "+m.Metadata.Name)
			}
		}
	}
	if d.run.record.StateClaim != "" {
		list = append(list, "the machine's persistent state (TPM, EFI)")
	}
	return list
}

// LiveMachine reads the machine as it is now.
func (d *Delegated) LiveMachine(ctx context.Context) (*kubevirtv1.VirtualMachine, error) {
	m, err := d.run.engine.readMachine(ctx, d.Machine())
	if err != nil {
		return nil, err
	}
	return &m.VirtualMachine, nil
}

// Instance is the machine's VirtualMachineInstance, nil where there is none.
func (d *Delegated) Instance(ctx context.Context) (*kubevirtv1.VirtualMachineInstance, error) {
	return d.run.engine.instance(ctx, d.Machine())
}

// IsPutBack reports whether a machine has been made what it is to be.
func (d *Delegated) IsPutBack(m *kubevirtv1.VirtualMachine) bool {
	return m.Annotations[LabelOperation] == d.run.record.Operation
}

// DeleteOldVolumes deletes the claims that the restored ones have replaced.
func (d *Delegated) DeleteOldVolumes(ctx context.Context) error { return d.run.deleteOld(ctx) }

// HasRevisions reports whether the machine owns revisions of its instance type or preference.
func (d *Delegated) HasRevisions() bool { return len(d.run.record.Revisions) > 0 }

// Unpin takes the revisions' names out of the machine's specification again where the
// source had none there, once KubeVirt has noted them.
func (d *Delegated) Unpin(ctx context.Context) error { return d.run.unpin(ctx) }

// RemoveObjects deletes the revisions that the restore has made.
func (d *Delegated) RemoveObjects(ctx context.Context) error {
	return undo{restoreRun: d.run}.removeObjects(ctx)
}

// FollowProgress tells Longhorn's percentages of those Longhorn volumes in the step
// "data", until ctx ends. It is for the eye alone. mu guards the restore's volumes.
func (d *Delegated) FollowProgress(ctx context.Context, mu *sync.Mutex, volumes []string) {
	d.run.followProgress(ctx, mu, volumes)
}

// delegatedSteps are the steps of a run that a delegate makes.
func (r *restoreRun) delegatedSteps() []flow.Step { return r.engine.delegate.Steps(&Delegated{r}) }

// planDelegated completes the plan of a restore that a delegate makes.
func (e *Engine) planDelegated(ctx context.Context, restore *restoreRecord, req vmbackup.RestoreRequest, planned []vmbackup.PlannedObject) ([]vmbackup.PlannedObject, error) {
	restore.Delegate, restore.Restore.Status.Engine = e.delegate.Name(), e.delegate.Name()
	made, err := e.delegate.Plan(ctx, &Delegated{&restoreRun{operation: operation{engine: e}, record: restore}}, req)
	if err != nil {
		return nil, err
	}
	for _, o := range planned {
		switch {
		case o.Kind == "VolumeSnapshot" || o.Kind == "VolumeSnapshotContent":
		case o.Kind == "Secret" && o.Action == vmbackup.ActionCreate: // the journal's
		case o.Kind == "PersistentVolumeClaim" && o.Action == vmbackup.ActionCreate:
		default:
			made = append(made, o)
		}
	}
	return made, nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// StartBackup writes the record, which takes the name.
func (e *Engine) StartBackup(ctx context.Context, plan *vmbackup.BackupPlan) (*vmbackup.Backup, error) {
	own, ok := plan.State.(*backupPlan)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "the plan of backup %s was not made by this engine", plan.Request.Ref())
	}
	if own.resumes {
		return &own.record.Backup, nil
	}
	record := own.record
	now := e.clock().UTC()
	record.Backup.Status.Phase, record.Backup.Status.StartedAt = vmbackup.PhaseRunning, &now
	entry, err := entryOf(record)
	if err != nil {
		return nil, err
	}
	if err := e.begin(ctx, entry); err != nil {
		if vmbackup.ReasonOf(err) == vmbackup.ReasonAlreadyExists {
			return nil, nameTaken(plan.Request.Ref(), "started a moment ago")
		}
		return nil, err
	}
	return &record.Backup, nil
}

// entryOf is the journal's entry of a record.
func entryOf(record *metadata.Record) (journal.Entry, error) {
	data, err := metadata.EncodeJournal(record)
	if err != nil {
		return journal.Entry{}, err
	}
	return journal.Entry{
		Kind: journal.KindBackup, Ref: record.Backup.Ref(), Data: data,
		Labels: loadState(record).Fate.marked(map[string]string{
			journal.LabelVM: record.Backup.Spec.VM, journal.LabelPhase: string(record.Backup.Status.Phase), LabelOperation: record.Operation,
		}),
	}, nil
}

// RunBackup takes a started backup to its end.
func (e *Engine) RunBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	entry, err := e.entry(ctx, journal.KindBackup, ref)
	if err != nil {
		return nil, err
	}
	record, err := metadata.DecodeJournal(ref, entry.Data)
	if err != nil {
		return nil, err
	}
	backup := &record.Backup
	events := flow.NewEvents(sinkOf(opts), "backup/"+ref.String(), e.clock)
	run := &backupRun{operation: e.operation(events, entry), record: record, state: loadState(record)}
	run.operation.adopt, run.resumed = run.adopt, run.state.cut()
	if backup.Status.Phase.Done() {
		events.Plan(nil, "backup "+ref.String()+" has ended already")
		events.Result(backup.Status.Phase, asErr(backup.Status.Error), "")
		return backup, ended(backup.Status.Phase, backup.Status.Error)
	}
	if f := run.state.Fate; f != "" {
		return backup, preflight(f.stops(journal.KindBackup, ref))
	}
	steps := run.patience.steps(run.steps())
	events.Plan(flow.Statuses(steps), fmt.Sprintf("back up VirtualMachine %s/%s (%d volumes)", ref.Namespace, backup.Spec.VM, len(backup.Status.Volumes)))
	for _, w := range backup.Status.Warnings {
		events.Warning(w)
	}
	running, heard := run.heed(ctx, journal.KindBackup, ref)
	err = heard(flow.Run(running, steps, opts.NoWait, events, nil))
	return backup, run.finish(ctx, err)
}

// ended is the error of a run that comes after the operation's end: one that was
// canceled is refused, any other has the result that it has.
func ended(phase vmbackup.Phase, err *vmbackup.Error) error {
	if phase == vmbackup.PhaseCanceled {
		return preflight(asErr(err))
	}
	return asErr(err)
}

// asErr keeps a nil *Error from becoming a non-nil error.
func asErr(err *vmbackup.Error) error {
	if err == nil {
		return nil
	}
	return err
}

// backupRun is one run of a backup, from wherever it stands.
type backupRun struct {
	operation
	record *metadata.Record
	state  *backupState
	// ownRound is true once this run has recorded a round of snapshots as its own.
	ownRound bool
	// resumed is true when another run has cut the snapshots.
	resumed bool
	// freezeMissed is when the API server was first away in a freeze.
	freezeMissed time.Time
}

func (r *backupRun) backup() *vmbackup.Backup { return &r.record.Backup }

// steps are the steps of a backup, in order.
func (r *backupRun) steps() []flow.Step {
	steps := []flow.Step{
		{ID: "class", Title: "Find or make the VolumeSnapshotClass", Ensure: r.ensureClass},
		{ID: "snapshot", Title: "Freeze the guest, snapshot every volume, thaw", Ensure: r.ensureSnapshots},
	}
	if r.backup().Spec.Type == vmbackup.TypeSnapshot {
		return append(steps, flow.Step{ID: "verify", Title: "See every snapshot ready to use", Ensure: r.verifySnapshots})
	}
	steps = append(steps, flow.Step{ID: "upload", Title: "Upload the volumes to the backup target", Ensure: r.followUploads, Waits: true})
	if len(r.backup().Status.Images) > 0 {
		steps = append(steps, flow.Step{ID: "images", Title: "See the backing images on the backup target", Ensure: r.followImages, Waits: true})
	}
	return append(steps,
		flow.Step{ID: "verify", Title: "See every volume's backup on the target itself", Ensure: r.verifyTarget},
		flow.Step{ID: "metadata", Title: "Write the machine's description to the target and read it back", Ensure: r.publish})
}

// adopt makes what another run has recorded this run's own.
func (r *backupRun) adopt(entry journal.Entry) error {
	record, err := metadata.DecodeJournal(entry.Ref, entry.Data)
	if err != nil {
		return err
	}
	*r.record, r.state, r.last = *record, loadState(record), entry
	return nil
}

// save writes the record to the journal.
func (r *backupRun) save(ctx context.Context) error {
	r.state.store(r.record)
	entry, err := entryOf(r.record)
	if err != nil {
		return err
	}
	return r.update(ctx, entry)
}

func (r *backupRun) finish(ctx context.Context, err error) error {
	status := &r.backup().Status
	end := ending{&status.Phase, &status.Ready, &status.CompletedAt, &status.Error}
	err = r.operation.finish(ctx, err, end, journal.KindBackup, r.backup().Ref(), r.save)
	if status.FoundOn = vmbackup.FoundOn(vmbackup.SourceCluster); status.Metadata.State == vmbackup.StateReady {
		// The description was read back from the target a moment ago.
		status.FoundOn = vmbackup.FoundOn(vmbackup.SourceCluster, vmbackup.SourceTarget)
	}
	return err
}

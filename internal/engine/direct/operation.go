// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// operation is what a run of a backup and a run of a restore have in common: the
// entry in the journal that they go on with, and how they end.
type operation struct {
	engine *Engine
	events *flow.Events
	// version of the journal's entry that this run has read or written last.
	version string
}

// operationName is how the user names an operation: NAME or restore/NAME.
func operationName(kind journal.Kind, name string) string {
	if kind == journal.KindBackup {
		return name
	}
	return string(kind) + "/" + name
}

// begin writes the first entry of an operation, which takes its name.
func (e *Engine) begin(ctx context.Context, entry journal.Entry) error {
	written, err := e.journal.Create(ctx, entry)
	if err == nil {
		e.started.Store(operationKey{entry.Kind, entry.Ref}, written)
	}
	return err
}

// entry reads an operation's entry, or takes the one that begin has just written.
func (e *Engine) entry(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) (journal.Entry, error) {
	if written, found := e.started.LoadAndDelete(operationKey{kind, ref}); found {
		return written.(journal.Entry), nil
	}
	return e.journal.Get(ctx, kind, ref)
}

type operationKey struct {
	kind journal.Kind
	ref  vmbackup.Ref
}

// update writes the entry over the version that this run knows. Of two runs at
// once, the one that comes second learns here that it is not alone.
func (o *operation) update(ctx context.Context, entry journal.Entry) error {
	entry.Version = o.version
	updated, err := o.engine.journal.Update(ctx, entry)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonConflict {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "another run goes on with %s %s: %w", entry.Kind, entry.Ref, err).
			WithHint("follow it with: kubectl vmbackup watch %s -n %s", operationName(entry.Kind, entry.Ref.Name), entry.Ref.Namespace)
	}
	if err != nil {
		return err
	}
	o.version = updated.Version
	return nil
}

// ending points at the fields of a backup's or restore's status that tell its end.
type ending struct {
	phase       *vmbackup.Phase
	ready       *bool
	completedAt **time.Time
	failure     **vmbackup.Error
}

func (e ending) set(phase vmbackup.Phase, at *time.Time, failure *vmbackup.Error) {
	*e.phase, *e.ready, *e.completedAt, *e.failure = phase, phase == vmbackup.PhaseReady, at, failure
}

// finish records how the run ended. A run that was ended from outside leaves the
// operation as it is, so that the next one goes on.
func (o *operation) finish(ctx context.Context, err error, end ending, kind journal.Kind, ref vmbackup.Ref, save func(context.Context) error) error {
	if detached(err) {
		o.events.Result(vmbackup.PhaseRunning, nil, fmt.Sprintf("Longhorn goes on by itself; finish with: kubectl vmbackup resume %s -n %s", operationName(kind, ref.Name), ref.Namespace))
		return nil
	}
	if err != nil && interrupted(ctx, err) {
		o.events.Result(vmbackup.PhaseRunning, err, "")
		return err
	}
	now := o.engine.clock().UTC()
	if err == nil {
		end.set(vmbackup.PhaseReady, &now, nil)
	} else {
		end.set(vmbackup.PhaseFailed, &now, vmbackup.AsError(err, vmbackup.ReasonInternal))
	}
	if saveErr := save(ctx); saveErr != nil && (err == nil || vmbackup.ReasonOf(saveErr) == vmbackup.ReasonConflict) {
		// What was not recorded is not claimed; where another run goes on, its end counts.
		end.set(vmbackup.PhaseRunning, nil, nil)
		err = saveErr
	}
	o.events.Result(*end.phase, err, "")
	return err
}

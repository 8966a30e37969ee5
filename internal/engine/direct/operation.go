// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// LabelRun is on the journal's entry of an operation and carries the token of the run
// that has written it last: two runs may write the same, and only one of them has.
const LabelRun = vmbackup.Group + "/run"

// operation is what a run of a backup and a run of a restore have in common: the
// entry in the journal that they go on with, and how they end.
type operation struct {
	engine *Engine
	events *flow.Events
	*patience
	// last is the journal's entry as this run has read or written it last.
	last journal.Entry
	// run is the token of this run.
	run string
	// adopt makes what another run has recorded this run's own.
	adopt func(journal.Entry) error
	// elsewhere is true once another run was found to have ended the operation.
	elsewhere bool
}

// operation is a run that goes on with the entry.
func (e *Engine) operation(events *flow.Events, entry journal.Entry) operation {
	goOn := fmt.Sprintf("go on with: kubectl vmbackup resume %s -n %s", operationName(entry.Kind, entry.Ref.Name), entry.Ref.Namespace)
	return operation{engine: e, events: events, patience: newPatience(events, goOn), last: entry, run: newOperation()}
}

// operationName is how the user names an operation: NAME or restore/NAME.
func operationName(kind journal.Kind, name string) string {
	if kind == journal.KindBackup {
		return name
	}
	return string(kind) + "/" + name
}

// begin writes the first entry of an operation, which takes its name. Nobody hears of
// an outage here, so that it is borne for a moment only.
func (e *Engine) begin(ctx context.Context, entry journal.Entry) error {
	entry.Labels[LabelRun] = newOperation()
	short := newPatience(flow.NewEvents(vmbackup.NopSink{}, "", e.clock), "run the same command again")
	short.limit = beginLimit
	return short.bear(ctx, func(ctx context.Context) error {
		written, err := e.journal.Create(ctx, entry)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonAlreadyExists {
			// Perhaps by this very request, whose answer was lost.
			have, readErr := e.journal.Get(ctx, entry.Kind, entry.Ref)
			if readErr != nil && vmbackup.ReasonOf(readErr) != vmbackup.ReasonNotFound {
				return readErr
			}
			if readErr == nil && sameEntry(have, entry) {
				written, err = have, nil
			}
		}
		if err == nil {
			e.started.Store(operationKey{entry.Kind, entry.Ref}, written)
		}
		return err
	})
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
	entry.Labels[LabelRun] = o.run
	return o.bear(ctx, func(ctx context.Context) error { return o.write(ctx, entry) })
}

// write writes the entry. What others have done to the labels and annotations of the
// record alone, as tools do with everything that they meet, is no other run.
func (o *operation) write(ctx context.Context, entry journal.Entry) error {
	for touches := 0; ; touches++ {
		entry.Version = o.last.Version
		updated, err := o.engine.journal.Update(ctx, entry)
		if err == nil {
			o.last = updated
			return nil
		}
		if vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
			return err
		}
		have, readErr := o.engine.journal.Get(ctx, entry.Kind, entry.Ref)
		switch {
		case readErr != nil:
			return readErr
		case fateOf(have) != "":
			return fateOf(have).stops(entry.Kind, entry.Ref)
		case sameEntry(have, entry):
			o.last = have // it is written, and the answer was lost
			return nil
		case sameEntry(have, o.last) && touches < conflictLimit:
			o.last.Version = have.Version
		default:
			return overtaken(entry, err)
		}
	}
}

// stillOwn fails with Conflict when another run has written the record since this run
// has: what it would make now may be in that one's way.
func (o *operation) stillOwn(ctx context.Context) error {
	have, err := o.engine.journal.Get(ctx, o.last.Kind, o.last.Ref)
	switch {
	case err != nil || sameEntry(have, o.last):
		return err
	case fateOf(have) != "":
		return fateOf(have).stops(have.Kind, have.Ref)
	}
	return overtaken(have, errors.New("it has written the record since"))
}

// overtaken is the error of a run that is not alone.
func overtaken(entry journal.Entry, why error) error {
	return vmbackup.Errorf(vmbackup.ReasonConflict, "another run goes on with %s %s: %w", entry.Kind, entry.Ref, why).
		WithHint("follow it with: kubectl vmbackup watch %s -n %s", operationName(entry.Kind, entry.Ref.Name), entry.Ref.Namespace)
}

// sameEntry reports whether have is what a run has written or wants to write.
func sameEntry(have, written journal.Entry) bool {
	for _, label := range []string{journal.LabelVM, journal.LabelPhase, LabelOperation, LabelRun, labelFate} {
		if have.Labels[label] != journal.LabelValue(written.Labels[label]) {
			return false
		}
	}
	return bytes.Equal(have.Data, written.Data)
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
// operation as it is, so that the next one goes on. Where another run has ended the
// operation meanwhile, its end is this one's too.
func (o *operation) finish(ctx context.Context, err error, end ending, kind journal.Kind, ref vmbackup.Ref, save func(context.Context) error) error {
	if detached(err) {
		o.events.Result(vmbackup.PhaseRunning, nil, fmt.Sprintf("Longhorn goes on by itself; finish with: kubectl vmbackup resume %s -n %s", operationName(kind, ref.Name), ref.Namespace))
		return nil
	}
	if ctx.Err() == nil && vmbackup.ReasonOf(err) == vmbackup.ReasonCanceled {
		// Somebody else has ended it, and records that.
		end.set(vmbackup.PhaseCanceled, nil, vmbackup.AsError(err, vmbackup.ReasonCanceled))
		o.events.Result(vmbackup.PhaseCanceled, err, "")
		return err
	}
	if err != nil && interrupted(ctx, err) {
		if o.endedElsewhere(ctx, err, kind, ref) {
			return o.othersEnd(end)
		}
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
		if o.endedElsewhere(ctx, saveErr, kind, ref) {
			return o.othersEnd(end)
		}
		// What was not recorded is not claimed; where another run goes on, its end counts.
		end.set(vmbackup.PhaseRunning, nil, nil)
		err = saveErr
	}
	o.events.Result(*end.phase, err, "")
	return err
}

// endedElsewhere reports whether a run lost the operation to another one that has
// ended it, and makes what that one has recorded its own.
func (o *operation) endedElsewhere(ctx context.Context, err error, kind journal.Kind, ref vmbackup.Ref) bool {
	if vmbackup.ReasonOf(err) != vmbackup.ReasonConflict || ctx.Err() != nil {
		return false
	}
	have, readErr := o.engine.journal.Get(ctx, kind, ref)
	if readErr != nil || !vmbackup.Phase(have.Labels[journal.LabelPhase]).Done() {
		return false
	}
	o.elsewhere = o.adopt(have) == nil
	return o.elsewhere
}

// othersEnd tells the end that another run has recorded.
func (o *operation) othersEnd(end ending) error {
	err := asErr(*end.failure)
	if err == nil && *end.phase != vmbackup.PhaseReady {
		err = vmbackup.Errorf(vmbackup.ReasonCanceled, "another run has ended it as %s", *end.phase)
	}
	o.events.Result(*end.phase, err, "another run has ended it")
	return err
}

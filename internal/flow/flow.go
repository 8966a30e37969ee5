// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package flow runs ordered, idempotent steps and tells what happens as events.
package flow

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Step is one part of an operation. Ensure observes before it acts: run twice,
// it does nothing the second time.
type Step struct {
	ID    string
	Title string
	// Ensure brings the step's result about and returns once it was seen.
	Ensure func(ctx context.Context) error
	// Waits is true for a step that begins with waiting for work which the
	// cluster does by itself.
	Waits bool
}

// ErrDetached ends a run that was asked not to wait, at the first step that waits.
var ErrDetached = errors.New("not waiting for the rest")

// Statuses announces steps before any of them ran.
func Statuses(steps []Step) []vmbackup.StepStatus {
	statuses := make([]vmbackup.StepStatus, len(steps))
	for i, s := range steps {
		statuses[i] = vmbackup.StepStatus{ID: s.ID, Title: s.Title, State: vmbackup.StatePending}
	}
	return statuses
}

// Run runs the steps in order and stops at the first error, which it returns
// unchanged. With noWait it stops before the first step that waits and returns
// ErrDetached. Every change of a step's state is an event and is handed to
// changed, so that it can be recorded; changed may be nil.
func Run(ctx context.Context, steps []Step, noWait bool, events *Events, changed func(vmbackup.StepStatus)) error {
	for _, s := range steps {
		if noWait && s.Waits {
			return ErrDetached
		}
		report := func(state vmbackup.State, message string) {
			events.Step(s.ID, state, message)
			if changed != nil {
				changed(vmbackup.StepStatus{ID: s.ID, Title: s.Title, State: state, Message: message})
			}
		}
		report(vmbackup.StateRunning, "")
		if err := s.Ensure(ctx); err != nil {
			report(vmbackup.StateFailed, err.Error())
			return err
		}
		report(vmbackup.StateReady, "")
	}
	return nil
}

// Events numbers and dates the events of one operation.
type Events struct {
	sink      vmbackup.Sink
	operation string
	clock     vmbackup.Clock

	mu  sync.Mutex
	seq int64
}

// NewEvents makes the event stream of an operation, such as backup/<namespace>/<name>.
func NewEvents(sink vmbackup.Sink, operation string, clock vmbackup.Clock) *Events {
	return &Events{sink: sink, operation: operation, clock: clock}
}

func (e *Events) emit(event vmbackup.Event) {
	// The lock is held while emitting, so that the sink sees the events in the
	// order of their numbers; Emit does not block.
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seq++
	event.Seq, event.Operation, event.Time = e.seq, e.operation, e.clock().UTC().Truncate(time.Millisecond)
	e.sink.Emit(event)
}

// Plan announces the steps; it is the first event of an operation.
func (e *Events) Plan(steps []vmbackup.StepStatus, message string) {
	e.emit(vmbackup.Event{Type: vmbackup.EventPlan, Steps: steps, Message: message})
}

// Step tells that a step changed.
func (e *Events) Step(id string, state vmbackup.State, message string) {
	e.emit(vmbackup.Event{Type: vmbackup.EventStep, Step: id, State: state, Message: message})
}

// Volume tells that a volume moved, in the step given.
func (e *Events) Volume(step, volume string, state vmbackup.State, progress int, bytes, total int64, message string) {
	e.emit(vmbackup.Event{
		Type: vmbackup.EventVolume, Step: step, Volume: volume, State: state,
		Progress: progress, Bytes: bytes, Total: total, Message: message,
	})
}

// Warning tells something that the user should know.
func (e *Events) Warning(message string) {
	e.emit(vmbackup.Event{Type: vmbackup.EventWarning, Message: message})
}

// Result ends the operation's events.
func (e *Events) Result(phase vmbackup.Phase, err error, message string) {
	event := vmbackup.Event{Type: vmbackup.EventResult, Phase: phase, Message: message}
	if failure := vmbackup.AsError(err, vmbackup.ReasonInternal); failure != nil {
		event.Reason, event.Message = failure.Reason, failure.Message
	}
	e.emit(event)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import "time"

// EventType says what an Event tells.
type EventType string

// The types of events.
const (
	EventPlan    EventType = "plan"    // first of every operation: the steps to come
	EventStep    EventType = "step"    // a step changed its state
	EventVolume  EventType = "volume"  // a volume moved: state, bytes
	EventWarning EventType = "warning" // something the user should know
	EventResult  EventType = "result"  // last of every operation
)

// Event is one thing that happened in an operation. It is flat, so that a line
// of JSON is all a script has to read.
type Event struct {
	Seq  int64     `json:"seq"`
	Time time.Time `json:"time"`
	Type EventType `json:"type"`
	// Operation is backup/<namespace>/<name> or restore/<namespace>/<name>.
	Operation string `json:"operation"`
	// Steps announces every step of the operation; only in the first event.
	Steps  []StepStatus `json:"steps,omitempty"`
	Step   string       `json:"step,omitempty"`
	Volume string       `json:"volume,omitempty"`
	State  State        `json:"state,omitempty"`
	// Phase is the operation's phase; only in the result.
	Phase Phase `json:"phase,omitempty"`
	// Bytes of Total are done. Longhorn tells percent, so Bytes is an estimate until a part is Ready.
	Bytes int64 `json:"bytes,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Progress is 0..100.
	Progress int    `json:"progress,omitempty"`
	Message  string `json:"message,omitempty"`
	Reason   Reason `json:"reason,omitempty"`
}

// Sink takes events. Emit never blocks and never fails: a slow or broken reader
// must not stall a backup. It may be called from several goroutines.
type Sink interface {
	Emit(Event)
}

// NopSink drops events.
type NopSink struct{}

// Emit does nothing.
func (NopSink) Emit(Event) {}

// SinkFunc makes a function a Sink.
type SinkFunc func(Event)

// Emit calls f.
func (f SinkFunc) Emit(e Event) { f(e) }

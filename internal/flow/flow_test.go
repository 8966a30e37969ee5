// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package flow_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// list is a sink that keeps the events.
type list struct {
	mu     sync.Mutex
	events []vmbackup.Event
}

func (l *list) Emit(e vmbackup.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

var noon = time.Date(2026, 3, 1, 13, 0, 0, 123456789, time.FixedZone("CET", 3600))

func clock() time.Time { return noon }

// steps makes steps that write down that they ran; those named in errs fail.
func steps(ran *[]string, errs map[string]error, ids ...string) []flow.Step {
	var list []flow.Step
	for _, id := range ids {
		list = append(list, flow.Step{ID: id, Title: "Do " + id, Waits: id == "wait", Ensure: func(context.Context) error {
			*ran = append(*ran, id)
			return errs[id]
		}})
	}
	return list
}

func same[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func TestRun(t *testing.T) {
	broken := vmbackup.Errorf(vmbackup.ReasonDataLost, "no data")
	for _, tc := range []struct {
		name   string
		ids    []string
		errs   map[string]error
		noWait bool
		want   error
		ran    []string
		told   []string
	}{
		{name: "nothing"},
		{
			name: "all", ids: []string{"a", "wait", "b"}, ran: []string{"a", "wait", "b"},
			told: []string{"a Running", "a Ready", "wait Running", "wait Ready", "b Running", "b Ready"},
		},
		{
			name: "stops at the first error", ids: []string{"a", "b", "c"}, errs: map[string]error{"b": broken}, want: broken, ran: []string{"a", "b"},
			told: []string{"a Running", "a Ready", "b Running", "b Failed no data"},
		},
		{
			name: "does not begin to wait", ids: []string{"a", "wait", "b"}, noWait: true, want: flow.ErrDetached, ran: []string{"a"},
			told: []string{"a Running", "a Ready"},
		},
		{
			name: "nothing to wait for", ids: []string{"a", "b"}, noWait: true, ran: []string{"a", "b"},
			told: []string{"a Running", "a Ready", "b Running", "b Ready"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := &list{}
			var ran, changed []string
			err := flow.Run(t.Context(), steps(&ran, tc.errs, tc.ids...), tc.noWait, flow.NewEvents(sink, "op", clock), func(s vmbackup.StepStatus) {
				if s.Title != "Do "+s.ID {
					t.Errorf("status %+v", s)
				}
				text := s.ID + " " + string(s.State)
				if s.State == vmbackup.StateFailed {
					text += " " + s.Message
				}
				changed = append(changed, text)
			})
			// The error itself: callers tell them apart.
			if err != tc.want { //nolint:errorlint // unchanged is what is promised
				t.Errorf("error %v", err)
			}
			same(t, "ran", ran, tc.ran)
			same(t, "changed", changed, tc.told)
			var told []string
			for _, e := range sink.events {
				text := e.Step + " " + string(e.State)
				if e.State == vmbackup.StateFailed {
					text += " " + e.Message
				}
				told = append(told, text)
			}
			same(t, "told", told, tc.told)
		})
	}
}

func TestRunWithoutAListener(t *testing.T) {
	var ran []string
	if err := flow.Run(t.Context(), steps(&ran, nil, "a"), false, flow.NewEvents(vmbackup.NopSink{}, "op", clock), nil); err != nil || len(ran) != 1 {
		t.Errorf("%v, %v", ran, err)
	}
}

func TestRunHandsItsContextOn(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "value")
	step := flow.Step{ID: "a", Ensure: func(ctx context.Context) error {
		if ctx.Value(key{}) != "value" {
			return errors.New("another context")
		}
		return nil
	}}
	if err := flow.Run(ctx, []flow.Step{step}, false, flow.NewEvents(vmbackup.NopSink{}, "op", clock), nil); err != nil {
		t.Error(err)
	}
}

func TestStatuses(t *testing.T) {
	var ran []string
	same(t, "statuses", flow.Statuses(steps(&ran, nil, "a", "b")), []vmbackup.StepStatus{
		{ID: "a", Title: "Do a", State: vmbackup.StatePending}, {ID: "b", Title: "Do b", State: vmbackup.StatePending},
	})
	if len(ran) != 0 {
		t.Error("announcing ran a step")
	}
}

func TestEvents(t *testing.T) {
	sink := &list{}
	e := flow.NewEvents(sink, "backup/demo/b1", clock)
	announced := []vmbackup.StepStatus{{ID: "a"}}
	e.Plan(announced, "plan")
	e.Step("a", vmbackup.StateRunning, "step")
	e.Volume("a", "root", vmbackup.StateReady, 100, 5, 10, "volume")
	e.Warning("warning")
	e.Result(vmbackup.PhaseReady, nil, "done")
	at := time.Date(2026, 3, 1, 12, 0, 0, 123000000, time.UTC) // UTC, to the millisecond
	same(t, "events", sink.events, []vmbackup.Event{
		{Seq: 1, Time: at, Type: vmbackup.EventPlan, Operation: "backup/demo/b1", Steps: announced, Message: "plan"},
		{Seq: 2, Time: at, Type: vmbackup.EventStep, Operation: "backup/demo/b1", Step: "a", State: vmbackup.StateRunning, Message: "step"},
		{Seq: 3, Time: at, Type: vmbackup.EventVolume, Operation: "backup/demo/b1", Step: "a", Volume: "root", State: vmbackup.StateReady, Progress: 100, Bytes: 5, Total: 10, Message: "volume"},
		{Seq: 4, Time: at, Type: vmbackup.EventWarning, Operation: "backup/demo/b1", Message: "warning"},
		{Seq: 5, Time: at, Type: vmbackup.EventResult, Operation: "backup/demo/b1", Phase: vmbackup.PhaseReady, Message: "done"},
	})
}

func TestResultTellsTheReason(t *testing.T) {
	for _, tc := range []struct {
		err    error
		reason vmbackup.Reason
		text   string
	}{
		{nil, "", "message"},
		{vmbackup.Errorf(vmbackup.ReasonTimeout, "too late"), vmbackup.ReasonTimeout, "too late"},
		{fmt.Errorf("step: %w", vmbackup.Errorf(vmbackup.ReasonDataLost, "gone")), vmbackup.ReasonDataLost, "step: gone"},
		{errors.New("odd"), vmbackup.ReasonInternal, "odd"},
	} {
		sink := &list{}
		flow.NewEvents(sink, "op", clock).Result(vmbackup.PhaseFailed, tc.err, "message")
		if e := sink.events[0]; e.Reason != tc.reason || e.Message != tc.text || e.Phase != vmbackup.PhaseFailed {
			t.Errorf("%v: %+v", tc.err, e)
		}
	}
}

// Events of many goroutines reach the sink in the order of their numbers.
func TestEventsOfManyGoroutines(t *testing.T) {
	sink := &list{}
	e := flow.NewEvents(sink, "op", clock)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				e.Step("a", vmbackup.StateRunning, "")
			}
		})
	}
	all.Wait()
	for i, event := range sink.events {
		if event.Seq != int64(i+1) {
			t.Fatalf("event %d has the number %d", i, event.Seq)
		}
	}
	if len(sink.events) != 400 {
		t.Errorf("%d events", len(sink.events))
	}
}

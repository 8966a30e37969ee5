// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestErrorWrapsItsCause(t *testing.T) {
	err := vmbackup.Errorf(vmbackup.ReasonTimeout, "reading %s: %w", "x", io.ErrUnexpectedEOF)
	if err.Error() != "reading x: unexpected EOF" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if vmbackup.Errorf(vmbackup.ReasonTimeout, "no cause").Unwrap() != nil {
		t.Error("a cause from nowhere")
	}
}

// WithHint and AsPreflight copy: a shared error must not change under its users.
func TestErrorsAreNotChanged(t *testing.T) {
	first := vmbackup.Errorf(vmbackup.ReasonTimeout, "x: %w", context.Canceled)
	second := first.WithHint("do %d things", 2).AsPreflight()
	if first.Hint != "" || first.Preflight {
		t.Errorf("changed: %+v", first)
	}
	if second.Hint != "do 2 things" || !second.Preflight || second.Message != first.Message || !errors.Is(second, context.Canceled) {
		t.Errorf("%+v", second)
	}
}

func TestAsError(t *testing.T) {
	known := vmbackup.Errorf(vmbackup.ReasonDataLost, "gone").WithHint("look").AsPreflight()
	if got := vmbackup.AsError(nil, vmbackup.ReasonInternal); got != nil {
		t.Errorf("%v", got)
	}
	if got := vmbackup.AsError(known, vmbackup.ReasonInternal); got != known {
		t.Errorf("another error: %+v", got)
	}
	wrapped := fmt.Errorf("volume root: %w", known)
	got := vmbackup.AsError(wrapped, vmbackup.ReasonInternal)
	if got.Message != "volume root: gone" || got.Reason != vmbackup.ReasonDataLost || got.Hint != "look" || !got.Preflight || !errors.Is(got, known) {
		t.Errorf("%+v", got)
	}
	if known.Message != "gone" {
		t.Error("the wrapped error was changed")
	}
	plain := io.EOF
	got = vmbackup.AsError(plain, vmbackup.ReasonTimeout)
	if got.Reason != vmbackup.ReasonTimeout || got.Message != "EOF" || !errors.Is(got, io.EOF) {
		t.Errorf("%+v", got)
	}
	joined := errors.Join(io.EOF, known)
	if got := vmbackup.AsError(joined, vmbackup.ReasonInternal); got.Reason != vmbackup.ReasonDataLost || got.Message != "EOF\ngone" {
		t.Errorf("%+v", got)
	}
}

func TestReasonOf(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want vmbackup.Reason
	}{
		{nil, ""},
		{io.EOF, vmbackup.ReasonInternal},
		{vmbackup.Errorf(vmbackup.ReasonNotFound, "x"), vmbackup.ReasonNotFound},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", vmbackup.Errorf(vmbackup.ReasonForbidden, "x"))), vmbackup.ReasonForbidden},
	} {
		if got := vmbackup.ReasonOf(tc.err); got != tc.want {
			t.Errorf("%v: %q", tc.err, got)
		}
	}
}

func TestErrorAsJSON(t *testing.T) {
	raw, err := json.Marshal(vmbackup.Errorf(vmbackup.ReasonNotFound, "no %s: %w", "x", io.EOF).WithHint("look").AsPreflight())
	if err != nil || string(raw) != `{"reason":"NotFound","message":"no x: EOF","hint":"look","preflight":true}` {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestPhasesThatAreDone(t *testing.T) {
	for phase, want := range map[vmbackup.Phase]bool{
		"": false, vmbackup.PhasePlanned: false, vmbackup.PhaseRunning: false, vmbackup.PhaseUnknown: false,
		vmbackup.PhaseReady: true, vmbackup.PhaseIncomplete: true, vmbackup.PhaseFailed: true, vmbackup.PhaseCanceled: true,
	} {
		if got := phase.Done(); got != want {
			t.Errorf("%q: %t", phase, got)
		}
	}
}

func TestSinks(t *testing.T) {
	var got []string
	var sink vmbackup.Sink = vmbackup.SinkFunc(func(e vmbackup.Event) { got = append(got, e.Message) })
	sink.Emit(vmbackup.Event{Message: "a"})
	vmbackup.NopSink{}.Emit(vmbackup.Event{Message: "b"})
	if len(got) != 1 || got[0] != "a" {
		t.Errorf("%q", got)
	}
}

func TestObjectsNameThemselves(t *testing.T) {
	ref := vmbackup.Ref{Namespace: "demo", Name: "b1"}
	b, r := vmbackup.NewBackup(ref), vmbackup.NewRestore(ref)
	if b.Ref() != ref || b.Kind != "Backup" || b.APIVersion != "vmbackup.io/v1alpha1" {
		t.Errorf("%+v", b)
	}
	if r.Ref() != ref || r.Kind != "Restore" || r.APIVersion != "vmbackup.io/v1alpha1" {
		t.Errorf("%+v", r)
	}
	if ref.String() != "demo/b1" || (vmbackup.Ref{Name: "b1"}).String() != "b1" {
		t.Error(ref)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package flow_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Of each view, what is new is told, once.
func TestTellerOfARestore(t *testing.T) {
	var told []string
	sink := vmbackup.SinkFunc(func(e vmbackup.Event) {
		line := strings.TrimSpace(fmt.Sprintf("%s %s%s %s %d/%d %s", e.Type, e.Step, e.Volume, e.State, e.Bytes, e.Total, e.Message))
		if e.Type == vmbackup.EventPlan {
			line = fmt.Sprintf("plan of %d", len(e.Steps))
		}
		told = append(told, line)
	})
	clock := func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	teller := flow.NewTeller(flow.NewEvents(sink, "restore/demo/r", clock))
	r := vmbackup.NewRestore(vmbackup.Ref{Namespace: "demo", Name: "r"})
	r.Status.Steps = []vmbackup.StepStatus{{ID: "a", State: vmbackup.StateRunning}, {ID: "b", State: vmbackup.StatePending}}
	r.Status.Volumes = []vmbackup.RestoreVolume{{Name: "root", SizeBytes: 200, State: vmbackup.StatePending}}
	teller.Restore(r)
	teller.Restore(r)
	r.Status.Volumes[0].State, r.Status.Volumes[0].Progress = vmbackup.StateRunning, 50
	r.Status.Steps[0].State, r.Status.Steps[1].State, r.Status.Steps[1].Message = vmbackup.StateReady, vmbackup.StateRunning, "waits"
	r.Status.Warnings = []string{"mind"}
	teller.Restore(r)
	teller.Restore(r)
	want := []string{"plan of 2", "step a Running 0/0", "volume dataroot Running 100/200", "step a Ready 0/0", "step b Running 0/0 waits", "warning   0/0 mind"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

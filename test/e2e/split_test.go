// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// others says in which steps of a restore the tool only waits, and for whom.
func others() map[string]string {
	return map[string]string{"sync": "Longhorn", "images": "Longhorn", "snapshots": "the CSI controllers", "data": "Longhorn", "start": "KubeVirt"}
}

// split is how the time of a command was spent, step by step, in a line.
func split(began, ended time.Time, stderr string) string {
	var parts []string
	var ours time.Duration
	running := map[string]time.Time{}
	last := began
	for line := range strings.Lines(stderr) {
		e := vmbackup.Event{}
		if json.Unmarshal([]byte(line), &e) != nil || e.Time.IsZero() {
			continue
		}
		last = e.Time
		switch {
		case e.Type == vmbackup.EventPlan:
			ours += e.Time.Sub(began)
			parts = append(parts, fmt.Sprintf("plan %.1f s", e.Time.Sub(began).Seconds()))
		case e.Type != vmbackup.EventStep:
		case e.State == vmbackup.StateRunning:
			if running[e.Step].IsZero() {
				running[e.Step] = e.Time
			}
		case e.State == vmbackup.StateReady:
			took := e.Time.Sub(running[e.Step])
			who := others()[e.Step]
			if who == "" {
				ours += took
				parts = append(parts, fmt.Sprintf("%s %.1f s", e.Step, took.Seconds()))
				continue
			}
			parts = append(parts, fmt.Sprintf("%s %.1f s (%s)", e.Step, took.Seconds(), who))
		}
	}
	ours += ended.Sub(last)
	return fmt.Sprintf("%s; of %.1f s in all the tool took %.1f s", strings.Join(parts, ", "), ended.Sub(began).Seconds(), ours.Seconds())
}

func TestSplit(t *testing.T) {
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var lines []string
	for _, e := range []struct {
		after time.Duration
		kind  vmbackup.EventType
		step  string
		state vmbackup.State
	}{
		{time.Second, vmbackup.EventPlan, "", ""},
		{2 * time.Second, vmbackup.EventStep, "volumes", vmbackup.StateRunning},
		{3 * time.Second, vmbackup.EventStep, "volumes", vmbackup.StateReady},
		{3 * time.Second, vmbackup.EventStep, "data", vmbackup.StateRunning},
		{5 * time.Second, vmbackup.EventStep, "data", vmbackup.StateRunning},
		{9 * time.Second, vmbackup.EventStep, "data", vmbackup.StateReady},
	} {
		line, err := json.Marshal(vmbackup.Event{Type: e.kind, Step: e.step, State: e.state, Time: began.Add(e.after)})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	lines = slices.Insert(lines, 2, "a line that is no event")
	const want = "plan 1.0 s, volumes 1.0 s, data 6.0 s (Longhorn); of 10.0 s in all the tool took 3.0 s"
	if got := split(began, began.Add(10*time.Second), strings.Join(lines, "\n")+"\n"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Teller makes events of the views of an operation that others run: of each view,
// what has changed since the last one. The operation's end is left to the caller.
type Teller struct {
	events  *Events
	planned bool
	steps   map[string]vmbackup.StepStatus
	volumes map[string]movement
	warned  map[string]bool
}

// movement is what is told of a volume.
type movement struct {
	state    vmbackup.State
	progress int
	message  string
}

// NewTeller tells on the events given.
func NewTeller(events *Events) *Teller {
	return &Teller{events: events, steps: map[string]vmbackup.StepStatus{}, volumes: map[string]movement{}, warned: map[string]bool{}}
}

// Restore tells what is new in a view of the restore.
func (t *Teller) Restore(r *vmbackup.Restore) {
	s := &r.Status
	t.plan(s.Steps, "follow restore "+r.Ref().String())
	for i := range s.Volumes {
		v := &s.Volumes[i]
		t.volume("data", v.Name, movement{v.State, v.Progress, v.Message}, v.SizeBytes*int64(v.Progress)/100, v.SizeBytes)
	}
	t.changes(s.Steps, s.Warnings)
}

// plan announces the steps, once.
func (t *Teller) plan(steps []vmbackup.StepStatus, message string) {
	if t.planned {
		return
	}
	t.planned = true
	announced := make([]vmbackup.StepStatus, len(steps))
	for i, s := range steps {
		announced[i] = vmbackup.StepStatus{ID: s.ID, Title: s.Title, State: vmbackup.StatePending}
	}
	t.events.Plan(announced, message)
}

// changes tells the steps and warnings that are new.
func (t *Teller) changes(steps []vmbackup.StepStatus, warnings []string) {
	for _, s := range steps {
		before, known := t.steps[s.ID]
		if t.steps[s.ID] = s; s.State == before.State && s.Message == before.Message || !known && s.State == vmbackup.StatePending {
			continue
		}
		t.events.Step(s.ID, s.State, s.Message)
	}
	for _, w := range warnings {
		if !t.warned[w] {
			t.warned[w] = true
			t.events.Warning(w)
		}
	}
}

func (t *Teller) volume(step, name string, now movement, bytes, total int64) {
	before, known := t.volumes[name]
	if t.volumes[name] = now; now == before || !known && now.state == vmbackup.StatePending {
		return
	}
	t.events.Volume(step, name, now.state, now.progress, bytes, total, now.message)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"strconv"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// operations is what the events told so far, by operation in the order of their
// first event.
type operations struct {
	clock vmbackup.Clock
	list  []*operation
	index map[string]*operation
}

func newOperations(clock vmbackup.Clock) *operations {
	return &operations{clock: clock, index: map[string]*operation{}}
}

// running are the operations that have not ended.
func (o *operations) running() []*operation {
	var list []*operation
	for _, op := range o.list {
		if op.ended.IsZero() {
			list = append(list, op)
		}
	}
	return list
}

// operation is one backup or restore as its events tell it.
type operation struct {
	name     string // as in the events: backup/<namespace>/<name>
	started  time.Time
	ended    time.Time // zero while it runs
	steps    []vmbackup.StepStatus
	volumes  []*volumeProgress
	warnings []string
	phase    vmbackup.Phase
	reason   vmbackup.Reason
	message  string
}

// volumeProgress is one volume as the events tell it.
type volumeProgress struct {
	name         string
	state        vmbackup.State
	bytes, total int64
	progress     int
	message      string
	rate         rate
}

// apply takes an event in and returns its operation and its time.
func (o *operations) apply(e vmbackup.Event) (*operation, time.Time) {
	at := e.Time
	if at.IsZero() {
		at = o.clock()
	}
	op, ok := o.index[e.Operation]
	if !ok {
		op = &operation{name: e.Operation}
		o.index[e.Operation], o.list = op, append(o.list, op)
	}
	if !ok || (e.Type == vmbackup.EventPlan && !op.ended.IsZero()) { // or run once more
		*op = operation{name: e.Operation, started: at, phase: vmbackup.PhaseRunning}
	}
	switch e.Type {
	case vmbackup.EventPlan:
		op.steps = append([]vmbackup.StepStatus(nil), e.Steps...)
	case vmbackup.EventStep:
		op.step(e)
	case vmbackup.EventVolume:
		op.volume(e.Volume).apply(e, at)
	case vmbackup.EventWarning:
		op.warnings = append(op.warnings, about(e)+clean(e.Message))
	case vmbackup.EventResult:
		op.ended, op.phase, op.reason, op.message = at, e.Phase, e.Reason, e.Message
	}
	return op, at
}

func (op *operation) step(e vmbackup.Event) {
	for i := range op.steps {
		if op.steps[i].ID == e.Step {
			op.steps[i].State, op.steps[i].Progress, op.steps[i].Message = e.State, e.Progress, e.Message
			return
		}
	}
	// A step that was not announced is still worth showing.
	op.steps = append(op.steps, vmbackup.StepStatus{ID: e.Step, State: e.State, Progress: e.Progress, Message: e.Message})
}

func (op *operation) volume(name string) *volumeProgress {
	for _, v := range op.volumes {
		if v.name == name {
			return v
		}
	}
	v := &volumeProgress{name: name}
	op.volumes = append(op.volumes, v)
	return v
}

func (v *volumeProgress) apply(e vmbackup.Event, at time.Time) {
	if e.State != "" {
		v.state = e.State
	}
	if e.Total > 0 {
		v.total = e.Total
	}
	v.bytes, v.progress, v.message = e.Bytes, e.Progress, e.Message
	if v.state == vmbackup.StateReady {
		v.progress = 100
		if v.total > 0 {
			v.bytes = v.total
		}
	}
	if v.bytes == 0 && v.total > 0 && v.progress > 0 {
		v.bytes = v.total / 100 * int64(v.progress)
	}
	if v.state == vmbackup.StateRunning {
		v.rate.add(v.bytes, at)
	}
}

func (v *volumeProgress) percent() float64 {
	if v.state == vmbackup.StateReady {
		return 100
	}
	if v.total > 0 && v.bytes > 0 {
		// Not beyond what the source says is done.
		return min(max(float64(v.bytes)/float64(v.total)*100, float64(v.progress)), 100)
	}
	return float64(v.progress)
}

// eta is the time left at the current rate, false when it is not known.
func (v *volumeProgress) eta(now time.Time) (time.Duration, bool) {
	perSecond := v.rate.current(now)
	if perSecond <= 0 || v.total <= v.bytes {
		return 0, false
	}
	left := float64(v.total-v.bytes)/perSecond - now.Sub(v.rate.at).Seconds()
	const week = 7 * 24 * 3600
	if left > week {
		return 0, false
	}
	return time.Duration(max(left, 1)) * time.Second, true
}

// percent is how much of all volumes' bytes is done.
func (op *operation) percent() float64 {
	var bytes, done, points float64
	for _, v := range op.volumes {
		bytes += float64(v.total)
		done += float64(v.total) * v.percent() / 100
		points += v.percent()
	}
	switch {
	case bytes > 0:
		return done / bytes * 100
	case len(op.volumes) > 0:
		return points / float64(len(op.volumes))
	}
	return 0
}

func (op *operation) total() (bytes int64) {
	for _, v := range op.volumes {
		bytes += v.total
	}
	return bytes
}

func (op *operation) elapsed(now time.Time) time.Duration {
	if !op.ended.IsZero() {
		now = op.ended
	}
	return max(now.Sub(op.started), 0)
}

// current is the step that runs, else the last that ended; nil before the first.
func (op *operation) current() (step *vmbackup.StepStatus, number int) {
	for i := range op.steps {
		switch op.steps[i].State {
		case vmbackup.StateRunning, vmbackup.StateFailed:
			return &op.steps[i], i + 1
		case vmbackup.StateReady, vmbackup.StateSkipped, vmbackup.StateUnknown:
			step, number = &op.steps[i], i+1
		}
	}
	return step, number
}

func (op *operation) stepTitle(id string) string {
	for _, s := range op.steps {
		if s.ID == id {
			return stepTitle(s)
		}
	}
	return id
}

// stepNumber is "3/7 " for the third of seven, "" for a step that was not announced.
func (op *operation) stepNumber(id string) string {
	for i, s := range op.steps {
		if s.ID == id && s.Title != "" {
			return strconv.Itoa(i+1) + "/" + strconv.Itoa(len(op.steps)) + " "
		}
	}
	return ""
}

// title is what is done to what: Backup shop/web-1.
func (op *operation) title() (kind, ref string) {
	kind, ref, ok := strings.Cut(clean(op.name), "/")
	if !ok {
		return "", kind
	}
	if kind != "" {
		kind = strings.ToUpper(kind[:1]) + kind[1:]
	}
	return kind, ref
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// jsonLine writes an event as one line of JSON, in one write.
func jsonLine(w io.Writer) func(vmbackup.Event) error {
	return func(e vmbackup.Event) error {
		var line bytes.Buffer
		encoder := json.NewEncoder(&line)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(e); err != nil {
			return fmt.Errorf("encode event %d of %s: %w", e.Seq, e.Operation, err)
		}
		_, err := w.Write(line.Bytes())
		return err
	}
}

// Between two lines of a volume that only moves lie so many percent or so much time.
const (
	plainPercent  = 10
	plainInterval = 10 * time.Second
)

// plainProgress writes a line for every change of a state, and for volumes that
// move now and then one. Logs keep such lines, so each has its time.
type plainProgress struct {
	w          io.Writer
	operations *operations
	told       map[volumeKey]told
	steps      map[stepKey]vmbackup.State
}

type volumeKey struct{ operation, volume string }

type stepKey struct{ operation, step string }

// told is what the last line of a volume said.
type told struct {
	at      time.Time
	percent int
	state   vmbackup.State
	message string
}

func newPlainProgress(w io.Writer, clock vmbackup.Clock) *plainProgress {
	return &plainProgress{w: w, operations: newOperations(clock), told: map[volumeKey]told{}, steps: map[stepKey]vmbackup.State{}}
}

func (p *plainProgress) event(e vmbackup.Event) error {
	op, at := p.operations.apply(e)
	text := ""
	switch e.Type {
	case vmbackup.EventPlan:
		text = "started: " + plural(len(e.Steps), "step")
		if e.Message != "" {
			text += ", " + clean(e.Message)
		}
	case vmbackup.EventStep:
		text = p.step(op, e)
	case vmbackup.EventVolume:
		text = p.volume(op, e, at)
	case vmbackup.EventWarning:
		text = "warning: " + about(e) + clean(e.Message)
	case vmbackup.EventResult:
		text = resultText(op, at)
	}
	if text == "" {
		return nil
	}
	_, err := io.WriteString(p.w, at.UTC().Format(time.RFC3339)+" "+clean(e.Operation)+" "+text+"\n")
	return err
}

func (p *plainProgress) step(op *operation, e vmbackup.Event) string {
	key := stepKey{e.Operation, e.Step}
	if p.steps[key] == e.State && e.Message == "" {
		return ""
	}
	p.steps[key] = e.State
	text := "step " + op.stepNumber(e.Step) + clean(op.stepTitle(e.Step)) + ": " + clean(string(e.State))
	if e.Message != "" {
		text += ", " + clean(e.Message)
	}
	return text
}

func (p *plainProgress) volume(op *operation, e vmbackup.Event, at time.Time) string {
	v := op.volume(e.Volume)
	key := volumeKey{e.Operation, e.Volume}
	last, before := p.told[key]
	percent := int(v.percent())
	moved := e.State != last.state || (e.Message != "" && e.Message != last.message) ||
		percent >= last.percent+plainPercent || percent < last.percent ||
		(percent != last.percent && at.Sub(last.at) >= plainInterval)
	if before && !moved {
		return ""
	}
	p.told[key] = told{at: at, percent: percent, state: e.State, message: e.Message}
	text := "volume " + clean(e.Volume) + ": " + clean(string(e.State))
	switch {
	case e.State == vmbackup.StateRunning:
		text += " " + strconv.Itoa(percent) + "%"
		if v.total > 0 {
			text += ", " + size(v.bytes) + " of " + size(v.total)
		}
		if rate := v.rate.current(at); rate > 0 {
			text += ", " + speed(rate)
			if eta, ok := v.eta(at); ok {
				text += ", " + clockSpan(eta) + " left"
			}
		}
	case e.State == vmbackup.StateReady && v.total > 0:
		text += ", " + size(v.total)
	}
	if e.Message != "" {
		text += ", " + clean(e.Message)
	}
	return text
}

// about names the volume that a warning is of.
func about(e vmbackup.Event) string {
	if e.Volume == "" {
		return ""
	}
	return "volume " + clean(e.Volume) + ": "
}

// resultText is an operation's end: Ready in 4m10s, Failed after 3s: reason: message.
func resultText(op *operation, at time.Time) string {
	text := clean(string(op.phase))
	if took := op.elapsed(at); took > 0 {
		preposition := " after "
		if op.phase == vmbackup.PhaseReady {
			preposition = " in "
		}
		text += preposition + span(took)
	}
	var why []string
	if op.reason != "" {
		why = append(why, clean(string(op.reason)))
	}
	if op.message != "" {
		why = append(why, clean(op.message))
	}
	if len(why) > 0 {
		text += ": " + strings.Join(why, ": ")
	}
	return text
}

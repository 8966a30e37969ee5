// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// sampleEventStream is a whole backup as an engine tells it.
func sampleEventStream() []vmbackup.Event {
	at := sampleNow()
	var events []vmbackup.Event
	add := func(after time.Duration, e vmbackup.Event) {
		at = at.Add(after)
		e.Seq, e.Time, e.Operation = int64(len(events)+1), at, "backup/shop/web-20260802-120000"
		events = append(events, e)
	}
	add(0, plan())
	add(0, step("journal", vmbackup.StateRunning))
	add(0, step("journal", vmbackup.StateReady))
	add(time.Second, step("snapshot", vmbackup.StateRunning))
	add(0, volumeAt("rootdisk", vmbackup.StatePending, 0, 40*gib))
	frozen := step("snapshot", vmbackup.StateReady)
	frozen.Message = "file systems frozen for 1.2s"
	add(2*time.Second, frozen)
	add(0, step("upload", vmbackup.StateRunning))
	for percent := range 60 {
		add(time.Second/2, volumeAt("rootdisk", vmbackup.StateRunning, percent, 40*gib))
	}
	add(0, vmbackup.Event{Type: vmbackup.EventWarning, Volume: "rootdisk", Message: "the target answers slowly"})
	add(11*time.Second, volumeAt("rootdisk", vmbackup.StateRunning, 59, 40*gib)) // nothing new
	add(11*time.Second, volumeAt("rootdisk", vmbackup.StateRunning, 60, 40*gib))
	add(11*time.Second, volumeAt("rootdisk", vmbackup.StateRunning, 61, 40*gib))
	add(time.Second, volumeAt("rootdisk", vmbackup.StateRunning, 62, 40*gib)) // too soon
	add(time.Second, volumeAt("rootdisk", vmbackup.StateReady, 100, 40*gib))
	add(0, step("upload", vmbackup.StateReady))
	add(0, step("metadata", vmbackup.StateRunning))
	add(time.Second, step("metadata", vmbackup.StateReady))
	add(0, vmbackup.Event{Type: vmbackup.EventResult, Phase: vmbackup.PhaseReady})
	return events
}

func progressTo(t *testing.T, w io.Writer, mode ProgressMode, facts Facts) Progress {
	t.Helper()
	p, err := NewProgress(mode, NewTerminal(w, ColourAuto, facts), sampleNow)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlainProgress(t *testing.T) {
	var out bytes.Buffer
	p := progressTo(t, &out, ProgressAuto, Facts{}) // no terminal: plain
	for _, e := range sampleEventStream() {
		p.Emit(e)
	}
	for _, e := range []vmbackup.Event{
		plan(), step("snapshot", vmbackup.StateFailed),
		{Type: vmbackup.EventResult, Phase: vmbackup.PhaseFailed, Reason: vmbackup.ReasonFreezeFailed, Message: "the guest\nis thawed"},
	} {
		e.Operation, e.Time = "backup/shop/db", sampleNow()
		p.Emit(e)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	golden(t, "progress-plain.txt", out.Bytes())
}

func TestJSONProgressKeepsEveryEvent(t *testing.T) {
	var out bytes.Buffer
	p := progressTo(t, &out, ProgressJSON, Facts{TTY: true})
	want := sampleEventStream()
	for _, e := range want {
		p.Emit(e)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.Emit(want[0]) // comes too late
	lines := bufio.NewScanner(&out)
	for i := 0; lines.Scan(); i++ {
		var got vmbackup.Event
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if i >= len(want) || fmt.Sprint(got) != fmt.Sprint(want[i]) {
			t.Fatalf("line %d: %+v", i+1, got)
		}
		if i == len(want)-1 {
			want = nil
			break
		}
	}
	if want != nil {
		t.Fatalf("%d events, and not all came", len(want))
	}
}

// gate is a writer that waits until it is opened, as a reader who is stuck.
type gate struct {
	open    chan struct{}
	reached chan struct{}
	once    sync.Once
	bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	g.once.Do(func() { close(g.reached) })
	<-g.open
	return g.Buffer.Write(p)
}

// However slow the reader, Emit returns, and only figures that a later one
// replaced are missing.
func TestSlowReaderLosesOnlyFigures(t *testing.T) {
	g := &gate{open: make(chan struct{}), reached: make(chan struct{})}
	p := progressTo(t, g, ProgressJSON, Facts{})
	p.Emit(plan())
	<-g.reached
	const figures = 100_000
	for i := range figures {
		p.Emit(vmbackup.Event{Seq: int64(i), Type: vmbackup.EventVolume, Volume: fmt.Sprint("disk", i%3), State: vmbackup.StateRunning, Bytes: int64(i)})
		if i%1000 == 0 {
			p.Emit(vmbackup.Event{Seq: int64(i), Type: vmbackup.EventWarning, Message: fmt.Sprint(i)})
			p.Emit(vmbackup.Event{Seq: int64(i), Type: vmbackup.EventStep, Step: fmt.Sprint(i), State: vmbackup.StateReady})
		}
	}
	p.Emit(vmbackup.Event{Type: vmbackup.EventResult, Phase: vmbackup.PhaseReady})
	close(g.open)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	counts := map[vmbackup.EventType]int{}
	last := map[string]int64{}
	var seq int64
	for _, line := range strings.Split(strings.TrimSpace(g.String()), "\n") {
		var e vmbackup.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		counts[e.Type]++
		if e.Type == vmbackup.EventVolume {
			last[e.Volume] = e.Bytes
		}
		if e.Type != vmbackup.EventResult && e.Seq < seq {
			t.Fatalf("event %d after %d", e.Seq, seq)
		}
		seq = e.Seq
	}
	if counts[vmbackup.EventPlan] != 1 || counts[vmbackup.EventWarning] != 100 || counts[vmbackup.EventStep] != 100 || counts[vmbackup.EventResult] != 1 {
		t.Errorf("lost more than figures: %v", counts)
	}
	if n := counts[vmbackup.EventVolume]; n > 2*backlog {
		t.Errorf("%d figures were kept for a reader who is stuck", n)
	}
	for i := range 3 {
		name := fmt.Sprint("disk", (figures-1-i)%3)
		if want := int64(figures - 1 - i); last[name] != want {
			t.Errorf("the last figure of %s is %d, want %d", name, last[name], want)
		}
	}
}

// Many goroutines emit while frames are drawn and the progress is closed.
func TestProgressFromManyGoroutines(t *testing.T) {
	for _, mode := range []ProgressMode{ProgressTTY, ProgressPlain, ProgressJSON, ProgressNone} {
		t.Run(string(mode), func(t *testing.T) {
			p := progressTo(t, newScreen(t, 80, 24), mode, Facts{TTY: true})
			if mode == ProgressTTY { // draw without pause instead of ten times a second
				ticks := make(chan time.Time)
				p = newLive(NewTerminal(newScreen(t, 80, 24), ColourAlways, Facts{TTY: true}), sampleNow, ticks, func() {})
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case ticks <- sampleNow():
						case <-stop:
							return
						}
					}
				}()
			}
			var emitting sync.WaitGroup
			for i := range 8 {
				emitting.Add(1)
				go func() {
					defer emitting.Done()
					for _, e := range sampleEventStream() {
						e.Operation = fmt.Sprintf("backup/shop/vm%d", i)
						p.Emit(e)
					}
				}()
			}
			var closing sync.WaitGroup
			emitting.Wait()
			for range 2 {
				closing.Add(1)
				go func() {
					defer closing.Done()
					if err := p.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			closing.Wait()
		})
	}
}

func TestProgressModes(t *testing.T) {
	for _, test := range []struct {
		mode  string
		facts Facts
		want  string
	}{
		{"", Facts{TTY: true}, "*render.live"},
		{"auto", Facts{TTY: true, Getenv: env(map[string]string{"TERM": "dumb"})}, "*render.written"},
		{"auto", Facts{}, "*render.written"},
		{"tty", Facts{}, "*render.live"},
		{"plain", Facts{TTY: true}, "*render.written"},
		{"json", Facts{TTY: true}, "*render.written"},
		{"none", Facts{TTY: true}, "render.silent"},
	} {
		mode, err := ParseProgressMode(test.mode)
		if err != nil {
			t.Fatal(err)
		}
		p := progressTo(t, io.Discard, mode, test.facts)
		if got := fmt.Sprintf("%T", p); got != test.want {
			t.Errorf("%q: %s, want %s", test.mode, got, test.want)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseProgressMode("loud"); err == nil {
		t.Error("an unknown mode is taken")
	}
	if _, err := NewProgress("loud", NewTerminal(io.Discard, ColourAuto, Facts{}), sampleNow); err == nil {
		t.Error("an unknown mode is taken")
	}
}

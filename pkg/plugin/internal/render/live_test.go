// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testClock is a clock that stands still until it is moved.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// stage is live progress on a screen, drawn when the test says so.
type stage struct {
	t        *testing.T
	screen   *screen
	clock    *testClock
	ticks    chan time.Time
	progress *live
	seq      int64
	log      strings.Builder
	stopped  bool
}

func newStage(t *testing.T, width, height int, colour bool) *stage {
	s := &stage{t: t, screen: newScreen(t, width, height), clock: &testClock{now: sampleNow()}, ticks: make(chan time.Time)}
	mode := ColourNever
	if colour {
		mode = ColourAlways
	}
	terminal := NewTerminal(s.screen, mode, Facts{TTY: true, Size: func() (int, int) {
		s.screen.mu.Lock()
		defer s.screen.mu.Unlock()
		return s.screen.width, s.screen.height
	}, Getenv: env(map[string]string{"LANG": "C.UTF-8", "TERM": "xterm"})})
	s.progress = newLive(terminal, s.clock.Now, s.ticks, func() { s.stopped = true })
	return s
}

func env(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func (s *stage) emit(e vmbackup.Event) {
	s.seq++
	e.Seq, e.Time = s.seq, s.clock.Now()
	if e.Operation == "" {
		e.Operation = "backup/shop/web-20260802-120000"
	}
	s.progress.Emit(e)
}

// draw makes a frame and adds the screen to the log.
func (s *stage) draw(title string) {
	s.t.Helper()
	s.ticks <- s.clock.Now()
	s.ticks <- s.clock.Now() // taken only when the frame before is drawn
	s.record(title)
}

func (s *stage) record(title string) {
	s.t.Helper()
	if s.screen.cursorHidden() {
		s.t.Errorf("%s: the cursor is left hidden", title)
	}
	fmt.Fprintf(&s.log, "== %s\n%s", title, s.screen)
}

func (s *stage) close(title string) {
	s.t.Helper()
	if err := s.progress.Close(); err != nil {
		s.t.Error(err)
	}
	if !s.stopped {
		s.t.Error("the ticker was not stopped")
	}
	s.record(title)
}

func sampleSteps() []vmbackup.StepStatus {
	return []vmbackup.StepStatus{
		{ID: "journal", Title: "Record the backup", State: vmbackup.StatePending},
		{ID: "snapshot", Title: "Snapshot the volumes", State: vmbackup.StatePending},
		{ID: "upload", Title: "Upload the volumes", State: vmbackup.StatePending},
		{ID: "metadata", Title: "Write the description", State: vmbackup.StatePending},
	}
}

func plan() vmbackup.Event { return vmbackup.Event{Type: vmbackup.EventPlan, Steps: sampleSteps()} }

func step(id string, s vmbackup.State) vmbackup.Event {
	return vmbackup.Event{Type: vmbackup.EventStep, Step: id, State: s}
}

func volumeAt(name string, s vmbackup.State, percent int, total int64) vmbackup.Event {
	return vmbackup.Event{Type: vmbackup.EventVolume, Volume: name, State: s, Progress: percent, Bytes: total * int64(percent) / 100, Total: total}
}

func (s *stage) play() {
	s.emit(plan())
	s.draw("planned")
	s.emit(step("journal", vmbackup.StateRunning))
	s.emit(step("journal", vmbackup.StateReady))
	s.emit(step("snapshot", vmbackup.StateRunning))
	s.emit(volumeAt("rootdisk", vmbackup.StatePending, 0, 40*gib))
	s.emit(volumeAt("data", vmbackup.StatePending, 0, 200*gib))
	s.clock.add(2 * time.Second)
	s.draw("snapshots")
	s.emit(step("snapshot", vmbackup.StateReady))
	s.emit(step("upload", vmbackup.StateRunning))
	s.emit(volumeAt("rootdisk", vmbackup.StateRunning, 0, 40*gib))
	s.emit(volumeAt("data", vmbackup.StateRunning, 0, 200*gib))
	s.clock.add(time.Second)
	s.draw("upload begins, no rate yet")
	for i := 1; i <= 6; i++ {
		s.clock.add(5 * time.Second)
		s.emit(volumeAt("rootdisk", vmbackup.StateRunning, i*7, 40*gib))
		s.emit(volumeAt("data", vmbackup.StateRunning, i, 200*gib))
	}
	s.draw("uploading")
	s.emit(vmbackup.Event{Type: vmbackup.EventWarning, Volume: "data", Message: "the target answers slowly: 503 Slow Down, the upload goes on by itself as soon as the target lets it"})
	e := volumeAt("data", vmbackup.StateRunning, 6, 200*gib)
	e.Message = "slowed down by the target"
	s.emit(e)
	s.draw("warned")
	s.clock.add(5 * time.Minute)
	s.draw("stalled")
	s.emit(volumeAt("rootdisk", vmbackup.StateReady, 100, 40*gib))
	s.draw("one is ready")
}

func TestLive(t *testing.T) {
	for _, width := range []int{40, 80, 120, 200} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			s := newStage(t, width, 24, false)
			s.play()
			s.emit(volumeAt("data", vmbackup.StateReady, 100, 200*gib))
			s.emit(vmbackup.Event{Type: vmbackup.EventResult, Phase: vmbackup.PhaseReady})
			s.draw("ended")
			s.close("closed")
			golden(t, fmt.Sprintf("live-%d.txt", width), []byte(s.log.String()))
		})
	}
}

func TestLiveFailure(t *testing.T) {
	s := newStage(t, 80, 24, true)
	s.play()
	failed := volumeAt("data", vmbackup.StateFailed, 6, 200*gib)
	failed.Message = "error uploading block: 503 Slow Down"
	s.emit(failed)
	s.emit(vmbackup.Event{
		Type: vmbackup.EventResult, Phase: vmbackup.PhaseFailed, Reason: vmbackup.ReasonTargetUnavailable,
		Message: "backup target default did not take blocks of volume data; the machine runs and is thawed",
	})
	s.close("closed")
	golden(t, "live-failure.txt", []byte(s.log.String()))
}

func TestLiveInterrupted(t *testing.T) {
	s := newStage(t, 80, 24, false)
	s.play()
	s.close("closed before the end")
	if err := s.progress.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	s.progress.Emit(plan()) // comes too late and does no harm
	golden(t, "live-interrupted.txt", []byte(s.log.String()))
}

// A block that was drawn wide must not leave rests when the terminal is narrowed,
// nor eat what stood above it.
func TestLiveResize(t *testing.T) {
	s := newStage(t, 120, 24, false)
	fmt.Fprint(s.screen, "$ kubectl vmbackup create web\r\n")
	s.play()
	s.screen.resize(50)
	s.record("narrowed, before the next frame")
	s.clock.add(time.Second)
	s.draw("narrowed")
	s.screen.resize(100)
	s.clock.add(time.Second)
	s.draw("widened")
	s.close("closed")
	golden(t, "live-resize.txt", []byte(s.log.String()))
	if n := strings.Count(s.screen.String(), "kubectl vmbackup create web"); n != 1 {
		t.Errorf("the line above the block is there %d times", n)
	}
}

func TestLiveManyVolumes(t *testing.T) {
	s := newStage(t, 80, 12, false)
	s.emit(plan())
	s.emit(step("upload", vmbackup.StateRunning))
	for i := range 40 {
		state, percent := vmbackup.StatePending, 0
		switch {
		case i < 10:
			state, percent = vmbackup.StateReady, 100
		case i < 14:
			state, percent = vmbackup.StateRunning, i
		}
		s.emit(volumeAt(fmt.Sprintf("磁碟-%d", i), state, percent, gib))
	}
	s.clock.add(90 * time.Second)
	s.draw("40 volumes on 12 rows")
	s.emit(vmbackup.Event{Type: vmbackup.EventResult, Phase: vmbackup.PhaseCanceled, Message: "canceled by the user"})
	s.close("closed")
	golden(t, "live-40-volumes.txt", []byte(s.log.String()))
}

func TestLiveManyOperations(t *testing.T) {
	s := newStage(t, 100, 16, false)
	for i := range 6 {
		op := fmt.Sprintf("backup/shop/vm%d-20260802", i)
		for _, e := range []vmbackup.Event{
			plan(), step("upload", vmbackup.StateRunning),
			volumeAt("root", vmbackup.StateRunning, 10*i, 10*gib), volumeAt("data", vmbackup.StateRunning, 5*i, 10*gib),
		} {
			e.Operation = op
			s.emit(e)
		}
	}
	s.clock.add(65 * time.Second)
	s.draw("6 at once on 16 rows")
	for i := range 4 {
		e := vmbackup.Event{Operation: fmt.Sprintf("backup/shop/vm%d-20260802", i), Type: vmbackup.EventResult, Phase: vmbackup.PhaseReady}
		if i == 2 {
			e.Phase, e.Reason, e.Message = vmbackup.PhaseIncomplete, vmbackup.ReasonImageMissing, "backing image default/ubuntu is not on the target"
		}
		s.emit(e)
	}
	s.draw("4 ended")
	s.close("closed")
	golden(t, "live-many.txt", []byte(s.log.String()))
}

// Nothing is written while nothing changes.
func TestLiveIsQuiet(t *testing.T) {
	s := newStage(t, 80, 24, false)
	s.draw("nothing")
	if s.screen.writes != 0 {
		t.Errorf("%d writes before the first event", s.screen.writes)
	}
	s.emit(plan())
	s.draw("planned")
	before := s.screen.writes
	s.draw("the same")
	if s.screen.writes != before {
		t.Error("an unchanged frame was written again")
	}
	s.close("closed")
}

type brokenWriter struct{ writes int }

var errBroken = errors.New("broken pipe")

func (w *brokenWriter) Write([]byte) (int, error) {
	w.writes++
	return 0, errBroken
}

func TestBrokenWriter(t *testing.T) {
	for _, mode := range []ProgressMode{ProgressTTY, ProgressPlain, ProgressJSON} {
		w := &brokenWriter{}
		p, err := NewProgress(mode, NewTerminal(w, ColourNever, Facts{TTY: true}), sampleNow)
		if err != nil {
			t.Fatal(err)
		}
		p.Emit(plan())
		p.Emit(step("upload", vmbackup.StateRunning))
		if err := p.Close(); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", mode, err)
		}
		if w.writes != 1 {
			t.Errorf("%s: %d writes to a reader who has gone", mode, w.writes)
		}
	}
}

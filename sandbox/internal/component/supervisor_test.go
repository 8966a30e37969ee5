// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/unixsocket"
)

// start runs a set until the test ends and returns its supervisor.
func start(t *testing.T, set ...Component) *Supervisor {
	t.Helper()
	s, err := NewSupervisor(t.TempDir(), []string{"PATH=/usr/bin:/bin", "BASE=base"}, set)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

// until waits for a state of one component.
func until(t *testing.T, s *Supervisor, name string, reached func(Status) bool) Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		statuses, changed := s.Snapshot()
		for _, status := range statuses {
			if status.Name == name && reached(status) {
				return status
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: %+v", name, statuses)
		}
	}
}

func is(state State) func(Status) bool {
	return func(s Status) bool { return s.State == state }
}

func sleeper(name string, after ...string) Component {
	return Component{Name: name, Role: Real, Path: "/bin/sleep", Args: []string{"1000"}, After: after}
}

func TestStartsOnlyAfterWhatItNeeds(t *testing.T) {
	var open atomic.Bool
	gate := sleeper("gate")
	gate.Ready = func(context.Context) error {
		if !open.Load() {
			return errors.New("closed")
		}
		return nil
	}
	s := start(t, sleeper("behind", "gate"), gate)
	until(t, s, "gate", func(st Status) bool { return st.Message == "closed" && st.PID > 0 })
	statuses, _ := s.Snapshot()
	if statuses[0].State != Waiting || statuses[0].PID != 0 {
		t.Errorf("behind the closed gate: %+v", statuses[0])
	}
	open.Store(true)
	until(t, s, "behind", is(Ready))
}

func TestEndedProcessIsRestartedAndItsOutputKept(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "ran")
	s := start(t, Component{
		Name: "once", Role: Real, Path: "/bin/sh", Env: []string{"MARKER=" + marker},
		Args: []string{"-c", `echo "$BASE" out; echo err >&2; test -e "$MARKER" && exec sleep 1000; touch "$MARKER"; exit 3`},
	})
	status := until(t, s, "once", func(st Status) bool { return st.Restarts == 1 && st.State == Ready })
	if status.Message != "" {
		t.Errorf("a ready component says %q", status.Message)
	}
	// The first run ended before the second began, so its lines are there.
	log, err := os.ReadFile(filepath.Join(s.logDir, "once.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"base out\n", "err\n", "exit status 3"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("log %q lacks %q", log, want)
		}
	}
}

func TestStoppedStaysStopped(t *testing.T) {
	s := start(t, sleeper("a"), sleeper("b", "a"))
	until(t, s, "b", is(Ready))
	before := until(t, s, "a", is(Ready))
	if err := s.Stop(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is there after stop: %v", err)
	}
	if status := until(t, s, "a", is(Stopped)); status.PID != 0 {
		t.Errorf("stopped with a PID: %+v", status)
	}
	if status := until(t, s, "b", is(Ready)); status.Restarts != 0 {
		t.Errorf("what came after it was disturbed: %+v", status)
	}
	if err := s.Start(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if after := until(t, s, "a", is(Ready)); after.PID == before.PID {
		t.Error("started, yet the same process")
	}
}

func TestTaskRunsToSuccessOnce(t *testing.T) {
	var runs atomic.Int32
	s := start(t, Component{Name: "task", Role: Task, Run: func(context.Context) error {
		if runs.Add(1) == 1 {
			return errors.New("not yet")
		}
		return nil
	}}, sleeper("after", "task"))
	until(t, s, "after", is(Ready))
	if n := runs.Load(); n != 2 {
		t.Errorf("ran %d times, want a failure and a success", n)
	}
	if err := s.Stop(t.Context(), "task"); err == nil {
		t.Error("a task was stopped")
	}
}

func TestFailingPreparationIsToldAndRetried(t *testing.T) {
	var tries atomic.Int32
	c := sleeper("c")
	c.Prepare = func(context.Context) error {
		if tries.Add(1) == 1 {
			return errors.New("no directory")
		}
		return nil
	}
	s := start(t, c)
	until(t, s, "c", func(st Status) bool { return st.State == Restarting && st.Message == "prepare: no directory" })
	until(t, s, "c", is(Ready))
}

func TestControlOverTheSocket(t *testing.T) {
	s := start(t, sleeper("a"))
	socket := filepath.Join(t.TempDir(), "control.sock")
	listener, err := unixsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.Handler()}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := NewClient(socket)

	err = client.Watch(ctx, func(statuses []Status) bool { return !AllReady(statuses) })
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Do(ctx, "a", "stop"); err != nil {
		t.Fatal(err)
	}
	statuses, err := client.Status(ctx)
	if err != nil || len(statuses) != 1 || statuses[0].State != Stopped {
		t.Errorf("after stop: %+v, %v", statuses, err)
	}
	if err := client.Do(ctx, "a", "start"); err != nil {
		t.Fatal(err)
	}
	if err := client.Do(ctx, "nobody", "stop"); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown component: %v", err)
	}
	if err := client.Do(ctx, "a", "explode"); err == nil {
		t.Error("unknown action was taken")
	}
}

func TestValidate(t *testing.T) {
	run := func(context.Context) error { return nil }
	for name, c := range map[string]struct {
		set  []Component
		want string
	}{
		"good":        {[]Component{sleeper("a"), sleeper("b", "a")}, ""},
		"nameless":    {[]Component{sleeper("")}, "without a name"},
		"doubled":     {[]Component{sleeper("a"), sleeper("a")}, "defined twice"},
		"unknown":     {[]Component{sleeper("a", "x")}, "unknown component x"},
		"circle":      {[]Component{sleeper("a", "b"), sleeper("b", "a")}, "wait for each other: [a b a]"},
		"itself":      {[]Component{sleeper("a", "a")}, "wait for each other: [a a]"},
		"no work":     {[]Component{{Name: "a", Role: Real}}, "exactly one of Path and Run"},
		"both":        {[]Component{{Name: "a", Role: Task, Path: "/x", Run: run}}, "exactly one of Path and Run"},
		"wrong role":  {[]Component{{Name: "a", Role: Real, Run: run}}, "does not fit"},
		"task's role": {[]Component{{Name: "a", Role: Task, Path: "/x"}}, "does not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Validate(c.set)
			if c.want == "" && err != nil {
				t.Fatal(err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

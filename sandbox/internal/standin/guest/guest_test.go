// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

var (
	epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key   = Key{Namespace: "default", Name: "vm", UID: "uid-1"}
)

// signal is a buffered record of the guest's change notifications.
type signal chan struct{}

func (s signal) raise() {
	select {
	case s <- struct{}{}:
	default:
	}
}

func start(t *testing.T, root string, k Key, clk *clocktesting.FakeClock) (*Guest, signal) {
	t.Helper()
	changed := make(signal, 16)
	g, err := Start(k, NewJournal(root, k.Namespace, k.Name), clk, changed.raise)
	if err != nil {
		t.Fatal(err)
	}
	return g, changed
}

func windows(t *testing.T, root string) []Window {
	t.Helper()
	all, err := NewJournal(root, key.Namespace, key.Name).Windows()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func await(t *testing.T, s signal) {
	t.Helper()
	select {
	case <-s:
	case <-time.After(10 * time.Second):
		t.Fatal("the guest told of no change")
	}
}

func TestDeadlineThaws(t *testing.T) {
	root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
	g, changed := start(t, root, key, clk)
	if err := g.Freeze(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	await(t, changed)
	clk.Step(4999 * time.Millisecond)
	if g.Frozen() == nil {
		t.Fatal("thawed before the deadline")
	}
	if w := windows(t, root); len(w) != 1 || w[0].End != nil {
		t.Fatalf("while frozen the journal holds %+v", w)
	}
	clk.Step(time.Millisecond)
	await(t, changed)
	if g.Frozen() != nil {
		t.Fatal("still frozen after the deadline")
	}
	w := windows(t, root)
	if len(w) != 1 || w[0].ThawedBy != ThawedByDeadline || w[0].DurationSeconds != 5 || w[0].TimeoutSeconds != 5 {
		t.Fatalf("recorded %+v", w)
	}
}

func TestClientThawsAndOldDeadlineLeavesNextFreezeAlone(t *testing.T) {
	root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
	g, _ := start(t, root, key, clk)
	if err := g.Freeze(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	clk.Step(2 * time.Second)
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := g.Thaw(); err != nil {
		t.Fatalf("thawing a thawed guest: %v", err)
	}
	clk.Step(7 * time.Second)
	if err := g.Freeze(0); err != nil {
		t.Fatal(err)
	}
	clk.Step(time.Hour)
	if g.Frozen() == nil {
		t.Fatal("a freeze without a deadline was thawed by the deadline of an older one")
	}
	w := windows(t, root)
	if len(w) != 2 || w[0].ThawedBy != ThawedByClient || w[0].DurationSeconds != 2 || w[1].End != nil {
		t.Fatalf("recorded %+v", w)
	}
}

func TestSecondFreezeKeepsTheFirstDeadline(t *testing.T) {
	root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
	g, changed := start(t, root, key, clk)
	if err := g.Freeze(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	await(t, changed)
	clk.Step(3 * time.Second)
	if err := g.Freeze(time.Minute); err != nil {
		t.Fatal(err)
	}
	clk.Step(2 * time.Second)
	await(t, changed)
	if g.Frozen() != nil || len(windows(t, root)) != 1 {
		t.Fatalf("frozen %v, recorded %+v", g.Frozen(), windows(t, root))
	}
}

func TestRestartOfTheStandInKeepsTheDeadline(t *testing.T) {
	root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
	g, _ := start(t, root, key, clk)
	if err := g.Freeze(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	g.Detach()
	clk.Step(4 * time.Second)
	again, changed := start(t, root, key, clk)
	if again.Frozen() == nil {
		t.Fatal("the freeze was lost with the stand-in")
	}
	clk.Step(6 * time.Second)
	await(t, changed)
	w := windows(t, root)
	if len(w) != 1 || w[0].ThawedBy != ThawedByDeadline || w[0].DurationSeconds != 10 {
		t.Fatalf("recorded %+v", w)
	}
}

func TestFreezeEndsWithTheGuest(t *testing.T) {
	for name, end := range map[string]func(*Guest, string, *clocktesting.FakeClock, *testing.T){
		"stop":   func(g *Guest, _ string, _ *clocktesting.FakeClock, t *testing.T) { check(t, g.Stop()) },
		"reboot": func(g *Guest, _ string, _ *clocktesting.FakeClock, t *testing.T) { check(t, g.Reboot()) },
		"a new instance of the VM": func(_ *Guest, root string, clk *clocktesting.FakeClock, t *testing.T) {
			start(t, root, Key{Namespace: key.Namespace, Name: key.Name, UID: "uid-2"}, clk)
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
			g, _ := start(t, root, key, clk)
			check(t, g.Freeze(0))
			clk.Step(time.Second)
			end(g, root, clk, t)
			w := windows(t, root)
			if len(w) != 1 || w[0].ThawedBy != ThawedByShutdown || w[0].DurationSeconds != 1 {
				t.Fatalf("recorded %+v", w)
			}
		})
	}
}

func TestWrites(t *testing.T) {
	root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
	g, _ := start(t, root, key, clk)
	var written int
	write := func(context.Context) error { written++; return nil }
	check(t, g.Write(t.Context(), false, write))
	check(t, g.Freeze(0))
	if err := g.Write(t.Context(), false, write); !errors.Is(err, ErrFrozen) {
		t.Fatalf("a write to a frozen guest gave %v", err)
	}
	blocked := make(chan error, 1)
	go func() { blocked <- g.Write(t.Context(), true, write) }()
	check(t, g.Thaw())
	check(t, <-blocked)
	check(t, g.SetPaused(true))
	if err := g.Write(t.Context(), false, write); !errors.Is(err, ErrPaused) {
		t.Fatalf("a write to a paused guest gave %v", err)
	}
	check(t, g.Stop())
	if err := g.Write(t.Context(), true, write); !errors.Is(err, ErrStopped) {
		t.Fatalf("a write to a stopped guest gave %v", err)
	}
	if written != 2 {
		t.Fatalf("%d writes went through, want 2", written)
	}
}

func TestFreezeWaitsForWritesInFlight(t *testing.T) {
	root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
	g, _ := start(t, root, key, clk)
	begun, finish, frozen := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	writeDone := make(chan error, 1)
	go func() {
		writeDone <- g.Write(t.Context(), false, func(context.Context) error {
			close(begun)
			<-finish
			if g.Frozen() != nil {
				return errors.New("frozen in the middle of a write")
			}
			return nil
		})
	}()
	<-begun
	go func() { frozen <- g.Freeze(0) }()
	close(finish)
	check(t, <-writeDone)
	check(t, <-frozen)
	if g.Frozen() == nil {
		t.Fatal("not frozen after the write ended")
	}
}

func TestFaults(t *testing.T) {
	for name, test := range map[string]struct {
		faults       map[string]string
		frozen       bool
		freeze, thaw string // part of the error; empty is success
	}{
		"none":   {frozen: true},
		"absent": {faults: map[string]string{AgentAnnotation: Absent}, freeze: "QEMU guest agent is not connected", thaw: "not connected"},
		"freeze refused": {
			faults: map[string]string{FreezeAnnotation: Fail}, freeze: "unable to execute QEMU agent command 'guest-fsfreeze-freeze'",
		},
		"thaw refused": {faults: map[string]string{ThawAnnotation: Fail}, frozen: true, thaw: "guest-fsfreeze-thaw"},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := start(t, t.TempDir(), key, clocktesting.NewFakeClock(epoch))
			agent := Agent{Guest: g, Faults: test.faults}
			expect(t, "freeze", agent.Freeze(t.Context(), time.Minute), test.freeze)
			if frozen := g.Frozen() != nil; frozen != test.frozen {
				t.Fatalf("frozen: %v", frozen)
			}
			expect(t, "thaw", agent.Thaw(), test.thaw)
		})
	}
}

func TestLostAnswerLeavesTheGuestFrozenUntilTheDeadline(t *testing.T) {
	for value, frozen := range map[string]bool{Hang: false, LostAnswer: true} {
		t.Run(value, func(t *testing.T) {
			root, clk := t.TempDir(), clocktesting.NewFakeClock(epoch)
			g, changed := start(t, root, key, clk)
			answer := make(chan error, 1)
			agent := Agent{Guest: g, Faults: map[string]string{FreezeAnnotation: value}}
			go func() { answer <- agent.Freeze(t.Context(), time.Minute) }()
			if frozen {
				await(t, changed)
			}
			for !clk.HasWaiters() {
				if t.Context().Err() != nil {
					t.Fatal("the freeze does not wait")
				}
			}
			if got := g.Frozen() != nil; got != frozen {
				t.Fatalf("frozen: %v", got)
			}
			for {
				select {
				case err := <-answer:
					expect(t, "freeze", err, "DeadlineExceeded")
				default:
					clk.Step(CommandTimeout / 4)
					continue
				}
				break
			}
			clk.Step(time.Minute)
			if frozen {
				await(t, changed)
			}
			if g.Frozen() != nil {
				t.Fatal("frozen beyond the deadline")
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, what string, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Fatalf("%s: %v", what, err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Fatalf("%s gave %v, want an error with %q", what, err, part)
	}
}

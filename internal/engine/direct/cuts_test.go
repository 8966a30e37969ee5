// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func twoCuts() *cuts {
	b := vmbackup.NewBackup(b1)
	b.Status.Volumes = []vmbackup.BackupVolume{{Name: "root"}, {Name: "data"}}
	return newCuts(b)
}

func longhornSnapshots(names ...string) []*longhornv1.Snapshot {
	var list []*longhornv1.Snapshot
	for _, name := range names {
		s := &longhornv1.Snapshot{ObjectMeta: metav1.ObjectMeta{Name: name}}
		s.Status.ReadyToUse = true
		list = append(list, s)
	}
	return list
}

// closed reports whether a channel is closed.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// What must come out is the same whichever side comes first.
func TestCutsInEveryOrder(t *testing.T) {
	for name, order := range map[string][]string{
		"created, then cut":      {"expect root s1", "expect data s2", "see s1", "see s1 s2"},
		"cut before it is known": {"see s1", "see s1 s2", "expect root s1", "expect data s2"},
		"mixed":                  {"expect root s1", "see s1", "see s1 s2", "expect data s2"},
		"at once":                {"expect root s1", "expect data s2", "see s1 s2"},
	} {
		t.Run(name, func(t *testing.T) {
			c := twoCuts()
			for i, step := range order {
				if c.done() || closed(c.all) {
					t.Fatalf("done before step %d", i)
				}
				apply(c, step)
			}
			if !c.done() || !closed(c.all) || len(c.missing()) != 0 {
				t.Errorf("done %t, missing %v", c.done(), c.missing())
			}
			wantSame(t, "names", c.names(), map[string]string{"root": "s1", "data": "s2"})
		})
	}
}

// apply does "expect VOLUME SNAPSHOT" or "see SNAPSHOT...".
func apply(c *cuts, step string) []string {
	var verb, a, b string
	n, _ := fmt.Sscan(step, &verb, &a, &b)
	if verb == "expect" {
		c.expect(a, b)
		return nil
	}
	return c.see(longhornSnapshots([]string{a, b}[:n-1]...))
}

func TestCutsTellEachVolumeOnce(t *testing.T) {
	c := twoCuts()
	if closed(c.open) {
		t.Error("open before the first look")
	}
	wantSame(t, "nothing is expected", apply(c, "see s1"), nil)
	if !closed(c.open) {
		t.Error("not open after the first look")
	}
	apply(c, "expect root s1")
	wantSame(t, "cut", apply(c, "see s1"), []string{"root"})
	wantSame(t, "again", apply(c, "see s1"), nil)
	wantSame(t, "missing", c.missing(), []string{"data"})
	apply(c, "expect data s2")
	wantSame(t, "second", apply(c, "see s1 s2"), []string{"data"})
}

func TestCutsIgnoreWhatIsNotCut(t *testing.T) {
	c := twoCuts()
	apply(c, "expect root s1")
	s := longhornSnapshots("s1")
	s[0].Status.ReadyToUse, s[0].Status.Error = false, "engine is upgrading"
	wantSame(t, "cut", c.see(s), nil)
	if c.why() != "engine is upgrading" {
		t.Errorf("reason %q", c.why())
	}
	// An empty name must never fit a volume that expects nothing yet.
	wantSame(t, "no name", c.see([]*longhornv1.Snapshot{{Status: longhornv1.SnapshotStatus{ReadyToUse: true}}}), nil)
	if c.done() {
		t.Error("done")
	}
}

func TestIsCut(t *testing.T) {
	for _, tc := range []struct {
		status longhornv1.SnapshotStatus
		want   bool
	}{
		{longhornv1.SnapshotStatus{}, false},
		{longhornv1.SnapshotStatus{Error: "x"}, false},
		{longhornv1.SnapshotStatus{RequestedTime: "2026-01-01T00:00:00Z"}, true},
		{longhornv1.SnapshotStatus{CreationTime: "2026-01-01T00:00:00Z"}, true},
		{longhornv1.SnapshotStatus{ReadyToUse: true}, true},
	} {
		if got := isCut(&longhornv1.Snapshot{Status: tc.status}); got != tc.want {
			t.Errorf("%+v: %t", tc.status, got)
		}
	}
}

func TestCutsOpenedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := twoCuts().opened(ctx); err == nil {
		t.Error("no error")
	}
}

// Both sides at once, as they are in a run; the race detector looks on.
func TestCutsFromTwoSides(t *testing.T) {
	c := twoCuts()
	var both sync.WaitGroup
	both.Go(func() {
		for _, step := range shuffled("expect root s1", "expect data s2") {
			apply(c, step)
		}
	})
	var told []string
	both.Go(func() {
		for _, step := range []string{"see s1", "see s1 s2"} {
			told = append(told, apply(c, step)...)
		}
	})
	both.Wait()
	told = append(told, apply(c, "see s1 s2")...)
	slices.Sort(told)
	wantSame(t, "told", told, []string{"data", "root"})
	if !c.done() || !closed(c.all) {
		t.Error("not done")
	}
}

func shuffled(steps ...string) []string {
	rand.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	return steps
}

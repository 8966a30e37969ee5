// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testSnapshotType takes snapshots inside the cluster and restores from them.
func (s *suite) testSnapshotType(t *testing.T) {
	m := machine{namespace: s.namespace(t, "snapshot"), name: "app", disks: []string{"root", "data"}}
	sums := s.make(t, m)
	b := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "inside", "--type", "snapshot")
	if b.Status.Phase != vmbackup.PhaseReady || b.Status.Consistency != vmbackup.ConsistencyApplication || b.Spec.Type != vmbackup.TypeSnapshot {
		t.Errorf("backup: %+v", b)
	}
	for _, key := range filesOf(b) {
		if s.onTarget(t, key) {
			t.Errorf("a snapshot has put %s on the target", key)
		}
	}
	s.runSandbox(t, "guest", "write", m.namespace+"/app", "root", "--seed", "later", "--size", "1048576")
	r := s.restore(t, 0, "restore", "inside", "-n", m.namespace, "--to-name", "copy")
	s.restored(t, r, "Running", sums)
	s.want(t, 0, "delete", "inside", "-n", m.namespace, "--yes")
	s.absent(t, b)
}

// testFreezeFaults backs up guests that do not freeze or thaw as they should.
// Snapshots are enough: an upload would tell nothing more.
func (s *suite) testFreezeFaults(t *testing.T) {
	m := machine{namespace: s.namespace(t, "faults"), name: "app", disks: []string{"root", "data"}}
	s.make(t, m)
	create := func(name string, more ...string) []string {
		return append([]string{"create", "app", "-n", m.namespace, "--name", name, "--type", "snapshot"}, more...)
	}
	fault := func(t *testing.T, key, value string) {
		t.Helper()
		s.patch(t.Context(), t, instances, m.namespace, "app", `{"metadata":{"annotations":{"sandbox.vmbackup.io/`+key+`":`+value+`}}}`)
	}
	mend := func(t *testing.T, key string) {
		t.Helper()
		fault(t, key, "null")
		s.wait(t, instances, m.namespace, "app", "with its guest agent", agentIs(true))
	}
	crash := func(t *testing.T, name string) {
		t.Helper()
		b := s.backup(t, 3, create(name)...)
		if b.Status.Phase != vmbackup.PhaseReady || b.Status.Consistency != vmbackup.ConsistencyCrash || len(b.Status.Warnings) == 0 {
			t.Errorf("backup: %+v", b.Status)
		}
		s.thawed(t, m.namespace, "app")
	}

	t.Run("AgentAbsent", func(t *testing.T) {
		fault(t, "guest-agent", `"absent"`)
		s.wait(t, instances, m.namespace, "app", "without a guest agent", agentIs(false))
		frozen := len(s.freezes(t, m.namespace, "app"))
		s.refused(t, []string{"guest agent", "--quiesce=require"}, create("absent", "--quiesce", "require")...)
		crash(t, "absent")
		if got := len(s.freezes(t, m.namespace, "app")); got != frozen {
			t.Errorf("%d freezes of a guest without an agent", got-frozen)
		}
		mend(t, "guest-agent")
	})
	t.Run("Skip", func(t *testing.T) {
		frozen := len(s.freezes(t, m.namespace, "app"))
		b := s.backup(t, 0, create("skip", "--quiesce", "skip")...)
		if b.Status.Consistency != vmbackup.ConsistencyCrash || len(s.freezes(t, m.namespace, "app")) != frozen {
			t.Errorf("not frozen on purpose: %+v", b.Status)
		}
	})
	for _, kind := range []string{"fail", "lost-answer", "hang"} {
		t.Run("Freeze/"+kind, func(t *testing.T) {
			fault(t, "freeze", `"`+kind+`"`)
			crash(t, "freeze-"+kind)
			// That the guest does not freeze is known only when it is tried.
			got := s.want(t, 1, create("must-"+kind, "--quiesce", "require", "-o", "json")...)
			failed := &vmbackup.Backup{}
			decode(t, got, failed)
			if failed.Status.Phase != vmbackup.PhaseFailed || failed.Status.Ready || failed.Status.Error == nil || failed.Status.Error.Reason != vmbackup.ReasonFreezeFailed {
				t.Errorf("backup: %+v", failed.Status)
			}
			if !strings.Contains(got.stderr, "could not be frozen") {
				t.Errorf("says not why: %s", got)
			}
			s.thawed(t, m.namespace, "app")
			s.refused(t, []string{"Failed"}, "restore", "must-"+kind, "-n", m.namespace, "--to-name", "copy")
			s.want(t, 0, "delete", "must-"+kind, "-n", m.namespace, "--yes")
			s.absent(t, failed)
			mend(t, "freeze")
		})
	}
	t.Run("Thaw/fail", func(t *testing.T) {
		fault(t, "thaw", `"fail"`)
		b := s.backup(t, 3, create("no-thaw", "--freeze-timeout", "4s")...)
		// All snapshots were cut in time; the guest thaws itself.
		if b.Status.Consistency != vmbackup.ConsistencyApplication || b.Status.FreezeSeconds != 4 || !strings.Contains(strings.Join(b.Status.Warnings, "\n"), "could not be thawed") {
			t.Errorf("backup: %+v", b.Status)
		}
		s.waitThawed(t, m.namespace, "app", "deadline")
	})
}

// waitThawed waits until a guest that may be frozen is not, and says what has ended its last freeze.
func (s *suite) waitThawed(t *testing.T, namespace, vm, by string) {
	t.Helper()
	s.wait(t, instances, namespace, vm, "thawed", func(o *unstructured.Unstructured) bool {
		return o != nil && text(o, "status", "fsFreezeStatus") == ""
	})
	windows := s.freezes(t, namespace, vm)
	if len(windows) == 0 {
		t.Fatalf("guest %s/%s was never frozen", namespace, vm)
	}
	if last := windows[len(windows)-1]; last.End == nil || last.ThawedBy != by {
		t.Errorf("the last freeze: %+v, want one that the %s ended", last, by)
	}
}

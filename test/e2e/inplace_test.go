// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const fixedMAC = "02:00:00:aa:bb:cc"

// running makes a machine with a fixed MAC address that runs with its guest agent.
func (s *suite) running(t *testing.T, m machine) map[string]string {
	t.Helper()
	m.off = true
	sums := s.make(t, m)
	s.patch(t.Context(), t, machines, m.namespace, m.name, `{"spec":{"runStrategy":"Always","template":{"spec":{"domain":{"devices":{"interfaces":[{"name":"default","masquerade":{},"macAddress":"`+fixedMAC+`"}]}}}}}}`)
	s.wait(t, machines, m.namespace, m.name, "Running", printable("Running"))
	s.wait(t, instances, m.namespace, m.name, "with its guest agent", agentIs(true))
	return sums
}

// disksOf are the claims of a machine, in its order.
func (s *suite) disksOf(t *testing.T, namespace, name string) []string {
	t.Helper()
	volumes, _, err := unstructured.NestedSlice(s.get(t, machines, namespace, name).Object, "spec", "template", "spec", "volumes")
	if err != nil {
		t.Fatal(err)
	}
	var disks []string
	for _, v := range volumes {
		if claim, found, _ := unstructured.NestedString(v.(map[string]any), "persistentVolumeClaim", "claimName"); found {
			disks = append(disks, claim)
		}
	}
	return disks
}

// worldIn is the world of one namespace: tests of others run beside.
func (s *suite) worldIn(t *testing.T, namespace string) map[string]string {
	t.Helper()
	world := s.world(t, namespace)
	maps.DeleteFunc(world, func(object, _ string) bool { return !strings.Contains(object, "/"+namespace+"/") })
	return world
}

// testInPlace takes a running machine back to an earlier state, where it is, through
// a kill in the middle, and then once more with its old volumes deleted.
func (s *suite) testInPlace(t *testing.T) {
	m := machine{namespace: s.namespace(t, "inplace"), name: "app", disks: []string{"root", "data"}}
	sums := s.running(t, m)
	s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "then")
	uid := s.get(t, machines, m.namespace, "app").GetUID()
	s.runSandbox(t, "guest", "write", m.namespace+"/app", "root", "--seed", "later", "--size", "1048576")
	s.patch(t.Context(), t, machines, m.namespace, "app", `{"metadata":{"labels":{"added":"later"}}}`)
	later := s.sha256(t, m.namespace, "app-root")
	if later == sums["app-root"] {
		t.Fatal("the disk was not overwritten, so the comparison would prove nothing")
	}
	inPlace := func(more ...string) []string {
		return append([]string{"restore", "then", "-n", m.namespace, "--in-place"}, more...)
	}

	before := s.worldIn(t, m.namespace)
	s.refused(t, []string{"runs", "--stop"}, inPlace()...)
	planned := s.want(t, 0, inPlace("--stop", "--delete-old-volumes", "--dry-run=server")...).stdout
	for _, word := range []string{"update   VirtualMachine", "stopped", "app-root-", "delete   PersistentVolumeClaim", "seen running"} {
		if !strings.Contains(planned, word) {
			t.Errorf("the plan does not say %q:\n%s", word, planned)
		}
	}
	if err := compareWorlds(before, s.worldIn(t, m.namespace)); err != nil {
		t.Errorf("a refusal and a dry run have changed something:\n%v", err)
	}

	// Killed while the machine is being stopped.
	p := s.start(t, inPlace("--stop", "--name", "back")...)
	p.until(t, "the stop", atStep("stop"))
	p.end(t, syscall.SIGKILL)
	r := s.restore(t, 0, "resume", "restore/back", "-n", m.namespace)
	s.restored(t, r, "Running", sums)
	if r.Spec.Mode != vmbackup.ModeInPlace || !slices.Equal(r.Status.OldVolumes, []string{"app-root", "app-data"}) {
		t.Errorf("restore: %+v", r)
	}
	app := s.get(t, machines, m.namespace, "app")
	if app.GetUID() != uid || app.GetLabels()["added"] != "later" || text(app, "spec", "runStrategy") != "Always" || !strings.Contains(asJSON(app.Object["spec"]), fixedMAC) {
		t.Errorf("the machine is not the same: %s", asJSON(app.Object))
	}
	// The old disks are as they were when the machine was stopped.
	if got := s.sha256(t, m.namespace, "app-root"); got != later {
		t.Errorf("the old disk is %s, and was %s", got, later)
	}
	first := s.disksOf(t, m.namespace, "app")
	if slices.Contains(first, "app-root") || len(first) != 2 {
		t.Errorf("disks %q", first)
	}

	r = s.restore(t, 0, inPlace("--stop", "--delete-old-volumes")...)
	s.restored(t, r, "Running", sums)
	left := s.list(t, claims, m.namespace, "")
	for _, claim := range first {
		if slices.ContainsFunc(left, named(claim)) {
			t.Errorf("the old volume %s is left", claim)
		}
	}
	// Only those that this restore has replaced.
	for _, claim := range []string{"app-root", "app-data"} {
		if !slices.ContainsFunc(left, named(claim)) {
			t.Errorf("the volume %s of the restore before is gone", claim)
		}
	}
	if len(r.Status.OldVolumes) > 0 || s.get(t, machines, m.namespace, "app").GetUID() != uid {
		t.Errorf("restore: %+v", r.Status)
	}

	// A machine that is gone is none to restore in place, and neither is another one of its name.
	s.remove(t, machines, m.namespace, "app")
	s.refused(t, []string{"no VirtualMachine", "without --in-place"}, inPlace()...)
	s.bare(t, m.namespace, "app", []any{}, []any{})
	before = s.worldIn(t, m.namespace)
	s.refused(t, []string{"another one of the same name", "--to-name"}, inPlace()...)
	if err := compareWorlds(before, s.worldIn(t, m.namespace)); err != nil {
		t.Errorf("a refusal has changed something:\n%v", err)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// shop is a machine with much that Harvester drops when it restores it.
func (s *suite) shop(t *testing.T, prefix string) (machine, map[string]string) {
	t.Helper()
	m := machine{namespace: s.namespace(t, prefix), name: "shop", disks: []string{"root", "data"}}
	sums := s.make(t, m)
	s.create(t, secrets, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "shop-init", "namespace": m.namespace},
		"stringData": map[string]any{"userdata": "#cloud-config\nhostname: shop\n"},
	})
	spec, err := json.Marshal([]any{
		map[string]any{"op": "add", "path": "/metadata/labels/team", "value": "retail"},
		map[string]any{"op": "add", "path": "/metadata/annotations/field.cattle.io~1description", "value": "the shop"},
		map[string]any{"op": "add", "path": "/spec/template/metadata/annotations", "value": map[string]any{"tier": "front"}},
		map[string]any{"op": "add", "path": "/spec/template/spec/volumes/-", "value": map[string]any{"name": "init", "cloudInitNoCloud": map[string]any{"secretRef": map[string]any{"name": "shop-init"}}}},
		map[string]any{"op": "add", "path": "/spec/template/spec/domain/devices/disks/-", "value": map[string]any{"name": "init", "disk": map[string]any{"bus": "virtio"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.in(machines, m.namespace).Patch(t.Context(), m.name, "application/json-patch+json", spec, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.harvesterBackup(t, m, "base", vmbackup.TypeBackup)
	s.backup(t, 0, "watch", "base", "-n", m.namespace)
	return m, sums
}

// testHarvesterRestores leaves restores to Harvester's controllers: to new machines side
// by side, then in place.
func (s *suite) testHarvesterRestores(t *testing.T) {
	m, sums := s.shop(t, "hvrestore")
	elsewhere := s.namespace(t, "hvrestore-other")
	t.Run("new", func(t *testing.T) {
		for name, run := range map[string]func(*testing.T){
			"Compared": func(t *testing.T) { s.testBothEngines(t, m, sums) },
			"Killed":   func(t *testing.T) { s.testHarvesterKilled(t, m, elsewhere, sums) },
			"Canceled": func(t *testing.T) { s.testHarvesterCanceled(t, m) },
			"Guards":   func(t *testing.T) { s.testHarvesterGuards(t, m, elsewhere) },
			"Snapshot": func(t *testing.T) { s.testHarvesterSnapshot(t, m, elsewhere, sums) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t)
			})
		}
	})
	s.testHarvesterInPlace(t, m, sums)
}

// testBothEngines restores one backup by either engine and compares the machines.
// Then Harvester's record is taken off the list, which must cost no disk.
func (s *suite) testBothEngines(t *testing.T, m machine, sums map[string]string) {
	var restores [2]*vmbackup.Restore
	t.Run("engines", func(t *testing.T) {
		for i, engine := range []string{vmbackup.EngineHarvester, vmbackup.EngineDirect} {
			t.Run(engine, func(t *testing.T) {
				t.Parallel()
				// The MAC address is another one, which is told.
				restores[i] = s.restore(t, 3, "restore", "base", "-n", m.namespace, "--to-name", "by-"+engine, "--name", "by-"+engine, "--engine", engine)
				s.restored(t, restores[i], "Running", sums)
				if r := restores[i]; r.Status.Engine != engine || len(r.Status.Warnings) != 1 || !strings.Contains(r.Status.Warnings[0], "MAC") {
					t.Errorf("%+v", r.Status)
				}
			})
		}
	})
	if restores[0] == nil || restores[1] == nil {
		t.FailNow()
	}
	theirs, ours := s.get(t, machines, m.namespace, "by-harvester"), s.get(t, machines, m.namespace, "by-direct")
	for path, difference := range fieldsThatDiffer(withoutNames(t, theirs, restores[0]), withoutNames(t, ours, restores[1])) {
		t.Errorf("field %s: %s", path, difference)
	}
	if theirs.GetLabels()["team"] != "retail" || theirs.GetAnnotations()["field.cattle.io/description"] != "the shop" || text(theirs, "spec", "runStrategy") != "Always" {
		t.Errorf("by Harvester: %v %v", theirs.GetLabels(), theirs.Object["spec"])
	}
	listed := s.want(t, 0, "list", "restores", "-n", m.namespace, "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.engine}={.status.phase} {end}")
	for _, want := range []string{"by-harvester=harvester=Ready", "by-direct=direct=Ready"} {
		if !strings.Contains(listed.stdout, want) {
			t.Errorf("no %s in %s", want, listed)
		}
	}
	again := s.restore(t, 3, "resume", "restore/by-harvester", "-n", m.namespace)
	if !again.Status.CompletedAt.Equal(*restores[0].Status.CompletedAt) {
		t.Errorf("resuming what has ended has changed it: %+v", again.Status)
	}

	s.refused(t, []string{"for as long as VirtualMachine by-harvester is there"}, "delete", "restore/by-harvester", "-n", m.namespace)
	orphan := metav1.DeletePropagationOrphan
	if err := s.in(machines, m.namespace).Delete(t.Context(), "by-harvester", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	s.wait(t, machines, m.namespace, "by-harvester", "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	s.want(t, 0, "delete", "restore/by-harvester", "-n", m.namespace)
	for _, v := range restores[0].Status.Volumes {
		if c := s.get(t, claims, m.namespace, v.PVC); c.GetDeletionTimestamp() != nil || len(c.GetOwnerReferences()) != 0 {
			t.Errorf("claim %s is deleted %v, owned by %v", v.PVC, c.GetDeletionTimestamp(), c.GetOwnerReferences())
		}
	}
}

// withoutNames is a machine without what every object has of its own, and with the names
// of its claims and Secrets, and its MAC addresses, in the same words for both.
func withoutNames(t *testing.T, vm *unstructured.Unstructured, r *vmbackup.Restore) map[string]any {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"labels": vm.GetLabels(), "annotations": vm.GetAnnotations(), "spec": vm.Object["spec"]})
	if err != nil {
		t.Fatal(err)
	}
	words := string(raw)
	for _, v := range r.Status.Volumes {
		words = strings.ReplaceAll(words, v.PVC, "claim-of-"+v.Name)
	}
	var o map[string]any
	if err := json.Unmarshal([]byte(words), &o); err != nil {
		t.Fatal(err)
	}
	annotations, _ := o["annotations"].(map[string]any)
	for _, key := range []string{
		"vmbackup.io/operation",                    // the restore's token
		"restore.harvesterhci.io/name",             // by which Harvester knows its restore
		"restore.harvesterhci.io/last-restore-uid", //
		"harvesterhci.io/volumeClaimTemplates",     // Harvester lists the claims for its UI, which the machine's own annotation did not
		"harvesterhci.io/mac-address",              // other addresses
		"harvesterhci.io/vmRunStrategy",            // Harvester's note of the run strategy
	} {
		delete(annotations, key)
	}
	spec, _ := o["spec"].(map[string]any)
	for _, i := range at(spec, "template", "spec", "domain", "devices", "interfaces") {
		delete(i, "macAddress") // the source is there, so that each has another one
	}
	for _, v := range at(spec, "template", "spec", "volumes") {
		if init, ok := v["cloudInitNoCloud"].(map[string]any); ok {
			init["secretRef"] = "the Secret of then" // Harvester gives it a name of its own
		}
	}
	return o
}

func at(object map[string]any, path ...string) []map[string]any {
	var list []map[string]any
	items, _, err := unstructured.NestedSlice(object, path...)
	if err != nil {
		return nil
	}
	// NestedSlice copies: the entries must be those of the object.
	parent := object
	for _, p := range path[:len(path)-1] {
		parent, _ = parent[p].(map[string]any)
	}
	own, _ := parent[path[len(path)-1]].([]any)
	for i := range items {
		if o, ok := own[i].(map[string]any); ok {
			list = append(list, o)
		}
	}
	return list
}

// fieldsThatDiffer are the fields in which two objects differ, by their path.
func fieldsThatDiffer(a, b any) map[string]string {
	found := map[string]string{}
	var walk func(path string, a, b any)
	walk = func(path string, a, b any) {
		x, isX := a.(map[string]any)
		y, isY := b.(map[string]any)
		if !isX || !isY {
			if !reflect.DeepEqual(a, b) {
				found[path] = fmt.Sprintf("%v, and %v", a, b)
			}
			return
		}
		for key := range x {
			walk(path+"."+key, x[key], y[key])
		}
		for key := range y {
			if _, both := x[key]; !both {
				walk(path+"."+key, nil, y[key])
			}
		}
	}
	walk("", a, b)
	return found
}

// testHarvesterKilled kills the plugin when Harvester has just begun. The restore goes
// on from another process, and what was asked for holds at its end: the machine is off.
func (s *suite) testHarvesterKilled(t *testing.T, m machine, to string, sums map[string]string) {
	p := s.start(t, "restore", "base", "-n", m.namespace, "--to-namespace", to, "--name", "cut", "--engine", "harvester", "--start", "no")
	p.until(t, "the volumes", atStep("volumes"))
	p.end(t, os.Kill)
	r := s.restore(t, 0, "describe", "restore/cut", "-n", to)
	if r.Status.Phase != vmbackup.PhaseRunning || r.Status.Engine != vmbackup.EngineHarvester {
		t.Errorf("after the kill: %+v", r.Status)
	}
	s.refused(t, []string{"has not ended"}, "delete", "restore/cut", "-n", to)
	follower := s.start(t, "watch", "restore/cut", "-n", to)
	r = s.restore(t, 3, "resume", "restore/cut", "-n", to)
	s.restored(t, r, "Stopped", sums)
	if !slices.ContainsFunc(r.Status.Warnings, func(w string) bool { return strings.Contains(w, "starts every machine that it restores") }) {
		t.Errorf("warnings %q", r.Status.Warnings)
	}
	if got := follower.wait(t); got.code != 3 || !strings.Contains(got.stdout, "Ready") {
		t.Errorf("who has watched: %s", got)
	}
	vm, source := s.get(t, machines, to, m.name), s.get(t, machines, m.namespace, m.name)
	if text(vm, "spec", "runStrategy") != "Halted" || vm.GetLabels()["team"] != "retail" {
		t.Errorf("%v %v", vm.GetLabels(), vm.Object["spec"])
	}
	if got, was := macOf(vm), macOf(source); got == was || got == "" {
		t.Errorf("its MAC address is %q, and that of its source %q", got, was)
	}
}

func macOf(vm *unstructured.Unstructured) string {
	spec, _ := vm.Object["spec"].(map[string]any)
	for _, i := range at(spec, "template", "spec", "domain", "devices", "interfaces") {
		mac, _ := i["macAddress"].(string)
		return mac
	}
	return ""
}

// testHarvesterCanceled gives a restore up whose machine has not run yet: all that
// Harvester has made goes, and its record says so.
func (s *suite) testHarvesterCanceled(t *testing.T, m machine) {
	s.want(t, 3, "restore", "base", "-n", m.namespace, "--to-name", "unwanted", "--name", "unwanted", "--engine", "harvester", "--wait=false")
	began := time.Now()
	r := s.restore(t, 0, "cancel", "restore/unwanted", "-n", m.namespace)
	t.Logf("canceled after %.0f s", time.Since(began).Seconds())
	if r.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("%+v", r.Status)
	}
	s.wait(t, machines, m.namespace, "unwanted", "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	s.wait(t, harvesterRestores, m.namespace, "unwanted", "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	for _, c := range s.list(t, claims, m.namespace, "") {
		if c.GetAnnotations()["restore.harvesterhci.io/name"] == "unwanted" && c.GetDeletionTimestamp() == nil {
			t.Errorf("claim %s is left", c.GetName())
		}
	}
	if r := s.restore(t, 0, "describe", "restore/unwanted", "-n", m.namespace); r.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("it is told as %+v", r.Status)
	}
	s.want(t, 0, "delete", "restore/unwanted", "-n", m.namespace)
}

// testHarvesterSnapshot restores what lies in the volumes alone, which Harvester can.
func (s *suite) testHarvesterSnapshot(t *testing.T, m machine, to string, sums map[string]string) {
	s.harvesterBackup(t, m, "cut-in", vmbackup.TypeSnapshot)
	s.backup(t, 0, "watch", "cut-in", "-n", m.namespace)
	s.refused(t, []string{"Harvester restores it there only"}, "restore", "cut-in", "-n", m.namespace, "--to-namespace", to, "--to-name", "x", "--engine", "harvester")
	r := s.restore(t, 3, "restore", "cut-in", "-n", m.namespace, "--to-name", "of-snapshot")
	if r.Status.Engine != vmbackup.EngineHarvester {
		t.Errorf("%+v", r.Status)
	}
	s.restored(t, r, "Running", sums)
}

// testHarvesterGuards asks for what Harvester cannot do, or would hang at.
func (s *suite) testHarvesterGuards(t *testing.T, m machine, to string) {
	base := []string{"restore", "base", "-n", m.namespace}
	for _, test := range []struct {
		args  []string
		words []string
	}{
		{[]string{"--to-name", "x", "--map-storage-class", "longhorn-1r=longhorn-1r"}, []string{"no means for --map-storage-class", "--engine direct"}},
		{[]string{"--to-name", "x", "--from", "target"}, []string{"--from target"}},
		{[]string{"--in-place"}, []string{"runs", "--stop"}},
		{[]string{"--to-name", "x", "--mac", "keep"}, []string{"duplicate mac address"}},
	} {
		s.refused(t, test.words, append(append(slices.Clone(base), test.args...), "--engine", "harvester")...)
	}
	// Left to the tool, another engine does it, and a line says why.
	for word, args := range map[string][]string{
		"no means for --map-storage-class": {"--to-name", "x", "--map-storage-class", "longhorn-1r=longhorn-1r"},
		"starts every machine":             {"--to-name", "x", "--start", "no"},
		"only what is off":                 {"--in-place", "--stop"},
	} {
		got := s.want(t, 0, append(append(slices.Clone(base), args...), "--dry-run")...)
		if !strings.Contains(got.stderr, "note: ") || !strings.Contains(got.stderr, word) || strings.Contains(got.stdout, "VirtualMachineRestore") {
			t.Errorf("does not say %q: %s", word, got)
		}
	}
	if got := s.want(t, 0, append(slices.Clone(base), "--to-name", "x", "--dry-run")...); !strings.Contains(got.stdout, "VirtualMachineRestore") || strings.Contains(got.stderr, "note: ") {
		t.Errorf("not left to Harvester: %s", got)
	}

	// What an earlier restore of the name has left is found beforehand.
	left := "restore-" + to + "-left-base-volume-" + m.claim("root")
	if len(left) < 64 {
		s.temporary(t, contents, map[string]any{
			"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": map[string]any{"name": left},
			"spec": map[string]any{
				"deletionPolicy": "Retain", "driver": "driver.longhorn.io", "source": map[string]any{"snapshotHandle": "bak://none/none"},
				"volumeSnapshotRef": map[string]any{"namespace": to, "name": "none"},
			},
		})
		s.refused(t, []string{left, "is there already", "kubectl delete volumesnapshotcontents"}, append(slices.Clone(base), "--to-namespace", to, "--to-name", "copy", "--name", "left", "--engine", "harvester")...)
	}
}

// testHarvesterInPlace restores the machine itself: Harvester deletes nothing, and the
// old volumes go when it was seen running.
func (s *suite) testHarvesterInPlace(t *testing.T, m machine, sums map[string]string) {
	for _, disk := range m.disks {
		s.runSandbox(t, "disk", "write", m.namespace+"/"+m.claim(disk), "--seed", "later", "--size", "1048576")
	}
	uid := s.get(t, machines, m.namespace, m.name).GetUID()
	// A snapshot in the old volumes would go with them.
	s.refused(t, []string{"cut-in-volume-", "would be lost with it", "nothing was changed"},
		"restore", "base", "-n", m.namespace, "--in-place", "--stop", "--delete-old-volumes", "--name", "back", "--engine", "harvester")
	s.remove(t, harvesterBackups, m.namespace, "cut-in")
	for _, disk := range m.disks {
		s.wait(t, snapshots, m.namespace, "cut-in-volume-"+m.claim(disk), "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	}
	r := s.restore(t, 0, "restore", "base", "-n", m.namespace, "--in-place", "--stop", "--delete-old-volumes", "--name", "back", "--engine", "harvester")
	s.restored(t, r, "Running", sums)
	vm := s.get(t, machines, m.namespace, m.name)
	if vm.GetUID() != uid || text(vm, "spec", "runStrategy") != "Always" || vm.GetAnnotations()["vmbackup.io/stopped"] != "" {
		t.Errorf("%v %v", vm.GetAnnotations(), vm.Object["spec"])
	}
	if object, err := s.in(harvesterRestores, m.namespace).Get(t.Context(), "back", metav1.GetOptions{}); err != nil || text(object, "spec", "deletionPolicy") != "retain" {
		t.Errorf("%v, %v", object, err)
	}
	for _, disk := range m.disks {
		s.wait(t, claims, m.namespace, m.claim(disk), "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	}
	s.refused(t, []string{"there is nothing to cancel"}, "cancel", "restore/back", "-n", m.namespace)

	// Another machine of the same name is not the one that the backup is of.
	s.remove(t, machines, m.namespace, m.name)
	s.bare(t, m.namespace, m.name, nil, nil)
	s.refused(t, []string{"another one of the same name", "nothing was changed"}, "restore", "base", "-n", m.namespace, "--in-place", "--stop", "--engine", "harvester")
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// walkTally is what a kill walk has found.
type walkTally struct{ points, lost, duplicated, frozen int }

// killWalk kills the plugin at every kind of request that changes something, by
// SIGKILL, before the request or after it, and runs the same command again each
// time: a create, a restore and a delete come to their ends as undisturbed.
func (s *suite) killWalk(after bool, disks ...string) func(*testing.T) {
	name := "before"
	if after {
		name = "after"
	}
	return func(t *testing.T) { s.walk(t, "walk-"+name, after, disks) }
}

func (s *suite) walk(t *testing.T, prefix string, after bool, disks []string) {
	var tally walkTally
	k := s.newKiller(t, after)
	defer func() {
		t.Logf("points walked %d, lost %d, duplicated %d, left frozen %d", tally.points, tally.lost, tally.duplicated, tally.frozen)
	}()
	m := machine{namespace: s.namespace(t, prefix), name: "app", disks: disks}
	sums := s.make(t, m)

	k.toTheEnd(t, &tally, "create", func() []string {
		return []string{"create", "app", "-n", m.namespace, "--name", "walked", "--freeze-timeout", "3s"}
	})
	b := s.backup(t, 0, "describe", "walked", "-n", m.namespace)
	tally.frozen += s.stillFrozen(t, m.namespace, "app")
	tally.duplicated += s.duplicates(t, b)
	s.checkOnTarget(t, b)

	s.walkAtRandom(t, k, &tally, b)

	k.toTheEnd(t, &tally, "restore", func() []string {
		if slices.ContainsFunc(s.list(t, secrets, m.namespace, ""), named("vmbackup-restore-back")) {
			return []string{"resume", "restore/back", "-n", m.namespace}
		}
		return []string{"restore", "walked", "-n", m.namespace, "--to-name", "copy", "--name", "back"}
	})
	s.restored(t, s.restore(t, 0, "describe", "restore/back", "-n", m.namespace), "Running", sums)
	if got := s.list(t, claims, m.namespace, ""); len(got) != 2*len(disks) {
		tally.duplicated++
		t.Errorf("claims %s; want those of two machines", namesOf(got))
	}

	k.toTheEnd(t, &tally, "delete", func() []string {
		return []string{"delete", "walked", "-n", m.namespace, "--yes"}
	})
	s.absent(t, b)
	tally.frozen += s.stillFrozen(t, m.namespace, "app")
}

// walkAtRandom kills a second backup at any requests at all, reads too, and lets it
// come to its end then.
func (s *suite) walkAtRandom(t *testing.T, k *killer, tally *walkTally, first *vmbackup.Backup) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed of the random kills: %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	namespace := first.Metadata.Namespace
	create := []string{"create", first.Spec.VM, "-n", namespace, "--name", "random", "--freeze-timeout", "3s"}
	for range 3 {
		k.run(t, 1+random.IntN(25), create...)
	}
	again := create
	if slices.ContainsFunc(s.list(t, secrets, namespace, ""), named("vmbackup-backup-random")) {
		again = []string{"resume", "random", "-n", namespace}
	}
	if got := s.run(t, again...); got.code != 0 && got.code != 3 {
		tally.lost++
		t.Fatalf("does not go on: %s", got)
	}
	second := s.backup(t, 0, "describe", "random", "-n", namespace)
	tally.duplicated += s.duplicates(t, second, first)
	tally.frozen += s.stillFrozen(t, namespace, first.Spec.VM)
}

// walkLimit is how often a command may be killed: more than there are points.
const walkLimit = 80

// toTheEnd runs a command again and again, killed on the way, until it is done.
func (k *killer) toTheEnd(t *testing.T, tally *walkTally, what string, args func() []string) {
	t.Helper()
	k.mu.Lock()
	before := len(k.points)
	clear(k.walked)
	k.mu.Unlock()
	began := time.Now()
	for range walkLimit {
		got := k.run(t, 0, args()...)
		if got.code == -1 {
			continue
		}
		// A deletion that was killed with its record gone has nothing left to do.
		deleted := what == "delete" && got.code == 4 && strings.Contains(got.stderr, "error: no backup")
		// Nor has a backup that was killed with its end recorded.
		ended := what == "create" && got.code == 4 && strings.Contains(got.stderr, "already (of VirtualMachine app, Ready)")
		if got.code == 0 || got.code == 3 || deleted || ended {
			points := k.points[before:]
			tally.points += len(points)
			t.Logf("%s: killed at %d points in %.0f s: %s", what, len(points), time.Since(began).Seconds(), strings.Join(points, "; "))
			return
		}
		tally.lost++
		t.Fatalf("%s does not go on: %s", what, got)
	}
	tally.lost++
	t.Fatalf("%s has not ended after %d kills: %q", what, walkLimit, k.points[before:])
}

// stillFrozen counts the freezes that have no end, or came to theirs late.
func (s *suite) stillFrozen(t *testing.T, namespace, vm string) int {
	t.Helper()
	frozen := 0
	for _, w := range s.freezes(t, namespace, vm) {
		if w.End == nil || w.DurationSeconds > w.TimeoutSeconds+1 {
			frozen++
			t.Errorf("a freeze of guest %s/%s: %+v", namespace, vm, w)
		}
	}
	return frozen
}

// duplicates counts what is there more than once of a backup, or is left of rounds
// that do not count; others are the machine's other backups.
func (s *suite) duplicates(t *testing.T, b *vmbackup.Backup, others ...*vmbackup.Backup) int {
	t.Helper()
	if b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready {
		t.Fatalf("backup %s: %+v", b.Ref(), b.Status)
	}
	all := append([]*vmbackup.Backup{b}, others...)
	var wanted []string // VolumeSnapshots
	counts := map[string]bool{}
	for _, one := range all {
		for _, v := range one.Status.Volumes {
			wanted = append(wanted, v.VolumeSnapshot)
			counts[v.LonghornBackup] = true
			counts["snapshot-"+string(s.get(t, snapshots, one.Metadata.Namespace, v.VolumeSnapshot).GetUID())] = true
		}
	}
	found := 0
	for _, o := range s.list(t, snapshots, b.Metadata.Namespace, "") {
		if !slices.Contains(wanted, o.GetName()) {
			found++
			t.Errorf("VolumeSnapshot %s is of no backup", o.GetName())
		}
	}
	for _, o := range s.list(t, contents, "", "") {
		if text(&o, "spec", "volumeSnapshotRef", "namespace") == b.Metadata.Namespace && !slices.Contains(wanted, text(&o, "spec", "volumeSnapshotRef", "name")) {
			found++
			t.Errorf("VolumeSnapshotContent %s is of no backup", o.GetName())
		}
	}
	for _, v := range b.Status.Volumes {
		for _, o := range s.list(t, longhornCuts, longhornNamespace, "longhornvolume="+v.LonghornVolume) {
			// Longhorn merges a snapshot that is to go when it sees fit.
			created, _, err := unstructured.NestedBool(o.Object, "status", "userCreated")
			if err == nil && created && !counts[o.GetName()] && o.GetDeletionTimestamp() == nil {
				found++
				t.Errorf("Longhorn snapshot %s is of no backup", o.GetName())
			}
		}
		for _, o := range s.list(t, longhornBackups, longhornNamespace, "backup-volume="+v.LonghornVolume) {
			if counts[o.GetName()] {
				continue
			}
			if o.GetDeletionTimestamp() == nil {
				found++
				t.Errorf("Longhorn backup %s is of no backup", o.GetName())
				continue
			}
			s.wait(t, longhornBackups, longhornNamespace, o.GetName(), "gone", func(o *unstructured.Unstructured) bool { return o == nil })
		}
		onTarget := s.keys(t, path.Dir(target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))+"/")
		if len(onTarget) != len(all) {
			found++
			t.Errorf("on the target, volume %s has %q", v.LonghornVolume, onTarget)
		}
	}
	return found
}

// keys are the files below a prefix of the backup target.
func (s *suite) keys(t *testing.T, prefix string) []string {
	t.Helper()
	var keys []string
	err := s.store(t).List(t.Context(), prefix, func(o target.Object) error {
		keys = append(keys, o.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testCancel gives up, from another process, a backup in its upload and restores in
// the middle: whoever runs them stops, and only what they have made is gone.
func (s *suite) testCancel(t *testing.T) {
	m := machine{namespace: s.namespace(t, "cancel"), name: "app", disks: []string{"root", "data"}}
	sums := s.running(t, m)

	p := s.start(t, "create", "app", "-n", m.namespace, "--name", "unwanted")
	p.until(t, "the upload", atStep("upload"))
	volumes := s.backup(t, 0, "describe", "unwanted", "-n", m.namespace).Status.Volumes
	b := s.backup(t, 0, "cancel", "unwanted", "-n", m.namespace)
	if b.Status.Phase != vmbackup.PhaseCanceled || b.Status.Ready {
		t.Errorf("canceled: %+v", b.Status)
	}
	if got := p.wait(t); got.code != 1 || !strings.Contains(got.stderr, "being canceled") {
		t.Errorf("the canceled run: want exit code 1: %s", got)
	}
	s.nothingOf(t, b.Ref(), volumes)
	s.thawed(t, m.namespace, "app")
	if got := s.want(t, 0, "list", "-n", m.namespace, "-o", "jsonpath={.items[*].status.phase}"); got.stdout != "Canceled" {
		t.Errorf("listed as: %s", got)
	}
	s.refused(t, []string{"was canceled"}, "resume", "unwanted", "-n", m.namespace)
	s.want(t, 0, "cancel", "unwanted", "-n", m.namespace)
	s.want(t, 0, "delete", "unwanted", "-n", m.namespace, "--yes")

	good := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "good")
	s.refused(t, []string{"has ended as Ready", "nothing to cancel"}, "cancel", "good", "-n", m.namespace)
	before := s.worldIn(t, m.namespace)

	// A restore that another process runs.
	p = s.start(t, "restore", "good", "-n", m.namespace, "--to-name", "copy", "--name", "copy")
	p.until(t, "the data", atStep("data"))
	r := s.restore(t, 0, "cancel", "restore/copy", "-n", m.namespace)
	if r.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("canceled: %+v", r.Status)
	}
	if got := p.wait(t); got.code != 1 || !strings.Contains(got.stderr, "being canceled") {
		t.Errorf("the canceled run: want exit code 1: %s", got)
	}
	if _, err := s.in(machines, m.namespace).Get(t.Context(), "copy", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the halted machine is left: %v", err)
	}
	s.want(t, 0, "delete", "restore/copy", "-n", m.namespace)

	// One in place that was killed with the machine stopped: it runs again as it did.
	p = s.start(t, "restore", "good", "-n", m.namespace, "--in-place", "--stop", "--name", "back")
	p.until(t, "the exchange", atStep("stop"))
	p.end(t, syscall.SIGKILL)
	s.restore(t, 0, "cancel", "restore/back", "-n", m.namespace)
	s.wait(t, machines, m.namespace, "app", "Running", printable("Running"))
	if disks := s.disksOf(t, m.namespace, "app"); !slices.Equal(disks, []string{"app-root", "app-data"}) {
		t.Errorf("disks %q", disks)
	}
	for claim, want := range sums {
		if got := s.sha256(t, m.namespace, claim); got != want {
			t.Errorf("disk %s is %s, and was %s", claim, got, want)
		}
	}
	s.want(t, 0, "delete", "restore/back", "-n", m.namespace)
	if err := compareWorlds(before, s.worldIn(t, m.namespace)); err != nil {
		t.Errorf("canceled restores have left something, or taken it:\n%v", err)
	}
	s.present(t, good)
}

// nothingOf sees that nothing is left of a backup that was given up, in the cluster
// or on the target.
func (s *suite) nothingOf(t *testing.T, ref vmbackup.Ref, volumes []vmbackup.BackupVolume) {
	t.Helper()
	if left := s.list(t, snapshots, ref.Namespace, ""); len(left) > 0 {
		t.Errorf("left VolumeSnapshots: %s", namesOf(left))
	}
	for _, c := range s.list(t, contents, "", "") {
		if text(&c, "spec", "volumeSnapshotRef", "namespace") == ref.Namespace {
			t.Errorf("VolumeSnapshotContent %s is left", c.GetName())
		}
	}
	store := s.store(t)
	for _, v := range volumes {
		if left := s.list(t, longhornBackups, longhornNamespace, "backup-volume="+v.LonghornVolume); len(left) > 0 {
			t.Errorf("left Longhorn backups of volume %s: %s", v.Name, namesOf(left))
		}
		for _, cut := range s.list(t, longhornCuts, longhornNamespace, "longhornvolume="+v.LonghornVolume) {
			if cut.GetDeletionTimestamp() == nil && strings.HasPrefix(cut.GetName(), "snapshot-") {
				t.Errorf("left Longhorn snapshot of volume %s: %s", v.Name, cut.GetName())
			}
		}
		err := store.List(t.Context(), target.BackupsPrefix(v.LonghornVolume), func(o target.Object) error {
			t.Errorf("%s is left on the target", o.Key)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, key := range []string{metadata.RecordKey(ref), metadata.HarvesterBackupKey(ref)} {
		if s.onTarget(t, key) {
			t.Errorf("%s is left on the target", key)
		}
	}
}

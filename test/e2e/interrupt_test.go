// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// once sees that a backup has made everything exactly once: one VolumeSnapshot
// and one Longhorn backup a volume, whatever has happened on the way.
func (s *suite) once(t *testing.T, b *vmbackup.Backup) {
	t.Helper()
	if b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready {
		t.Fatalf("backup %s: %+v", b.Ref(), b.Status)
	}
	var wanted []string
	for _, v := range b.Status.Volumes {
		wanted = append(wanted, v.VolumeSnapshot)
	}
	slices.Sort(wanted)
	var have []string
	for _, o := range s.list(t, snapshots, b.Metadata.Namespace, "") {
		if o.GetAnnotations()["vmbackup.io/backup"] == b.Metadata.Name {
			have = append(have, o.GetName())
		}
	}
	slices.Sort(have)
	if !slices.Equal(have, wanted) {
		t.Errorf("VolumeSnapshots %q, want %q", have, wanted)
	}
	for _, v := range b.Status.Volumes {
		backups := s.list(t, longhornBackups, longhornNamespace, "backup-volume="+v.LonghornVolume)
		if len(backups) != 1 || backups[0].GetName() != v.LonghornBackup {
			t.Errorf("Longhorn backups of volume %s: %s; want %s alone", v.Name, namesOf(backups), v.LonghornBackup)
		}
	}
	s.checkOnTarget(t, b)
	s.thawed(t, b.Metadata.Namespace, b.Spec.VM)
}

// testKilledAndResumed kills the plugin in the middle of a backup and then of the
// restore from it, at several steps. Resuming gives what an undisturbed run gives.
func (s *suite) testKilledAndResumed(t *testing.T) {
	m := machine{namespace: s.namespace(t, "killed"), name: "app", disks: []string{"root", "data"}}
	sums := s.make(t, m)
	p := s.start(t, "create", "app", "-n", m.namespace, "--name", "cut-off")
	p.until(t, "the upload", atStep("upload"))
	if got := p.end(t, os.Kill); got.code != -1 {
		t.Fatalf("was to be killed: %s", got)
	}
	b := s.backup(t, 0, "describe", "cut-off", "-n", m.namespace)
	if b.Status.Phase != vmbackup.PhaseRunning || b.Status.Ready {
		t.Fatalf("after the kill: %+v", b.Status)
	}
	s.thawed(t, m.namespace, "app")
	s.refused(t, []string{"Running", "cut-off"}, "restore", "cut-off", "-n", m.namespace, "--to-name", "early")
	b = s.backup(t, 0, "resume", "cut-off", "-n", m.namespace)
	s.once(t, b)
	if windows := s.freezes(t, m.namespace, "app"); len(windows) != 1 {
		t.Errorf("%d freezes; what was cut is not cut again", len(windows))
	}
	again := s.backup(t, 0, "resume", "cut-off", "-n", m.namespace)
	if again.Status.CompletedAt == nil || !again.Status.CompletedAt.Equal(*b.Status.CompletedAt) {
		t.Errorf("resuming what has ended has changed it: %+v", again.Status)
	}

	p = s.start(t, "restore", "cut-off", "-n", m.namespace, "--to-name", "copy", "--name", "twice")
	p.until(t, "the volumes", atStep("volumes"))
	p.end(t, os.Kill)
	p = s.start(t, "resume", "restore/twice", "-n", m.namespace)
	p.until(t, "the data", atStep("data"))
	p.end(t, os.Kill)
	r := s.restore(t, 0, "resume", "restore/twice", "-n", m.namespace)
	s.restored(t, r, "Running", sums)
	if got := s.list(t, claims, m.namespace, ""); len(got) != 2*len(m.disks) {
		t.Errorf("claims %s; want those of two machines", namesOf(got))
	}
	if got := s.list(t, machines, m.namespace, ""); len(got) != 2 {
		t.Errorf("machines %s", namesOf(got))
	}

	// What is half done can be deleted as a whole.
	p = s.start(t, "create", "app", "-n", m.namespace, "--name", "half")
	p.until(t, "the upload", atStep("upload"))
	p.end(t, os.Kill)
	half := s.backup(t, 0, "describe", "half", "-n", m.namespace)
	s.want(t, 0, "delete", "half", "-n", m.namespace, "--yes")
	s.absent(t, half)
	for _, v := range b.Status.Volumes {
		if backups := s.list(t, longhornBackups, longhornNamespace, "backup-volume="+v.LonghornVolume); len(backups) != 1 {
			t.Errorf("after the deletion of the half backup, volume %s has the Longhorn backups %s", v.Name, namesOf(backups))
		}
	}
	s.present(t, b)
}

// testInterrupted ends backup and restore with Ctrl-C: the code is 130, and the
// command that is printed goes on.
func (s *suite) testInterrupted(t *testing.T) {
	m := machine{namespace: s.namespace(t, "interrupted"), name: "app", disks: []string{"root"}}
	sums := s.make(t, m)
	p := s.start(t, "create", "app", "-n", m.namespace, "--name", "paused")
	p.until(t, "the upload", atStep("upload"))
	got := p.end(t, syscall.SIGINT)
	if got.code != 130 {
		t.Fatalf("want exit code 130: %s", got)
	}
	s.once(t, s.backup(t, 0, goOn(t, got)...))

	p = s.start(t, "restore", "paused", "-n", m.namespace, "--to-name", "copy")
	p.until(t, "the data", atStep("data"))
	got = p.end(t, syscall.SIGINT)
	if got.code != 130 {
		t.Fatalf("want exit code 130: %s", got)
	}
	s.restored(t, s.restore(t, 0, goOn(t, got)...), "Running", sums)

	// In the freeze the guest is thawed before the command ends.
	p = s.start(t, "create", "app", "-n", m.namespace, "--name", "frozen", "--freeze-timeout", "2m")
	p.until(t, "the freeze", func(e vmbackup.Event) bool { return strings.Contains(e.Message, "freezing") })
	got = p.end(t, syscall.SIGINT)
	s.thawed(t, m.namespace, "app")
	if got.code != 130 {
		t.Fatalf("want exit code 130: %s", got)
	}
	s.want(t, 0, "delete", "frozen", "-n", m.namespace, "--yes")
}

// testWithoutWaiting starts a backup and a restore without waiting; others follow
// and finish them.
func (s *suite) testWithoutWaiting(t *testing.T) {
	m := machine{namespace: s.namespace(t, "unwaited"), name: "app", disks: []string{"root"}}
	sums := s.make(t, m)
	b := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "later", "--wait=false")
	if b.Status.Phase != vmbackup.PhaseRunning || b.Status.Ready || b.Status.Consistency != vmbackup.ConsistencyApplication {
		t.Errorf("not waited for: %+v", b.Status)
	}
	s.thawed(t, m.namespace, "app")
	watching := s.start(t, "watch", "later", "-n", m.namespace, "-o", "json")
	s.once(t, s.backup(t, 0, "resume", "later", "-n", m.namespace))
	got := watching.wait(t)
	seen := &vmbackup.Backup{}
	decode(t, got, seen)
	if got.code != 0 || seen.Status.Phase != vmbackup.PhaseReady {
		t.Errorf("watched from a second process: %s", got)
	}

	r := s.restore(t, 0, "restore", "later", "-n", m.namespace, "--to-name", "copy", "--name", "back", "--wait=false")
	if r.Status.Phase != vmbackup.PhaseRunning || r.Status.VM != m.namespace+"/copy" {
		t.Errorf("not waited for: %+v", r.Status)
	}
	watching = s.start(t, "watch", "restore/back", "-n", m.namespace)
	s.restored(t, s.restore(t, 0, "resume", "restore/back", "-n", m.namespace), "Running", sums)
	if got := watching.wait(t); got.code != 0 {
		t.Errorf("watched from a second process: %s", got)
	}
}

// testTimeOut stops the part of the cluster that cuts snapshots: the command ends
// with exit code 5 at its time-out, the guest runs, and with the part back the
// printed command goes on.
func (s *suite) testTimeOut(t *testing.T) {
	m := machine{namespace: s.namespace(t, "timeout"), name: "app", disks: []string{"root"}}
	sums := s.make(t, m)
	restart := func(ctx context.Context) {
		if got := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "component", "start", "csi-snapshotter"); got.code != 0 {
			t.Errorf("sandbox %s", got)
		}
	}
	t.Cleanup(func() { restart(context.WithoutCancel(t.Context())) })
	s.runSandbox(t, "component", "stop", "csi-snapshotter")
	got := s.want(t, 5, "create", "app", "-n", m.namespace, "--name", "slow", "--timeout", "6s")
	s.thawed(t, m.namespace, "app")
	if w := s.freezes(t, m.namespace, "app"); len(w) != 1 || w[0].ThawedBy != "client" {
		t.Errorf("freezes: %+v", w)
	}
	watched := s.run(t, "watch", "slow", "-n", m.namespace, "--timeout", "2s")
	if watched.code != 5 {
		t.Errorf("watching what does not end: %s", watched)
	}
	restart(t.Context())
	b := s.backup(t, 0, goOn(t, got)...)
	s.once(t, b)
	s.restored(t, s.restore(t, 0, "restore", "slow", "-n", m.namespace, "--to-name", "copy"), "Running", sums)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testFromTheTarget loses all that the cluster knows of a backup: its namespace
// with machine, disks, snapshots and record, the contents and Longhorn's own
// objects. The data survives all that, and the target alone brings the machine back.
func (s *suite) testFromTheTarget(t *testing.T) {
	const class = "temporary"
	s.create(t, storageClasses, map[string]any{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": map[string]any{"name": class},
		"provisioner": "driver.longhorn.io", "parameters": map[string]any{"numberOfReplicas": "1"},
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.in(storageClasses, "").Delete(ctx, class, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	m := machine{namespace: s.namespace(t, "gone"), name: "app", disks: []string{"root", "data"}, class: class}
	sums := s.make(t, m)
	b := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "last")
	source := s.get(t, machines, m.namespace, "app")

	s.remove(t, namespaces, "", m.namespace)
	for _, c := range s.list(t, contents, "", "") {
		if text(&c, "spec", "volumeSnapshotRef", "namespace") == m.namespace {
			s.remove(t, contents, "", c.GetName())
		}
	}
	for _, v := range b.Status.Volumes {
		if !s.onTarget(t, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)) {
			t.Fatalf("with its namespace, the data of volume %s went from the target", v.Name)
		}
		s.patch(t.Context(), t, longhornBackups, longhornNamespace, v.LonghornBackup, `{"metadata":{"labels":{"longhorn.io/delete-custom-resource-only":"true"}}}`)
		s.remove(t, longhornBackups, longhornNamespace, v.LonghornBackup)
	}

	if got := s.want(t, 0, "list", "-n", m.namespace, "-o", "name"); got.stdout != "" {
		t.Errorf("the cluster still knows the backup: %s", got)
	}
	listed := s.want(t, 0, "list", "-n", m.namespace, "--from", "target", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}")
	if listed.stdout != "last Ready" {
		t.Errorf("list --from target: %s", listed)
	}
	ref := m.namespace + "/last"
	s.refused(t, []string{"namespace", m.namespace}, "restore", ref, "--from", "target")
	s.create(t, namespaces, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": m.namespace}})
	s.remove(t, storageClasses, "", class)
	s.refused(t, []string{"StorageClass", "nowhere"}, "restore", ref, "--from", "target", "--map-storage-class", class+"=nowhere")

	// The backup has the StorageClass as well.
	r := s.restore(t, 0, "restore", ref, "--from", "target")
	s.restored(t, r, "Running", sums)
	if is := s.get(t, machines, m.namespace, "app"); asJSON(is.Object["spec"]) != asJSON(source.Object["spec"]) {
		t.Errorf("spec of the restored machine:\n%s\nof the source:\n%s", asJSON(is.Object["spec"]), asJSON(source.Object["spec"]))
	}
}

// testDelete deletes one of two backups of the same disks: its data is gone, the
// other one restores. With --keep-data only the cluster forgets.
func (s *suite) testDelete(t *testing.T) {
	m := machine{namespace: s.namespace(t, "delete"), name: "app", disks: []string{"root"}, off: true}
	sums := s.make(t, m)
	first := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "first")
	second := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "second")

	// Without a yes nothing goes; the plan says what would.
	s.want(t, 2, "delete", "first", "-n", m.namespace)
	planned := s.want(t, 0, "delete", "first", "-n", m.namespace, "--dry-run=client").stdout
	for _, word := range []string{first.Status.Volumes[0].LonghornBackup, first.Status.Volumes[0].VolumeSnapshot, "vmbackup/" + m.namespace + "/first.json"} {
		if !strings.Contains(planned, word) {
			t.Errorf("the plan does not say %q:\n%s", word, planned)
		}
	}
	s.present(t, first)

	got := s.want(t, 0, "delete", "first", "-n", m.namespace, "--yes", "--progress", "plain")
	if !strings.Contains(got.stderr, "gone from s3://") || strings.Contains(got.stderr, "no other Ready backup") {
		t.Errorf("says not what was seen: %s", got)
	}
	s.absent(t, first)
	s.present(t, second)
	s.refused(t, []string{"first"}, "restore", "first", "-n", m.namespace, "--to-name", "lost")
	s.restored(t, s.restore(t, 0, "restore", "second", "-n", m.namespace, "--to-name", "copy"), "Stopped", sums)

	s.want(t, 0, "delete", "second", "-n", m.namespace, "--keep-data", "--yes")
	if got := s.want(t, 0, "list", "-n", m.namespace, "-o", "name"); got.stdout != "" {
		t.Errorf("the cluster has not forgotten: %s", got)
	}
	if left := s.list(t, snapshots, m.namespace, ""); len(left) > 0 {
		t.Errorf("left VolumeSnapshots: %s", namesOf(left))
	}
	if got := s.want(t, 0, "list", "-n", m.namespace, "--from", "target", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}"); got.stdout != "second Ready" {
		t.Errorf("on the target: %s", got)
	}
	got = s.want(t, 0, "delete", "second", "-n", m.namespace, "--from", "target", "--yes")
	if !strings.Contains(got.stderr, "no other Ready backup") {
		t.Errorf("does not say that it is the last one: %s", got)
	}
	s.absent(t, second)

	// A deletion killed half way is finished by the same command.
	third := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "third")
	p := s.start(t, "delete", "third", "-n", m.namespace, "--yes")
	p.until(t, "the data", atStep("backups"))
	p.end(t, syscall.SIGKILL)
	if left := s.backup(t, 0, "describe", "third", "-n", m.namespace, "--from", "cluster"); left.Status.Ready || left.Status.Error == nil {
		t.Errorf("half deleted: %+v", left.Status)
	}
	s.want(t, 0, "delete", "third", "-n", m.namespace, "--yes")
	s.absent(t, third)
}

// present sees all parts of a backup on the target.
func (s *suite) present(t *testing.T, b *vmbackup.Backup) {
	t.Helper()
	for _, key := range filesOf(b) {
		if !s.onTarget(t, key) {
			t.Errorf("%s is not on the target", key)
		}
	}
}

// absent sees that nothing is left of a backup, on the target and in the cluster.
func (s *suite) absent(t *testing.T, b *vmbackup.Backup) {
	t.Helper()
	for _, key := range filesOf(b) {
		if s.onTarget(t, key) {
			t.Errorf("%s is still on the target", key)
		}
	}
	for _, name := range []string{"vmbackup-backup-" + b.Metadata.Name} {
		if slices.ContainsFunc(s.list(t, secrets, b.Metadata.Namespace, ""), named(name)) {
			t.Errorf("the record %s is left", name)
		}
	}
	for _, v := range b.Status.Volumes {
		if slices.ContainsFunc(s.list(t, snapshots, b.Metadata.Namespace, ""), named(v.VolumeSnapshot)) {
			t.Errorf("VolumeSnapshot %s is left", v.VolumeSnapshot)
		}
		if slices.ContainsFunc(s.list(t, longhornBackups, longhornNamespace, ""), named(v.LonghornBackup)) {
			t.Errorf("Longhorn backup %s is left", v.LonghornBackup)
		}
	}
	for _, c := range s.list(t, contents, "", "") {
		ref := text(&c, "spec", "volumeSnapshotRef", "name")
		if text(&c, "spec", "volumeSnapshotRef", "namespace") != b.Metadata.Namespace || !slices.ContainsFunc(b.Status.Volumes, func(v vmbackup.BackupVolume) bool { return v.VolumeSnapshot == ref }) {
			continue
		}
		if c.GetDeletionTimestamp() == nil {
			t.Errorf("VolumeSnapshotContent %s is left", c.GetName())
			continue
		}
		// The snapshotter lets go of one that it was still making a moment later.
		s.wait(t, contents, "", c.GetName(), "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	}
}

func named(name string) func(unstructured.Unstructured) bool {
	return func(o unstructured.Unstructured) bool { return name != "" && o.GetName() == name }
}

// filesOf are the files of a backup on the target, the blocks aside.
func filesOf(b *vmbackup.Backup) []string {
	keys := []string{metadata.RecordKey(b.Ref()), metadata.HarvesterBackupKey(b.Ref())}
	for _, v := range b.Status.Volumes {
		if v.LonghornBackup != "" {
			keys = append(keys, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
		}
	}
	return keys
}

// testContracts runs the contract suites of the stores against the real servers.
func (s *suite) testContracts(t *testing.T) {
	url, credentials := s.target(t)
	data, err := json.Marshal(credentials)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	got := s.exec(t.Context(), t, tool, []string{
		"VMBACKUP_TEST_KUBECONFIG=" + s.kubeconfig,
		"VMBACKUP_TEST_S3=" + strings.TrimSuffix(url, "/") + "/contract/",
		"VMBACKUP_TEST_S3_CREDENTIALS=" + file,
	}, "test", "-count=1", "-v", "-run", "^(TestSecretsOfRealServer|TestS3)$", "./internal/journal", "./internal/target")
	for _, test := range []string{"TestSecretsOfRealServer", "TestS3"} {
		if !strings.Contains(got.stdout, "\n--- PASS: "+test+" ") {
			t.Errorf("%s has not passed", test)
		}
	}
	if got.code != 0 || t.Failed() {
		t.Error(got)
	}
}

// testTargetAway takes the backup target away in the ways in which it goes: the
// server is down, the credentials are wrong, the URL is emptied. Each is refused
// before any change, and when the target is back the old backups are there.
func (s *suite) testTargetAway(t *testing.T) {
	m := machine{namespace: s.namespace(t, "away"), name: "app", disks: []string{"root"}, off: true}
	sums := s.make(t, m)
	b := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "early")
	before := s.world(t, m.namespace)
	unchanged := func(what string) {
		t.Helper()
		if err := compareWorlds(before, s.world(t, m.namespace)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	bt := s.get(t, backupTargets, longhornNamespace, "default")
	poll := func(ctx context.Context, interval string) {
		s.patch(ctx, t, backupTargets, longhornNamespace, "default", fmt.Sprintf(`{"spec":{"pollInterval":%q}}`, interval))
	}
	// Longhorn looks at the target when it is asked to, not in between.
	t.Cleanup(func() { poll(context.WithoutCancel(t.Context()), text(bt, "spec", "pollInterval")) })
	poll(t.Context(), "0s")
	t.Run("WrongCredentials", func(t *testing.T) {
		name := text(bt, "spec", "credentialSecret")
		right := text(s.get(t, secrets, longhornNamespace, name), "data", "AWS_SECRET_ACCESS_KEY")
		t.Cleanup(func() {
			s.patch(context.WithoutCancel(t.Context()), t, secrets, longhornNamespace, name, fmt.Sprintf(`{"data":{"AWS_SECRET_ACCESS_KEY":%q}}`, right))
		})
		s.patch(t.Context(), t, secrets, longhornNamespace, name, `{"stringData":{"AWS_SECRET_ACCESS_KEY":"not-the-right-one"}}`)
		got := s.want(t, 4, "create", "app", "-n", m.namespace)
		// The client notices it at once, and Longhorn at its next poll.
		if !strings.Contains(got.stderr, "access key") && !strings.Contains(got.stderr, "credentials") {
			t.Errorf("says not what is wrong: %s", got)
		}
		if strings.Contains(got.stdout+got.stderr, "not-the-right-one") {
			t.Errorf("the credentials are printed: %s", got)
		}
		unchanged("wrong credentials")
	})

	t.Run("ServerDown", func(t *testing.T) {
		t.Cleanup(func() {
			ctx := context.WithoutCancel(t.Context())
			if got := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "component", "start", "s3"); got.code != 0 {
				t.Errorf("sandbox %s", got)
			}
		})
		s.runSandbox(t, "component", "stop", "s3")
		s.refused(t, []string{"backup target"}, "create", "app", "-n", m.namespace)
		s.refused(t, []string{"backup target"}, "restore", "early", "-n", m.namespace, "--to-name", "copy")
		if got := s.run(t, "list", "-n", m.namespace, "--from", "target"); got.code == 0 {
			t.Errorf("an unreachable target was listed: %s", got)
		}
		// What the cluster knows is shown all the same, and is not called lost.
		if got := s.want(t, 0, "list", "-n", m.namespace); !strings.Contains(got.stdout, "early") {
			t.Errorf("the cluster's records: %s", got)
		}
		if got := s.run(t, "list", "-n", m.namespace, "--from", "all"); got.code != 3 || !strings.Contains(got.stdout, "early") || strings.Contains(got.stdout, "Incomplete") {
			t.Errorf("records with a target that does not answer: %s", got)
		}
		unchanged("server down")
	})

	bucket := func(t *testing.T, how string) {
		t.Helper()
		s.awaitTarget(t)
		t.Cleanup(func() {
			ctx := context.WithoutCancel(t.Context())
			if got := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "bucket", "show"); got.code != 0 {
				t.Errorf("sandbox %s", got)
			}
		})
		s.runSandbox(t, "bucket", how)
	}
	t.Run("BucketMissing", func(t *testing.T) {
		bucket(t, "hide")
		s.refused(t, []string{"backup target", "bucket"}, "restore", "early", "-n", m.namespace, "--to-name", "copy")
		if got := s.run(t, "list", "-n", m.namespace, "--from", "all"); got.code != 3 || !strings.Contains(got.stdout, "early") || strings.Contains(got.stdout, "Incomplete") {
			t.Errorf("records with a target without its bucket: %s", got)
		}
	})
	t.Run("BucketReplaced", func(t *testing.T) {
		bucket(t, "replace")
		s.refused(t, []string{"not one file lies on"}, "restore", "early", "-n", m.namespace, "--to-name", "copy")
		if got := s.run(t, "list", "-n", m.namespace, "--from", "all"); got.code != 3 || !strings.Contains(got.stdout, "Unknown") || strings.Contains(got.stdout, "Incomplete") {
			t.Errorf("an empty target proves something: %s", got)
		}
	})
	s.awaitTarget(t)
	t.Run("DuringTheUpload", func(t *testing.T) { s.targetAwayDuringUpload(t, m) })
	t.Run("DuringTheRestore", func(t *testing.T) { s.targetAwayDuringRestore(t, m, sums) })

	t.Run("NoURL", func(t *testing.T) {
		t.Cleanup(func() {
			s.patch(context.WithoutCancel(t.Context()), t, backupTargets, longhornNamespace, "default",
				fmt.Sprintf(`{"spec":{"backupTargetURL":%q,"credentialSecret":%q}}`, text(bt, "spec", "backupTargetURL"), text(bt, "spec", "credentialSecret")))
		})
		s.patch(t.Context(), t, backupTargets, longhornNamespace, "default", `{"spec":{"backupTargetURL":""}}`)
		s.refused(t, []string{"backup target", "no URL"}, "create", "app", "-n", m.namespace)
	})
	s.awaitTarget(t)
	s.present(t, b)
	// The one that was uploaded in two runs has the bytes; the earlier one is whole, too.
	s.restored(t, s.restore(t, 0, "restore", "cut", "-n", m.namespace, "--to-name", "copy"), "Stopped", sums)
	s.want(t, 0, "restore", "early", "-n", m.namespace, "--to-name", "second", "--dry-run=server")
}

// targetAwayDuringUpload takes the target away after the snapshots were begun: what
// Longhorn cannot upload fails, and the command says that it can be resumed. With
// the target back, it uploads from the same snapshots.
func (s *suite) targetAwayDuringUpload(t *testing.T, m machine) {
	show := func(ctx context.Context) {
		if got := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "bucket", "show"); got.code != 0 {
			t.Errorf("sandbox %s", got)
		}
	}
	t.Cleanup(func() { show(context.WithoutCancel(t.Context())) })
	p := s.start(t, "create", "app", "-n", m.namespace, "--name", "cut", "-o", "json")
	p.until(t, "the snapshots", atStep("snapshot"))
	// Without its bucket the server answers at once, and Longhorn need not try for long.
	s.runSandbox(t, "bucket", "hide")
	got := p.wait(t)
	away := &vmbackup.Backup{}
	decode(t, got, away)
	if got.code != 1 || away.Status.Phase != vmbackup.PhaseRunning || away.Status.Ready {
		t.Fatalf("the target went away: %s", got)
	}
	if again := s.run(t, "resume", "cut", "-n", m.namespace); again.code != 1 || !strings.Contains(again.stderr, "backup target") {
		t.Errorf("resumed while it is away: %s", again)
	}
	cuts := len(s.list(t, longhornCuts, longhornNamespace, ""))
	show(t.Context())
	s.awaitTarget(t)
	b := s.backup(t, 0, goOn(t, got)...)
	if b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready {
		t.Fatalf("resumed: %+v", b.Status)
	}
	if now := len(s.list(t, longhornCuts, longhornNamespace, "")); now != cuts {
		t.Errorf("%d snapshots, and %d after resuming", cuts, now)
	}
	s.present(t, b)
}

// targetAwayDuringRestore puts an empty bucket in the place of the target's while data
// is copied, until Longhorn has dropped its records of the backups. With the bucket
// back they come under new UIDs, and the very same run comes to its end.
func (s *suite) targetAwayDuringRestore(t *testing.T, m machine, sums map[string]string) {
	show := func(ctx context.Context) {
		if got := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "bucket", "show"); got.code != 0 {
			t.Errorf("sandbox %s", got)
		}
	}
	t.Cleanup(func() { show(context.WithoutCancel(t.Context())) })
	b := s.backup(t, 0, "describe", "early", "-n", m.namespace)
	name := b.Status.Volumes[0].LonghornBackup
	was := s.get(t, longhornBackups, longhornNamespace, name).GetUID()
	p := s.start(t, "restore", "early", "-n", m.namespace, "--to-name", "returned", "-o", "json")
	p.until(t, "the copy of the data", atStep("data"))
	s.runSandbox(t, "bucket", "replace")
	p.until(t, "the wait for the target", func(e vmbackup.Event) bool { return strings.Contains(e.Message, "waiting for the backup target") })
	s.patch(t.Context(), t, backupTargets, longhornNamespace, "default", fmt.Sprintf(`{"spec":{"syncRequestedAt":%q}}`, time.Now().UTC().Format(time.RFC3339)))
	s.wait(t, longhornBackups, longhornNamespace, name, "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	show(t.Context())
	got := p.wait(t)
	r := &vmbackup.Restore{}
	if decode(t, got, r); got.code != 0 && got.code != 3 {
		t.Fatalf("the target went away and returned: %s", got)
	}
	s.restored(t, r, "Stopped", sums)
	if now := s.get(t, longhornBackups, longhornNamespace, name).GetUID(); now == was {
		t.Errorf("Longhorn has never dropped its record of backup %s", name)
	}
}

// awaitTarget has Longhorn look at the backup target and waits until it has seen
// it well: what it said before may be of a time when the target was away.
func (s *suite) awaitTarget(t *testing.T) {
	t.Helper()
	asked := time.Now().UTC().Truncate(time.Second)
	s.patch(t.Context(), t, backupTargets, longhornNamespace, "default", fmt.Sprintf(`{"spec":{"syncRequestedAt":%q}}`, asked.Format(time.RFC3339)))
	s.wait(t, backupTargets, longhornNamespace, "default", "available", func(o *unstructured.Unstructured) bool {
		synced, err := time.Parse(time.RFC3339, text(o, "status", "lastSyncedAt"))
		if err != nil || synced.Before(asked) {
			return false
		}
		available, _, err := unstructured.NestedBool(o.Object, "status", "available")
		return err == nil && available
	})
}

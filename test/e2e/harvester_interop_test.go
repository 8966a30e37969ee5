// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var (
	harvesterSchedules = schema.GroupVersionResource{Group: "harvesterhci.io", Version: "v1beta1", Resource: "schedulevmbackups"}
	harvesterSettings  = schema.GroupVersionResource{Group: "harvesterhci.io", Version: "v1beta1", Resource: "settings"}
	cronJobs           = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}
)

// testSchedules makes a schedule, has it due, suspends, resumes and deletes it.
func (s *suite) testSchedules(t *testing.T, m machine) {
	schedule := func(args ...string) []string { return append([]string{"schedule"}, append(args, "-n", m.namespace)...) }
	cron := func(expression string, args ...string) []string {
		return schedule(append([]string{"create", m.name, "--cron", expression}, args...)...)
	}
	s.refused(t, []string{"an hour at least between two runs"}, cron("*/20 * * * *")...)
	s.refused(t, []string{"does not exist"}, schedule("create", "nobody", "--cron", "@daily")...)
	for _, dry := range []string{"client", "server"} {
		s.want(t, 0, cron("17 3 * * *", "--type", "snapshot", "--dry-run="+dry)...)
	}
	if got := s.want(t, 0, "list", "schedules", "-n", m.namespace, "-o", "name"); got.stdout != "" {
		t.Fatalf("a dry run made something: %s", got)
	}
	for _, want := range []string{"created", "unchanged"} {
		if got := s.want(t, 0, cron("17 3 * * *", "--type", "snapshot", "--retain", "3", "--max-failure", "2")...); !strings.Contains(got.stdout, want) {
			t.Errorf("want %q: %s", want, got)
		}
	}
	s.refused(t, []string{"one schedule a machine"}, cron("17 9 * * *", "--name", "second")...)
	// Harvester itself refuses what the plugin does.
	if _, err := s.in(harvesterSchedules, m.namespace).Create(t.Context(), s.twin(t, m), metav1.CreateOptions{}); !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		t.Errorf("a second schedule of one machine: %v", err)
	}

	// Kubernetes notes that the CronJob was due; Harvester goes by that.
	job := "svmb-" + string(s.get(t, harvesterSchedules, m.namespace, m.name).GetUID())
	s.wait(t, cronJobs, "harvester-system", job, "made", func(o *unstructured.Unstructured) bool { return o != nil })
	due := []byte(`{"status":{"lastScheduleTime":"` + time.Now().UTC().Format(time.RFC3339) + `"}}`)
	if _, err := s.in(cronJobs, "harvester-system").Patch(t.Context(), job, "application/merge-patch+json", due, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	s.wait(t, harvesterSchedules, m.namespace, m.name, "done with a run", func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		runs, _, err := unstructured.NestedSlice(o.Object, "status", "vmbackupInfo")
		if err != nil || len(runs) == 0 {
			return false
		}
		run, _ := runs[0].(map[string]any)
		ready, _, err := unstructured.NestedBool(run, "readyToUse")
		return err == nil && ready
	})
	const columns = "jsonpath={.items[*].status.state} {.items[*].status.lastRun.phase} {.items[*].spec.suspend}"
	state := func(want string) {
		t.Helper()
		if got := s.want(t, 0, "list", "schedules", "-n", m.namespace, "--vm", m.name, "-o", columns); got.stdout != want {
			t.Errorf("want %q: %s", want, got)
		}
	}
	state("Active Ready false")
	for _, want := range []string{"suspended", "unchanged"} {
		if got := s.want(t, 0, schedule("suspend", m.name)...); !strings.Contains(got.stdout, want) {
			t.Errorf("want %q: %s", want, got)
		}
	}
	state("Suspended Ready true")
	s.want(t, 0, schedule("resume", "--all")...)
	state("Active Ready false")
	described := s.want(t, 0, "describe", "schedule/"+m.name, "-n", m.namespace)
	for _, word := range []string{"daily at 03:17", "Next run", "Ready", job + "-"} {
		if !strings.Contains(described.stdout, word) {
			t.Errorf("does not say %q: %s", word, described)
		}
	}

	if got := s.run(t, schedule("delete", m.name)...); got.code != 2 || !strings.Contains(got.stderr, "its backup stays") {
		t.Errorf("not confirmed: %s", got)
	}
	s.want(t, 0, schedule("delete", m.name, "--yes")...)
	s.wait(t, cronJobs, "harvester-system", job, "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	left := s.list(t, harvesterBackups, m.namespace, "harvesterhci.io/svmbackupUID="+strings.TrimPrefix(job, "svmb-"))
	if len(left) != 1 || left[0].GetDeletionTimestamp() != nil {
		t.Errorf("backups left of the schedule: %s", namesOf(left))
	}
	s.want(t, 0, schedule("delete", m.name, "--yes", "--ignore-not-found")...)
}

// twin is a second schedule of the machine.
func (s *suite) twin(t *testing.T, m machine) *unstructured.Unstructured {
	t.Helper()
	o := s.get(t, harvesterSchedules, m.namespace, m.name)
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": o.GetAPIVersion(), "kind": o.GetKind(),
		"metadata": map[string]any{"name": "twin", "namespace": m.namespace},
		"spec": map[string]any{
			"cron": "17 9 * * *", "retain": int64(3), "maxFailure": int64(2), "vmbackup": o.Object["spec"].(map[string]any)["vmbackup"],
		},
	}}
}

// testRewritten puts the names of restored claims into Harvester's description of a
// backup, as Harvester does when it writes the file again after it has restored the
// backup: its cache is at fault then. The object in the cluster keeps those of the source.
func (s *suite) testRewritten(t *testing.T, m machine) {
	store, key := s.store(t), metadata.HarvesterBackupKey(vmbackup.Ref{Namespace: m.namespace, Name: "theirs"})
	content := readFile(t, store, key)
	for _, disk := range m.disks {
		was, is := []byte(`"name":"`+m.claim(disk)+`"`), []byte(`"name":"restore-theirs-0000-`+disk+`"`)
		if !bytes.Contains(content, was) {
			t.Fatalf("%s has no %s", key, was)
		}
		content = bytes.ReplaceAll(content, was, is)
	}
	writeFile(t, store, key, content)
	const columns = "jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.foundOn};{end}"
	for source, want := range map[string]string{"cluster": "theirs Ready cluster;", "target": "theirs Ready target;", "all": "theirs Ready cluster,target;"} {
		if got := s.want(t, 0, "list", "-n", m.namespace, "--from", source, "-o", columns); !strings.Contains(got.stdout, want) {
			t.Errorf("want %q: %s", want, got)
		}
	}
	b := s.backup(t, 0, "describe", "theirs", "-n", m.namespace)
	for _, v := range b.Status.Volumes {
		if v.PVC != m.claim(v.Name) {
			t.Errorf("volume %s is of claim %q", v.Name, v.PVC)
		}
	}
}

// testFromTheTargetAlone restores a backup of Harvester that the cluster has
// forgotten, while a file that Harvester cannot read keeps it from finding the backup
// again: that file hides nothing from the plugin.
func (s *suite) testFromTheTargetAlone(t *testing.T, m machine, to string, sums map[string]string) {
	if os.Getenv(envHarvesterInstance) != "" {
		t.Skip("it keeps Harvester from reading its target, which others may share")
	}
	store := s.store(t)
	key := metadata.HarvesterBackupKey(vmbackup.Ref{Namespace: m.namespace, Name: "theirs"})
	broken := metadata.HarvesterBackupKey(vmbackup.Ref{Namespace: m.namespace, Name: "broken"})
	content := readFile(t, store, key)
	writeFile(t, store, broken, []byte(`{"name":"broken","namesp`))
	// The data must survive the object: its snapshots are kept.
	for _, c := range s.list(t, contents, "", "") {
		if text(&c, "spec", "volumeSnapshotRef", "namespace") == m.namespace && strings.HasPrefix(text(&c, "spec", "volumeSnapshotRef", "name"), "theirs-") {
			s.patch(t.Context(), t, contents, "", c.GetName(), `{"spec":{"deletionPolicy":"Retain"}}`)
		}
	}
	s.remove(t, harvesterBackups, m.namespace, "theirs")
	writeFile(t, store, key, content)
	s.patch(t.Context(), t, harvesterSettings, "", "backup-target", `{"metadata":{"annotations":{"harvesterhci.io/hash":null}}}`)

	listed := s.want(t, 3, "list", "-n", m.namespace, "--from", "target", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.phase};{end}")
	if !strings.Contains(listed.stdout, "theirs Ready;") || !strings.Contains(listed.stderr, broken) {
		t.Errorf("the file that cannot be read hides others, or is not told: %s", listed)
	}
	r := s.restore(t, 3, "restore", "theirs", "-n", m.namespace, "--from", "target", "--to-namespace", to, "--to-name", "alone", "--engine", "direct")
	if r.Status.Phase != vmbackup.PhaseReady {
		t.Fatalf("%+v", r.Status)
	}
	for _, v := range r.Status.Volumes {
		if got := s.sha256(t, to, v.PVC); got != sums[m.claim(v.Name)] {
			t.Errorf("disk %s is %s, backed up was %s", v.Name, got, sums[m.claim(v.Name)])
		}
	}
	if _, err := s.in(harvesterBackups, m.namespace).Get(t.Context(), "theirs", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("Harvester has read its target in spite of %s: %v", broken, err)
	}
	if err := store.Delete(t.Context(), broken); err != nil {
		t.Fatal(err)
	}
	s.patch(t.Context(), t, harvesterSettings, "", "backup-target", `{"metadata":{"annotations":{"harvesterhci.io/hash":null}}}`)
	s.wait(t, harvesterBackups, m.namespace, "theirs", "found again", func(o *unstructured.Unstructured) bool { return o != nil })
}

func readFile(t *testing.T, store target.Store, key string) []byte {
	t.Helper()
	content, err := store.Get(t.Context(), key, metadata.FileLimit)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func writeFile(t *testing.T, store target.Store, key string, content []byte) {
	t.Helper()
	if err := store.Put(t.Context(), key, content); err != nil {
		t.Fatal(err)
	}
}

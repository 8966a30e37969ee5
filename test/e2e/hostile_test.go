// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testHostileFiles puts files on a target of its own that nobody should trust. The
// listing shows what is good and names the rest, each of them is refused, and
// nothing that they smuggle is planned.
func (s *suite) testHostileFiles(t *testing.T) {
	namespace := s.namespace(t, "hostile")
	store, name := s.ownTarget(t, namespace)
	put := func(key string, content []byte) {
		t.Helper()
		if err := store.Put(t.Context(), key, content); err != nil {
			t.Fatal(err)
		}
	}
	key := func(backup string) string {
		return metadata.RecordKey(vmbackup.Ref{Namespace: namespace, Name: backup})
	}
	whole := func(backup string, change func(*metadata.Record)) []byte {
		t.Helper()
		rec := foreignRecord(namespace, backup)
		for _, v := range rec.Backup.Status.Volumes {
			put(target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup), []byte("{}"))
		}
		if change != nil {
			change(rec)
		}
		content, err := json.Marshal(rec) // not as the tool would: it checks what it writes
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	edited := func(backup, from, to string) []byte {
		t.Helper()
		content := whole(backup, nil)
		if !bytes.Contains(content, []byte(from)) {
			t.Fatalf("the record has no %q", from)
		}
		return bytes.Replace(content, []byte(from), []byte(to), 1)
	}
	const escape = "\x1b[2J\x1b]0;owned\x07\u202egood"

	put(key("good"), whole("good", nil))
	put(key("smuggler"), whole("smuggler", func(rec *metadata.Record) {
		rec.VM = json.RawMessage(strings.Replace(string(rec.VM), `"metadata":{`, `"metadata":{"finalizers":["example.org/never"],"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}],"managedFields":[{}],`, 1))
		for _, secret := range []string{`"type":"vmbackup.io/operation","metadata":{"name":"vmbackup-restore-evil"`, `"type":"kubernetes.io/service-account-token","metadata":{"name":"token"`} {
			rec.Secrets = append(rec.Secrets, json.RawMessage(`{"apiVersion":"v1","kind":"Secret",`+secret+`,"namespace":"`+namespace+`"}}`))
		}
		rec.Backup.Status.Warnings = []string{escape}
		rec.Backup.Metadata.Labels = map[string]string{"app": escape}
	}))
	bad := map[string][]byte{
		"cut-off":    whole("cut-off", nil)[:200],
		"not-json":   []byte("<html>Sign in</html>"),
		"deep":       edited("deep", `"vm":{`, `"vm":{"x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`,`),
		"huge":       append(whole("huge", nil), bytes.Repeat([]byte(" "), metadata.FileLimit)...),
		"of-another": whole("good", nil),
		"twice":      edited("twice", `"operation":`, `"operation":"0123456789ab","operation":`),
		"other-case": edited("other-case", `"vm":{`, `"VM":{},"vm":{`),
		"binding": whole("binding", func(rec *metadata.Record) {
			rec.Others = []json.RawMessage{json.RawMessage(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"evil"}}`)}
		}),
		"elsewhere": whole("elsewhere", func(rec *metadata.Record) {
			rec.Secrets = []json.RawMessage{json.RawMessage(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"evil","namespace":"kube-system"}}`)}
		}),
		"pod": whole("pod", func(rec *metadata.Record) {
			rec.VM = json.RawMessage(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"app","namespace":"` + namespace + `"},"spec":{}}`)
		}),
		"climbs":       edited("climbs", `"longhornVolume":"`, `"longhornVolume":"../../`),
		"other-handle": edited("other-handle", `bak://`, `bs://`),
		"escapes":      edited("escapes", `"kind":"BackupRecord"`, `"kind":"`+strings.ReplaceAll(escape, "\x1b", `\u001b`)[:20]+`"`),
	}
	for backup, content := range bad {
		put(key(backup), content)
	}
	harvester := metadata.HarvesterBackupKey(vmbackup.Ref{Namespace: namespace, Name: "harvester"})
	put(harvester, []byte(`{"name":"harvester","namespace":"kube-system"}`))
	odd := []string{"vmbackup/" + namespace + "/UPPER.json", "vmbackup/" + namespace + "/a/b.json", "harvester/vmbackups/" + namespace + "/a b.cfg"}
	for _, o := range odd {
		put(o, []byte("{}"))
	}
	s.targetAvailable(t, name)
	before := s.worldIn(t, namespace)

	listed := s.want(t, 3, "list", "-n", namespace, "--from", "target", "--target", name)
	for _, word := range append(slices.Collect(maps.Keys(bad)), "good", "smuggler", harvester, "UPPER.json", "a/b.json", "a b.cfg") {
		if !strings.Contains(listed.stdout+listed.stderr, word) {
			t.Errorf("the listing does not tell of %q: %s", word, listed)
		}
	}
	names := s.want(t, 3, "list", "-n", namespace, "--from", "target", "--target", name, "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}")
	if words := strings.Fields(names.stdout); len(words) != 4 || !slices.Contains(words, "good") || !slices.Contains(words, "smuggler") || words[2] != "Ready" || words[3] != "Ready" {
		t.Errorf("listed as good: %s", names)
	}
	for backup := range bad {
		s.refused(t, []string{key(backup)}, "restore", backup, "-n", namespace, "--from", "target", "--target", name)
	}
	s.refused(t, []string{harvester}, "restore", "harvester", "-n", namespace, "--from", "target", "--target", name)

	// What it says is shown and not acted on; what it smuggles is left out.
	described := s.run(t, "describe", "smuggler", "-n", namespace, "--from", "target", "--target", name, "--color", "always")
	if !strings.Contains(described.stdout, "^[[2J") {
		t.Errorf("does not show what the file says: %s", described)
	}
	planned := s.run(t, "restore", "smuggler", "-n", namespace, "--from", "target", "--target", name, "--dry-run=server")
	if planned.code != 0 && planned.code != 3 || !strings.Contains(planned.stdout+planned.stderr, "is not referred to by the machine") {
		t.Errorf("plan: %s", planned)
	}
	for _, line := range strings.Split(planned.stdout, "\n") {
		if strings.Contains(line, "Secret") && (strings.Contains(line, "vmbackup-restore-evil") || strings.Contains(line, "token")) && !strings.Contains(line, "not restored") {
			t.Errorf("planned: %s", line)
		}
	}
	for _, got := range []result{listed, described, planned} {
		for _, acts := range []string{"\x1b[2J", "\x1b]0", "\x07", "\u202e"} {
			if strings.Contains(got.stdout+got.stderr, acts) {
				t.Errorf("%q reaches the terminal: %s", acts, got)
			}
		}
	}
	if err := compareWorlds(before, s.worldIn(t, namespace)); err != nil {
		t.Error(err)
	}
}

// foreignRecord is a record of a machine app with one disk, as the tool writes it.
func foreignRecord(namespace, name string) *metadata.Record {
	ended := time.Now().UTC().Truncate(time.Second)
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: namespace, Name: name})
	b.Spec = vmbackup.BackupSpec{VM: "app", Type: vmbackup.TypeBackup, Target: "default"}
	b.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseReady, Ready: true, StartedAt: &ended, CompletedAt: &ended, Engine: vmbackup.EngineDirect,
		Volumes: []vmbackup.BackupVolume{{
			Name: "root", PVC: "app-root", StorageClass: "longhorn-1r", SizeBytes: diskSize, LonghornVolume: "pvc-" + name, LonghornBackup: "backup-" + name,
			SnapshotHandle: "bak://pvc-" + name + "/backup-" + name, State: vmbackup.StateReady, Progress: 100,
		}},
	}
	vm := fmt.Sprintf(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"app","namespace":%q},"spec":{"runStrategy":"Halted","template":{"spec":{`+
		`"domain":{"memory":{"guest":"64Mi"},"devices":{"disks":[{"name":"root","disk":{"bus":"virtio"}}]}},"volumes":[{"name":"root","persistentVolumeClaim":{"claimName":"app-root"}}]}}}}`, namespace)
	claim := fmt.Sprintf(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"app-root","namespace":%q},"spec":{"accessModes":["ReadWriteOnce"],"volumeMode":"Block","resources":{"requests":{"storage":"%d"}},"storageClassName":"longhorn-1r","volumeName":%q}}`,
		namespace, diskSize, "pvc-"+name)
	return &metadata.Record{
		APIVersion: vmbackup.APIVersion, Kind: metadata.RecordKind, Backup: *b, Operation: "0123456789ab",
		VM: json.RawMessage(vm), Claims: []json.RawMessage{json.RawMessage(claim)},
	}
}

// ownTarget makes a BackupTarget in a folder of the bucket, which no other test sees.
func (s *suite) ownTarget(t *testing.T, name string) (target.Store, string) {
	t.Helper()
	url, credentials := s.target(t)
	url = strings.TrimSuffix(url, "/") + "/" + name + "/"
	data := map[string][]byte{}
	for key, value := range credentials {
		data[key] = []byte(value)
	}
	store, err := target.Open(target.Config{URL: url, Credentials: data})
	if err != nil {
		t.Fatal(err)
	}
	s.create(t, backupTargets, map[string]any{
		"apiVersion": "longhorn.io/v1beta2", "kind": "BackupTarget", "metadata": map[string]any{"name": name, "namespace": longhornNamespace},
		"spec": map[string]any{
			"backupTargetURL": url, "pollInterval": "0s",
			"credentialSecret": text(s.get(t, backupTargets, longhornNamespace, "default"), "spec", "credentialSecret"),
		},
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.in(backupTargets, longhornNamespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return store, name
}

// targetAvailable waits until Longhorn can use a target.
func (s *suite) targetAvailable(t *testing.T, name string) {
	t.Helper()
	s.wait(t, backupTargets, longhornNamespace, name, "available", func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		available, _, err := unstructured.NestedBool(o.Object, "status", "available")
		return err == nil && available
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// seededOf are the checksums of seeded disks by the claim.
func (s *suite) seededOf(claims ...string) map[string]string {
	sums := map[string]string{}
	for _, claim := range claims {
		sums[claim] = s.seeded["demo/"+claim]
	}
	return sums
}

// testMainJob backs a running machine up, looks at the backup in every way, and
// restores it into another namespace while the source runs on and has changed.
func (s *suite) testMainJob(t *testing.T) {
	before := len(s.freezes(t, "demo", "web"))
	b := s.backup(t, 0, "create", "web", "-n", "demo", "--name", "main", "--quiesce", "require")
	if b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready || b.Status.Consistency != vmbackup.ConsistencyApplication || b.Spec.VM != "web" {
		t.Fatalf("backup: %+v", b)
	}
	s.checkFreeze(t, b, s.freezes(t, "demo", "web")[before:])
	s.checkOnTarget(t, b)
	s.checkOutputs(t, b)

	// The source goes on: what comes back must be what was, not what is.
	for _, disk := range []string{"root", "content"} {
		s.runSandbox(t, "guest", "write", "demo/web", disk, "--seed", "later", "--size", "1048576")
		if s.sha256(t, "demo", "web-"+disk) == s.seeded["demo/web-"+disk] {
			t.Fatalf("disk %s was not overwritten, so the comparison would prove nothing", disk)
		}
	}
	r := s.restore(t, 3, "restore", "main", "-n", "demo", "--to-namespace", "restored")
	if !strings.Contains(strings.Join(r.Status.Warnings, "\n"), "MAC") {
		t.Errorf("no warning about the new MAC address: %q", r.Status.Warnings)
	}
	s.restored(t, r, "Running", s.seededOf("web-root", "web-content"))
	s.checkMachine(t, "web", "restored")
	s.sameData(t, secrets, "web-cloud-init", "restored")

	described := s.want(t, 0, "describe", "restore/"+r.Metadata.Name, "-n", "restored")
	for _, word := range []string{"demo/main", "web-root", "web-content", "Ready"} {
		if !strings.Contains(described.stdout, word) {
			t.Errorf("describe does not say %q: %s", word, described)
		}
	}
	listed := s.want(t, 0, "list", "restores", "-n", "restored", "-o", "name")
	if want := "restore.vmbackup.io/" + r.Metadata.Name; strings.TrimSpace(listed.stdout) != want {
		t.Errorf("want %q: %s", want, listed)
	}
}

// checkFreeze compares what the backup says of the freeze with what the guest has recorded.
func (s *suite) checkFreeze(t *testing.T, b *vmbackup.Backup, windows []window) {
	t.Helper()
	if len(windows) != 1 {
		t.Fatalf("%d freezes, want exactly one: %+v", len(windows), windows)
	}
	w := windows[0]
	if w.End == nil || w.ThawedBy != "client" || w.DurationSeconds >= vmbackup.DefaultFreezeTimeout.Seconds() || w.TimeoutSeconds != vmbackup.DefaultFreezeTimeout.Seconds() {
		t.Fatalf("freeze: %+v", w)
	}
	t.Logf("the guest stood still for %.3f s, the backup says %.3f s", w.DurationSeconds, b.Status.FreezeSeconds)
	// The client cannot see less than what happened between its two requests.
	if b.Status.FreezeSeconds < w.DurationSeconds || b.Status.FreezeSeconds > w.DurationSeconds+5 {
		t.Errorf("the backup says %.3f s, the guest %.3f s", b.Status.FreezeSeconds, w.DurationSeconds)
	}
	for _, v := range b.Status.Volumes {
		name := "snapshot-" + string(s.get(t, snapshots, b.Metadata.Namespace, v.VolumeSnapshot).GetUID())
		cut := s.get(t, longhornCuts, longhornNamespace, name)
		at, err := time.Parse(time.RFC3339, text(cut, "status", "creationTime"))
		if err != nil {
			t.Errorf("Longhorn snapshot %s: %v", name, err)
			continue
		}
		// Longhorn tells whole seconds.
		if at.Before(w.Start.Truncate(time.Second)) || at.After(*w.End) {
			t.Errorf("snapshot of %s was cut at %s, outside the freeze from %s to %s", v.Name, at, w.Start, w.End)
		}
	}
}

// checkOnTarget sees data and description on the target itself.
func (s *suite) checkOnTarget(t *testing.T, b *vmbackup.Backup) {
	t.Helper()
	store, ref := s.store(t), b.Ref()
	for _, v := range b.Status.Volumes {
		if v.State != vmbackup.StateReady || v.SnapshotHandle != "bak://"+v.LonghornVolume+"/"+v.LonghornBackup {
			t.Errorf("volume: %+v", v)
		}
		if !s.onTarget(t, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)) {
			t.Errorf("backup %s of volume %s is not on the target", v.LonghornBackup, v.Name)
		}
	}
	for key, decode := range map[string]func(string, []byte) (*metadata.Record, error){
		metadata.HarvesterBackupKey(ref): metadata.DecodeHarvester,
		metadata.RecordKey(ref):          metadata.DecodeRecord,
	} {
		content, err := store.Get(t.Context(), key, metadata.FileLimit)
		if err != nil {
			t.Error(err)
			continue
		}
		record, err := decode(key, content)
		if err != nil {
			t.Error(err)
			continue
		}
		if record.Backup.Ref() != ref || record.Backup.Spec.VM != b.Spec.VM || len(record.Claims) != len(b.Status.Volumes) || len(record.Secrets) != len(b.Status.Secrets) {
			t.Errorf("%s: %+v", key, record.Backup)
		}
		for i, v := range record.Backup.Status.Volumes {
			if v.SnapshotHandle != b.Status.Volumes[i].SnapshotHandle || v.PVC != b.Status.Volumes[i].PVC {
				t.Errorf("%s: volume %+v, want %+v", key, v, b.Status.Volumes[i])
			}
		}
	}
}

// checkOutputs looks at one backup through every command and format.
func (s *suite) checkOutputs(t *testing.T, b *vmbackup.Backup) {
	t.Helper()
	list := func(format string) string {
		return s.want(t, 0, "list", "-n", "demo", "--vm", "web", "-o", format).stdout
	}
	for _, format := range []string{"json", "yaml"} {
		var got struct {
			APIVersion, Kind string
			Items            []vmbackup.Backup
		}
		output := list(format)
		if err := yaml.Unmarshal([]byte(output), &got); err != nil {
			t.Fatalf("-o %s: %v in %s", format, err, output)
		}
		i := slices.IndexFunc(got.Items, func(one vmbackup.Backup) bool { return one.Ref() == b.Ref() })
		if i < 0 || got.Kind != vmbackup.KindList {
			t.Fatalf("-o %s: %s", format, output)
		}
		if got.Items[i].Status.Phase != vmbackup.PhaseReady || !reflect.DeepEqual(got.Items[i].Status.Volumes, b.Status.Volumes) {
			t.Errorf("-o %s: %+v, want %+v", format, got.Items[i].Status, b.Status)
		}
	}
	if got := list("name"); !strings.Contains(got, "backup.vmbackup.io/main\n") {
		t.Errorf("-o name: %q", got)
	}
	if got := list("jsonpath={.items[?(@.metadata.name==\"main\")].status.volumes[*].pvc}"); got != "web-root web-content" {
		t.Errorf("-o jsonpath: %q", got)
	}
	human, wide := s.want(t, 0, "list", "-n", "demo").stdout, list("wide")
	for _, word := range []string{"NAME", "STATUS", "main", "web", "Ready"} {
		if !strings.Contains(human, word) || !strings.Contains(wide, word) {
			t.Errorf("list does not say %q:\n%s%s", word, human, wide)
		}
	}
	if len(strings.SplitN(wide, "\n", 2)[0]) <= len(strings.SplitN(human, "\n", 2)[0]) {
		t.Errorf("-o wide has no more columns:\n%s%s", human, wide)
	}
	described := s.want(t, 0, "describe", "main", "-n", "demo").stdout
	for _, word := range []string{"web-root", "web-content", "bak://", "web-cloud-init", "userdata", "vmbackup/demo/main.json", "application"} {
		if !strings.Contains(described, word) {
			t.Errorf("describe does not say %q:\n%s", word, described)
		}
	}
	one := s.backup(t, 0, "describe", "main", "-n", "demo", "--from", "target")
	if one.Status.Phase != vmbackup.PhaseReady || one.Status.FoundOn != "target" {
		t.Errorf("on the target: %+v", one.Status)
	}
	// Secrets stay secret in whatever is printed.
	for _, output := range []string{described, list("json"), s.want(t, 0, "describe", "main", "-n", "demo", "-o", "yaml").stdout} {
		if strings.Contains(output, "systemctl enable") || strings.Contains(output, "I2Nsb3VkLWNvbmZpZ") {
			t.Errorf("a value of the cloud-init Secret is printed:\n%s", output)
		}
	}
}

// checkMachine compares a machine restored under its old name while its source
// is there with that source: all is equal but the MAC address.
func (s *suite) checkMachine(t *testing.T, name, namespace string) {
	t.Helper()
	source, restored := s.get(t, machines, "demo", name), s.get(t, machines, namespace, name)
	mac := func(o *unstructured.Unstructured) string {
		list, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "domain", "devices", "interfaces")
		if err != nil || len(list) != 1 {
			t.Fatalf("interfaces of %s/%s: %v, %v", o.GetNamespace(), o.GetName(), list, err)
		}
		nic, ok := list[0].(map[string]any)
		if !ok {
			t.Fatalf("interface of %s/%s: %v", o.GetNamespace(), o.GetName(), list[0])
		}
		address, _ := nic["macAddress"].(string)
		delete(nic, "macAddress")
		if err := unstructured.SetNestedSlice(o.Object, []any{nic}, "spec", "template", "spec", "domain", "devices", "interfaces"); err != nil {
			t.Fatal(err)
		}
		return address
	}
	if was, is := mac(source), mac(restored); was == "" || was == is {
		t.Errorf("MAC address %q of the source, %q of the restored machine", was, is)
	}
	if !reflect.DeepEqual(source.Object["spec"], restored.Object["spec"]) {
		t.Errorf("spec of the restored machine:\n%s\nof the source:\n%s", asJSON(restored.Object["spec"]), asJSON(source.Object["spec"]))
	}
	if !maps.Equal(source.GetLabels(), restored.GetLabels()) {
		t.Errorf("labels %v, want %v", restored.GetLabels(), source.GetLabels())
	}
	annotations := restored.GetAnnotations()
	for _, key := range []string{"description", "owner"} {
		if want := source.GetAnnotations()[key]; annotations[key] != want {
			t.Errorf("annotation %s is %q, want %q", key, annotations[key], want)
		}
	}
}

func asJSON(v any) string {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// testBesideTheSource restores a machine under another name in its own namespace: it
// has its own disks, and shares the secrets and the config map that are there unchanged.
func (s *suite) testBesideTheSource(t *testing.T) {
	b := s.backup(t, 0, "create", "db", "-n", "demo", "--name", "beside")
	named := func(list []vmbackup.KeyedObject) []string {
		var names []string
		for _, o := range list {
			names = append(names, o.Name)
		}
		slices.Sort(names)
		return names
	}
	if got := named(b.Status.Secrets); !slices.Equal(got, []string{"db-cloud-init", "db-ssh-keys"}) {
		t.Errorf("secrets %q", got)
	}
	if got := named(b.Status.ConfigMaps); !slices.Equal(got, []string{"db-settings"}) {
		t.Errorf("config maps %q", got)
	}
	r := s.restore(t, 3, "restore", "beside", "-n", "demo", "--to-name", "db-copy")
	s.restored(t, r, "Running", s.seededOf("db-root", "db-data", "db-wal"))
	copied := s.get(t, machines, "demo", "db-copy")
	spec := asJSON(copied.Object["spec"])
	for _, name := range []string{"db-cloud-init", "db-ssh-keys", "db-settings", "db-copy-root", "db-copy-data", "db-copy-wal"} {
		if !strings.Contains(spec, `"`+name+`"`) {
			t.Errorf("the machine does not refer to %s:\n%s", name, spec)
		}
	}
	s.ownRevisions(t, copied)
	for _, path := range [][]string{{"spec", "instancetype", "name"}, {"spec", "preference", "name"}, {"spec", "runStrategy"}} {
		if got, want := text(copied, path...), text(s.get(t, machines, "demo", "db"), path...); got != want {
			t.Errorf("%s is %q, want %q", strings.Join(path, "."), got, want)
		}
	}
	s.remove(t, machines, "demo", "db-copy")
}

// sameData compares the data of an object of namespace demo with that of the same name elsewhere.
func (s *suite) sameData(t *testing.T, resource schema.GroupVersionResource, name, namespace string) {
	t.Helper()
	was, is := s.get(t, resource, "demo", name), s.get(t, resource, namespace, name)
	if was.Object["data"] == nil || !reflect.DeepEqual(was.Object["data"], is.Object["data"]) {
		t.Errorf("the data of %s %s in %s differs", resource.Resource, name, namespace)
	}
}

// testInPlaceOfDeleted restores a machine that was off, with the MAC address it
// had, where it was: the machine and its disks have been deleted.
func (s *suite) testInPlaceOfDeleted(t *testing.T) {
	b := s.backup(t, 0, "create", "legacy", "-n", "demo", "--name", "in-place", "--quiesce", "require")
	if b.Status.Consistency != vmbackup.ConsistencyOffline || b.Status.FreezeSeconds != 0 {
		t.Errorf("of a machine that is off: %+v", b.Status)
	}
	source := s.get(t, machines, "demo", "legacy")
	s.remove(t, machines, "demo", "legacy")
	s.remove(t, claims, "demo", "legacy-disk")
	r := s.restore(t, 0, "restore", "in-place", "-n", "demo")
	s.restored(t, r, "Stopped", s.seededOf("legacy-disk"))
	if r.Spec.TargetName != "legacy" || r.Metadata.Namespace != "demo" || r.Status.Volumes[0].PVC != "legacy-disk" {
		t.Errorf("restored as %+v", r)
	}
	if is := s.get(t, machines, "demo", "legacy"); !reflect.DeepEqual(source.Object["spec"], is.Object["spec"]) {
		t.Errorf("spec of the restored machine:\n%s\nof the source:\n%s", asJSON(is.Object["spec"]), asJSON(source.Object["spec"]))
	}
}

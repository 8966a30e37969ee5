// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const recordKey = "vmbackup/legacyns/legacy1.json"

// fullRecord has something in every field.
func fullRecord(t testing.TB) *Record {
	t.Helper()
	rec := decodeLegacy(t)
	rec.Operation = "x7f3k9"
	rec.ConfigMaps = []json.RawMessage{json.RawMessage(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"namespace":"src","name":"cm"},"data":{"a":"<b>"},"binaryData":{"c":"eA=="},"immutable":true}`)}
	rec.Others = []json.RawMessage{
		json.RawMessage(`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"rev","namespace":"src"},"revision":12345678901234567890,"data":{"spec":{}}}`),
		json.RawMessage(`{"apiVersion":"instancetype.kubevirt.io/v1beta1","kind":"VirtualMachineClusterPreference","metadata":{"name":"pref"},"spec":{"x":1.0}}`),
	}
	return rec
}

func TestRecordRoundTrip(t *testing.T) {
	rec := fullRecord(t)
	content, err := EncodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRecord(recordKey, content)
	if err != nil {
		t.Fatal(err)
	}
	again, err := EncodeRecord(got)
	if err != nil || !bytes.Equal(again, content) {
		t.Errorf("encoded again:\n%s\n%v, want\n%s", again, err, content)
	}
	if !reflect.DeepEqual(got.Backup, rec.Backup) || got.Operation != rec.Operation || len(got.Others) != 2 || len(got.Secrets) != 1 {
		t.Errorf("decoded\n%+v\nwant\n%+v", got, rec)
	}
	if want := `"revision":12345678901234567890`; !strings.Contains(string(got.Others[0]), want) {
		t.Errorf("%s has lost %s", got.Others[0], want)
	}
	packed, err := EncodeJournal(rec)
	if err != nil {
		t.Fatal(err)
	}
	fromJournal, err := DecodeJournal(rec.Backup.Ref(), packed)
	if err != nil || !reflect.DeepEqual(fromJournal, got) {
		t.Errorf("from the journal %+v, %v; want %+v", fromJournal, err, got)
	}
	if twice, err := EncodeJournal(rec); err != nil || !bytes.Equal(twice, packed) {
		t.Errorf("the journal's form is not the same twice: %v", err)
	}
}

func TestEncodeRecordSanitizes(t *testing.T) {
	rec := decodeLegacy(t)
	rec.VM = json.RawMessage(strings.Replace(string(rec.VM), `"metadata":{`, `"status":{"ready":true},"metadata":{"uid":"u-1","finalizers":["f"],"managedFields":[{}],`, 1))
	content, err := EncodeRecord(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"u-1", "finalizers", "managedFields", `"ready":true`} {
		if strings.Contains(string(content), gone) {
			t.Errorf("%s is still in %s", gone, content)
		}
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	good, err := EncodeRecord(fullRecord(t))
	if err != nil {
		t.Fatal(err)
	}
	edit := func(from, to string) []byte {
		if !strings.Contains(string(good), from) {
			t.Fatalf("the record has no %q", from)
		}
		return []byte(strings.ReplaceAll(string(good), from, to))
	}
	for _, test := range []struct {
		name    string
		key     string
		content []byte
		field   string
	}{
		{"OtherKind", recordKey, edit(`"kind":"BackupRecord"`, `"kind":"Other"`), "kind"},
		{"OtherVersion", recordKey, edit(`"apiVersion":"vmbackup.io/v1alpha1"`, `"apiVersion":"vmbackup.io/v9"`), "vmbackup.io/v9"},
		{"OtherCase", recordKey, edit(`"backup":{`, `"Backup":{},"backup":{`), "Backup"},
		{"OtherCaseWithin", recordKey, edit(`"progress":100`, `"progress":100,"snapshothandle":"bak://a/b"`), "snapshothandle"},
		{"OtherBackup", "vmbackup/legacyns/other.json", good, "legacyns/other"},
		{"HarvesterKey", legacyKey, good, "legacy1.cfg"},
		{"Role", recordKey, edit(`"apiVersion":"apps/v1","kind":"ControllerRevision"`, `"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding"`), "others[0]"},
		{"PodAmongOthers", recordKey, edit(`"apiVersion":"apps/v1","kind":"ControllerRevision"`, `"apiVersion":"v1","kind":"Pod"`), "others[0]"},
		{"KindOfOtherGroup", recordKey, edit(`"apiVersion":"apps/v1"`, `"apiVersion":"apps.evil.io/v1"`), "others[0]"},
		{"SecretAmongConfigMaps", recordKey, edit(`"kind":"ConfigMap"`, `"kind":"Secret"`), "configMaps[0]"},
		{"SecretElsewhere", recordKey, edit(`"name":"vm1-ci","namespace":"src"`, `"name":"vm1-ci","namespace":"kube-system"`), "secrets[0]"},
		{"ClaimOfOtherGroup", recordKey, edit(`"apiVersion":"v1","kind":"PersistentVolumeClaim"`, `"apiVersion":"v2","kind":"PersistentVolumeClaim"`), "claims[0]"},
		{"VMName", recordKey, edit(`"name":"vm1","namespace":"src"`, `"name":"vm2","namespace":"src"`), "vm:"},
		{"VMGroup", recordKey, edit(`"apiVersion":"kubevirt.io/v1"`, `"apiVersion":"v1"`), "vm:"},
		{"Handle", recordKey, edit(`"snapshotHandle":"bak://`, `"snapshotHandle":"bak://x/`), "snapshotHandle"},
		{"KeyTwice", recordKey, edit(`"operation":"x7f3k9"`, `"operation":"a","operation":"b"`), "operation"},
		{"LabelType", recordKey, edit(`"harvesterhci.io/os":"linux"`, `"harvesterhci.io/os":1`), "labels"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rec, err := DecodeRecord(test.key, test.content)
			e := vmbackup.AsError(err, "")
			if e == nil || e.Reason != vmbackup.ReasonDataDamaged || !strings.Contains(e.Message, test.field) || !strings.HasPrefix(e.Message, test.key+": ") {
				t.Errorf("DecodeRecord = %+v, %v; want DataDamaged naming the file and %q", rec, err, test.field)
			}
		})
	}
}

func TestJournalLimits(t *testing.T) {
	rec := decodeLegacy(t)
	noise := make([]byte, JournalLimit)
	source := rand.NewChaCha8([32]byte{1})
	if _, err := source.Read(noise); err != nil {
		t.Fatal(err)
	}
	rec.Secrets = append(rec.Secrets, json.RawMessage(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"big","namespace":"src"},"data":{"k":"`+base64.StdEncoding.EncodeToString(noise)+`"}}`))
	_, err := EncodeJournal(rec)
	if e := vmbackup.AsError(err, ""); e == nil || e.Reason != vmbackup.ReasonInvalidRequest || e.Hint == "" || !strings.Contains(e.Message, "legacyns/legacy1") {
		t.Errorf("EncodeJournal of too much: %v, want InvalidRequest with a hint", err)
	}
	if _, err := EncodeRecord(rec); err != nil {
		t.Errorf("the target takes it: %v", err)
	}
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	if _, err := zip.Write(bytes.Repeat([]byte(" "), FileLimit+1)); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := EncodeJournal(decodeLegacy(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"Bomb": bomb.Bytes(), "Empty": nil, "NoGzip": []byte("{}"), "Truncated": good[:len(good)-9], "TooLarge": make([]byte, JournalLimit+1),
	} {
		if _, err := DecodeJournal(rec.Backup.Ref(), content); vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged {
			t.Errorf("%s: %v, want DataDamaged", name, err)
		}
	}
	if _, err := DecodeJournal(vmbackup.Ref{Namespace: "legacyns", Name: "other"}, good); vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged {
		t.Errorf("the journal of another backup: %v, want DataDamaged", err)
	}
}

func TestSanitize(t *testing.T) {
	in := `{"status":{"phase":"Bound"},"spec":{"z":1.50,"a":{"creationTimestamp":null}},"kind":"PersistentVolumeClaim","apiVersion":"v1",` +
		`"metadata":{"selfLink":"/x","uid":"u","resourceVersion":"1","generation":3,"generateName":"g-","creationTimestamp":"2026-01-01T00:00:00Z",` +
		`"deletionTimestamp":"2026-01-01T00:00:00Z","deletionGracePeriodSeconds":0,"ownerReferences":[{"kind":"K"}],"finalizers":["kubernetes.io/pvc-protection"],` +
		`"managedFields":[{"manager":"m"}],"name":"n","namespace":"ns","labels":{"b":"1","a":"<&>"},"annotations":{"x/y":"z"}}}`
	want := `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"n","namespace":"ns","labels":{"a":"\u003c\u0026\u003e","b":"1"},"annotations":{"x/y":"z"}},` +
		`"spec":{"z":1.50,"a":{"creationTimestamp":null}}}`
	got, err := Sanitize([]byte(in))
	if err != nil || string(got) != want {
		t.Errorf("Sanitize =\n%s\n%v, want\n%s", got, err, want)
	}
	if again, err := Sanitize(got); err != nil || string(again) != want {
		t.Errorf("sanitized twice %s, %v", again, err)
	}
	for _, test := range []struct{ manifest, field string }{
		{`{"kind":"K","metadata":{"name":"n"}}`, "apiVersion"},
		{`{"apiVersion":"v1","metadata":{"name":"n"}}`, "kind"},
		{`{"apiVersion":"v1","kind":"K"}`, "metadata.name"},
		{`{"apiVersion":"v1","kind":"K","metadata":{"name":"../n"}}`, "metadata.name"},
		{`{"apiVersion":"v1","kind":"K","metadata":{"name":"n","namespace":"a.b"}}`, "metadata.namespace"},
		{`{"apiVersion":"v1","kind":"K","Metadata":{"name":"n"}}`, "Metadata"},
		{`{"apiVersion":"v1","kind":"K","metadata":{"name":"n"},"METADATA":{"finalizers":["f"]}}`, "METADATA"},
		{`{"apiVersion":"v1","kind":"K","metadata":{"name":"n","Namespace":"kube-system"}}`, "metadata.Namespace"},
		{`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"n"},"type":"Opaque","Type":"helm.sh/release.v1"}`, "case only"},
		{`{"apiVersion":"v1","kind":"K","metadata":{"name":"n"},"Status":{}}`, "case only"},
		{`{"apiVersion":"v1","kind":"K","metadata":{"name":"n"},"spec":{"a":1,"a":2}}`, "spec.a"},
		{`[]`, "array"},
		{`{`, "EOF"},
	} {
		if got, err := Sanitize([]byte(test.manifest)); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || !strings.Contains(err.Error(), test.field) {
			t.Errorf("Sanitize(%s) = %s, %v; want InvalidRequest naming %q", test.manifest, got, err, test.field)
		}
	}
}

func TestKeys(t *testing.T) {
	ref := vmbackup.Ref{Namespace: "ns", Name: "b.1"}
	for _, test := range []struct {
		key  string
		kind FileKind
		ref  vmbackup.Ref
	}{
		{HarvesterBackupKey(ref), FileHarvesterBackup, ref},
		{HarvesterImageKey(ref), FileHarvesterImage, ref},
		{RecordKey(ref), FileRecord, ref},
		{"harvester/vmbackups/ns-b.1.cfg", FileHarvesterFlat, vmbackup.Ref{Name: "ns-b.1"}},
	} {
		if kind, got, ok := ParseKey(test.key); !ok || kind != test.kind || got != test.ref {
			t.Errorf("ParseKey(%q) = %s, %s, %v; want %s, %s", test.key, kind, got, ok, test.kind, test.ref)
		}
	}
	for _, key := range []string{
		"", "/", "harvester/vmbackups/", "harvester/vmbackups/.cfg", "harvester/vmbackups/ns/.cfg", "harvester/vmbackups//a.cfg",
		"harvester/vmbackups/ns/a", "harvester/vmbackups/ns/a.json", "harvester/vmbackups/ns/a.cfg.tmp", "harvester/vmbackups/ns/a.cfg/",
		"harvester/vmbackups/../a.cfg", "harvester/vmbackups/ns/../a.cfg", "harvester/vmbackups/ns/...cfg", "harvester/vmbackups/a.b/c.cfg",
		"harvester/vmbackups/NS/a.cfg", "harvester/vmbackups/ns/a/b.cfg", "harvester/vmbackups/ns/A.cfg", "/harvester/vmbackups/ns/a.cfg",
		"harvester/vmimages/a.cfg", "vmbackup/a.json", "vmbackup/.tmp/a.json", "vmbackup/ns/a.cfg", "backupstore/volumes/01/9c/vol1/volume.cfg",
		"harvester/vmbackups/ns/" + strings.Repeat("a", 254) + ".cfg",
	} {
		if kind, ref, ok := ParseKey(key); ok {
			t.Errorf("ParseKey(%q) = %s, %s; want none", key, kind, ref)
		}
	}
}

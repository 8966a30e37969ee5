// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Files that Harvester 1.8.2's own controllers wrote.
const (
	legacyKey = "harvester/vmbackups/legacyns/legacy1.cfg"
	imageKey  = "harvester/vmimages/default/image-abc2.cfg"
)

func golden(t testing.TB, key string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(key)))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decodeLegacy(t testing.TB) *Record {
	t.Helper()
	rec, err := DecodeHarvester(legacyKey, golden(t, legacyKey))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// edited is the golden file with parts replaced; every part must be there.
func edited(t testing.TB, pairs ...string) []byte {
	t.Helper()
	content := string(golden(t, legacyKey))
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(content, pairs[i]) {
			t.Fatalf("the golden file has no %q", pairs[i])
		}
		content = strings.ReplaceAll(content, pairs[i], pairs[i+1])
	}
	return []byte(content)
}

// What Harvester wrote is read and written again byte for byte.
func TestHarvesterGolden(t *testing.T) {
	content := golden(t, legacyKey)
	again, err := EncodeHarvester(decodeLegacy(t))
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(content) {
		t.Errorf("encoded again:\n%s\nHarvester wrote:\n%s", again, content)
	}
}

func TestDecodeHarvester(t *testing.T) {
	rec := decodeLegacy(t)
	want := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "legacyns", Name: "legacy1"})
	want.Metadata.Labels = map[string]string{"harvesterhci.io/creator": "harvester", "harvesterhci.io/os": "linux"}
	want.Spec = vmbackup.BackupSpec{VM: "vm1", Type: vmbackup.TypeBackup}
	want.Status = vmbackup.BackupStatus{
		Phase:   vmbackup.PhaseUnknown,
		FoundOn: "target",
		Volumes: []vmbackup.BackupVolume{{
			Name: "disk-0", PVC: "vm1-disk-0", StorageClass: "harvester-longhorn", SizeBytes: 10 << 30,
			LonghornVolume: "pvc-11111111-1111-1111-1111-111111111111",
			LonghornBackup: "backup-aaaabbbbcccc4444",
			SnapshotHandle: "bak://pvc-11111111-1111-1111-1111-111111111111/backup-aaaabbbbcccc4444",
			VolumeSnapshot: "legacy1-volume-vm1-disk-0",
			State:          vmbackup.StateUnknown, Progress: 100,
		}},
		Secrets:  []vmbackup.KeyedObject{{Name: "vm1-ci", Keys: []string{"userdata"}}},
		Metadata: vmbackup.MetadataStatus{Path: legacyKey, State: vmbackup.StateReady},
	}
	if !reflect.DeepEqual(rec.Backup, want) {
		t.Errorf("backup\n%+v\nwant\n%+v", rec.Backup, want)
	}
	if want := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"vm1-ci","namespace":"src"},"data":{"userdata":"I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogdm0xCg=="}}`; len(rec.Secrets) != 1 || string(rec.Secrets[0]) != want {
		t.Errorf("secrets %s, want %s", rec.Secrets, want)
	}
	vm, err := ParseManifest(rec.VM)
	if err != nil {
		t.Fatal(err)
	}
	if vm.APIVersion != "kubevirt.io/v1" || vm.Kind != "VirtualMachine" || vm.Metadata.Name != "vm1" || vm.Metadata.Namespace != "src" ||
		vm.Metadata.Labels["harvesterhci.io/os"] != "linux" || vm.Metadata.Annotations["custom/keep"] != "no" ||
		!strings.Contains(string(vm.Fields["spec"]), `"firmware":{"uuid":"5d307ca9-b3ef-428c-8861-06e72d69f223","serial":"abc"}`) {
		t.Errorf("virtual machine %s", rec.VM)
	}
	if len(rec.Claims) != 1 || !strings.Contains(string(rec.Claims[0]), `"kind":"PersistentVolumeClaim","metadata":{"name":"vm1-disk-0","namespace":"src"`) {
		t.Errorf("claims %s", rec.Claims)
	}
}

// A field that this build knows nothing of survives where Kubernetes objects are kept.
func TestHarvesterKeepsUnknownFields(t *testing.T) {
	content := edited(t, `"hostname":"vm1"`, `"hostname":"vm1","newInKubeVirt":{"big":12345678901234567890.10}`, `"volumeMode":"Block"`, `"volumeMode":"Block","newInKubernetes":[1]`)
	rec, err := DecodeHarvester(legacyKey, content)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := EncodeHarvester(rec); err != nil || string(again) != string(content) {
		t.Errorf("encoded again:\n%s\n%v", again, err)
	}
}

func TestDecodeHarvesterTolerates(t *testing.T) {
	for _, test := range []struct {
		name    string
		key     string
		content []byte
		check   func(*Record) bool
	}{
		{"FlatFile", "harvester/vmbackups/legacyns-legacy1.cfg", golden(t, legacyKey), func(r *Record) bool {
			return r.Backup.Ref() == vmbackup.Ref{Namespace: "legacyns", Name: "legacy1"}
		}},
		{"NoNamespace", "harvester/vmbackups/default/legacy1.cfg", edited(t, `"namespace":"legacyns",`, ``), func(r *Record) bool {
			return r.Backup.Metadata.Namespace == "default"
		}},
		{"NewFields", legacyKey, edited(t, `"type":"backup"`, `"type":"backup","fsFreezeDeadline":"1s"`), func(r *Record) bool { return true }},
		{"NoType", legacyKey, edited(t, `,"type":"backup"`, ``), func(r *Record) bool { return r.Backup.Spec.Type == vmbackup.TypeBackup }},
		{"LateLonghornBackup", legacyKey, edited(t, `"longhornBackupName":"backup-aaaabbbbcccc4444",`, ``), func(r *Record) bool {
			v := r.Backup.Status.Volumes[0]
			return v.SnapshotHandle == "" && v.LonghornBackup == "" && v.Message != "" && v.State == vmbackup.StateUnknown
		}},
		{"NoVolumesNoSecrets", "harvester/vmbackups/ns/b.cfg", []byte(`{"name":"b","namespace":"ns","backupSpec":{"source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"v"}},"vmSourceSpec":{"metadata":{"name":"v"},"spec":{}}}`), func(r *Record) bool {
			return strings.Contains(string(r.VM), `"namespace":"ns"`)
		}},
		{"ServerSetMetadata", legacyKey, edited(t, `"name":"vm1-disk-0","namespace":"src"`, `"name":"vm1-disk-0","uid":"u","resourceVersion":"5","finalizers":["f"],"ownerReferences":[{"name":"o"}],"managedFields":[{}],"deletionTimestamp":"2026-01-01T00:00:00Z","namespace":"src"`), func(r *Record) bool {
			return !strings.Contains(string(r.Claims[0]), "uid") &&
				!strings.Contains(string(r.Claims[0]), "finalizers") && !strings.Contains(string(r.Claims[0]), "ownerReferences") &&
				!strings.Contains(string(r.Claims[0]), "deletionTimestamp")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			rec, err := DecodeHarvester(test.key, test.content)
			if err != nil {
				t.Fatal(err)
			}
			if !test.check(rec) {
				t.Errorf("decoded %+v, vm %s, claims %s", rec.Backup, rec.VM, rec.Claims)
			}
		})
	}
}

func TestDecodeHarvesterRefuses(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, test := range []struct {
		name    string
		key     string
		content []byte
		field   string // what the error names
	}{
		{"Empty", legacyKey, nil, "EOF"},
		{"NoJSON", legacyKey, []byte("not json"), "invalid"},
		{"Truncated", legacyKey, golden(t, legacyKey)[:500], "EOF"},
		{"Null", legacyKey, []byte("null"), "backup"},
		{"Array", legacyKey, []byte("[]"), "array"},
		{"Two", legacyKey, append(golden(t, legacyKey), "{}"...), "more than one"},
		{"NotUTF8", legacyKey, edited(t, `"serial":"abc"`, "\"serial\":\"\xff\""), "UTF-8"},
		{"TooLarge", legacyKey, append(golden(t, legacyKey), make([]byte, FileLimit)...), "more than"},
		{"TooDeep", legacyKey, edited(t, `"serial":"abc"`, `"serial":`+deep), "deeper"},
		{"KeyTwice", legacyKey, edited(t, `"serial":"abc"`, `"serial":"abc","serial":"def"`), "serial"},
		{"KeyTwiceEscaped", legacyKey, edited(t, `"serial":"abc"`, `"serial":"abc","seri\u0061l":"def"`), "serial"},
		{"OtherCase", legacyKey, edited(t, `"longhornBackupName":`, `"longhornbackupname":"backup-0000000000000000","longhornBackupName":`), "longhornbackupname"},
		{"OtherCaseAlone", legacyKey, edited(t, `"vmSourceSpec":`, `"VMSourceSpec":`), "VMSourceSpec"},
		{"OtherCaseByFolding", legacyKey, edited(t, `"kind":"VirtualMachine"`, `"\u212aind":"Secret","kind":"VirtualMachine"`), "case only"},
		{"OtherName", legacyKey, edited(t, `"name":"legacy1"`, `"name":"legacy2"`), "legacyns/legacy2"},
		{"OtherNamespace", legacyKey, edited(t, `"namespace":"legacyns"`, `"namespace":"kube-system"`), "kube-system"},
		{"OtherFlatName", "harvester/vmbackups/other-legacy1.cfg", golden(t, legacyKey), "other-legacy1"},
		{"NoKey", "harvester/vmbackups/a/b/c.cfg", golden(t, legacyKey), "a/b/c.cfg"},
		{"RecordKey", "vmbackup/legacyns/legacy1.json", golden(t, legacyKey), "legacy1.json"},
		{"OtherKind", legacyKey, edited(t, `"kind":"VirtualMachine"`, `"kind":"Secret"`), "backupSpec.source"},
		{"OtherGroup", legacyKey, edited(t, `"apiGroup":"kubevirt.io"`, `"apiGroup":"evil.io"`), "backupSpec.source"},
		{"Snapshot", legacyKey, edited(t, `"type":"backup"`, `"type":"snapshot"`), "backupSpec.type"},
		{"OtherVM", legacyKey, edited(t, `"kind":"VirtualMachine","name":"vm1"`, `"kind":"VirtualMachine","name":"vm2"`), "metadata.name"},
		{"VMPath", legacyKey, edited(t, `"name":"vm1"`, `"name":"../vm1"`), "metadata.name"},
		{"NoVM", legacyKey, []byte(`{"name":"legacy1","namespace":"legacyns","backupSpec":{"source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"v"}}}`), "vmSourceSpec"},
		{"NoVMSpec", legacyKey, []byte(`{"name":"legacy1","namespace":"legacyns","backupSpec":{"source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"v"}},"vmSourceSpec":{"spec":null}}`), "vmSourceSpec.spec"},
		{"OtherDriver", legacyKey, edited(t, `driver.longhorn.io","persistentVolumeClaim"`, `other.csi","persistentVolumeClaim"`), "volumeBackups[0].csiDriverName"},
		{"VolumePath", legacyKey, edited(t, `"volumeName":"pvc-1111`, `"volumeName":"../../pvc-1111`), "volumeBackups[0].persistentVolumeClaim.spec.volumeName"},
		{"NoVolume", legacyKey, edited(t, `"volumeName":"pvc-11111111-1111-1111-1111-111111111111",`, ``), "volumeName"},
		{"BackupPath", legacyKey, edited(t, `"longhornBackupName":"backup-`, `"longhornBackupName":"a/../b`), "longhornBackup"},
		{"BackupDots", legacyKey, edited(t, `"longhornBackupName":"backup-`, `"longhornBackupName":"a..b`), "longhornBackup"},
		{"DiskPath", legacyKey, edited(t, `"volumeName":"disk-0"`, `"volumeName":"/disk-0"`), "volumes[0].name"},
		{"ClaimPath", legacyKey, edited(t, `legacy1-volume-vm1-disk-0`, `legacy1-volume-../disk`), "metadata.name"},
		{"ClaimNamespace", legacyKey, edited(t, `"name":"vm1-disk-0","namespace":"src"`, `"name":"vm1-disk-0","namespace":"kube-system"`), "persistentVolumeClaim.metadata.namespace"},
		{"NoVolumeBackupName", legacyKey, edited(t, `"name":"legacy1-volume-vm1-disk-0",`, ``), "volumeBackups[0].name"},
		{"NegativeSize", legacyKey, edited(t, `"volumeSize":10737418240`, `"volumeSize":-1`), "sizeBytes"},
		{"Progress", legacyKey, edited(t, `"progress":100`, `"progress":101`), "progress"},
		{"SizeType", legacyKey, edited(t, `"volumeSize":10737418240`, `"volumeSize":"10Gi"`), "volumeSize"},
		{"SecretPath", legacyKey, edited(t, `"secretBackups":[{"name":"vm1-ci"`, `"secretBackups":[{"name":"../vm1-ci"`), "secrets[0]"},
		{"SecretTwice", legacyKey, edited(t, `"secretBackups":[`, `"secretBackups":[{"name":"vm1-ci"},`), "secrets[1]"},
		{"SecretNoBase64", legacyKey, edited(t, `"I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogdm0xCg=="`, `"%%%"`), "base64"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rec, err := DecodeHarvester(test.key, test.content)
			e := vmbackup.AsError(err, "")
			if e == nil || e.Reason != vmbackup.ReasonDataDamaged {
				t.Fatalf("decoded %+v, %v; want DataDamaged", rec, err)
			}
			if !strings.HasPrefix(e.Message, test.key+": ") || !strings.Contains(e.Message, test.field) || e.Hint == "" {
				t.Errorf("%q (%s) does not name the file and %q", e.Message, e.Hint, test.field)
			}
			if strings.Contains(e.Message, "I2Nsb3Vk") {
				t.Errorf("%q repeats a secret", e.Message)
			}
		})
	}
}

// Harvester 1.8 writes a file again after a restore in place, with the restored
// claim in the machine. The claim that was backed up is what counts.
func TestDecodeHarvesterRewritten(t *testing.T) {
	const restored = "restore-legacy1-0a1b2c3d-disk-0"
	for _, test := range []struct {
		name    string
		content []byte
	}{
		{"ClaimInMachine", edited(t, `"claimName":"vm1-disk-0"`, `"claimName":"`+restored+`"`)},
		{"ClaimItself", edited(t, `"metadata":{"name":"vm1-disk-0"`, `"metadata":{"name":"`+restored+`"`)},
		{"Both", edited(t, `"claimName":"vm1-disk-0"`, `"claimName":"`+restored+`"`, `"metadata":{"name":"vm1-disk-0"`, `"metadata":{"name":"`+restored+`"`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			rec, err := DecodeHarvester(legacyKey, test.content)
			if err != nil {
				t.Fatal(err)
			}
			all, err := json.Marshal(rec)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(all), restored) {
				t.Errorf("the restored claim is still in %s", all)
			}
			if !SameHarvesterBackup(legacyKey, golden(t, legacyKey), test.content) {
				t.Error("not the same backup as the file had before")
			}
		})
	}
}

func TestSameHarvesterBackup(t *testing.T) {
	content := golden(t, legacyKey)
	var reordered any
	if err := json.Unmarshal(content, &reordered); err != nil {
		t.Fatal(err)
	}
	sorted, err := json.MarshalIndent(reordered, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		other []byte
		want  bool
	}{
		{"Itself", content, true},
		{"OtherOrder", sorted, true},
		{"OtherSecret", edited(t, "I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogdm0xCg==", "eA=="), false},
		{"OtherBackup", edited(t, "backup-aaaabbbbcccc4444", "backup-aaaabbbbcccc5555"), false},
		{"OtherSpec", edited(t, `"cores":1`, `"cores":2`), false},
		{"NoSecrets", edited(t, `"secretBackups"`, `"x"`), false},
		{"Damaged", content[:100], false},
	} {
		if got := SameHarvesterBackup(legacyKey, content, test.other); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestEncodeHarvesterSecrets(t *testing.T) {
	rec := decodeLegacy(t)
	secret := func(name, data string) json.RawMessage {
		return json.RawMessage(`{"apiVersion":"v1","kind":"Secret","type":"Opaque","metadata":{"name":"` + name + `","namespace":"src","labels":{"a":"b"}},"data":` + data + `}`)
	}
	rec.VM = json.RawMessage(strings.Replace(string(rec.VM), `"hostname":"vm1"`,
		`"hostname":"vm1","accessCredentials":[{"sshPublicKey":{"source":{"secret":{"secretName":"ssh"}}}},{"userPassword":{"source":{"secret":{"secretName":"ssh"}}}}]`, 1))
	rec.Secrets = []json.RawMessage{secret("sysprep", `{"k":"eA=="}`), secret("vm1-ci", `{"userdata":"eA==","networkdata":""}`), secret("ssh", `{"b":"eA==","a":"eQ=="}`)}
	content, err := EncodeHarvester(rec)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"secretBackups":[{"name":"ssh","data":{"a":"eQ==","b":"eA=="}},{"name":"vm1-ci","data":{"userdata":"eA=="}}]}`; !strings.HasSuffix(string(content), want) {
		t.Errorf("encoded %s, want it to end in %s", content, want)
	}
}

// Longhorn's name of the volume is what Harvester looks for, not the PersistentVolume's.
func TestEncodeHarvesterStaticVolume(t *testing.T) {
	rec := decodeLegacy(t)
	v := &rec.Backup.Status.Volumes[0]
	v.LonghornVolume, v.SnapshotHandle = "vol1", "bak://vol1/backup-aaaabbbbcccc4444"
	content, err := EncodeHarvester(rec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeHarvester(legacyKey, content)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Backup.Status.Volumes[0]; got.LonghornVolume != "vol1" || got.SnapshotHandle != v.SnapshotHandle {
		t.Errorf("decoded again %+v", got)
	}
	if !strings.Contains(string(content), `"storageClassName":"harvester-longhorn","volumeMode":"Block","volumeName":"vol1"`) {
		t.Errorf("the rest of the claim is gone: %s", content)
	}
}

func TestEncodeHarvesterRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*Record)
		field string
	}{
		{"Snapshot", func(r *Record) { r.Backup.Spec.Type = vmbackup.TypeSnapshot }, "backup.spec.type"},
		{"NoType", func(r *Record) { r.Backup.Spec.Type = "" }, "backup.spec.type"},
		{"NoClaim", func(r *Record) { r.Claims = nil }, `claim "vm1-disk-0"`},
		{"NoLonghornBackup", func(r *Record) { r.Backup.Status.Volumes[0].LonghornBackup = "" }, "longhornBackup"},
		{"NoLonghornVolume", func(r *Record) { r.Backup.Status.Volumes[0].LonghornVolume = "" }, "longhornVolume"},
		{"OldHandle", func(r *Record) { r.Backup.Status.Volumes[0].SnapshotHandle = "bs://a/b" }, "snapshotHandle"},
		{"HandleOfOtherVolume", func(r *Record) { r.Backup.Status.Volumes[0].SnapshotHandle = "bak://other/backup-aaaabbbbcccc4444" }, "snapshotHandle"},
		{"HandleOfOtherBackup", func(r *Record) {
			r.Backup.Status.Volumes[0].SnapshotHandle = "bak://pvc-11111111-1111-1111-1111-111111111111/other"
		}, "snapshotHandle"},
		{"TwoVolumesOfAName", func(r *Record) {
			r.Backup.Status.Volumes = append(r.Backup.Status.Volumes, r.Backup.Status.Volumes[0])
		}, "volumes[1].name"},
		{"NoSecret", func(r *Record) { r.Secrets = nil }, `secret "vm1-ci"`},
		{"OtherVM", func(r *Record) { r.Backup.Spec.VM = "other" }, "backup.spec.vm"},
		{"NoVM", func(r *Record) { r.VM = nil }, "vm"},
		{"VMIsSecret", func(r *Record) { r.VM = r.Secrets[0]; r.Backup.Spec.VM = "vm1-ci" }, "no virtual machine"},
		{"BadName", func(r *Record) { r.Backup.Metadata.Name = "../x" }, "backup.metadata.name"},
		{"BadNamespace", func(r *Record) { r.Backup.Metadata.Namespace = "" }, "backup.metadata.namespace"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rec := decodeLegacy(t)
			test.spoil(rec)
			content, err := EncodeHarvester(rec)
			if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || !strings.Contains(err.Error(), test.field) {
				t.Errorf("EncodeHarvester = %s, %v; want InvalidRequest naming %q", content, err, test.field)
			}
		})
	}
}

func TestHarvesterImage(t *testing.T) {
	content := golden(t, imageKey)
	image, err := DecodeHarvesterImage(imageKey, content)
	if err != nil {
		t.Fatal(err)
	}
	if name, err := image.BackingImage(); err != nil || name != "vmi-441a33cc-b9c0-445f-999b-ec44917e681b" {
		t.Errorf("backing image %q, %v", name, err)
	}
	if again, err := EncodeHarvesterImage(image); err != nil || string(again) != string(content) {
		t.Errorf("encoded again %s, %v; Harvester wrote %s", again, err, content)
	}
	for _, test := range []struct{ key, content, field string }{
		{imageKey, `{"name":"other","namespace":"default","url":"s3://b@r/?backingImage=x"}`, "default/other"},
		{imageKey, `{"name":"image-abc2","namespace":"default","url":"s3://b@r/"}`, "url"},
		{imageKey, `{"name":"image-abc2","namespace":"default","url":"s3://b@r/?backingImage=../x"}`, "url"},
		{imageKey, `{"name":"image-abc2","namespace":"default","url":"%zz"}`, "url"},
		{imageKey, `{"name":"image-abc2","name":"image-abc2"}`, "name"},
		{legacyKey, string(content), "legacy1.cfg"},
	} {
		if _, err := DecodeHarvesterImage(test.key, []byte(test.content)); vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: %v, want DataDamaged naming %q", test.content, err, test.field)
		}
	}
	if _, err := EncodeHarvesterImage(&HarvesterImage{Name: "a", Namespace: "b"}); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
		t.Errorf("an image without URL: %v, want InvalidRequest", err)
	}
}

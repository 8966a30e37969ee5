// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func FuzzDecodeHarvester(f *testing.F) {
	f.Add(legacyKey, golden(f, legacyKey))
	f.Add("harvester/vmbackups/legacyns-legacy1.cfg", golden(f, legacyKey))
	f.Add(legacyKey, edited(f, `"claimName":"vm1-disk-0"`, `"claimName":"restored"`))
	f.Add(legacyKey, edited(f, `"longhornBackupName":"backup-aaaabbbbcccc4444",`, ``))
	f.Add("harvester/vmbackups/n/b.cfg", []byte(`{"name":"b","namespace":"n","backupSpec":{"source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"v"}},"vmSourceSpec":{"metadata":{"name":"v"},"spec":{}}}`))
	f.Fuzz(func(t *testing.T, key string, content []byte) {
		rec, err := DecodeHarvester(key, content)
		if err != nil {
			refusedWell(t, err)
			return
		}
		survives(t, rec)
		file, err := EncodeHarvester(rec)
		if err != nil {
			return // a volume or a secret is missing, as in files written too early
		}
		again, err := DecodeHarvester(HarvesterBackupKey(rec.Backup.Ref()), file)
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, file)
		}
		if twice, err := EncodeHarvester(again); err != nil || !bytes.Equal(twice, file) {
			t.Fatalf("written\n%s\nthen\n%s\n%v", file, twice, err)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	good, err := EncodeRecord(fullRecord(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(recordKey, good)
	f.Add("vmbackup/n/b.json", []byte(`{"apiVersion":"vmbackup.io/v1alpha1","kind":"BackupRecord"}`))
	f.Fuzz(func(t *testing.T, key string, content []byte) {
		rec, err := DecodeRecord(key, content)
		if err != nil {
			refusedWell(t, err)
			return
		}
		if RecordKey(rec.Backup.Ref()) != key {
			t.Fatalf("%s holds backup %s", key, rec.Backup.Ref())
		}
		survives(t, rec)
	})
}

func FuzzDecodeJournal(f *testing.F) {
	good, err := EncodeJournal(fullRecord(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, content []byte) {
		rec, err := DecodeJournal(vmbackup.Ref{Namespace: "legacyns", Name: "legacy1"}, content)
		if err != nil {
			refusedWell(t, err)
			return
		}
		survives(t, rec)
	})
}

func FuzzDecodeHarvesterImage(f *testing.F) {
	f.Add(imageKey, golden(f, imageKey))
	f.Fuzz(func(t *testing.T, key string, content []byte) {
		image, err := DecodeHarvesterImage(key, content)
		if err != nil {
			refusedWell(t, err)
			return
		}
		file, err := EncodeHarvesterImage(image)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeHarvesterImage(key, file)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := EncodeHarvesterImage(again); err != nil || !bytes.Equal(twice, file) {
			t.Fatalf("written\n%s\nthen\n%s\n%v", file, twice, err)
		}
	})
}

func FuzzSanitize(f *testing.F) {
	rec := fullRecord(f)
	f.Add([]byte(rec.VM))
	f.Add([]byte(rec.Others[0]))
	f.Add([]byte(`{"apiVersion":"v1","kind":"K","metadata":{"name":"n","finalizers":["f"],"labels":null},"status":1}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		clean, err := Sanitize(content)
		if err != nil {
			return
		}
		if twice, err := Sanitize(clean); err != nil || !bytes.Equal(twice, clean) {
			t.Fatalf("sanitized\n%s\nthen\n%s\n%v", clean, twice, err)
		}
		value, err := plainValue(clean)
		if err != nil {
			t.Fatal(err)
		}
		object := value.(map[string]any)
		if _, found := object["status"]; found {
			t.Fatalf("status in %s", clean)
		}
		for field := range object["metadata"].(map[string]any) {
			switch field {
			case "name", "namespace", "labels", "annotations":
			default:
				t.Fatalf("metadata.%s in %s", field, clean)
			}
		}
	})
}

func FuzzParseKey(f *testing.F) {
	for _, key := range []string{legacyKey, imageKey, recordKey, "harvester/vmbackups/legacyns-legacy1.cfg", "vmbackup/../x.json"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		kind, ref, ok := ParseKey(key)
		if !ok {
			return
		}
		if strings.Contains(key, "..") || strings.Contains(key, "//") {
			t.Fatalf("%q is taken for a key", key)
		}
		want := map[FileKind]string{
			FileHarvesterBackup: HarvesterBackupKey(ref),
			FileHarvesterImage:  HarvesterImageKey(ref),
			FileRecord:          RecordKey(ref),
			FileHarvesterFlat:   HarvesterBackupPrefix + ref.Name + ".cfg",
		}[kind]
		if key != want {
			t.Fatalf("%q is taken for %q", key, want)
		}
	})
}

// refusedWell checks that a decoder's error has a reason.
func refusedWell(t *testing.T, err error) {
	t.Helper()
	if vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged {
		t.Fatalf("%v is not DataDamaged", err)
	}
}

// survives checks that a decoded record is written and read without a change.
func survives(t *testing.T, rec *Record) {
	t.Helper()
	content, err := EncodeRecord(rec)
	if err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	again, err := DecodeRecord(RecordKey(rec.Backup.Ref()), content)
	if err != nil {
		t.Fatalf("what was written is refused: %v", err)
	}
	twice, err := EncodeRecord(again)
	if err != nil || !bytes.Equal(twice, content) {
		t.Fatalf("written\n%s\nthen\n%s\n%v", content, twice, err)
	}
	if !reflect.DeepEqual(again.Backup.Ref(), rec.Backup.Ref()) {
		t.Fatalf("backup %s became %s", rec.Backup.Ref(), again.Backup.Ref())
	}
}

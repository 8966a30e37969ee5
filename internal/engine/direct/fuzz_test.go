// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// FuzzRestoreRecord feeds records as somebody may have edited them. What is taken
// creates objects in the restore's namespace alone, and is written and read without
// a change.
func FuzzRestoreRecord(f *testing.F) {
	data, err := wholeRestore().encode()
	if err != nil {
		f.Fatal(err)
	}
	plain, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		f.Fatal(err)
	}
	whole, err := io.ReadAll(plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	for from, to := range map[string]string{
		`"namespace":"other"`: `"namespace":"kube-system"`, `"kind":"Secret"`: `"kind":"Role"`, `"metadata":`: `"Metadata":{},"metadata":`,
		`bak://`: `snap://`, `"PersistentVolumeClaim"`: `"Pod"`, `"operation":"0123456789ab"`: `"operation":"x,y"`,
	} {
		f.Add(bytes.ReplaceAll(whole, []byte(from), []byte(to)))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := decodeRestore(r1, zipped(t, content))
		if err != nil {
			if vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged {
				t.Fatalf("%v is not DataDamaged", err)
			}
			return
		}
		objects := append(append([]json.RawMessage{}, r.Secrets...), r.ConfigMaps...)
		if len(r.VM) > 0 {
			objects = append(objects, r.VM)
		}
		for _, raw := range objects {
			m, err := metadata.ParseManifest(raw)
			if err != nil || m.Metadata.Namespace != r1.Namespace {
				t.Fatalf("%s: %v", raw, err)
			}
			if kind := m.APIVersion + " " + m.Kind; kind != "v1 Secret" && kind != "v1 ConfigMap" && !strings.HasPrefix(kind, "kubevirt.io/") {
				t.Fatalf("%s is created", kind)
			}
		}
		for _, c := range r.Claims {
			if c.Namespace != r1.Namespace || c.Spec.VolumeName != "" || len(c.OwnerReferences)+len(c.Finalizers) > 0 {
				t.Fatalf("claim %+v", c)
			}
		}
		data, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRestore(r1, data)
		if err != nil || !reflect.DeepEqual(again.Restore, r.Restore) || len(again.Claims) != len(r.Claims) {
			t.Fatalf("%+v\nthen\n%+v\n%v", r, again, err)
		}
	})
}

// FuzzBackupState feeds states as somebody may have edited them.
func FuzzBackupState(f *testing.F) {
	f.Add([]byte(`{"freezeTimeout":30000000000,"class":"c","attempt":2,"snapshots":{"root":"snapshot-0f8fad5b-d9cb-469f-a165-70867728950e"},"leftovers":["snapshot-1"]}`))
	f.Add([]byte(`{"freezeTimeout":-1,"class":"../c","attempt":1e18,"snapshots":{"root":"pvc-1"},"leftovers":["snapshot-1","of-somebody","snapshot-a,b"]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := loadState(&metadata.Record{State: raw})
		if s.FreezeTimeout < time.Nanosecond || s.FreezeTimeout > vmbackup.MaxFreezeTimeout || s.Attempt < 0 || s.Attempt > maxRounds {
			t.Fatalf("%+v", s)
		}
		for _, name := range s.Leftovers {
			if !strings.HasPrefix(name, "snapshot-") || !isName(name) {
				t.Fatalf("%q would be removed", name)
			}
		}
		s.store(&metadata.Record{})
	})
}

// FuzzHandle takes handles apart and compares with what they are made of.
func FuzzHandle(f *testing.F) {
	for _, handle := range []string{"bak://pvc-1/backup-1", "snap://pvc-1/snapshot-1", "bs://a/b", "bak://../b", "bak:///b", "bak://a/b/c", "bi://backing?x=y", "://", ""} {
		f.Add(handle)
	}
	f.Fuzz(func(t *testing.T, handle string) {
		kind, volume, name, ok := handleParts(handle)
		if ok && kind+"://"+volume+"/"+name != handle {
			t.Fatalf("%q is %q, %q, %q", handle, kind, volume, name)
		}
		if ok && metadata.IsStoreName(volume) && metadata.IsStoreName(name) && strings.ContainsAny(volume+name, "/\\ \x00?") {
			t.Fatalf("%q is taken", handle)
		}
	})
}

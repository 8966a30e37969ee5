// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

// The view of a lean backup is that of the whole one, and no machine is kept.
func TestLeanHasTheSameView(t *testing.T) {
	made, e := whole()
	written := &VirtualMachineBackup{}
	data, err := os.ReadFile("testdata/objects/virtualmachinebackups.backup.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, written); err != nil {
		t.Fatal(err)
	}
	odd, _ := whole()
	odd.Status.SourceSpec.Spec, odd.Status.VolumeBackups[0].PersistentVolumeClaim.Spec = json.RawMessage(`[1]`), json.RawMessage(`"x"`)
	for name, b := range map[string]*VirtualMachineBackup{"made": made, "written": written, "of another shape": odd, "empty": {}} {
		before := b.DeepCopyObject()
		if got, want := b.Lean().View(e), b.View(e); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, want)
		}
		if !reflect.DeepEqual(b, before) {
			t.Errorf("%s: the backup has changed", name)
		}
	}
	for i := range written.Status.SecretBackups {
		for key := range written.Status.SecretBackups[i].Data {
			written.Status.SecretBackups[i].Data[key] = []byte("secret")
		}
	}
	small, err := json.Marshal(written.Lean())
	if err != nil {
		t.Fatal(err)
	}
	if len(small) > len(data)/2 || strings.Contains(string(small), "c2VjcmV0") || strings.Contains(string(small), "domain") {
		t.Errorf("%d bytes of %d are kept: %s", len(small), len(data), small)
	}
}

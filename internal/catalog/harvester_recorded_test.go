// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// recordedRestore is a restore of Harvester's with a record of the tool on it.
func recordedRestore(t *testing.T, complete bool, record *vmbackup.Restore) *harvester.VirtualMachineRestore {
	t.Helper()
	o := &harvester.VirtualMachineRestore{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "r"}}
	o.Spec.NewVM, o.Spec.VirtualMachineBackupName, o.Spec.Target.Name = true, "a", "copy"
	o.Status.Complete = &complete
	o.Status.VolumeRestores = []harvester.VolumeRestore{{VolumeName: "root", VolumeBackupName: "a-volume-web-root", Progress: 40}}
	o.Status.VolumeRestores[0].PersistentVolumeClaim.ObjectMeta.Name = "restore-a-uid-root"
	if record != nil {
		raw, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		o.Annotations = map[string]string{harvester.RecordAnnotation: base64.StdEncoding.EncodeToString(raw)}
	}
	return o
}

// Harvester's "complete" is the end of its part, and the record's phase that of the restore.
func TestRestoreWithARecord(t *testing.T) {
	h := harvesterBackups{decode: func(_ vmbackup.Ref, data []byte) (*vmbackup.Restore, error) {
		r := &vmbackup.Restore{}
		if err := json.Unmarshal(data, r); err != nil {
			return nil, err
		}
		return r, nil
	}}
	record := func(phase vmbackup.Phase) *vmbackup.Restore {
		r := vmbackup.NewRestore(vmbackup.Ref{Namespace: "demo", Name: "r"})
		r.Spec.TargetName = "copy"
		r.Status.Phase, r.Status.Ready, r.Status.Engine = phase, phase == vmbackup.PhaseReady, vmbackup.EngineHarvester
		r.Status.Warnings = []string{"from the record"}
		r.Status.Volumes = []vmbackup.RestoreVolume{{Name: "root", SourcePVC: "web-root", PVC: "planned", SnapshotHandle: "bak://v/b"}}
		r.Status.Steps = []vmbackup.StepStatus{{ID: "volumes", State: vmbackup.StateReady}, {ID: "data", State: vmbackup.StatePending}, {ID: "start", Title: "ours", State: vmbackup.StatePending}}
		return r
	}
	for name, test := range map[string]struct {
		object *harvester.VirtualMachineRestore
		want   vmbackup.Phase
	}{
		"nobody's":                           {recordedRestore(t, true, nil), vmbackup.PhaseReady},
		"runs":                               {recordedRestore(t, false, record(vmbackup.PhaseRunning)), vmbackup.PhaseRunning},
		"complete, and the tool is not done": {recordedRestore(t, true, record(vmbackup.PhaseRunning)), vmbackup.PhaseRunning},
		"done":                               {recordedRestore(t, true, record(vmbackup.PhaseReady)), vmbackup.PhaseReady},
		"failed":                             {recordedRestore(t, false, record(vmbackup.PhaseFailed)), vmbackup.PhaseFailed},
	} {
		got := h.restoreView(test.object, harvester.RestoreEvidence{})
		if got.Status.Phase != test.want || got.Status.Ready != (test.want == vmbackup.PhaseReady) {
			t.Errorf("%s: %s, ready %v", name, got.Status.Phase, got.Status.Ready)
		}
	}
	got := h.restoreView(recordedRestore(t, false, record(vmbackup.PhaseRunning)), harvester.RestoreEvidence{})
	v := got.Status.Volumes[0]
	if v.PVC != "restore-a-uid-root" || v.Progress != 40 || v.SnapshotHandle != "bak://v/b" || v.SourcePVC != "web-root" {
		t.Errorf("volume %+v", v)
	}
	if s := got.Status.Steps; s[0].State != vmbackup.StateReady || s[1].State == vmbackup.StateReady || s[2].Title != "ours" || got.Status.Warnings[0] != "from the record" {
		t.Errorf("%+v", got.Status)
	}

	broken := recordedRestore(t, false, nil)
	broken.Annotations = map[string]string{harvester.RecordAnnotation: "!"}
	if got := h.restoreView(broken, harvester.RestoreEvidence{}); got.Status.Phase != vmbackup.PhaseRunning || !strings.Contains(strings.Join(got.Status.Warnings, " "), "cannot be read") {
		t.Errorf("%+v", got.Status)
	}
}

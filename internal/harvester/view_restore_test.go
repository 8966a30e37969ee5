// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreWritten is a restore that Harvester's controller has written.
func restoreWritten(t *testing.T) *VirtualMachineRestore {
	t.Helper()
	data, err := os.ReadFile("testdata/objects/virtualmachinerestores.new.json")
	if err != nil {
		t.Fatal(err)
	}
	r := &VirtualMachineRestore{}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestViewOfACompleteRestore(t *testing.T) {
	r := restoreWritten(t)
	got := r.View(RestoreEvidence{})
	if got.Spec != (vmbackup.RestoreSpec{Backup: "machines/backup", TargetNamespace: "machines", TargetName: "again", Mode: vmbackup.ModeNew}) {
		t.Errorf("spec %+v", got.Spec)
	}
	s := got.Status
	if s.Phase != vmbackup.PhaseReady || !s.Ready || s.VM != "machines/again" || s.Engine != vmbackup.EngineHarvester || s.Error != nil || len(s.Warnings) > 0 {
		t.Errorf("status %+v", s)
	}
	if !s.StartedAt.Equal(time.Date(2026, 11, 26, 2, 52, 5, 0, time.UTC)) || !s.CompletedAt.Equal(time.Date(2026, 11, 26, 2, 52, 28, 0, time.UTC)) {
		t.Errorf("from %s to %s", s.StartedAt, s.CompletedAt)
	}
	if len(s.Volumes) != 2 {
		t.Fatalf("volumes %+v", s.Volumes)
	}
	want := vmbackup.RestoreVolume{
		Name: "root", SourcePVC: "root", PVC: "restore-backup-d88a3194-436a-445d-a941-677be6129f4e-root", StorageClass: "harvester-longhorn",
		SizeBytes: 64 << 20, State: vmbackup.StateReady, Progress: 100,
	}
	if s.Volumes[0] != want {
		t.Errorf("volume %+v, want %+v", s.Volumes[0], want)
	}
	for _, step := range s.Steps {
		if step.State != vmbackup.StateReady {
			t.Errorf("step %+v", step)
		}
	}
}

// running is a restore whose claims are bound and whose data is on its way.
func running(t *testing.T) (*VirtualMachineRestore, RestoreEvidence) {
	r := restoreWritten(t)
	r.Status.Complete, r.Status.RestoreTime = to(false), nil
	r.Status.Conditions = []Condition{
		{Type: ConditionInProgress, Status: "True", Message: "Waiting for target vm to be ready"},
		{Type: ConditionReady, Status: "False", Message: "Waiting for target vm to be ready"},
	}
	e := RestoreEvidence{
		Now: time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC),
		Backup: &VirtualMachineBackup{
			ObjectMeta: metav1.ObjectMeta{Name: "backup", Namespace: "machines"},
			Status:     VirtualMachineBackupStatus{ReadyToUse: to(true)},
		},
		Machine: &kubevirtv1.VirtualMachine{Status: kubevirtv1.VirtualMachineStatus{PrintableStatus: "Starting"}},
	}
	for i := range r.Status.VolumeRestores {
		v := &r.Status.VolumeRestores[i]
		v.Progress = 0
		name := v.PersistentVolumeClaim.ObjectMeta.Name
		uid := types.UID(v.VolumeName)
		e.AddClaim(name, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		})
		volume := &longhornv1.Volume{Status: longhornv1.VolumeStatus{RestoreInitiated: true, RestoreRequired: true}}
		volume.Name = "pvc-" + string(uid)
		e.AddVolume(volume)
		engine := &longhornv1.Engine{Status: longhornv1.EngineStatus{RestoreStatus: map[string]*longhornv1.RestoreStatus{
			"tcp://a": {IsRestoring: true, Progress: 60}, "tcp://b": {IsRestoring: true, Progress: 40},
		}}}
		engine.Name, engine.Spec.VolumeName = volume.Name+"-e-0", volume.Name
		e.AddEngine(engine)
	}
	return r, e
}

// state is the step that the restore is at, and its state.
func state(r *vmbackup.Restore) (at string) {
	for _, s := range r.Status.Steps {
		if s.State != vmbackup.StateReady {
			return s.ID + " " + string(s.State)
		}
	}
	return "done"
}

// Harvester says that it waits for the machine while Longhorn restores the data, and
// calls an error what its next attempt does away with.
func TestRestoreViewIsHonest(t *testing.T) {
	const root = "pvc-root"
	errored := func(message string, since string) []Condition {
		return []Condition{
			{Type: ConditionInProgress, Status: "False", Reason: "Error", Message: message, LastUpdateTime: since},
			{Type: ConditionReady, Status: "False", Reason: "Error", Message: message, LastUpdateTime: since},
		}
	}
	restored := func(e *RestoreEvidence) {
		for _, v := range e.Volumes {
			v.Status.RestoreRequired = false
		}
	}
	for name, test := range map[string]struct {
		change func(*VirtualMachineRestore, *RestoreEvidence)
		phase  vmbackup.Phase
		at     string
		says   string // in the error, a warning, a step or a volume
		reason vmbackup.Reason
	}{
		"just asked for": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Status, *e = VirtualMachineRestoreStatus{}, RestoreEvidence{Now: e.Now}
			}, vmbackup.PhaseRunning, "volumes Running", "", "",
		},
		"a claim is not there yet": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Status.TargetUID = nil
				e.AddClaim(r.Status.VolumeRestores[0].PersistentVolumeClaim.ObjectMeta.Name, nil)
			}, vmbackup.PhaseRunning, "volumes Running", "", "",
		},
		"the machine is not there yet": {
			func(r *VirtualMachineRestore, _ *RestoreEvidence) { r.Status.TargetUID = nil },
			vmbackup.PhaseRunning, "machine Running", "", "",
		},
		"bound, and the data is on its way": {
			func(*VirtualMachineRestore, *RestoreEvidence) {}, vmbackup.PhaseRunning, "data Running", "", "",
		},
		"no disk takes the replicas": {
			func(_ *VirtualMachineRestore, e *RestoreEvidence) {
				e.Volumes[root].Status.Conditions = []longhornv1.Condition{{Type: longhornv1.VolumeConditionTypeScheduled, Status: "False", Reason: "ReplicaSchedulingFailure", Message: "insufficient storage"}}
			}, vmbackup.PhaseRunning, "data Running", "no disk takes its replicas: ReplicaSchedulingFailure insufficient storage", "",
		},
		"a claim cannot be provisioned": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				claim := r.Status.VolumeRestores[0].PersistentVolumeClaim.ObjectMeta.Name
				e.Claims[claim].Status.Phase = corev1.ClaimPending
				delete(e.Volumes, root)
				e.Warnings = map[string]string{claim: "ProvisioningFailed: no such class"}
			}, vmbackup.PhaseRunning, "data Running", "ProvisioningFailed: no such class", "",
		},
		"Longhorn cannot restore a volume": {
			func(_ *VirtualMachineRestore, e *RestoreEvidence) {
				e.Volumes[root].Status.Conditions = []longhornv1.Condition{{Type: longhornv1.VolumeConditionTypeRestore, Status: "False", Reason: longhornv1.VolumeConditionReasonRestoreFailure, Message: "block is damaged"}}
			}, vmbackup.PhaseFailed, "data Failed", "Longhorn could not restore volume root", vmbackup.ReasonBackupFailed,
		},
		"the data is there": {
			func(_ *VirtualMachineRestore, e *RestoreEvidence) { restored(e) },
			vmbackup.PhaseRunning, "start Running", "Starting", "",
		},
		"the machine does not start": {
			func(_ *VirtualMachineRestore, e *RestoreEvidence) {
				restored(e)
				e.Warnings = map[string]string{"virt-launcher-again-x7k2p": "FailedCreatePodSandBox: no network", "other": "Bad: other"}
			}, vmbackup.PhaseRunning, "start Running", "Starting; FailedCreatePodSandBox: no network", "",
		},
		"a lasting error": {
			func(r *VirtualMachineRestore, _ *RestoreEvidence) {
				r.Status.Conditions = errored(`persistentvolumeclaims "x" is forbidden: exceeded quota: q`, "2026-11-26T02:59:30Z")
			}, vmbackup.PhaseFailed, "data Failed", "exceeded quota", vmbackup.ReasonQuotaExceeded,
		},
		"an error that has just come": {
			func(r *VirtualMachineRestore, _ *RestoreEvidence) {
				r.Status.Conditions = errored("something of its cache", "2026-11-26T02:59:50Z")
			}, vmbackup.PhaseRunning, "data Running", "met an error and tries again: something of its cache", "",
		},
		"an error that is over: the backup is ready": {
			func(r *VirtualMachineRestore, _ *RestoreEvidence) {
				r.Status.Conditions = errored("VMBackup backup is not ready", "2026-11-26T02:50:00Z")
			}, vmbackup.PhaseRunning, "data Running", "an error that is over, and goes on by itself: VMBackup backup is not ready", "",
		},
		"the backup is not ready": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				e.Backup.Status.ReadyToUse = to(false)
				r.Status.Conditions = errored("VMBackup backup is not ready", "2026-11-26T02:50:00Z")
			}, vmbackup.PhaseFailed, "data Failed", "VMBackup backup is not ready", vmbackup.ReasonConflict,
		},
		"the backup is gone": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				e.Backup = nil
				r.Status.Conditions = errored(`virtualmachinebackups.harvesterhci.io "backup" not found`, "2026-11-26T02:50:00Z")
			}, vmbackup.PhaseFailed, "data Failed", "not found", vmbackup.ReasonNotFound,
		},
		"nothing to delete": {
			func(r *VirtualMachineRestore, _ *RestoreEvidence) { r.Spec.NewVM = false },
			vmbackup.PhaseFailed, "data Failed", "waits for ever", vmbackup.ReasonConflict,
		},
		"complete, and the data is on its way": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Status.Complete = to(true)
				e.Volumes[root].Spec.FromBackup = "s3://b@r/?backup=b&volume=v"
			}, vmbackup.PhaseRunning, "data Running", "Longhorn still puts the data", "",
		},
		"complete, and a snapshot is being copied": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Status.Complete = to(true)
				e.Volumes[root].Spec.DataSource = "snap://v/s"
			}, vmbackup.PhaseRunning, "data Running", "Longhorn still puts the data", "",
		},
		"complete, and its volume failed later": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Status.Complete = to(true)
				e.Volumes[root].Spec.DataSource = "snap://v/s"
				e.Volumes[root].Status.Robustness = longhornv1.VolumeRobustnessFaulted
			}, vmbackup.PhaseReady, "done", "", "",
		},
		"in place": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Spec.NewVM, r.Status.DeletedVolumes = false, []string{"old-root"}
				restored(e)
			}, vmbackup.PhaseRunning, "start Running", "old-root", "",
		},
		"complete, and the machine does not run": {
			func(r *VirtualMachineRestore, e *RestoreEvidence) {
				r.Status.Complete = to(true)
				e.Machine.Spec.RunStrategy = to(kubevirtv1.RunStrategyAlways)
				e.Machine.Status.PrintableStatus = "CrashLoopBackOff"
			}, vmbackup.PhaseReady, "done", "its machine does not run: CrashLoopBackOff", "",
		},
		"it is deleted": {
			func(r *VirtualMachineRestore, _ *RestoreEvidence) { r.DeletionTimestamp = to(metav1.Now()) },
			vmbackup.PhaseRunning, "data Running", "it is being deleted", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, e := running(t)
			test.change(r, &e)
			got := r.View(e)
			if got.Status.Phase != test.phase || state(got) != test.at {
				t.Errorf("%s at %q; want %s at %q", got.Status.Phase, state(got), test.phase, test.at)
			}
			told := strings.Join(got.Status.Warnings, "\n")
			var reason vmbackup.Reason
			if f := got.Status.Error; f != nil {
				if told, reason = told+"\n"+f.Message, f.Reason; f.Hint == "" {
					t.Error("an error without a hint")
				}
			}
			for _, s := range got.Status.Steps {
				told += "\n" + s.Message
			}
			for _, v := range got.Status.Volumes {
				told += "\n" + v.Message
			}
			if !strings.Contains(told, test.says) || reason != test.reason {
				t.Errorf("%s, told %q; want %s, %q", reason, told, test.reason, test.says)
			}
		})
	}
}

// The percentage is that of Longhorn's replica that is furthest behind, and what was
// not looked at is as Harvester tells it.
func TestRestoreProgress(t *testing.T) {
	r, e := running(t)
	got := r.View(e)
	for _, v := range got.Status.Volumes {
		if v.State != vmbackup.StateRunning || v.Progress != 40 || v.LonghornVolume != "pvc-"+v.Name {
			t.Errorf("%+v", v)
		}
	}
	if s := got.Status.Steps[2]; s.Progress != 40 {
		t.Errorf("%+v", s)
	}
	r.Status.VolumeRestores[0].Progress = 100
	unseen := r.View(RestoreEvidence{})
	if a, b := unseen.Status.Volumes[0], unseen.Status.Volumes[1]; a.State != vmbackup.StateReady || b.State != vmbackup.StateRunning {
		t.Errorf("%+v", unseen.Status.Volumes)
	}
}

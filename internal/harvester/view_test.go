// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func to[T any](v T) *T { return &v }

func conditions(ready, described, progress corev1.ConditionStatus) []Condition {
	return []Condition{
		{Type: ConditionReady, Status: ready, LastUpdateTime: "2026-11-26T02:00:30Z"},
		{Type: ConditionMetadataReady, Status: described, LastUpdateTime: "2026-11-26T02:00:31Z"},
		{Type: ConditionInProgress, Status: progress},
	}
}

// whole is a backup of two volumes, one from an image, which is Ready in every way.
func whole() (*VirtualMachineBackup, Evidence) {
	volume := func(name, claim, longhorn, backup string) VolumeBackup {
		return VolumeBackup{
			Name: to("web-1-volume-" + claim), VolumeName: name, CSIDriverName: "driver.longhorn.io", VolumeSize: 10 << 30,
			PersistentVolumeClaim: SourceSpec{
				ObjectMeta: metav1.ObjectMeta{Name: claim, Namespace: "demo"},
				Spec:       json.RawMessage(`{"volumeName":"` + longhorn + `","storageClassName":"lh"}`),
			},
			LonghornBackupName: to(backup), ReadyToUse: to(true), Progress: 100,
		}
	}
	b := &VirtualMachineBackup{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "demo", CreationTimestamp: metav1.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC)},
		Status: VirtualMachineBackupStatus{
			SourceUID: to(types.UID("u")), ReadyToUse: to(true), Conditions: conditions("True", "True", "False"),
			BackupTarget: &BackupTarget{Endpoint: "e", BucketName: "b", BucketRegion: "r"},
			SourceSpec: &SourceSpec{
				ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"tier": "db"}},
				Spec:       json.RawMessage(`{"template":{"spec":{"volumes":[{"name":"root"},{"name":"data"}]}}}`),
			},
			VolumeBackups: []VolumeBackup{volume("data", "web-data", "pvc-2", "backup-2"), volume("root", "web-root", "pvc-1", "backup-1")},
			SecretBackups: []SecretBackup{{Name: "ci", Data: map[string][]byte{"userdata": []byte("x"), "networkdata": nil}}},
		},
	}
	b.Spec.Source.Name = "web"
	completed := func(volume, image string) *longhornv1.Backup {
		l := &longhornv1.Backup{Status: longhornv1.BackupStatus{
			State: longhornv1.BackupStateCompleted, VolumeName: volume, VolumeBackingImageName: image, Size: "4194304", NewlyUploadedDataSize: "2097152",
		}}
		return l
	}
	e := Evidence{
		Target: &Target{Type: TargetS3, Endpoint: "e", BucketName: "b", BucketRegion: "r"}, TargetName: "default",
		Backups: map[string]*longhornv1.Backup{"backup-1": completed("pvc-1", "vmi-1"), "backup-2": completed("pvc-2", "")},
		Images:  map[string]*longhornv1.BackupBackingImage{"vmi-1": {Status: longhornv1.BackupBackingImageStatus{State: longhornv1.BackupStateCompleted}}},
	}
	for name, l := range e.Backups {
		l.Name = name
	}
	return b, e
}

func TestViewOfAWholeBackup(t *testing.T) {
	b, e := whole()
	want := vmbackup.NewBackup(vmbackup.Ref{Namespace: "demo", Name: "web-1"})
	want.Metadata.Labels = map[string]string{"tier": "db"}
	want.Spec = vmbackup.BackupSpec{VM: "web", Type: vmbackup.TypeBackup, Target: "default"}
	want.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseReady, Ready: true, Engine: "harvester", SourceUID: "u", FoundOn: "cluster",
		StartedAt:   to(time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC)),
		CompletedAt: to(time.Date(2026, 11, 26, 2, 0, 31, 0, time.UTC)),
		Volumes: []vmbackup.BackupVolume{
			{
				Name: "root", PVC: "web-root", StorageClass: "lh", SizeBytes: 10 << 30, LonghornVolume: "pvc-1", VolumeSnapshot: "web-1-volume-web-root",
				SnapshotHandle: "bak://pvc-1/backup-1", LonghornBackup: "backup-1", State: vmbackup.StateReady, Progress: 100,
				UploadedBytes: 2 << 20, BackupBytes: 4 << 20, Image: "vmi-1",
			},
			{
				Name: "data", PVC: "web-data", StorageClass: "lh", SizeBytes: 10 << 30, LonghornVolume: "pvc-2", VolumeSnapshot: "web-1-volume-web-data",
				SnapshotHandle: "bak://pvc-2/backup-2", LonghornBackup: "backup-2", State: vmbackup.StateReady, Progress: 100,
				UploadedBytes: 2 << 20, BackupBytes: 4 << 20,
			},
		},
		Secrets:  []vmbackup.KeyedObject{{Name: "ci", Keys: []string{"networkdata", "userdata"}}},
		Images:   []vmbackup.BackupImage{{Name: "vmi-1", State: vmbackup.StateReady}},
		Metadata: vmbackup.MetadataStatus{Path: "harvester/vmbackups/demo/web-1.cfg", State: vmbackup.StateReady},
	}
	if got := b.View(e); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// Harvester's Ready is not taken for granted, and what is not seen is not called lost.
func TestViewIsHonest(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*VirtualMachineBackup, *Evidence)
		phase  vmbackup.Phase
		says   string // in the error or a warning
	}{
		"an upload still runs": {
			func(_ *VirtualMachineBackup, e *Evidence) {
				e.Backups["backup-2"].Status.State, e.Backups["backup-2"].Status.Progress = longhornv1.BackupStateInProgress, 40
			}, vmbackup.PhaseRunning, "volume data is at 40 %",
		},
		"an upload is not read back yet": {
			func(_ *VirtualMachineBackup, e *Evidence) { e.Backups["backup-2"].Status.NewlyUploadedDataSize = "" },
			vmbackup.PhaseRunning, "volume data: Longhorn has yet to read back",
		},
		"an upload failed": {
			func(_ *VirtualMachineBackup, e *Evidence) {
				e.Backups["backup-2"].Status.State, e.Backups["backup-2"].Status.Error = longhornv1.BackupStateError, "no space"
			}, vmbackup.PhaseIncomplete, "Longhorn's backup backup-2 failed: no space",
		},
		"Longhorn does not show a backup": {
			func(_ *VirtualMachineBackup, e *Evidence) { delete(e.Backups, "backup-1") },
			vmbackup.PhaseUnknown, "volume root: Longhorn shows no backup backup-1",
		},
		"Longhorn deletes a backup": {
			func(_ *VirtualMachineBackup, e *Evidence) {
				e.Backups["backup-1"].Status.State = longhornv1.BackupStateDeleting
			}, vmbackup.PhaseUnknown, "is Deleting",
		},
		"the Longhorn backup is not named": {
			func(b *VirtualMachineBackup, _ *Evidence) { b.Status.VolumeBackups[0].LonghornBackupName = nil },
			vmbackup.PhaseIncomplete, "volume data: Harvester does not name its Longhorn backup",
		},
		"the image is still backed up": {
			func(_ *VirtualMachineBackup, e *Evidence) {
				e.Images["vmi-1"].Status.State, e.Images["vmi-1"].Status.Progress = longhornv1.BackupStateInProgress, 7
			}, vmbackup.PhaseRunning, "backing image vmi-1 is at 7 %",
		},
		"the image's backup failed": {
			func(_ *VirtualMachineBackup, e *Evidence) {
				e.Images["vmi-1"].Status.State = longhornv1.BackupStateError
			},
			vmbackup.PhaseIncomplete, "backing image vmi-1: its backup failed",
		},
		"the image's backup is not shown": {
			func(_ *VirtualMachineBackup, e *Evidence) { e.Images = nil },
			vmbackup.PhaseUnknown, "backing image vmi-1: Longhorn shows no backup of it",
		},
		"the description is not on the target yet": {
			func(b *VirtualMachineBackup, _ *Evidence) {
				b.Status.Conditions = conditions("True", "Unknown", "False")
			},
			vmbackup.PhaseRunning, "its description is not on the target yet",
		},
		"another target is set": {
			func(_ *VirtualMachineBackup, e *Evidence) { e.Target.BucketName = "other" },
			vmbackup.PhaseUnknown, "another backup target",
		},
		"nothing may be looked at": {
			func(_ *VirtualMachineBackup, e *Evidence) { *e = Evidence{Unseen: "forbidden"} },
			vmbackup.PhaseUnknown, "could not be checked: forbidden",
		},
		"it was ready": {
			func(b *VirtualMachineBackup, _ *Evidence) {
				b.Status.Conditions = []Condition{{Type: ConditionReady, Status: "False", Reason: "cannot find volume pvc-1 in the backup target", Message: notReadyAnyMore}}
			}, vmbackup.PhaseIncomplete, "not ready any more: cannot find volume pvc-1 in the backup target",
		},
		"it fails": {
			func(b *VirtualMachineBackup, _ *Evidence) {
				b.Status.ReadyToUse, b.Status.Error = to(false), &Error{Message: to("failed to freeze file system")}
				b.Status.Conditions = []Condition{{Type: ConditionReady, Status: "False"}, {Type: ConditionInProgress, Status: "False", Reason: "Error"}}
			}, vmbackup.PhaseFailed, "failed to freeze file system",
		},
		"it runs again": {
			func(b *VirtualMachineBackup, _ *Evidence) {
				b.Status.ReadyToUse, b.Status.Error = to(false), &Error{Message: to("failed to freeze file system")}
				b.Status.Conditions = conditions("False", "", "True")
			}, vmbackup.PhaseRunning, "an earlier attempt of Harvester's failed: failed to freeze file system",
		},
		"it has just been made": {
			func(b *VirtualMachineBackup, _ *Evidence) { b.Status = VirtualMachineBackupStatus{} },
			vmbackup.PhaseRunning, "",
		},
		"a stale error": {
			func(b *VirtualMachineBackup, _ *Evidence) { b.Status.Error = &Error{Message: to("timed out")} },
			vmbackup.PhaseReady, "the text of an error that is over: timed out",
		},
		"the Longhorn backup is not named yet": {
			func(b *VirtualMachineBackup, e *Evidence) {
				b.Status.VolumeBackups[0].LonghornBackupName, e.Now = nil, time.Date(2026, 11, 26, 2, 0, 45, 0, time.UTC)
			}, vmbackup.PhaseRunning, "volume data: Harvester does not name its Longhorn backup yet",
		},
		"the Longhorn backup is not named yet, and is there": {
			func(b *VirtualMachineBackup, e *Evidence) {
				b.Status.VolumeBackups[0].LonghornBackupName, e.Now = nil, time.Date(2026, 11, 26, 2, 0, 45, 0, time.UTC)
				e.Snapshots = map[string]string{"web-1-volume-web-data": "u2"}
				e.Backups["backup-2"].Status.SnapshotName = "snapshot-u2"
			}, vmbackup.PhaseRunning, "does not name its Longhorn backup backup-2 yet",
		},
		"the Longhorn backup is never named, and is there": {
			func(b *VirtualMachineBackup, e *Evidence) {
				b.Status.VolumeBackups[0].LonghornBackupName, e.Now = nil, time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
				e.Snapshots = map[string]string{"web-1-volume-web-data": "u2"}
				e.Backups["backup-2"].Status.SnapshotName = "snapshot-u2"
			}, vmbackup.PhaseIncomplete, "Harvester does not name its Longhorn backup backup-2, so it cannot restore it elsewhere",
		},
		"Longhorn deletes a backup and its data": {
			func(_ *VirtualMachineBackup, e *Evidence) { e.Backups["backup-1"].DeletionTimestamp = to(metav1.Now()) },
			vmbackup.PhaseIncomplete, "is being deleted with its data",
		},
		"Longhorn drops its records of a target that looks empty": {
			func(_ *VirtualMachineBackup, e *Evidence) {
				e.Backups["backup-1"].DeletionTimestamp = to(metav1.Now())
				e.Backups["backup-1"].Labels = map[string]string{"longhorn.io/delete-custom-resource-only": ""}
			}, vmbackup.PhaseReady, "",
		},
		"CSI has given up, and Longhorn goes on": {
			func(b *VirtualMachineBackup, e *Evidence) {
				b.Status.ReadyToUse, b.Status.Error = to(false), &Error{Message: to("VolumeSnapshot web-1-volume-web-data in error state")}
				b.Status.Conditions = []Condition{{Type: ConditionReady, Status: "False"}, {Type: ConditionInProgress, Status: "False", Reason: "Error"}}
				b.Status.VolumeBackups[0].ReadyToUse, b.Status.VolumeBackups[0].Error = to(false), &Error{Message: to("DeadlineExceeded")}
				e.Backups["backup-2"].Status.State = longhornv1.BackupStateInProgress
			}, vmbackup.PhaseRunning, "reports an error while Longhorn still uploads",
		},
		"an error that has just come": {
			func(b *VirtualMachineBackup, e *Evidence) {
				b.Status.ReadyToUse, b.Status.Error = to(false), &Error{Message: to("of its cache")}
				b.Status.Conditions = []Condition{{Type: ConditionReady, Status: "False"}, {Type: ConditionInProgress, Status: "False", Reason: "Error", LastUpdateTime: "2026-11-26T02:00:30Z"}}
				e.Now = time.Date(2026, 11, 26, 2, 0, 35, 0, time.UTC)
			}, vmbackup.PhaseRunning, "met an error and tries again: of its cache",
		},
		"it is deleted": {
			func(b *VirtualMachineBackup, _ *Evidence) { b.DeletionTimestamp = to(metav1.Now()) },
			vmbackup.PhaseReady, "it is being deleted",
		},
		"a snapshot needs no target": {
			func(b *VirtualMachineBackup, e *Evidence) {
				b.Spec.Type, *e = TypeSnapshot, Evidence{Unseen: "forbidden"}
				for i := range b.Status.VolumeBackups {
					b.Status.VolumeBackups[i].LonghornBackupName = nil
				}
			}, vmbackup.PhaseReady, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, e := whole()
			test.change(b, &e)
			got := b.View(e).Status
			if got.Phase != test.phase || got.Ready != (test.phase == vmbackup.PhaseReady) {
				t.Errorf("phase %s, ready %v; want %s", got.Phase, got.Ready, test.phase)
			}
			told := strings.Join(got.Warnings, "\n")
			if got.Error != nil {
				told += "\n" + got.Error.Message
				if got.Error.Hint == "" {
					t.Errorf("no hint: %+v", got.Error)
				}
			}
			if !strings.Contains(told, test.says) || (test.says == "" && told != "") {
				t.Errorf("told %q, want %q", told, test.says)
			}
		})
	}
}

// A backup that was discovered on the target was not begun when this cluster learnt of it.
func TestViewOfADiscoveredBackup(t *testing.T) {
	b, e := whole()
	b.Status.SourceUID = nil
	if got := b.View(e).Status; got.StartedAt != nil || got.SourceUID != "" || !got.Ready {
		t.Errorf("%+v", got)
	}
}

// What was just asked for has an age, and Harvester's freeze promises no more than a
// power cut.
func TestViewOfABackupThatBegins(t *testing.T) {
	b, e := whole()
	b.Annotations = map[string]string{freezeAnnotation: "true"}
	b.Status = VirtualMachineBackupStatus{}
	if got := b.View(e).Status; got.StartedAt == nil || got.Consistency != vmbackup.ConsistencyCrash || got.Phase != vmbackup.PhaseRunning {
		t.Errorf("%+v", got)
	}
	b.Annotations = map[string]string{freezeAnnotation: "false"}
	if got := b.View(e).Status; got.Consistency != "" {
		t.Errorf("%+v", got)
	}
}

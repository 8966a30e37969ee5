// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func writtenBackup(t *testing.T, file string) *VirtualMachineBackup {
	t.Helper()
	b := &VirtualMachineBackup{}
	if err := json.Unmarshal(written(t)[file], b); err != nil {
		t.Fatal(err)
	}
	return b
}

// What Harvester's controllers wrote has everything that a restore needs.
func TestRecordOfWhatControllersWrote(t *testing.T) {
	b := writtenBackup(t, "virtualmachinebackups.backup.json")
	e := Evidence{
		Target:     &Target{Endpoint: b.Status.BackupTarget.Endpoint, BucketName: b.Status.BackupTarget.BucketName, BucketRegion: b.Status.BackupTarget.BucketRegion},
		TargetName: "default", Backups: map[string]*longhornv1.Backup{},
	}
	for _, v := range b.Status.VolumeBackups {
		l := &longhornv1.Backup{Status: longhornv1.BackupStatus{State: longhornv1.BackupStateCompleted, LastSyncedAt: metav1.Now()}}
		l.Name = *v.LonghornBackupName
		e.Backups[l.Name] = l
	}
	record, err := b.Record(e)
	if err != nil {
		t.Fatal(err)
	}
	if !record.Backup.Status.Ready || record.Backup.Spec.VM != "vm" || record.Backup.Status.Engine != vmbackup.EngineHarvester {
		t.Errorf("backup %+v", record.Backup)
	}
	if len(record.Claims) != 2 || len(record.Secrets) != 1 || len(record.Backup.Status.Volumes) != 2 {
		t.Fatalf("%d claims, %d secrets, %d volumes", len(record.Claims), len(record.Secrets), len(record.Backup.Status.Volumes))
	}
	for i, v := range record.Backup.Status.Volumes {
		if v.State != vmbackup.StateReady || !strings.HasPrefix(v.SnapshotHandle, "bak://pvc-") {
			t.Errorf("volume %+v", v)
		}
		// Claims and volumes belong together by their place.
		if !strings.Contains(string(record.Claims[i]), `"name":"`+v.PVC+`"`) {
			t.Errorf("claim %s of volume %s", record.Claims[i], v.Name)
		}
	}
	for _, part := range []string{`"team":"storage"`, `"example.com/keep":"yes"`, `"runStrategy":"RerunOnFailure"`, `"claimName":"root"`} {
		if !strings.Contains(string(record.VM), part) {
			t.Errorf("the machine has no %s: %s", part, record.VM)
		}
	}
}

// A snapshot has a description too, and no handles: its data lies in the volumes.
func TestRecordOfASnapshot(t *testing.T) {
	record, err := writtenBackup(t, "virtualmachinebackups.scheduled.json").Record(Evidence{Unseen: "not needed"})
	if err != nil {
		t.Fatal(err)
	}
	if !record.Backup.Status.Ready || record.Backup.Spec.Type != vmbackup.TypeSnapshot || len(record.VM) == 0 || len(record.Claims) != 2 {
		t.Errorf("%+v", record.Backup)
	}
	for _, v := range record.Backup.Status.Volumes {
		if v.SnapshotHandle != "" || v.State != vmbackup.StateReady {
			t.Errorf("volume %+v", v)
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/olekukonko/tablewriter/pkg/twwidth"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestMain fixes how wide characters of ambiguous width are: tablewriter takes
// that from the locale, which must not decide about golden files.
func TestMain(m *testing.M) {
	twwidth.SetOptions(twwidth.Options{})
	m.Run()
}

// golden compares got with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the tests with -update to write it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run the tests with -update to rewrite it)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

// layouts are the ways that everything is rendered in.
func layouts() map[string]Options {
	now := sampleNow()
	return map[string]Options{
		"80":      {TTY: true, Width: 80, Now: now},
		"120":     {TTY: true, Width: 120, Now: now},
		"200":     {TTY: true, Width: 200, Now: now},
		"80c":     {TTY: true, Width: 80, Colour: true, Now: now},
		"80ascii": {TTY: true, Width: 80, ASCII: true, Now: now},
		"piped":   {Now: now},
	}
}

// fitsIn fails the test when a line is wider than the terminal.
func fitsIn(t *testing.T, text string, o Options) {
	t.Helper()
	if o.Width == 0 {
		return
	}
	for _, line := range strings.Split(text, "\n") {
		if n := cells(line); n > o.Width {
			t.Errorf("line of %d cells in a terminal of %d: %q", n, o.Width, line)
		}
	}
}

func sampleNow() time.Time { return time.Date(2026, 8, 2, 15, 30, 0, 0, time.UTC) }

func ago(d time.Duration) *time.Time {
	t := sampleNow().Add(-d)
	return &t
}

const gib = int64(1) << 30

// sampleReady is a complete backup with all that one can have.
func sampleReady() vmbackup.Backup {
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "web-20260802-120000"})
	b.Spec = vmbackup.BackupSpec{VM: "web", Type: vmbackup.TypeBackup, Quiesce: vmbackup.QuiesceAuto, Target: "default"}
	b.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseReady, Ready: true, Consistency: vmbackup.ConsistencyApplication, FreezeSeconds: 1.2,
		StartedAt: ago(3*time.Hour + 30*time.Minute), CompletedAt: ago(3*time.Hour + 25*time.Minute + 50*time.Second),
		Engine: "harvester", FoundOn: "both",
		Volumes: []vmbackup.BackupVolume{
			{
				Name: "rootdisk", PVC: "web-rootdisk-7f3kq", StorageClass: "longhorn-image-x7k2p", SizeBytes: 40 * gib,
				LonghornVolume: "pvc-0b9a1c1e-3f6d-4f0e-9d6f-2f9f3f7f1a11", VolumeSnapshot: "web-20260802-120000-volume-rootdisk",
				SnapshotHandle: "bak://pvc-0b9a1c1e-3f6d-4f0e-9d6f-2f9f3f7f1a11/backup-4e1d7f0c2b8a4d6e",
				LonghornBackup: "backup-4e1d7f0c2b8a4d6e", State: vmbackup.StateReady, Progress: 100,
				UploadedBytes: 3*gib + gib/2, BackupBytes: 11 * gib, Image: "default/ubuntu-24.04-server",
			},
			{
				Name: "data", PVC: "web-data", StorageClass: "harvester-longhorn", SizeBytes: 200 * gib,
				LonghornVolume: "pvc-7c2f9c50-88f2-4b5d-8a5e-96f7e2a7c0d2", VolumeSnapshot: "web-20260802-120000-volume-data",
				SnapshotHandle: "bak://pvc-7c2f9c50-88f2-4b5d-8a5e-96f7e2a7c0d2/backup-91c3b5d7e9f1a2b4",
				LonghornBackup: "backup-91c3b5d7e9f1a2b4", State: vmbackup.StateReady, Progress: 100,
				UploadedBytes: 812 << 20, BackupBytes: 96 * gib,
			},
		},
		Secrets:    []vmbackup.KeyedObject{{Name: "web-cloudinit", Keys: []string{"networkdata", "userdata"}}, {Name: "web-ssh", Keys: []string{"key1"}}},
		ConfigMaps: []vmbackup.KeyedObject{{Name: "web-sysprep", Keys: []string{"autounattend.xml"}}}, InstanceType: "u1.small", Preference: "windows.2k22",
		Images:   []vmbackup.BackupImage{{Name: "default/ubuntu-24.04-server", State: vmbackup.StateReady}},
		Metadata: vmbackup.MetadataStatus{Path: "harvester/vmbackups/shop/web-20260802-120000.cfg", State: vmbackup.StateReady},
	}
	return *b
}

// sampleBackups has a backup in every phase.
func sampleBackups() []vmbackup.Backup {
	ready := sampleReady()

	running := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "db-20260802-152800"})
	running.Spec = vmbackup.BackupSpec{VM: "db", Type: vmbackup.TypeBackup, Target: "default"}
	running.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseRunning, Consistency: vmbackup.ConsistencyCrash, StartedAt: ago(2 * time.Minute),
		Engine: vmbackup.EngineDirect, FoundOn: "cluster",
		Volumes: []vmbackup.BackupVolume{
			{Name: "root", PVC: "db-root", SizeBytes: 20 * gib, State: vmbackup.StateReady, Progress: 100, UploadedBytes: 2 * gib},
			{Name: "data", PVC: "db-data", SizeBytes: 80 * gib, State: vmbackup.StateRunning, Progress: 29},
		},
	}

	failed := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "mail-20260802-090000"})
	failed.Spec = vmbackup.BackupSpec{VM: "mail", Type: vmbackup.TypeBackup, Target: "default"}
	failed.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseFailed, Consistency: vmbackup.ConsistencyCrash, StartedAt: ago(6 * time.Hour), CompletedAt: ago(6*time.Hour - 45*time.Second),
		Engine: vmbackup.EngineDirect, FoundOn: "cluster",
		Volumes: []vmbackup.BackupVolume{{Name: "root", PVC: "mail-root", SizeBytes: 10 * gib, State: vmbackup.StateFailed, Progress: 12, Message: "error uploading block: 503 Slow Down"}},
		Error: vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "backup target default (s3://vm-backups@eu-central/) did not take blocks of volume root: 503 Slow Down; the machine runs and is thawed, nothing on the target was changed").
			WithHint("check the target with: kubectl vmbackup target check default\nthen go on with: kubectl vmbackup resume mail-20260802-090000 -n shop"),
	}

	incomplete := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "infra", Name: "win2022-before-patch-tuesday-of-august-2026"})
	incomplete.Spec = vmbackup.BackupSpec{VM: "win2022-domain-controller", Type: vmbackup.TypeBackup, Target: "offsite"}
	incomplete.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseIncomplete, Consistency: vmbackup.ConsistencyApplication, FreezeSeconds: 12.4, StartedAt: ago(50 * time.Hour), CompletedAt: ago(49 * time.Hour),
		Engine: "harvester", FoundOn: "target",
		Volumes:  []vmbackup.BackupVolume{{Name: "disk-0", PVC: "win-disk-0", SizeBytes: 120 * gib, State: vmbackup.StateReady, Progress: 100, UploadedBytes: 61 * gib, Image: "default/win2022"}},
		Images:   []vmbackup.BackupImage{{Name: "default/win2022", State: vmbackup.StateFailed, Message: "no backing image backup on the target"}},
		Metadata: vmbackup.MetadataStatus{Path: "harvester/vmbackups/infra/win2022-before-patch-tuesday-of-august-2026.cfg", State: vmbackup.StateReady},
		Warnings: []string{"the machine restores only in a cluster that has the image default/win2022"},
		Error:    vmbackup.Errorf(vmbackup.ReasonImageMissing, "backing image default/win2022 is not on the target"),
	}

	canceled := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "web-20260801-120000"})
	canceled.Spec = vmbackup.BackupSpec{VM: "web", Type: vmbackup.TypeBackup, Target: "default"}
	canceled.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseCanceled, StartedAt: ago(27 * time.Hour), Engine: vmbackup.EngineDirect, FoundOn: "cluster",
		Volumes: []vmbackup.BackupVolume{{Name: "rootdisk", PVC: "web-rootdisk", SizeBytes: 40 * gib, State: vmbackup.StateSkipped}},
	}

	unknown := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "lab", Name: "測試-vm"})
	unknown.Spec = vmbackup.BackupSpec{VM: "proxy", Type: vmbackup.TypeSnapshot}
	unknown.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseUnknown, StartedAt: ago(90 * 24 * time.Hour), Consistency: vmbackup.ConsistencyOffline, FoundOn: "target",
		Volumes: []vmbackup.BackupVolume{{Name: "root", SizeBytes: 1536 << 20, State: vmbackup.StateUnknown, Message: "備份目標無法連線,資料狀態未知"}},
	}

	planned := *vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "cache-20260802-153000"})
	planned.Spec = vmbackup.BackupSpec{VM: "cache", Type: vmbackup.TypeSnapshot}
	planned.Status = vmbackup.BackupStatus{Phase: vmbackup.PhasePlanned, Engine: vmbackup.EngineDirect, StartedAt: ago(4 * time.Second)}

	return []vmbackup.Backup{planned, running, ready, failed, canceled, incomplete, unknown}
}

func sampleRestores() []vmbackup.Restore {
	steps := func(states ...vmbackup.State) []vmbackup.StepStatus {
		titles := []string{"Check the backup", "Restore the images", "Create the volumes", "Create the virtual machine", "Restore the data", "Start the machine"}
		var out []vmbackup.StepStatus
		for i, s := range states {
			out = append(out, vmbackup.StepStatus{ID: fmt.Sprintf("step-%d", i), Title: titles[i], State: s})
		}
		return out
	}
	const ok, run, wait = vmbackup.StateReady, vmbackup.StateRunning, vmbackup.StatePending

	ready := *vmbackup.NewRestore(vmbackup.Ref{Namespace: "shop-test", Name: "web-copy-20260802-140000"})
	ready.Spec = vmbackup.RestoreSpec{Backup: "shop/web-20260802-120000", TargetNamespace: "shop-test", TargetName: "web-copy", Mode: vmbackup.ModeNew}
	ready.Status = vmbackup.RestoreStatus{
		Phase: vmbackup.PhaseReady, Ready: true, StartedAt: ago(90 * time.Minute), CompletedAt: ago(84 * time.Minute), Engine: vmbackup.EngineDirect,
		Steps: steps(ok, ok, ok, ok, ok, vmbackup.StateSkipped), VM: "shop-test/web-copy",
		Volumes: []vmbackup.RestoreVolume{{
			Name: "rootdisk", SourcePVC: "web-rootdisk-7f3kq", PVC: "restore-web-copy-rootdisk", StorageClass: "longhorn-image-x7k2p", SizeBytes: 40 * gib,
			SnapshotHandle: "bak://pvc-0b9a1c1e-3f6d-4f0e-9d6f-2f9f3f7f1a11/backup-4e1d7f0c2b8a4d6e", LonghornVolume: "pvc-aa10", State: ok, Progress: 100,
		}},
		Warnings: []string{"network shop/vlan20 was mapped to default/untagged"},
	}

	running := *vmbackup.NewRestore(vmbackup.Ref{Namespace: "shop", Name: "db-20260802-152900"})
	running.Spec = vmbackup.RestoreSpec{Backup: "shop/db-20260801-040000", TargetNamespace: "shop", TargetName: "db-restored", Mode: vmbackup.ModeNew}
	running.Status = vmbackup.RestoreStatus{
		Phase: vmbackup.PhaseRunning, StartedAt: ago(75 * time.Second), Engine: vmbackup.EngineDirect,
		Steps: steps(ok, ok, ok, ok, run, wait),
		Volumes: []vmbackup.RestoreVolume{
			{Name: "root", SourcePVC: "db-root", PVC: "restore-db-root", StorageClass: "harvester-longhorn", SizeBytes: 20 * gib, State: ok, Progress: 100},
			{Name: "data", SourcePVC: "db-data", PVC: "restore-db-data", StorageClass: "harvester-longhorn", SizeBytes: 80 * gib, State: run, Progress: 61, Message: "waiting for 1 of 3 replicas"},
		},
	}

	failed := *vmbackup.NewRestore(vmbackup.Ref{Namespace: "shop", Name: "mail-20260802-100000"})
	failed.Spec = vmbackup.RestoreSpec{Backup: "shop/mail-20260731-090000", TargetNamespace: "shop", TargetName: "mail", Mode: vmbackup.ModeNew}
	failed.Status = vmbackup.RestoreStatus{
		Phase: vmbackup.PhaseFailed, StartedAt: ago(5 * time.Hour), CompletedAt: ago(5*time.Hour - 3*time.Second), Engine: "harvester",
		Steps: steps(ok, ok, vmbackup.StateFailed, wait, wait, wait),
		Error: vmbackup.Errorf(vmbackup.ReasonQuotaExceeded, "namespace shop may request 100 GiB of storage and 130 GiB would be used; nothing was created").
			WithHint("raise the quota, or restore into another namespace with --to-namespace"),
	}
	return []vmbackup.Restore{running, ready, failed}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"slices"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func longhornBackup(name string, change ...func(*longhornv1.Backup)) *longhornv1.Backup {
	b := &longhornv1.Backup{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: longhornv1.BackupSpec{SnapshotName: "snapshot-1"}}
	for _, f := range change {
		f(b)
	}
	return b
}

func state(s longhornv1.BackupState, progress int) func(*longhornv1.Backup) {
	return func(b *longhornv1.Backup) { b.Status.State, b.Status.Progress = s, progress }
}

func TestObserveUpload(t *testing.T) {
	running := vmbackup.BackupVolume{Name: "root", LonghornVolume: "vol", State: vmbackup.StateRunning}
	seen := running
	seen.LonghornBackup, seen.SnapshotHandle, seen.Progress = "backup-1", "bak://vol/backup-1", 40
	with := func(v vmbackup.BackupVolume, f func(*vmbackup.BackupVolume)) vmbackup.BackupVolume {
		f(&v)
		return v
	}
	const lost = "Longhorn does not list backup backup-1 at the moment"
	for _, tc := range []struct {
		name string
		have vmbackup.BackupVolume
		list []*longhornv1.Backup
		want vmbackup.BackupVolume
	}{
		{"nothing yet", running, nil, running},
		{"of another snapshot", running, []*longhornv1.Backup{longhornBackup("x", func(b *longhornv1.Backup) { b.Spec.SnapshotName = "snapshot-2" })}, running},
		{"of another volume", running, []*longhornv1.Backup{longhornBackup("x", func(b *longhornv1.Backup) { b.Status.VolumeName = "other" })}, running},
		{"no state yet", running, []*longhornv1.Backup{longhornBackup("backup-1")}, with(seen, func(v *vmbackup.BackupVolume) { v.Progress = 0 })},
		{"pending", running, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStatePending, 0))}, with(seen, func(v *vmbackup.BackupVolume) { v.Progress = 0 })},
		{"in progress", running, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateInProgress, 40))}, seen},
		{"never backwards", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateInProgress, 10))}, seen},
		{"complete", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateCompleted, 100), func(b *longhornv1.Backup) {
			b.Status.Size, b.Status.NewlyUploadedDataSize, b.Status.LastSyncedAt = "4096", "2048", metav1.NewTime(time.Now())
		})}, with(seen, func(v *vmbackup.BackupVolume) {
			v.State, v.Progress, v.BackupBytes, v.UploadedBytes = vmbackup.StateReady, 100, 4096, 2048
		})},
		{"complete and not read back", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateCompleted, 100))}, with(seen, func(v *vmbackup.BackupVolume) { v.Progress = 100 })},
		{"known by its status alone", running, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateInProgress, 40), func(b *longhornv1.Backup) {
			b.Spec.SnapshotName, b.Status.SnapshotName, b.Status.VolumeName = "", "snapshot-1", "vol"
		})}, seen},
		{"error", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateError, 40), func(b *longhornv1.Backup) { b.Status.Error = "no space" })}, with(seen, func(v *vmbackup.BackupVolume) {
			v.State, v.Message = vmbackup.StateFailed, "no space"
		})},
		{"unknown to Longhorn", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateUnknown, 40), func(b *longhornv1.Backup) { b.Status.Error = "node down" })}, with(seen, func(v *vmbackup.BackupVolume) { v.Message = "node down" })},
		{"vanished", seen, nil, with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Message = vmbackup.StateUnknown, lost })},
		{"still vanished", with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Message = vmbackup.StateUnknown, lost }), nil, with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Message = vmbackup.StateUnknown, lost })},
		{
			"back under a new UID", with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Message = vmbackup.StateUnknown, lost }),
			[]*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateInProgress, 40), func(b *longhornv1.Backup) { b.UID = "new" })},
			seen,
		},
		{
			"complete and vanished", with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Progress = vmbackup.StateReady, 100 }), nil,
			with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Progress, v.Message = vmbackup.StateUnknown, 100, lost }),
		},
		{
			"failed and cleaned away", with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Message = vmbackup.StateFailed, "no space" }), nil,
			with(seen, func(v *vmbackup.BackupVolume) { v.State, v.Message = vmbackup.StateFailed, "no space" }),
		},
		{"being deleted", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateCompleted, 100), deleted)}, with(seen, func(v *vmbackup.BackupVolume) {
			v.State, v.Progress, v.Message = vmbackup.StateFailed, 100, "its Longhorn backup backup-1 is being deleted"
		})},
		{"its record alone is deleted", seen, []*longhornv1.Backup{longhornBackup("backup-1", state(longhornv1.BackupStateInProgress, 40), deleted, func(b *longhornv1.Backup) {
			b.Labels = map[string]string{"longhorn.io/delete-custom-resource-only": ""}
		})}, seen},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := tc.have
			changed := observeUpload(&v, &backupState{Snapshots: map[string]string{"root": "snapshot-1"}}, tc.list)
			wantSame(t, "volume", v, tc.want)
			if changed != (v != tc.have) {
				t.Errorf("changed: %t", changed)
			}
		})
	}
}

func deleted(b *longhornv1.Backup) {
	now := metav1.NewTime(time.Now())
	b.DeletionTimestamp = &now
}

func TestBytesAreEstimatedUntilTheEnd(t *testing.T) {
	s := &backupState{Estimates: map[string]int64{"root": 1000}}
	v := &vmbackup.BackupVolume{Name: "root", State: vmbackup.StateRunning, Progress: 25}
	if uploaded(v, s) != 250 || total(v, s) != 1000 {
		t.Errorf("%d of %d", uploaded(v, s), total(v, s))
	}
	v.State, v.Progress, v.BackupBytes = vmbackup.StateReady, 100, 600
	if uploaded(v, s) != 600 || total(v, s) != 600 {
		t.Errorf("%d of %d", uploaded(v, s), total(v, s))
	}
	for text, want := range map[string]int64{"": 0, "12": 12, "x": 0, "9007199254740993": 9007199254740993} {
		if got := longhorn.Bytes(text); got != want {
			t.Errorf("%q: %d", text, got)
		}
	}
}

// The target looks empty for a moment: Longhorn drops its records and takes them up again.
func TestBackupsThatVanishAndComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		var unknown bool
		c.events.on = func(e vmbackup.Event) { unknown = unknown || e.State == vmbackup.StateUnknown }
		// Both are in progress when they vanish, and complete when they are back.
		time.AfterFunc(1500*time.Millisecond, func() {
			for _, o := range c.all("backups") {
				b := o.(*longhornv1.Backup)
				b.Status.State, b.Status.Progress = longhornv1.BackupStateCompleted, 100
				readBack(b)
				c.write(target.BackupConfigKey(b.Status.VolumeName, b.Name))
				c.listed[b.Name] = b
			}
			c.forgetBackups()
			time.AfterFunc(time.Minute, c.relist)
		})
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		if !unknown {
			t.Error("a volume that Longhorn does not list was not told as unknown")
		}
	})
}

func TestObserve(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		if err := sleep(t.Context(), 1500*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		b := &c.record(b1).Backup
		c.forget()
		if err := c.engine.Observe(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for _, v := range b.Status.Volumes {
			if v.Progress != 50 || v.State != vmbackup.StateRunning {
				t.Errorf("volume %+v", v)
			}
		}
		wantSame(t, "writes", c.writes(), nil)
		// A backup that has ended is not looked at.
		c.forget()
		b.Status.Phase = vmbackup.PhaseReady
		if err := c.engine.Observe(t.Context(), b); err != nil || len(c.log()) != 0 {
			t.Errorf("%v, %v", err, c.log())
		}
	})
}

func TestFollowBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		done := make(chan error, 1)
		follower := &recorder{}
		go func() { done <- c.engine.FollowBackup(t.Context(), b1, follower) }()
		if _, err := c.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if told := follower.told(vmbackup.EventVolume); !slices.Contains(told, "volume upload root Ready") || !slices.Contains(told, "volume upload data Ready") {
			t.Errorf("told %q", told)
		}
		// After the end there is nothing to follow.
		if err := c.engine.FollowBackup(t.Context(), b1, follower); err != nil {
			t.Error(err)
		}
		wantReason(t, c.engine.FollowBackup(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "none"}, follower), vmbackup.ReasonNotFound)
	})
}

func TestFollowRestore(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		done := make(chan error, 1)
		follower := &recorder{}
		go func() { done <- c.engine.FollowRestore(t.Context(), r1, follower) }()
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if told := follower.told(vmbackup.EventVolume); !slices.Contains(told, "volume data root Ready") {
			t.Errorf("told %q", told)
		}
		if err := c.engine.FollowRestore(t.Context(), r1, follower); err != nil {
			t.Error(err)
		}
	})
}

func TestRunOfNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		_, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonNotFound)
		_, err = c.runRestore(t.Context())
		wantReason(t, err, vmbackup.ReasonNotFound)
		if _, err := c.journal.Store.Create(t.Context(), journal.Entry{Kind: journal.KindRestore, Ref: r1, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		_, err = c.runRestore(t.Context())
		wantReason(t, err, vmbackup.ReasonDataDamaged)
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func sampleEvents() []EventLine {
	now := sampleNow()
	return []EventLine{
		{Time: now.Add(-95 * time.Second), Object: "VolumeSnapshot/db-20260802-152800-volume-data", Reason: "CreatingSnapshot", Message: "Waiting for a snapshot shop/db-20260802-152800-volume-data to be created by the CSI driver."},
		{Time: now.Add(-12 * time.Second), Warning: true, Object: "Backup/backup-91c3b5d7e9f1a2b4", Reason: "Failed", Message: "proxyServer=10.52.0.12:8501 destination=10.52.0.12:10000: failed to back up snapshot: rpc error: code = Internal\n503 Slow Down \x1b[31mred\x1b[0m"},
	}
}

func TestDescribe(t *testing.T) {
	for name, o := range layouts() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			for i, b := range sampleBackups() {
				var events []EventLine
				if b.Status.Phase == vmbackup.PhaseRunning || b.Status.Phase == vmbackup.PhaseFailed {
					events = sampleEvents()
				}
				if i > 0 {
					fmt.Fprintln(&out)
				}
				if err := Backup(&out, &b, events, o); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "describe-backups-"+name+".txt", out.Bytes())
			fitsInOrUnbreakable(t, out.String(), o)

			out.Reset()
			for i, r := range sampleRestores() {
				if i > 0 {
					fmt.Fprintln(&out)
				}
				if err := Restore(&out, &r, nil, o); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "describe-restores-"+name+".txt", out.Bytes())
			fitsInOrUnbreakable(t, out.String(), o)
		})
	}
}

// fitsInOrUnbreakable allows a line to be too wide for a single long word, which
// is a handle or a path to copy.
func fitsInOrUnbreakable(t *testing.T, text string, o Options) {
	t.Helper()
	if o.Width == 0 {
		return
	}
	for _, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if n := cells(line); n > o.Width && cells(words[len(words)-1]) < 40 {
			t.Errorf("line of %d cells in a terminal of %d: %q", n, o.Width, line)
		}
	}
}

func TestDescribeManyVolumes(t *testing.T) {
	b := sampleReady()
	b.Metadata.Labels = map[string]string{"tier": "gold", "app": "web"}
	b.Status.Volumes = nil
	for i := range 40 {
		b.Status.Volumes = append(b.Status.Volumes, vmbackup.BackupVolume{
			Name: fmt.Sprintf("disk-%d", i), PVC: fmt.Sprintf("web-disk-%d", i), SizeBytes: int64(i+1) * gib, State: vmbackup.StateReady,
		})
	}
	o := layouts()["80"]
	var out bytes.Buffer
	if err := Backup(&out, &b, nil, o); err != nil {
		t.Fatal(err)
	}
	golden(t, "describe-40-volumes.txt", out.Bytes())
	fitsIn(t, out.String(), o)
}

// Foreign text must not reach the terminal's controls, wherever it stands.
func TestNoControlsFromForeignText(t *testing.T) {
	const evil = "a\x1b]0;owned\x07\x1b[2Jb\u202ec\x9bd\re"
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: evil, Name: evil})
	b.Metadata.Labels = map[string]string{evil: evil}
	b.Spec = vmbackup.BackupSpec{VM: evil, Type: evil, Target: evil}
	b.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseFailed, Consistency: evil, Engine: evil, FoundOn: evil,
		Volumes: []vmbackup.BackupVolume{{
			Name: evil, PVC: evil, StorageClass: evil, SnapshotHandle: evil, LonghornBackup: evil,
			VolumeSnapshot: evil, Image: evil, Message: evil, SizeBytes: 1, State: vmbackup.StateFailed,
		}},
		Secrets: []vmbackup.KeyedObject{{Name: evil, Keys: []string{evil}}}, Images: []vmbackup.BackupImage{{Name: evil, Message: evil}},
		Metadata: vmbackup.MetadataStatus{Path: evil}, Warnings: []string{evil},
		Error: vmbackup.Errorf(vmbackup.ReasonInternal, evil).WithHint(evil),
	}
	r := vmbackup.NewRestore(vmbackup.Ref{Namespace: evil, Name: evil})
	r.Spec = vmbackup.RestoreSpec{Backup: evil, TargetNamespace: evil, TargetName: evil, Mode: evil}
	r.Status = vmbackup.RestoreStatus{
		Phase: vmbackup.PhaseFailed, Engine: evil, VM: evil, Warnings: []string{evil},
		Steps:   []vmbackup.StepStatus{{ID: evil, Title: evil, Message: evil, State: vmbackup.StateFailed}},
		Volumes: []vmbackup.RestoreVolume{{Name: evil, PVC: evil, SourcePVC: "b", StorageClass: evil, SnapshotHandle: evil, LonghornVolume: evil, Message: evil}},
		Error:   b.Status.Error,
	}
	events := []EventLine{{Object: evil, Reason: evil, Message: evil}}
	objects := []vmbackup.PlannedObject{{Action: evil, Kind: evil, Namespace: evil, Name: evil, Note: evil}}

	for name, o := range layouts() {
		if o.Colour {
			continue // escape sequences of our own
		}
		o.Wide, o.Namespaces = true, true
		var out bytes.Buffer
		for _, err := range []error{
			Backups(&out, []vmbackup.Backup{*b}, o), Restores(&out, []vmbackup.Restore{*r}, o),
			Backup(&out, b, events, o), Restore(&out, r, events, o),
			Plan(&out, objects, r.Status.Steps, []string{evil}, o), Error(&out, b.Status.Error, o), NoneFound(&out, "backups", evil),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if i := strings.IndexAny(out.String(), "\x1b\x07\r\u202e\u009b"); i >= 0 {
			t.Errorf("%s: control character in %q", name, out.String()[max(i-40, 0):min(i+40, out.Len())])
		}
	}
}

// What a restore in place has replaced and kept is shown, hidden characters and all.
func TestDescribeOldVolumes(t *testing.T) {
	r := *vmbackup.NewRestore(vmbackup.Ref{Namespace: "shop", Name: "back"})
	r.Spec = vmbackup.RestoreSpec{Backup: "shop/web-1", TargetNamespace: "shop", TargetName: "web", Mode: vmbackup.ModeInPlace}
	r.Status = vmbackup.RestoreStatus{Phase: vmbackup.PhaseRunning}
	describe := func() string {
		var out bytes.Buffer
		if err := Restore(&out, &r, nil, Options{Now: sampleNow()}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if text := describe(); strings.Contains(text, "not made yet") || strings.Contains(text, "Old volumes") {
		t.Error(text)
	}
	r.Status.OldVolumes = []string{"web-root", "web-\x1bdata"}
	text := describe()
	for _, want := range []string{"Old volumes", "2 kept", "web-root"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
}

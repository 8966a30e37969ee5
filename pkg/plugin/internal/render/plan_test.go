// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func samplePlan() ([]vmbackup.PlannedObject, []vmbackup.StepStatus, []string) {
	objects := []vmbackup.PlannedObject{
		{Action: vmbackup.ActionUse, Kind: "VolumeSnapshotClass", Name: "longhorn", Note: "type bak, deletionPolicy Retain"},
		{Action: vmbackup.ActionCreate, Kind: "Secret", Namespace: "shop", Name: "vmbackup.web-20260802-120000", Note: "journal"},
		{Action: vmbackup.ActionCreate, Kind: "VolumeSnapshot", Namespace: "shop", Name: "web-20260802-120000-volume-rootdisk", Note: "of claim web-rootdisk-7f3kq, 40 GiB"},
		{Action: vmbackup.ActionUpdate, Kind: "BackupTarget", Namespace: "longhorn-system", Name: "default"},
		{Action: vmbackup.ActionDelete, Kind: "VolumeSnapshotContent", Name: "snapcontent-0b9a1c1e-3f6d-4f0e-9d6f-2f9f3f7f1a11", Note: "left behind by an earlier run"},
		{Action: vmbackup.ActionCreate, Kind: vmbackup.KindFile, Name: "harvester/vmbackups/shop/web-20260802-120000.cfg", Note: "the machine's description"},
	}
	steps := []vmbackup.StepStatus{
		{ID: "journal", Title: "Record the backup"},
		{ID: "snapshot", Title: "Freeze the guest and snapshot 2 volumes"},
		{ID: "upload", Title: "Upload the volumes"},
		{ID: "metadata", Title: "Write the description and read it back"},
	}
	warnings := []string{
		"the guest agent of shop/web does not answer: the backup will be crash consistent, as after a power cut (--quiesce=require refuses that)",
		"volume data is encrypted with the secret longhorn-system/crypto: keep it, the backup cannot be read without it",
	}
	return objects, steps, warnings
}

func TestPlan(t *testing.T) {
	objects, steps, warnings := samplePlan()
	for name, o := range layouts() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Plan(&out, objects, steps, warnings, o); err != nil {
				t.Fatal(err)
			}
			golden(t, "plan-"+name+".txt", out.Bytes())
			fitsIn(t, out.String(), o)
		})
	}
}

func TestEmptyPlanSaysNothing(t *testing.T) {
	for name, o := range layouts() {
		var out bytes.Buffer
		if err := Plan(&out, nil, nil, nil, o); err != nil {
			t.Fatal(err)
		}
		if out.Len() != 0 {
			t.Errorf("%s: %q", name, out.String())
		}
	}
}

func TestError(t *testing.T) {
	for name, o := range layouts() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			for _, b := range sampleBackups() {
				if err := Error(&out, b.Status.Error, o); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "error-"+name+".txt", out.Bytes())
		})
	}
}

func TestNoneFound(t *testing.T) {
	for namespace, want := range map[string]string{"shop": "No backups found in shop namespace.\n", "": "No backups found.\n"} {
		var out bytes.Buffer
		if err := NoneFound(&out, "backups", namespace); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%q: %q, want %q", namespace, out.String(), want)
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// sampleTargets are one of every state, and one with names that would act on a terminal.
func sampleTargets() []vmbackup.Target {
	synced := sampleNow().Add(-4 * time.Minute)
	usual := vmbackup.NewTarget("default")
	usual.Spec = vmbackup.TargetSpec{URL: "s3://vm-backups@eu-central-1/cluster-a/", Type: "s3", PollIntervalSeconds: 300, CredentialSecret: "harvester-backup-target-secret"}
	usual.Status = vmbackup.TargetStatus{
		State: vmbackup.TargetAvailable, LastSyncedAt: &synced,
		Credentials: vmbackup.TargetCredentials{State: vmbackup.StateReady, Keys: []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}},
		Holds:       &vmbackup.TargetHoldings{Volumes: 12, Backups: 140, FailedBackups: 2, Images: 3, Bytes: 812 * gib},
		Harvester:   &vmbackup.TargetSetting{State: vmbackup.StateReady, URL: "s3://vm-backups@eu-central-1/", LastRefreshedAt: &synced},
		Warnings:    []string{"Harvester never looks for new backups by itself (refreshIntervalInSeconds 0)"},
	}
	away := vmbackup.NewTarget("offsite")
	away.Spec = vmbackup.TargetSpec{URL: "nfs://10.0.0.5:/export/vm-backups", Type: "nfs"}
	away.Status = vmbackup.TargetStatus{
		State: vmbackup.TargetUnavailable, Message: "cannot mount nfs 10.0.0.5:/export/vm-backups: \x1b[31mconnection timed out",
		Credentials: vmbackup.TargetCredentials{State: vmbackup.StateSkipped}, Holds: &vmbackup.TargetHoldings{},
	}
	unset := vmbackup.NewTarget("spare")
	unset.Status = vmbackup.TargetStatus{State: vmbackup.TargetNotSet, Credentials: vmbackup.TargetCredentials{State: vmbackup.StateFailed, Message: "there is no Secret longhorn-system/spare"}}
	return []vmbackup.Target{*usual, *away, *unset}
}

func TestTargets(t *testing.T) {
	for name, o := range layouts() {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Targets(&out, sampleTargets(), o); err != nil {
				t.Fatal(err)
			}
			fitsIn(t, out.String(), o)
			wide := o
			wide.Wide = true
			fmt.Fprintln(&out)
			if err := Targets(&out, sampleTargets(), wide); err != nil {
				t.Fatal(err)
			}
			golden(t, "targets-"+name+".txt", out.Bytes())
			out.Reset()
			for _, target := range sampleTargets() {
				if err := Target(&out, &target, o); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "describe-targets-"+name+".txt", out.Bytes())
			fitsInOrUnbreakable(t, out.String(), o)
		})
	}
}

// sampleContents are of a target on which everything is that can be told.
func sampleContents() *vmbackup.TargetContents {
	latest, earliest := sampleNow().Add(-time.Hour), sampleNow().Add(-800*time.Hour)
	c := &vmbackup.TargetContents{Metadata: vmbackup.ObjectMeta{Name: "default"}, Spec: vmbackup.TargetContentsSpec{URL: "s3://vm-backups@eu-central-1/"}}
	s := &c.Status
	s.Machines = []vmbackup.TargetMachine{
		{Namespace: "shop", Name: "web", Backups: 30, Latest: &latest, Earliest: &earliest, Bytes: 41 * gib},
		{Namespace: "a-team-with-a-long-name", Name: "database-of-the-shop-in-production-0", Backups: 2, Incomplete: 1, Latest: &latest, Earliest: &latest},
	}
	s.Backups, s.Volumes, s.VolumeBackups, s.Bytes = 32, 4, 33, 812*gib
	s.Images = []vmbackup.TargetImage{
		{Namespace: "default", Name: "image-1", DisplayName: "debian-13.qcow2", BackingImage: "vmi-1", State: vmbackup.StateReady, Bytes: 2 * gib},
		{Namespace: "default", Name: "image-2", DisplayName: "gone.qcow2", BackingImage: "vmi-2", State: vmbackup.StateFailed},
	}
	for i := range 7 {
		s.Orphans = append(s.Orphans, vmbackup.TargetOrphan{Kind: vmbackup.OrphanVolume, Name: fmt.Sprintf("pvc-%d", i), Claim: "tools/git", Backups: 2, Bytes: gib})
	}
	s.OrphanCount, s.OrphanBytes = 7, 7*gib
	s.Broken = []vmbackup.TargetFile{{Path: "harvester/vmbackups/shop/x.cfg", Reason: "Harvester cannot decode it: unexpected \x1b[31mEOF", BlocksHarvester: true}, {Path: "vmbackup/shop/y.json", Reason: "field kind"}}
	s.BrokenCount, s.BlocksHarvester = 2, true
	s.Incomplete = []vmbackup.TargetGap{{Backup: vmbackup.Ref{Namespace: "shop", Name: "db-1"}, Missing: []string{"volume root: Longhorn backup backup-0123456789abcdef", "backing image vmi-2"}}}
	s.IncompleteCount = 1
	return c
}

func TestTargetContents(t *testing.T) {
	for name, o := range layouts() {
		for _, wide := range []bool{false, true} {
			o, name := o, name
			if o.Wide = wide; wide {
				name += "-wide"
			}
			t.Run(name, func(t *testing.T) {
				var out bytes.Buffer
				if err := TargetContents(&out, sampleContents(), o); err != nil {
					t.Fatal(err)
				}
				golden(t, "contents-"+name+".txt", out.Bytes())
				if !wide {
					fitsInOrUnbreakable(t, out.String(), o)
				}
			})
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// sampleImages are an image in each phase.
func sampleImages() []vmbackup.Image {
	made := sampleNow().Add(-26 * time.Hour)
	sum := strings.Repeat("0123456789abcdef", 8)
	image := func(namespace, name string, phase vmbackup.ImagePhase) vmbackup.Image {
		i := vmbackup.NewImage(vmbackup.Ref{Namespace: namespace, Name: name})
		i.Spec.Source = vmbackup.ImageSource{Type: vmbackup.ImageDownload, URL: "https://cloud-images.ubuntu.com/noble/current/noble-server-cloudimg-amd64.img"}
		i.Spec.Replicas = 3
		i.Status = vmbackup.ImageStatus{
			Phase: phase, BackingImage: "vmi-1c2f7a9e-0d2b-4f5e-9d1a-3a7e0c6b8f10", StorageClass: "longhorn-" + name,
			TotalReplicas: 3, CreatedAt: &made, Engine: vmbackup.EngineDirect,
		}
		return *i
	}
	imported := image("images", "ubuntu-24.04", vmbackup.ImageImported)
	imported.Spec.DisplayName, imported.Spec.Checksum = "Ubuntu 24.04 LTS", sum
	s := &imported.Status
	s.Ready, s.Progress, s.ReadyReplicas = true, 100, 2
	s.SizeBytes, s.RealSizeBytes, s.VirtualSizeBytes, s.Checksum = 612<<20, 598<<20, 3584<<20, sum
	s.Replicas = []vmbackup.ImageReplica{
		{Disk: "3d73b0bc-1b5b-477a-a880-a90f0c41faae", Node: "node-1", Path: "/var/lib/longhorn/", State: vmbackup.StateReady, Progress: 100},
		{Disk: "77aa0000-1b5b-477a-a880-a90f0c41faae", Node: "node-2", Path: "/var/lib/longhorn/", State: vmbackup.StateReady, Progress: 100},
		{Disk: "99bb0000-1b5b-477a-a880-a90f0c41faae", State: vmbackup.StateFailed, Message: "no space left on device"},
	}
	s.Warnings = []string{"1 of 3 replicas cannot be used: no space left on device"}
	s.Users = vmbackup.ImageUsers{Volumes: []string{"pvc-1", "pvc-2"}, Claims: []string{"shop/web-root", "shop/db-root"}, Machines: []string{"shop/db", "shop/web"}, Unseen: []string{"claims"}}
	s.Backup = vmbackup.ImageBackup{State: vmbackup.StateReady, Target: "default", SizeBytes: 600 << 20, CompletedAt: &made, URL: "s3://backups@eu/?backingImage=vmi-1"}

	coming := image("images", "debian-13", vmbackup.ImageInProgress)
	coming.Status.Progress = 42
	coming.Status.Replicas = []vmbackup.ImageReplica{{Disk: "3d73b0bc", Node: "node-1", Path: "/var/lib/longhorn/", State: vmbackup.StateRunning, Progress: 42}}
	coming.Status.Backup.State = vmbackup.StateRunning
	failed := image("images", "windows", vmbackup.ImageFailed)
	failed.Status.StorageClass = ""
	failed.Status.Error = vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "image images/windows could not be imported: the checksum differs").WithHint("compare it")
	missing := image("", "vmi-lost", vmbackup.ImageMissing)
	deleting := image("lab", "old", vmbackup.ImageDeleting)
	unknown := image("lab", "dark", vmbackup.ImageUnknown)
	unknown.Status.Backup.State = vmbackup.StateUnknown
	return []vmbackup.Image{missing, coming, imported, failed, unknown, deleting}
}

func TestImages(t *testing.T) {
	for name, o := range layouts() {
		t.Run(name, func(t *testing.T) {
			o.Namespaces = true
			var table, trees bytes.Buffer
			if err := Images(&table, sampleImages(), o); err != nil {
				t.Fatal(err)
			}
			golden(t, "images-"+name+".txt", table.Bytes())
			fitsIn(t, table.String(), o)
			for _, image := range sampleImages() {
				if err := Image(&trees, &image, nil, o); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, "image-"+name+".txt", trees.Bytes())
			o.Wide = true
			table.Reset()
			if err := Images(&table, sampleImages(), o); err != nil {
				t.Fatal(err)
			}
			golden(t, "images-"+name+"-wide.txt", table.Bytes())
		})
	}
}

// TestImagesAreCleaned shows that foreign text cannot act on a terminal.
func TestImagesAreCleaned(t *testing.T) {
	const evil = "a\x1b[31mb\u202ec"
	image := vmbackup.NewImage(vmbackup.Ref{Namespace: evil, Name: evil})
	image.Spec.DisplayName, image.Spec.Checksum = evil, evil
	image.Spec.Source = vmbackup.ImageSource{Type: evil, URL: evil, Claim: evil, Volume: evil, Image: evil, Backup: evil}
	image.Status = vmbackup.ImageStatus{
		BackingImage: evil, StorageClass: evil, Engine: evil, Checksum: evil, Warnings: []string{evil},
		Replicas: []vmbackup.ImageReplica{{Disk: evil, State: vmbackup.StateFailed, Message: evil}, {Node: evil, Path: evil}},
		Users:    vmbackup.ImageUsers{Volumes: []string{evil}, Claims: []string{evil}, Machines: []string{evil}, StorageClasses: []string{evil}, Unseen: []string{evil}},
		Backup:   vmbackup.ImageBackup{State: vmbackup.StateFailed, Target: evil, URL: evil, Message: evil},
		Error:    vmbackup.Errorf(vmbackup.ReasonInternal, "%s", evil).WithHint("%s", evil),
	}
	for _, tty := range []bool{true, false} {
		for _, wide := range []bool{true, false} {
			var out bytes.Buffer
			o := Options{TTY: tty, Width: 200, Now: sampleNow(), Wide: wide, Namespaces: true}
			if err := Images(&out, []vmbackup.Image{*image}, o); err != nil {
				t.Fatal(err)
			}
			if err := Image(&out, image, nil, o); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(out.String(), "\x1b\u202e") {
				t.Errorf("not cleaned:\n%q", out.String())
			}
		}
	}
}

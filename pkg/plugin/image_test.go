// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// fakeImages are the images of the rig's cluster.
type fakeImages struct {
	images   []vmbackup.Image
	warnings []string
}

func (f *fakeImages) List(_ context.Context, namespace string) ([]vmbackup.Image, []string, error) {
	list := slices.DeleteFunc(slices.Clone(f.images), func(i vmbackup.Image) bool {
		return namespace != "" && i.Metadata.Namespace != "" && i.Metadata.Namespace != namespace
	})
	return list, f.warnings, nil
}

func (f *fakeImages) Get(_ context.Context, ref vmbackup.Ref) (*vmbackup.Image, error) {
	for i := range f.images {
		if f.images[i].Ref() == ref || f.images[i].Status.BackingImage == ref.Name {
			return &f.images[i], nil
		}
	}
	return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no image %s", ref)
}

// sampleImage is an image, some hours old.
func sampleImage(ref vmbackup.Ref, phase vmbackup.ImagePhase, hours int) vmbackup.Image {
	image := vmbackup.NewImage(ref)
	made := noon().Add(time.Duration(-hours) * time.Hour)
	image.Spec.Source = vmbackup.ImageSource{Type: vmbackup.ImageDownload, URL: "https://example.com/" + ref.Name + ".img"}
	image.Spec.Replicas = 2
	image.Status = vmbackup.ImageStatus{
		Phase: phase, Ready: phase == vmbackup.ImageImported, Progress: 40, BackingImage: "vmi-" + ref.Name,
		StorageClass: "longhorn-" + ref.Name, TotalReplicas: 2, CreatedAt: &made, Engine: vmbackup.EngineDirect,
		SizeBytes: int64(hours) << 30, VirtualSizeBytes: 10 << 30,
	}
	if image.Status.Ready {
		image.Status.ReadyReplicas, image.Status.Progress = 1, 100
	}
	return *image
}

func (r *rig) withImages(warnings ...string) {
	r.images = &fakeImages{warnings: warnings, images: []vmbackup.Image{
		sampleImage(vmbackup.Ref{Name: "bare"}, vmbackup.ImageImported, 1),
		sampleImage(vmbackup.Ref{Namespace: "shop", Name: "debian"}, vmbackup.ImageInProgress, 3),
		sampleImage(vmbackup.Ref{Namespace: "shop", Name: "ubuntu"}, vmbackup.ImageImported, 2),
		sampleImage(vmbackup.Ref{Namespace: "test", Name: "other"}, vmbackup.ImageFailed, 4),
	}}
}

func TestImageList(t *testing.T) {
	r := newRig(t)
	r.withImages()
	for _, args := range [][]string{{"image", "list"}, {"images", "ls"}, {"list", "images"}, {"get", "image"}} {
		got := r.run(append(args, "-o", "name")...)
		got.want(t, exitDone, "image.vmbackup.io/bare\nimage.vmbackup.io/debian\nimage.vmbackup.io/ubuntu\n", "")
	}
	r.run("image", "list", "-A", "--sort-by", "age", "-o", "jsonpath={.items[*].metadata.name}").want(t, exitDone, "other debian ubuntu bare", "")
	r.run("list", "images", "-A", "--sort-by", "size", "-o", "jsonpath={.items[*].metadata.name}").want(t, exitDone, "bare ubuntu debian other", "")
	r.run("image", "list").contains(t, exitDone, "STATUS", "InProgress", "40%", "1/2", "longhorn-ubuntu")
	golden(t, "images.txt", r.run("list", "images", "-A", "-o", "wide").out)
	r.withImages("you may not see claims")
	r.run("image", "list").contains(t, exitPartly, "warning: you may not see claims", "debian")
	r.images = &fakeImages{}
	r.run("image", "list").want(t, exitDone, "", "No images found in shop namespace.\n")
	r.run("image", "list", "-A", "-o", "json").contains(t, exitDone, `"kind": "List"`, `"items": []`)
}

func TestImageDescribe(t *testing.T) {
	r := newRig(t)
	r.withImages()
	want := r.run("image", "describe", "ubuntu")
	want.contains(t, exitDone, "Image shop/ubuntu", "Imported", "https://example.com/ubuntu.img", "1 of 2 ready")
	for _, args := range [][]string{{"describe", "image/ubuntu"}, {"describe", "image/shop/ubuntu"}, {"image", "describe", "image/ubuntu"}, {"image", "describe", "vmi-ubuntu"}} {
		if got := r.run(args...); got.out != want.out {
			t.Errorf("%q differs:\n%s%s", args, got.out, got.err)
		}
	}
	r.run("describe", "image/ubuntu", "-o", "jsonpath={.status.storageClass}").want(t, exitDone, "longhorn-ubuntu", "")
	r.run("image", "describe", "none").contains(t, exitFailed, "error: there is no image shop/none")
}

func TestImageUsage(t *testing.T) {
	r := newRig(t)
	r.withImages()
	for _, args := range [][]string{
		{"image", "list", "x"},
		{"image", "list", "--sort-by", "vm"},
		{"list", "images", "--vm", "web"},
		{"list", "images", "-w"},
		{"list", "images", "--from", "all"},
		{"list", "images", "--sort-by", "vm"},
		{"image", "describe"},
		{"image", "describe", "Upper"},
		{"describe", "image/Upper"},
		{"image", "shoes"},
	} {
		r.run(args...).contains(t, exitUsage, "hint: ")
	}
	if len(r.connected) > 0 {
		t.Error("a cluster was asked")
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// fakeImages are the images of the rig's cluster.
type fakeImages struct {
	images   []vmbackup.Image
	warnings []string
	// asked are the requests that were planned; planErr and runErr are what comes back.
	asked           []vmbackup.ImageRequest
	targets         []vmbackup.ImageRestoreRequest
	runs            int
	planErr, runErr error
	// hang makes a run wait until it is interrupted.
	hang bool
}

func (f *fakeImages) PlanCreate(_ context.Context, req vmbackup.ImageRequest) (*vmbackup.ImagePlan, error) {
	f.asked = append(f.asked, req)
	if f.planErr != nil {
		return nil, f.planErr
	}
	image := sampleImage(req.Ref(), vmbackup.ImageInProgress, 0)
	return &vmbackup.ImagePlan{
		Request: req, Image: &image, Steps: []vmbackup.StepStatus{{ID: "import", Title: "Import it"}},
		Objects: []vmbackup.PlannedObject{{Action: vmbackup.ActionCreate, Kind: "BackingImage", Name: "vmi-new"}},
	}, nil
}

func (f *fakeImages) planned(ref vmbackup.Ref, action vmbackup.Action, kind string) (*vmbackup.ImagePlan, error) {
	if f.planErr != nil {
		return nil, f.planErr
	}
	image := sampleImage(ref, vmbackup.ImageImported, 0)
	return &vmbackup.ImagePlan{Image: &image, Objects: []vmbackup.PlannedObject{{Action: action, Kind: kind, Name: "it"}}, Warnings: []string{"mind this"}}, nil
}

func (f *fakeImages) PlanBackup(_ context.Context, ref vmbackup.Ref, target string) (*vmbackup.ImagePlan, error) {
	f.targets = append(f.targets, vmbackup.ImageRestoreRequest{Image: ref, Target: target})
	return f.planned(ref, vmbackup.ActionCreate, "BackupBackingImage")
}

func (f *fakeImages) PlanRestore(_ context.Context, req vmbackup.ImageRestoreRequest) (*vmbackup.ImagePlan, error) {
	f.targets = append(f.targets, req)
	return f.planned(req.Image, vmbackup.ActionCreate, "BackingImage")
}

func (f *fakeImages) PlanDelete(_ context.Context, ref vmbackup.Ref) (*vmbackup.ImagePlan, error) {
	return f.planned(ref, vmbackup.ActionDelete, "BackingImage")
}

func (f *fakeImages) Run(ctx context.Context, plan *vmbackup.ImagePlan, opts vmbackup.RunOptions) (*vmbackup.Image, error) {
	f.runs++
	ref := plan.Image.Ref()
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	image := sampleImage(ref, vmbackup.ImageImported, 0)
	if opts.NoWait {
		image.Status.Phase = vmbackup.ImageInProgress
	}
	return &image, f.runErr
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

func TestImageCreate(t *testing.T) {
	const url = "https://example.com/u.img"
	r := newRig(t)
	f := &fakeImages{}
	r.images = f
	r.run("image", "create", "u", "--url", url, "-o", "jsonpath={.status.phase}").want(t, exitDone, "Imported", "")
	r.run("image", "create", "test/u", "--url", url, "--checksum", strings.Repeat("AB", 64), "--replicas", "3", "--storage-class", "fast", "--display-name", "My U", "--wait=false").contains(t, exitDone, "InProgress")
	want := vmbackup.ImageRequest{
		Namespace: "test", Name: "u", DisplayName: "My U", Checksum: strings.Repeat("ab", 64), Replicas: 3, StorageClass: "fast",
		Source: vmbackup.ImageSource{Type: vmbackup.ImageDownload, URL: url},
	}
	if got := f.asked[len(f.asked)-1]; got != want {
		t.Errorf("asked for %+v, want %+v", got, want)
	}
	r.run("image", "create", "u", "--url", url, "--dry-run").contains(t, exitDone, "Image shop/u (dry run: nothing was changed)", "BackingImage", "vmi-new", "step 1: Import it")
	r.run("image", "create", "u", "--url", url, "--dry-run", "-o", "jsonpath={.status.objects[0].name}").want(t, exitDone, "vmi-new", "")
	for _, source := range []struct {
		flag, value string
		want        vmbackup.ImageSource
	}{
		{"--from-claim", "web-root", vmbackup.ImageSource{Type: vmbackup.ImageExport, Claim: "test/web-root"}},
		{"--from-claim", "shop/web-root", vmbackup.ImageSource{Type: vmbackup.ImageExport, Claim: "shop/web-root"}},
		{"--from-image", "other", vmbackup.ImageSource{Type: vmbackup.ImageClone, Image: "other"}},
	} {
		r.run("image", "create", "test/u", source.flag, source.value, "-o", "name").want(t, exitDone, "image.vmbackup.io/u\n", "")
		if got := f.asked[len(f.asked)-1].Source; got != source.want {
			t.Errorf("asked for %+v, want %+v", got, source.want)
		}
	}
	f.planErr = vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "it exists").AsPreflight()
	r.run("image", "create", "u", "--url", url).want(t, exitRefused, "", "error: it exists\n")
	f.planErr, f.runErr = nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "got 404").WithHint("look at it")
	r.run("image", "create", "u", "--url", url).want(t, exitFailed, "", "error: got 404\nhint: look at it\n")

	f.runErr, f.hang = nil, true
	r.run("image", "create", "u", "--url", url, "--timeout", "1ms", "--replicas", "2").contains(t, exitTimeout, "error: image shop/u was not done in 1ms",
		"hint: go on with: kubectl vmbackup image create u --url "+url+" --replicas 2 -n shop\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.runIn(ctx, "image", "create", "u", "--url", "https://me:secret@example.com/u.img").want(t, exitInterrupted, "",
		"error: interrupted; image shop/u is not done, nothing is lost, and what Longhorn does goes on\nhint: go on with the same command\n")
}

func TestImageBackupAndRestore(t *testing.T) {
	r := newRig(t)
	f := &fakeImages{}
	r.images = f
	for _, verb := range []string{"backup", "restore"} {
		r.run("image", verb, "u", "-o", "name").want(t, exitDone, "image.vmbackup.io/u\n", "warning: mind this\n")
		runs := f.runs
		r.run("image", verb, "u", "--dry-run").contains(t, exitDone, "of image shop/u (dry run: nothing was changed)", "create", "warning: mind this")
		if f.runs != runs {
			t.Error("a dry run has run")
		}
	}
	r.run("image", "restore", "test/u", "--to", "copy", "--storage-class", "fast", "--target", "old").contains(t, exitDone, "Imported")
	want := vmbackup.ImageRestoreRequest{
		Image: vmbackup.Ref{Namespace: "test", Name: "u"}, To: vmbackup.Ref{Namespace: "test", Name: "copy"}, Target: "old", StorageClass: "fast",
	}
	if got := f.targets[len(f.targets)-1]; got != want || r.connected[len(r.connected)-1] != "old" {
		t.Errorf("asked for %+v on %q, want %+v", got, r.connected, want)
	}
	f.hang = true
	r.run("image", "restore", "u", "--to", "test/copy", "--target", "old", "--timeout", "1ms").contains(t, exitTimeout,
		"hint: go on with: kubectl vmbackup image restore u --to test/copy --target old -n shop\n")
	f.hang, f.planErr = false, vmbackup.Errorf(vmbackup.ReasonDataLost, "it is gone").AsPreflight()
	r.run("image", "restore", "u").want(t, exitRefused, "", "error: it is gone\n")
}

func TestImageDelete(t *testing.T) {
	r := newRig(t)
	f := &fakeImages{}
	r.images = f
	r.run("image", "delete", "u", "--dry-run").contains(t, exitDone, "Image shop/u (dry run: nothing was changed)", "delete", "warning: mind this")
	r.run("image", "delete", "u").contains(t, exitUsage, "error: deleting this image has to be confirmed", "hint: confirm with --yes")
	r.tty, r.answer = true, strings.NewReader("no\n")
	r.run("image", "delete", "u").contains(t, exitRefused, "not confirmed; nothing was deleted")
	if f.runs != 0 {
		t.Fatal("it was deleted")
	}
	r.answer = strings.NewReader("y\n")
	r.run("image", "delete", "u").contains(t, exitDone, "image.vmbackup.io/u deleted\n")
	r.tty = false
	r.run("image", "delete", "u", "--yes").contains(t, exitDone, "image.vmbackup.io/u deleted\n")
	f.planErr = vmbackup.Errorf(vmbackup.ReasonConflict, "it is in use: claim shop/web").AsPreflight()
	r.run("image", "delete", "u", "--yes").want(t, exitRefused, "", "error: it is in use: claim shop/web\n")
	if f.runs != 2 {
		t.Errorf("%d deletions, want 2", f.runs)
	}
	f.planErr, f.hang = nil, true
	r.run("image", "delete", "u", "--yes", "--timeout", "1ms").contains(t, exitTimeout, "hint: go on with: kubectl vmbackup image delete u --yes -n shop\n")
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
		{"image", "backup"},
		{"image", "backup", "U"},
		{"image", "backup", "u", "--target", "T"},
		{"image", "restore", "u", "--to", "a/b/c"},
		{"image", "restore", "u", "--storage-class", "S"},
		{"image", "delete", "u", "--dry-run=x"},
		{"image", "delete", "U", "--yes"},
		{"image", "create"},
		{"image", "create", "u"},
		{"image", "create", "U", "--url", "https://x/y"},
		{"image", "create", "u", "--url", "nonsense"},
		{"image", "create", "u", "--url", "https://x/y", "--from-image", "v"},
		{"image", "create", "u", "--from-claim", "a/b/c"},
		{"image", "create", "u", "--from-image", "V"},
		{"image", "create", "u", "--url", "https://x/y", "--checksum", "abc"},
		{"image", "create", "u", "--url", "https://x/y", "--replicas", "-1"},
		{"image", "create", "u", "--url", "https://x/y", "--timeout", "-1s"},
		{"image", "create", "u", "--url", "https://x/y", "--dry-run=x"},
	} {
		r.run(args...).contains(t, exitUsage, "hint: ")
	}
	if len(r.connected) > 0 {
		t.Error("a cluster was asked")
	}
}

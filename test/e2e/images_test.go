// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var (
	backingImages   = schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "backingimages"}
	longhornVolumes = schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "volumes"}
)

// imageSize is what the disk in the images holds: less than a machine's disk.
const imageSize = 16 << 20

// makeImages makes a sparse raw image, as clouds publish them, and the same as qcow2,
// and returns the SHA-512 of each.
func makeImages(t *testing.T, directory string) map[string]string {
	t.Helper()
	raw := filepath.Join(directory, "cloud.raw")
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(imageSize); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 5 << 20, imageSize - 70_000} {
		data := make([]byte, 70_000)
		_, _ = rand.Read(data)
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// Longhorn's own backing-image-manager needs it on the machine.
	if out, err := exec.CommandContext(t.Context(), "qemu-img", "convert", "-O", "qcow2", raw, filepath.Join(directory, "cloud.qcow2")).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, out)
	}
	sums := map[string]string{}
	for _, name := range []string{"cloud.raw", "cloud.qcow2"} {
		content, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha512.Sum512(content)
		sums[name] = hex.EncodeToString(sum[:])
	}
	return sums
}

// image runs the plugin and decodes the image that it prints.
func (s *suite) image(t *testing.T, args ...string) *vmbackup.Image {
	t.Helper()
	image := &vmbackup.Image{}
	decode(t, s.want(t, 0, append(args, "-o", "json")...), image)
	return image
}

// testImages imports images by URL with what can go wrong, makes a machine of one, takes
// both to the target, removes them, and brings them back: image, class and disk, byte for byte.
func (s *suite) testImages(t *testing.T) {
	ns := s.namespace(t, "images")
	directory := s.sharedDirectory(t)
	sums := makeImages(t, directory)
	server := s.serveImages(t, directory)
	names := []string{"cloud-" + ns, "qcow-" + ns, "none-" + ns}
	names = append(names, "twin-"+names[1], "golden-"+ns)
	t.Cleanup(func() { s.forgetImages(t, ns, names) })

	var failures sync.WaitGroup
	failures.Go(func() { s.importsThatFail(t, ns, names[1], names[2], server.url, sums["cloud.qcow2"]) })
	raw := s.importInterrupted(t, ns, names[0], server, sums["cloud.raw"])

	m := machine{namespace: ns, name: "app", disks: []string{"root"}, class: raw.Status.StorageClass}
	at := s.make(t, m)
	failures.Wait()
	s.inUse(t, ns, raw, m)
	b := s.backup(t, 0, "create", m.name, "-n", ns, "--name", "app-1")
	if !b.Status.Ready || len(b.Status.Images) != 1 || b.Status.Images[0].Name != raw.Status.BackingImage || b.Status.Images[0].State != vmbackup.StateReady {
		t.Fatalf("the image below is not part of the backup: %s", asJSON(b.Status))
	}
	if !s.onTarget(t, metadata.HarvesterImageKey(raw.Ref())) {
		t.Error("the image's description is not on the target")
	}

	s.remove(t, machines, ns, m.name)
	s.remove(t, claims, ns, m.claim("root"))
	s.wait(t, longhornVolumes, longhornNamespace, b.Status.Volumes[0].LonghornVolume, "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	s.want(t, 0, "image", "delete", raw.Metadata.Name, "-n", ns, "--yes")
	s.wait(t, backingImages, longhornNamespace, raw.Status.BackingImage, "gone", func(o *unstructured.Unstructured) bool { return o == nil })

	r := s.restore(t, 0, "restore", "app-1", "-n", ns)
	s.restored(t, r, "Running", at)
	if !slices.ContainsFunc(r.Status.Steps, func(step vmbackup.StepStatus) bool { return step.ID == "images" && step.State == vmbackup.StateReady }) {
		t.Errorf("no step has brought the image back: %s", asJSON(r.Status.Steps))
	}
	back := s.image(t, "image", "describe", raw.Metadata.Name, "-n", ns)
	if !back.Status.Ready || back.Status.Checksum != sums["cloud.raw"] || back.Status.StorageClass != raw.Status.StorageClass || back.Status.BackingImage != raw.Status.BackingImage ||
		back.Spec.Source.Type != vmbackup.ImageRestore || len(back.Status.Users.Machines) != 1 {
		t.Errorf("the image that came back: %s", asJSON(back))
	}
	var export sync.WaitGroup
	export.Go(func() {
		golden := s.image(t, "image", "create", names[4], "-n", ns, "--from-claim", r.Status.Volumes[0].PVC)
		if !golden.Status.Ready || golden.Status.SizeBytes != diskSize || golden.Spec.Source.Volume == "" {
			t.Errorf("an image of the machine's disk: %s", asJSON(golden))
		}
	})
	s.thereAndBack(t, ns, names[1], sums["cloud.qcow2"])
	export.Wait()
	// Longhorn deletes no image below a volume: it would outlive the test.
	s.remove(t, machines, ns, m.name)
	s.remove(t, claims, ns, r.Status.Volumes[0].PVC)
	s.wait(t, longhornVolumes, longhornNamespace, back.Status.Users.Volumes[0], "gone", func(o *unstructured.Unstructured) bool { return o == nil })
}

// importInterrupted interrupts an import half way, and goes on with the command that
// was printed.
func (s *suite) importInterrupted(t *testing.T, ns, name string, server *imageServer, sum string) *vmbackup.Image {
	t.Helper()
	p := s.start(t, "image", "create", name, "-n", ns, "--url", server.url+"/gate/cloud.raw", "--checksum", sum)
	p.until(t, "half of the image", func(e vmbackup.Event) bool {
		return e.Type == vmbackup.EventVolume && e.State == vmbackup.StateRunning && e.Progress > 0 && e.Progress < 100
	})
	got := p.end(t, os.Interrupt)
	if got.code != 130 {
		t.Errorf("want exit code 130: %s", got)
	}
	if now := s.image(t, "image", "describe", name, "-n", ns); now.Status.Phase != vmbackup.ImageInProgress || now.Status.Progress < 1 || now.Status.ReadyReplicas != 0 {
		t.Errorf("an image that is half there: %s", asJSON(now.Status))
	}
	server.open()
	image := s.image(t, goOn(t, got)...)
	if image.Status.Phase != vmbackup.ImageImported || image.Status.Checksum != sum || image.Status.StorageClass != "longhorn-"+name || image.Status.VirtualSizeBytes != imageSize {
		t.Fatalf("%s", asJSON(image))
	}
	return image
}

// importsThatFail has imports fail by their checksum, a missing file and a missing
// right, and makes the first one anew.
func (s *suite) importsThatFail(t *testing.T, ns, name, none, url, sum string) {
	failed := func(reason vmbackup.Reason, args ...string) {
		got := s.run(t, append(args, "-o", "json")...)
		image := &vmbackup.Image{}
		decode(t, got, image)
		if got.code != 1 || image.Status.Phase != vmbackup.ImageFailed || image.Status.Error == nil || image.Status.Error.Reason != reason || !strings.Contains(got.stderr, "hint: ") {
			t.Errorf("want %s, told with a hint: %s", reason, got)
		}
	}
	create := []string{"image", "create", name, "-n", ns, "--url", url + "/cloud.qcow2"}
	failed(vmbackup.ReasonSourceMismatch, append(slices.Clone(create), "--checksum", strings.Repeat("0", 128))...)
	if image := s.image(t, append(create, "--checksum", sum)...); !image.Status.Ready || image.Status.Checksum != sum || image.Status.VirtualSizeBytes != imageSize {
		t.Errorf("made anew: %s", asJSON(image))
	}
	if twin := s.image(t, "image", "create", "twin-"+name, "-n", ns, "--from-image", name); !twin.Status.Ready || twin.Status.Checksum != sum {
		t.Errorf("a copy of the image: %s", asJSON(twin))
	}
	failed(vmbackup.ReasonNotFound, "image", "create", none, "-n", ns, "--url", url+"/none.img")
	s.refused(t, []string{"backing images"}, "image", "create", "mine", "-n", ns, "--url", url+"/cloud.raw", "--as", "nobody")
	s.refused(t, []string{"another URL"}, "image", "create", name, "-n", ns, "--url", url+"/cloud.raw")
}

// inUse shows that an image is not deleted below a machine.
func (s *suite) inUse(t *testing.T, ns string, image *vmbackup.Image, m machine) {
	t.Helper()
	s.refused(t, []string{"VirtualMachine " + ns + "/" + m.name, "claim " + ns + "/" + m.claim("root"), "Longhorn volume pvc-"},
		"image", "delete", image.Metadata.Name, "-n", ns, "--yes")
	if row := s.want(t, 0, "list", "images", "-n", ns).stdout; !strings.Contains(row, image.Metadata.Name) || !strings.Contains(row, "Imported") {
		t.Errorf("%s", row)
	}
}

// thereAndBack takes an image to the target alone, deletes it, and brings it back.
func (s *suite) thereAndBack(t *testing.T, ns, name, sum string) {
	t.Helper()
	was := s.image(t, "image", "backup", name, "-n", ns)
	if was.Status.Backup.State != vmbackup.StateReady || was.Status.Backup.Checksum != sum {
		t.Errorf("%s", asJSON(was.Status))
	}
	s.want(t, 0, "image", "delete", name, "-n", ns, "--yes")
	if left := s.list(t, storageClasses, "", ""); slices.ContainsFunc(left, named(was.Status.StorageClass)) {
		t.Error("the StorageClass of the deleted image is still there")
	}
	s.refused(t, []string{"there is no image"}, "image", "delete", name, "-n", ns, "--yes")
	back := s.image(t, "image", "restore", name, "-n", ns)
	if !back.Status.Ready || back.Status.Checksum != sum || back.Status.BackingImage != was.Status.BackingImage || back.Status.StorageClass != was.Status.StorageClass {
		t.Errorf("it came back as %s, was %s", asJSON(back), asJSON(was))
	}
	class := s.get(t, storageClasses, "", back.Status.StorageClass)
	if text(class, "parameters", "backingImage") != back.Status.BackingImage {
		t.Errorf("%v", class.Object["parameters"])
	}
}

// forgetImages removes what the images of the test have left, once nothing uses it.
func (s *suite) forgetImages(t *testing.T, ns string, names []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	for _, name := range names {
		_ = s.in(storageClasses, "").Delete(ctx, "longhorn-"+name, metav1.DeleteOptions{})
	}
	list, err := s.in(backingImages, longhornNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Error(err)
		return
	}
	for _, o := range list.Items {
		// Those below a volume that is still to go stay: Longhorn does not delete them.
		if strings.HasPrefix(o.GetAnnotations()["harvesterhci.io/imageId"], ns+"/") {
			_ = s.in(backingImages, longhornNamespace).Delete(ctx, o.GetName(), metav1.DeleteOptions{})
		}
	}
}

// testHarvesterImage has Harvester's controllers import an image, takes it to the
// target, deletes it, and has them bring it back by its backing image's name: they take
// the description away with the image.
func (s *suite) testHarvesterImage(t *testing.T) {
	ns := s.namespace(t, "images")
	directory := s.sharedDirectory(t)
	sums := makeImages(t, directory)
	server := s.serveImages(t, directory)
	was := s.image(t, "image", "create", "cloud", "-n", ns, "--url", server.url+"/cloud.qcow2", "--checksum", sums["cloud.qcow2"])
	if was.Status.Engine != vmbackup.EngineHarvester || !was.Status.Ready || !strings.HasPrefix(was.Status.StorageClass, "lh-") || was.Status.Checksum != sums["cloud.qcow2"] {
		t.Fatalf("%s", asJSON(was))
	}
	s.refused(t, []string{"another URL"}, "image", "create", "cloud", "-n", ns, "--url", server.url+"/cloud.raw")
	s.refused(t, []string{"kept by harvester"}, "image", "create", "cloud", "-n", ns, "--url", server.url+"/cloud.raw", "--engine", "direct")
	backed := s.image(t, "image", "backup", "cloud", "-n", ns)
	if backed.Status.Backup.State != vmbackup.StateReady || !s.onTarget(t, metadata.HarvesterImageKey(was.Ref())) {
		t.Errorf("%s", asJSON(backed.Status))
	}
	// A local file goes to Longhorn, and Harvester's controllers see it arrive.
	up := s.image(t, "image", "create", "up", "-n", ns, "--from-file", filepath.Join(directory, "cloud.raw"))
	if up.Status.Engine != vmbackup.EngineHarvester || !up.Status.Ready || up.Status.Checksum != sums["cloud.raw"] || up.Spec.Source.Type != vmbackup.ImageUpload {
		t.Errorf("%s", asJSON(up))
	}
	s.refused(t, []string{"Harvester would replace it"}, "image", "restore", was.Status.BackingImage, "-n", ns, "--to", "other")
	s.want(t, 0, "image", "delete", "cloud", "-n", ns, "--yes")
	s.wait(t, backingImages, longhornNamespace, was.Status.BackingImage, "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	back := s.image(t, "image", "restore", was.Status.BackingImage, "-n", ns, "--to", "cloud")
	if !back.Status.Ready || back.Status.Checksum != was.Status.Checksum || back.Status.BackingImage != was.Status.BackingImage || back.Status.StorageClass != was.Status.StorageClass {
		t.Errorf("it came back as %s, was %s", asJSON(back), asJSON(was))
	}
	s.want(t, 0, "image", "delete", "cloud", "-n", ns, "--yes")
}

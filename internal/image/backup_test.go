// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"slices"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	pathBackups = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backupbackingimages/"
	pathTarget  = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backuptargets/default"
	targetURL   = "s3://bucket@eu/"
)

// withTarget gives the cluster a backup target, on which Longhorn completes every
// backup at once, with the checksum, or with the error.
func withTarget(t *testing.T, s *apiServer, i *Images, fails string) *target.Memory {
	t.Helper()
	bt := longhornv1.BackupTarget{}
	bt.Spec.BackupTargetURL, bt.Status.Available = targetURL, true
	s.put(pathTarget, bt)
	store := target.NewMemory(noon)
	i.open = func(context.Context, string) (target.Store, error) { return store, nil }
	longhorn := s.created
	s.created = func(resource string, o *unstructured.Unstructured) {
		longhorn(resource, o)
		if resource != "backupbackingimages" {
			return
		}
		name, _, _ := unstructured.NestedString(o.Object, "spec", "backingImage")
		status := map[string]any{"state": "Completed", "backingImage": name, "checksum": strings.Repeat("a", 128), "url": targetURL + "?backingImage=" + name, "lastSyncedAt": "2026-03-01T12:00:00Z"}
		if fails != "" {
			status = map[string]any{"state": "Error", "error": fails, "backingImage": name}
		} else if err := store.Put(context.WithoutCancel(t.Context()), target.BackingImageConfigKey(name), []byte("{}")); err != nil {
			t.Error(err)
		}
		o.Object["status"] = status
	}
	return store
}

// run plans with plan and takes the plan to its end.
func run(t *testing.T, i *Images, plan *vmbackup.ImagePlan, err error) (*vmbackup.Image, error) {
	t.Helper()
	if err != nil {
		return nil, err
	}
	return i.Run(t.Context(), plan, vmbackup.RunOptions{})
}

// TestThereAndBack takes an image to the target, deletes it, and brings it back from
// the target alone: the same names, content and parameters.
func TestThereAndBack(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	store := withTarget(t, s, i, "")
	image, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref, name := image.Ref(), image.Status.BackingImage
	class := s.has(pathClasses + "longhorn-ubuntu").Object["parameters"]
	for range 2 { // the second time nothing is made
		plan, err := i.PlanBackup(t.Context(), ref, "default")
		if image, err = run(t, i, plan, err); err != nil || image.Status.Backup.State != vmbackup.StateReady {
			t.Fatalf("%v, %+v", err, image)
		}
	}
	if n := len(s.changes()); n != 3 {
		t.Errorf("changes %q", s.changes())
	}
	content, err := store.Get(t.Context(), "harvester/vmimages/shop/ubuntu.cfg", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	d, err := metadata.DecodeHarvesterImage("harvester/vmimages/shop/ubuntu.cfg", content)
	if err != nil || d.URL != targetURL+"?backingImage="+name || d.StorageClassParameters["diskSelector"] != "ssd,fast" || d.StorageClassParameters["backingImage"] != "" {
		t.Errorf("%v %+v", err, d)
	}

	plan, err := i.PlanDelete(t.Context(), ref)
	if _, err = run(t, i, plan, err); err != nil {
		t.Fatal(err)
	}
	if s.has(pathBacking+name) != nil || s.has(pathClasses+"longhorn-ubuntu") != nil || s.has(pathBackups+name+"-default") == nil {
		t.Errorf("deleted: %q", s.changes())
	}
	for range 2 {
		plan, err = i.PlanRestore(t.Context(), vmbackup.ImageRestoreRequest{Image: ref, Target: "default"})
		if image, err = run(t, i, plan, err); err != nil {
			t.Fatal(err)
		}
	}
	if image.Status.BackingImage != name || image.Status.StorageClass != "longhorn-ubuntu" || !image.Status.Ready || len(plan.Warnings) > 0 {
		t.Errorf("%+v, %q", image, plan.Warnings)
	}
	if n := len(s.changes()); n != 7 {
		t.Errorf("changes %q", s.changes())
	}
	if got := s.has(pathClasses + "longhorn-ubuntu").Object["parameters"].(map[string]any); len(got) != len(class.(map[string]any)) || got["diskSelector"] != "ssd,fast" {
		t.Errorf("parameters %v, had %v", got, class)
	}
	spec := s.has(pathBacking + name).Object["spec"].(map[string]any)
	parameters := spec["sourceParameters"].(map[string]any)
	if spec["sourceType"] != "restore" || spec["checksum"] != strings.Repeat("a", 128) || parameters["backup-url"] != targetURL+"?backingImage="+name || parameters["backup-target-name"] != "default" {
		t.Errorf("%v", spec)
	}

	// By the name of the backing image, beside the one that is there.
	plan, err = i.PlanRestore(t.Context(), vmbackup.ImageRestoreRequest{Image: vmbackup.Ref{Namespace: "shop", Name: name}, To: vmbackup.Ref{Namespace: "shop", Name: "copy"}, Target: "default"})
	if image, err = run(t, i, plan, err); err != nil || image.Status.BackingImage == name || image.Status.StorageClass != "longhorn-copy" || len(plan.Warnings) != 1 {
		t.Errorf("%v, %+v, %q", err, image, plan.Warnings)
	}
}

func TestRestoreMapsNames(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	store := withTarget(t, s, i, "")
	d, err := metadata.EncodeHarvesterImage(&metadata.HarvesterImage{Namespace: "shop", Name: "ubuntu", URL: "s3://old@eu/?backingImage=vmi-old", Checksum: strings.Repeat("a", 128)})
	if err != nil {
		t.Fatal(err)
	}
	for key, content := range map[string][]byte{"harvester/vmimages/shop/ubuntu.cfg": d, target.BackingImageConfigKey("vmi-old"): []byte("{}")} {
		if err := store.Put(t.Context(), key, content); err != nil {
			t.Fatal(err)
		}
	}
	s.put(pathClasses+"longhorn-ubuntu", storagev1.StorageClass{Provisioner: "other"})
	plan, err := i.PlanRestore(t.Context(), vmbackup.ImageRestoreRequest{Image: vmbackup.Ref{Namespace: "shop", Name: "ubuntu"}, Target: "default"})
	image, err := run(t, i, plan, err)
	if err != nil || image.Status.StorageClass != "longhorn-ubuntu-vmi-old" || image.Status.BackingImage != "vmi-old" || len(plan.Warnings) != 1 {
		t.Errorf("%v, %+v, %q", err, image.Status, plan.Warnings)
	}
	if url := s.has(pathBacking + "vmi-old").Object["spec"].(map[string]any)["sourceParameters"].(map[string]any)["backup-url"]; url != targetURL+"?backingImage=vmi-old" {
		t.Errorf("it is looked for at %v, not on this cluster's target", url)
	}
}

func TestRefusals(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	store := withTarget(t, s, i, "")
	ubuntu := vmbackup.Ref{Namespace: "shop", Name: "ubuntu"}
	image, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := image.Status.BackingImage
	broken := backing(longhornv1.BackingImageStateFailed)
	broken.Annotations[AnnotationImage] = "shop/broken"
	s.put(pathBacking+"vmi-8", broken)
	put := func(ref vmbackup.Ref, backing, checksum string) {
		content, err := metadata.EncodeHarvesterImage(&metadata.HarvesterImage{Namespace: ref.Namespace, Name: ref.Name, URL: targetURL + "?backingImage=" + backing, Checksum: checksum})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), metadata.HarvesterImageKey(ref), content); err != nil {
			t.Fatal(err)
		}
	}
	put(vmbackup.Ref{Namespace: "shop", Name: "half"}, "vmi-half", "")
	put(ubuntu, "vmi-9", strings.Repeat("b", 128))
	if err := store.Put(t.Context(), target.BackingImageConfigKey("vmi-9"), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	other := longhornv1.BackupBackingImage{}
	other.Spec.BackingImage, other.Spec.BackupTargetName = name, "default"
	other.Status.State, other.Status.Checksum = longhornv1.BackupStateCompleted, strings.Repeat("b", 128)
	s.put(pathBackups+"other", other)
	volume := longhornv1.Volume{ObjectMeta: metav1.ObjectMeta{}}
	volume.Spec.BackingImage = name
	s.put("/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumes/pvc-1", volume)

	restore := func(name string) func() (*vmbackup.ImagePlan, error) {
		return func() (*vmbackup.ImagePlan, error) {
			return i.PlanRestore(t.Context(), vmbackup.ImageRestoreRequest{Image: vmbackup.Ref{Namespace: "shop", Name: name}, Target: "default"})
		}
	}
	before := len(s.changes())
	for what, test := range map[string]struct {
		plan   func() (*vmbackup.ImagePlan, error)
		reason vmbackup.Reason
		says   string
	}{
		"delete in use": {func() (*vmbackup.ImagePlan, error) { return i.PlanDelete(t.Context(), ubuntu) }, vmbackup.ReasonConflict, "Longhorn volume pvc-1"},
		"delete nothing": {func() (*vmbackup.ImagePlan, error) {
			return i.PlanDelete(t.Context(), vmbackup.Ref{Namespace: "shop", Name: "x"})
		}, vmbackup.ReasonNotFound, "no image"},
		"back up what failed": {func() (*vmbackup.ImagePlan, error) {
			return i.PlanBackup(t.Context(), vmbackup.Ref{Namespace: "shop", Name: "broken"}, "default")
		}, vmbackup.ReasonImageMissing, "it is failed"},
		"back up over another":      {func() (*vmbackup.ImagePlan, error) { return i.PlanBackup(t.Context(), ubuntu, "default") }, vmbackup.ReasonSourceMismatch, "other content"},
		"restore over another":      {restore("ubuntu"), vmbackup.ReasonAlreadyExists, "another source"},
		"restore without data":      {restore("half"), vmbackup.ReasonDataLost, "the backup of its backing image vmi-half is not"},
		"restore what is not there": {restore("nothing"), vmbackup.ReasonNotFound, "holds neither"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := test.plan()
			e := vmbackup.AsError(err, vmbackup.ReasonInternal)
			if e == nil || e.Reason != test.reason || !e.Preflight || !strings.Contains(e.Message, test.says) || e.Hint == "" {
				t.Errorf("%+v, want %s %q", e, test.reason, test.says)
			}
		})
	}
	s.refuse = func(verb, resource string) (int, string) {
		if verb == "list" && resource == "volumes" {
			return 403, "no"
		}
		return 0, ""
	}
	if _, err := i.PlanDelete(t.Context(), vmbackup.Ref{Namespace: "shop", Name: "broken"}); vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
		t.Errorf("users that may not be seen are none: %v", err)
	}
	if got := s.changes(); len(got) != before {
		t.Errorf("a plan has changed something: %q", got[before:])
	}
}

// TestBackupThatFailed shows that a failed backup is told and made anew.
func TestBackupThatFailed(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	longhorn := s.created
	withTarget(t, s, i, "no such bucket")
	image, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := i.PlanBackup(t.Context(), image.Ref(), "default")
	if _, err = run(t, i, plan, err); vmbackup.ReasonOf(err) != vmbackup.ReasonBackupFailed || !strings.Contains(err.Error(), "no such bucket") {
		t.Fatalf("%v", err)
	}
	s.created = longhorn
	withTarget(t, s, i, "")
	plan, err = i.PlanBackup(t.Context(), image.Ref(), "default")
	if image, err = run(t, i, plan, err); err != nil || image.Status.Backup.State != vmbackup.StateReady {
		t.Fatalf("%v %+v", err, image)
	}
	name := image.Status.BackingImage + "-default"
	if got, want := s.changes()[2:], []string{"create backupbackingimages/" + name, "delete backupbackingimages/" + name, "create backupbackingimages/" + name}; !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
}

// TestDeleteGoesOn shows that a deletion, and a creation, of which only the class is
// left can be seen, finished and deleted.
func TestDeleteGoesOn(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	image, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.drop(pathBacking + image.Status.BackingImage)
	s.mu.Unlock()
	list, _, err := i.List(t.Context(), "shop")
	if err != nil || len(list) != 1 || list[0].Status.Phase != vmbackup.ImageMissing || list[0].Status.Error.Hint == "" {
		t.Fatalf("%v %+v", err, list)
	}
	plan, err := i.PlanDelete(t.Context(), image.Ref())
	if _, err = run(t, i, plan, err); err != nil || s.has(pathClasses+"longhorn-ubuntu") != nil {
		t.Errorf("%v, %q", err, s.changes())
	}
}

// TestHarvesterSpares shows that Harvester is not asked to restore an image over a
// backing image that is there, which it would delete first.
func TestHarvesterSpares(t *testing.T) {
	s, i := harvesterCluster(t)
	store := withTarget(t, s, i, "")
	bi := backing(longhornv1.BackingImageStateReady)
	bi.Annotations[AnnotationImage] = "other/thing"
	s.put(pathBacking+"vmi-5", bi)
	if err := store.Put(t.Context(), target.BackingImageConfigKey("vmi-5"), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	_, err := i.PlanRestore(t.Context(), vmbackup.ImageRestoreRequest{Image: vmbackup.Ref{Namespace: "shop", Name: "vmi-5"}, To: vmbackup.Ref{Namespace: "shop", Name: "copy"}, Target: "default"})
	if vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists || !strings.Contains(err.Error(), "Harvester would replace it") {
		t.Errorf("%v", err)
	}
}

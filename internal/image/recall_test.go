// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"slices"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// TestRecall brings a backing image back under its own name: as the image that its
// description says, or as that of nobody.
func TestRecall(t *testing.T) {
	for name, described := range map[string]bool{"described": true, "of nobody": false} {
		t.Run(name, func(t *testing.T) {
			s, i := cluster(t, longhornv1.BackingImageStateReady)
			store := withTarget(t, s, i, "")
			if _, err := i.PlanRecall(t.Context(), "vmi-old", "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
				t.Fatalf("an image that is nowhere: %v", err)
			}
			files := map[string][]byte{target.BackingImageConfigKey("vmi-old"): []byte("{}"), "harvester/vmimages/shop/broken.cfg": []byte("nonsense")}
			if described {
				ref := vmbackup.Ref{Namespace: "gone", Name: "ubuntu"}
				content, err := metadata.EncodeHarvesterImage(&metadata.HarvesterImage{Namespace: ref.Namespace, Name: ref.Name, DisplayName: "Ubuntu", URL: "s3://old@eu/?backingImage=vmi-old", Checksum: strings.Repeat("a", 128), StorageClassParameters: map[string]string{"numberOfReplicas": "4"}})
				if err != nil {
					t.Fatal(err)
				}
				files[metadata.HarvesterImageKey(ref)] = content
			}
			for key, content := range files {
				if err := store.Put(t.Context(), key, content); err != nil {
					t.Fatal(err)
				}
			}
			r, err := i.PlanRecall(t.Context(), "vmi-old", "default")
			if err != nil || r.ByHarvester || r.StorageClass() != "" {
				t.Fatalf("%v %+v", err, r)
			}
			events := flow.NewEvents(vmbackup.NopSink{}, "restore/shop/web", noon)
			for range 2 {
				if err := i.Recall(t.Context(), r, "images", events); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.changes(); !slices.Equal(got, []string{"create backingimages/vmi-old"}) {
				t.Errorf("changes %q", got)
			}
			bi := s.has(pathBacking + "vmi-old")
			spec := bi.Object["spec"].(map[string]any)
			id, copies := "", int64(2)
			if described {
				id, copies = "gone/ubuntu", 4
			}
			if bi.GetAnnotations()[AnnotationImage] != id || spec["minNumberOfCopies"] != copies || spec["sourceType"] != "restore" {
				t.Errorf("annotations %v, spec %v", bi.GetAnnotations(), spec)
			}
		})
	}
}

// TestRecallByHarvester shows that an image which Harvester would find on the target
// is left to it: it would delete and make anew what somebody else has made.
func TestRecallByHarvester(t *testing.T) {
	s, i := harvesterCluster(t)
	store := withTarget(t, s, i, "")
	put := func(namespace string) {
		ref := vmbackup.Ref{Namespace: namespace, Name: "ubuntu"}
		content, err := metadata.EncodeHarvesterImage(&metadata.HarvesterImage{Namespace: ref.Namespace, Name: ref.Name, DisplayName: "Ubuntu", URL: targetURL + "?backingImage=vmi-1"})
		if err != nil {
			t.Fatal(err)
		}
		for key, content := range map[string][]byte{target.BackingImageConfigKey("vmi-1"): []byte("{}"), metadata.HarvesterImageKey(ref): content} {
			if err := store.Put(t.Context(), key, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("moon")
	if _, err := i.PlanRecall(t.Context(), "vmi-1", "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound || !strings.Contains(err.Error(), "no namespace moon") {
		t.Errorf("%v", err)
	}
	if err := store.Delete(t.Context(), metadata.HarvesterImageKey(vmbackup.Ref{Namespace: "moon", Name: "ubuntu"})); err != nil {
		t.Fatal(err)
	}
	put("shop")
	r, err := i.PlanRecall(t.Context(), "vmi-1", "default")
	if err != nil || !r.ByHarvester || r.StorageClass() != "lh-1" {
		t.Fatalf("%v %+v", err, r)
	}
	if err := i.Recall(t.Context(), r, "images", flow.NewEvents(vmbackup.NopSink{}, "restore/shop/web", noon)); err != nil {
		t.Fatal(err)
	}
	if got := s.changes(); !slices.Equal(got, []string{"create virtualmachineimages/ubuntu"}) {
		t.Errorf("changes %q", got)
	}
	spec := s.has(pathVMImages + "ubuntu").Object["spec"].(map[string]any)
	if spec["sourceType"] != "restore" || spec["url"] != targetURL+"?backingImage=vmi-1" {
		t.Errorf("%v", spec)
	}
}

// TestDescribe shows that a machine's backup describes the image below, unless that
// is nobody's or Harvester's.
func TestDescribe(t *testing.T) {
	s, i := cluster(t, longhornv1.BackingImageStateReady)
	store := withTarget(t, s, i, "")
	image, err := create(t, i, request(), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bare := backing(longhornv1.BackingImageStateReady)
	bare.Annotations = nil
	s.put(pathBacking+"vmi-bare", bare)
	for _, name := range []string{image.Status.BackingImage, "vmi-bare"} {
		s.put(pathBackups+name, map[string]any{"spec": map[string]any{"backingImage": name, "backupTargetName": "default"}, "status": map[string]any{"state": "Completed", "url": targetURL + "?backingImage=" + name}})
		if err := i.Describe(t.Context(), name, "default"); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	if err := store.List(t.Context(), "", func(o target.Object) error { keys = append(keys, o.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(keys, []string{"harvester/vmimages/shop/ubuntu.cfg"}) {
		t.Errorf("files %q", keys)
	}
	if err := store.Delete(t.Context(), keys[0]); err != nil {
		t.Fatal(err)
	}
	s.put(pathVMImages+"ubuntu", map[string]any{})
	if err := i.Describe(t.Context(), image.Status.BackingImage, "default"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Stat(t.Context(), keys[0]); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("Harvester's own description is written for it: %v", err)
	}
}

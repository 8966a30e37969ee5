// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/tools/cache"
)

func dataVolume(source map[string]any) *unstructured.Unstructured {
	volume := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
		"spec": map[string]any{
			"source":  source,
			"storage": map[string]any{"resources": map[string]any{"requests": map[string]any{"storage": "64Mi"}}},
		},
	}}
	volume.SetNamespace("default")
	volume.SetName("disk")
	volume.SetUID("uid-1")
	return volume
}

func nested(t *testing.T, o *unstructured.Unstructured, path ...string) string {
	t.Helper()
	value, _, err := unstructured.NestedString(o.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDataVolumeUntilSucceeded(t *testing.T) {
	volume := dataVolume(map[string]any{"blank": map[string]any{}})
	client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		dataVolumes(): "DataVolumeList", claims(): "PersistentVolumeClaimList",
	}, volume)
	i := &importer{client: client, store: cache.NewStore(cache.MetaNamespaceKeyFunc), claims: cache.NewStore(cache.MetaNamespaceKeyFunc)}
	// step syncs and lets what was written arrive by the watches.
	step := func() (volume, claim *unstructured.Unstructured) {
		t.Helper()
		for resource, store := range map[schema.GroupVersionResource]cache.Store{dataVolumes(): i.store, claims(): i.claims} {
			list, err := client.Resource(resource).Namespace("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for n := range list.Items {
				if err := store.Add(&list.Items[n]); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := i.sync(t.Context(), "default/disk"); err != nil {
			t.Fatal(err)
		}
		volume, err := client.Resource(dataVolumes()).Namespace("default").Get(t.Context(), "disk", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		claim, err = client.Resource(claims()).Namespace("default").Get(t.Context(), "disk", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return volume, claim
	}
	volume, claim := step()
	if phase := nested(t, volume, "status", "phase"); phase != "Pending" {
		t.Fatalf("phase %s", phase)
	}
	if !metav1.IsControlledBy(claim, volume) || nested(t, claim, "spec", "volumeMode") != "Block" {
		t.Fatalf("PVC %v", claim.Object)
	}
	if err := unstructured.SetNestedField(claim.Object, "Bound", "status", "phase"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Resource(claims()).Namespace("default").Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if volume, _ = step(); nested(t, volume, "status", "phase") != "Succeeded" {
		t.Fatalf("status %v", volume.Object["status"])
	}
	writes := len(client.Actions())
	step()
	for _, action := range client.Actions()[writes:] {
		if action.GetVerb() == "update" {
			t.Fatalf("a finished DataVolume is written again: %v", action)
		}
	}
}

func TestSources(t *testing.T) {
	for name, test := range map[string]struct {
		source   map[string]any
		snapshot string // name in the PVC's dataSource
		err      string
	}{
		"blank":                       {source: map[string]any{"blank": map[string]any{}}},
		"snapshot":                    {source: map[string]any{"snapshot": map[string]any{"name": "snap"}}, snapshot: "snap"},
		"snapshot of other namespace": {source: map[string]any{"snapshot": map[string]any{"name": "snap", "namespace": "other"}}, err: "stand-in"},
		"download":                    {source: map[string]any{"http": map[string]any{"url": "http://images.example/disk"}}, err: "stand-in"},
		"nothing":                     {err: "stand-in"},
	} {
		t.Run(name, func(t *testing.T) {
			claim, err := newClaim(dataVolume(test.source))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := nested(t, claim, "spec", "dataSource", "name"); got != test.snapshot {
				t.Errorf("data source %q", got)
			}
		})
	}
}

func TestForeignClaim(t *testing.T) {
	volume := dataVolume(nil)
	claim := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"phase": "Bound"}}}
	claim.SetName("disk")
	if phase, message := outcome(volume, claim); phase != "Pending" || !strings.Contains(message, "belongs to something else") {
		t.Errorf("%s: %s", phase, message)
	}
	// A restored PVC says for which DataVolume it holds the data.
	claim.SetAnnotations(map[string]string{populatedFor: "disk"})
	if phase, _ := outcome(volume, claim); phase != "Succeeded" {
		t.Errorf("phase %s of a populated PVC", phase)
	}
}

// A PVC that is populated for a DataVolume becomes its own, and goes with it.
func TestAdoption(t *testing.T) {
	volume := dataVolume(map[string]any{"blank": map[string]any{}})
	claim := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "PersistentVolumeClaim"}}
	claim.SetNamespace("default")
	claim.SetName("disk")
	for annotation, adopted := range map[string]bool{"disk": true, "another": false, "": false} {
		made := claim.DeepCopy()
		made.SetAnnotations(map[string]string{populatedFor: annotation})
		client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
			dataVolumes(): "DataVolumeList", claims(): "PersistentVolumeClaimList",
		}, volume.DeepCopy(), made)
		i := &importer{client: client}
		if err := i.adopt(t.Context(), volume, made); err != nil {
			t.Fatal(err)
		}
		got, err := client.Resource(claims()).Namespace("default").Get(t.Context(), "disk", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if is := metav1.IsControlledBy(got, volume); is != adopted {
			t.Errorf("populated for %q: adopted %t", annotation, is)
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// restoredIsTheMachine compares a restored machine with its source: all that differs is
// what it cannot share with it.
func restoredIsTheMachine(t *testing.T, c RestoreCluster) {
	before := plain(t, c.Machine(c.VM()))
	restoreReady(t, c)
	source, restored := plain(t, c.Machine(c.VM())), plain(t, c.Machine(copyRef(c)))
	for _, m := range []map[string]any{before, source} {
		delete(m, "status")
		unstructured.RemoveNestedField(m, "metadata", "resourceVersion")
	}
	if !reflect.DeepEqual(before, source) {
		t.Errorf("the source was %v, and is %v", before, source)
	}
	labels := func(m map[string]any) map[string]string {
		l, _, _ := unstructured.NestedStringMap(m, "metadata", "labels")
		return l
	}
	if got, want := labels(restored), labels(source); !maps.Equal(got, want) {
		t.Errorf("labels %v, want %v", got, want)
	}
	annotations, _, _ := unstructured.NestedStringMap(restored, "metadata", "annotations")
	wanted, _, _ := unstructured.NestedStringMap(source, "metadata", "annotations")
	for key, value := range wanted {
		if annotations[key] != value {
			t.Errorf("annotation %s is %q, want %q", key, annotations[key], value)
		}
	}

	// Its disks are its own, under the volumes' names. A secret or config map that has not
	// changed since may be the source's.
	had, has := takeSources(t, source), takeSources(t, restored)
	if !slices.Equal(slices.Sorted(maps.Keys(had)), slices.Sorted(maps.Keys(has))) {
		t.Errorf("volumes %v, want %v", has, had)
	}
	objects := c.Objects()
	for volume, of := range has {
		if !slices.Contains(objects, of) || of == had[volume] && strings.HasPrefix(of, "persistentvolumeclaims ") {
			t.Errorf("volume %s is of %s, that of the source is of %s", volume, of, had[volume])
		}
	}
	// The addresses of the source are still in use.
	used := takeAddresses(source)
	for name, address := range takeAddresses(restored) {
		if address != "" && address == used[name] {
			t.Errorf("interface %s has the source's address %s", name, address)
		}
	}
	delete(labelsOfGuest(source), "kubevirt.io/vm")
	delete(labelsOfGuest(restored), "kubevirt.io/vm")
	if !reflect.DeepEqual(source["spec"], restored["spec"]) {
		t.Errorf("restored as %v\nthe source is %v", restored["spec"], source["spec"])
	}
}

// plain is a copy of a manifest in JSON's own types.
func plain(t *testing.T, manifest map[string]any) map[string]any {
	t.Helper()
	if manifest == nil {
		t.Fatal("there is no machine")
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return runtime.DeepCopyJSON(m)
}

func labelsOfGuest(m map[string]any) map[string]any {
	l, _, _ := unstructured.NestedFieldNoCopy(m, "spec", "template", "metadata", "labels")
	labels, _ := l.(map[string]any)
	return labels
}

// takeSources takes the volumes out of a machine: what each is of, as Objects calls it.
func takeSources(t *testing.T, m map[string]any) map[string]string {
	t.Helper()
	namespace, _, _ := unstructured.NestedString(m, "metadata", "namespace")
	list, _, _ := unstructured.NestedSlice(m, "spec", "template", "spec", "volumes")
	unstructured.RemoveNestedField(m, "spec", "template", "spec", "volumes")
	sources := map[string]string{}
	for _, v := range list {
		volume, _ := v.(map[string]any)
		name, _, _ := unstructured.NestedString(volume, "name")
		for _, source := range []struct {
			resource string
			path     []string
		}{
			{"persistentvolumeclaims", []string{"persistentVolumeClaim", "claimName"}},
			{"persistentvolumeclaims", []string{"dataVolume", "name"}},
			{"secrets", []string{"cloudInitNoCloud", "secretRef", "name"}},
			{"configmaps", []string{"configMap", "name"}},
		} {
			if of, found, _ := unstructured.NestedString(volume, source.path...); found {
				sources[name] = source.resource + " " + namespace + "/" + of
			}
		}
		if sources[name] == "" {
			t.Errorf("volume %v is of nothing", volume)
		}
	}
	return sources
}

// takeAddresses takes the MAC addresses out of a machine.
func takeAddresses(m map[string]any) map[string]string {
	addresses := map[string]string{}
	list, _, _ := unstructured.NestedFieldNoCopy(m, "spec", "template", "spec", "domain", "devices", "interfaces")
	interfaces, _ := list.([]any)
	for _, i := range interfaces {
		nic, _ := i.(map[string]any)
		name, _ := nic["name"].(string)
		addresses[name], _ = nic["macAddress"].(string)
		delete(nic, "macAddress")
	}
	return addresses
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
)

func TestObjectsDecode(t *testing.T) {
	decoded, err := manifest.Decode(objects)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, o := range decoded {
		found[o.GetKind()+" "+o.GetName()] = true
	}
	for _, want := range []string{
		"Namespace harvester-system", "ClusterRole harvesterhci.io:edit", "Service harvester-webhook",
		"VolumeSnapshotClass longhorn", "VolumeSnapshotClass longhorn-snapshot", "StorageClass harvester-longhorn",
	} {
		if !found[want] {
			t.Errorf("no %s", want)
		}
	}
}

// Of the chart's definitions only Harvester's own are taken.
func TestOwnDefinitions(t *testing.T) {
	dir := t.TempDir()
	for file, name := range map[string]string{
		"harvesterhci.io_settings.yaml": "settings.harvesterhci.io", "crd-kubevirt-1.7.0.yaml": "kubevirts.kubevirt.io",
	} {
		content := "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: " + name + "\n"
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	definitions, err := ownDefinitions(dir)
	if err != nil || len(definitions) != 1 || definitions[0].GetName() != "settings.harvesterhci.io" {
		t.Errorf("%v, %v", definitions, err)
	}
	if _, err := ownDefinitions(t.TempDir()); err == nil {
		t.Error("no definitions are no error")
	}
}

func TestForeignDefinitions(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range foreignDefinitions() {
		plural, _, _ := unstructured.NestedString(d.Object, "spec", "names", "plural")
		of, _, _ := unstructured.NestedString(d.Object, "spec", "group")
		if name := plural + "." + of; d.GetName() != name || seen[name] {
			t.Errorf("definition %s of %s, seen %v", d.GetName(), name, seen[name])
		}
		seen[d.GetName()] = true
	}
	for _, want := range []string{"vlanstatuses.network.harvesterhci.io", "managedcharts.management.cattle.io"} {
		if !seen[want] {
			t.Errorf("no %s", want)
		}
	}
}

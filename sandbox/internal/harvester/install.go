// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

//go:embed objects.yaml
var objects []byte

// group is that of Harvester's own kinds.
const group = "harvesterhci.io"

// install creates what Harvester's chart would. It may be called again.
func install(ctx context.Context, env *component.Env) error {
	definitions, err := ownDefinitions(env.Share(build.Harvester, "crds"))
	if err != nil {
		return err
	}
	definitions = append(definitions, foreignDefinitions()...)
	applier, client, err := clients(env)
	if err != nil {
		return err
	}
	// The definitions are large, so they are created, not applied; nobody else changes them.
	if err := applier.Create(ctx, definitions...); err != nil {
		return err
	}
	for _, d := range definitions {
		if err := waitEstablished(ctx, client, d.GetName()); err != nil {
			return err
		}
	}
	if err := applier.ApplyYAML(ctx, objects); err != nil {
		return err
	}
	helm, err := release()
	if err != nil {
		return err
	}
	return applier.Apply(ctx, helm)
}

// ownDefinitions reads the chart's definitions of Harvester's kinds. The chart
// holds copies of KubeVirt's and of the snapshot kinds too; the instance has
// those from their own releases.
func ownDefinitions(dir string) ([]*unstructured.Unstructured, error) {
	files, err := filepath.Glob(filepath.Join(dir, group+"_*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no definitions of %s in %s", group, dir)
	}
	var definitions []*unstructured.Unstructured
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		decoded, err := manifest.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		definitions = append(definitions, decoded...)
	}
	return definitions, nil
}

// foreignDefinitions are kinds of others that the webhooks read: they start
// only where those exist. The schemas accept everything.
func foreignDefinitions() []*unstructured.Unstructured {
	kinds := []struct {
		group, version, kind string
		namespaced           bool
	}{
		{"cluster.x-k8s.io", "v1beta1", "Cluster", true},
		{"cluster.x-k8s.io", "v1beta1", "Machine", true},
		{"fleet.cattle.io", "v1alpha1", "Cluster", true},
		{"logging.banzaicloud.io", "v1beta1", "ClusterFlow", true},
		{"logging.banzaicloud.io", "v1beta1", "ClusterOutput", true},
		{"logging.banzaicloud.io", "v1beta1", "Flow", true},
		{"logging.banzaicloud.io", "v1beta1", "Output", true},
		{"management.cattle.io", "v3", "Feature", false},
		{"management.cattle.io", "v3", "ManagedChart", true},
		{"network.harvesterhci.io", "v1beta1", "ClusterNetwork", false},
		{"network.harvesterhci.io", "v1beta1", "VlanConfig", false},
		{"network.harvesterhci.io", "v1beta1", "VlanStatus", false},
	}
	var definitions []*unstructured.Unstructured
	for _, k := range kinds {
		singular := strings.ToLower(k.kind)
		plural := singular + "s"
		if strings.HasSuffix(singular, "s") {
			plural = singular + "es"
		}
		scope := "Cluster"
		if k.namespaced {
			scope = "Namespaced"
		}
		definitions = append(definitions, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + "." + k.group},
			"spec": map[string]any{
				"group": k.group, "scope": scope,
				"names": map[string]any{"kind": k.kind, "listKind": k.kind + "List", "plural": plural, "singular": singular},
				"versions": []any{map[string]any{
					"name": k.version, "served": true, "storage": true,
					"schema": map[string]any{"openAPIV3Schema": map[string]any{
						"type": "object", "x-kubernetes-preserve-unknown-fields": true,
					}},
				}},
			},
		}})
	}
	return definitions
}

func clients(env *component.Env) (*manifest.Applier, dynamic.Interface, error) {
	cfg, err := env.AdminConfig()
	if err != nil {
		return nil, nil, err
	}
	applier, err := manifest.NewApplier(cfg)
	if err != nil {
		return nil, nil, err
	}
	client, err := dynamic.NewForConfig(cfg)
	return applier, client, err
}

func waitEstablished(ctx context.Context, client dynamic.Interface, name string) error {
	definition := watchfor.Object{
		Resource: schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
		Name:     name,
	}
	_, err := watchfor.State(ctx, client, definition, func(o *unstructured.Unstructured) (bool, string, error) {
		return condition(o.Object, "Established") == "True", "not established", nil
	})
	return err
}

// condition is the status of a condition; empty when it is not reported.
func condition(object map[string]any, kind string) string {
	conditions, _, _ := unstructured.NestedSlice(object, "status", "conditions")
	for _, c := range conditions {
		if c, _ := c.(map[string]any); c["type"] == kind {
			return fmt.Sprint(c["status"])
		}
	}
	return ""
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kubevirt

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

// Namespace is where KubeVirt lives.
const Namespace = "kubevirt"

// service is the name under which KubeVirt's operator publishes virt-api.
const service = "virt-api"

// Install creates everything that virt-api and virt-controller need before
// they start: definitions, roles, the KubeVirt object, and the ConfigMaps with
// the authority that signs their certificates. It may be called again.
func Install(ctx context.Context, env *component.Env) error {
	objects, err := manifests(ctx, env)
	if err != nil {
		return err
	}
	applier, client, err := clients(env)
	if err != nil {
		return err
	}
	networks, err := os.ReadFile(env.Share(build.KubeVirt, "networks-crd.yaml"))
	if err != nil {
		return err
	}
	// VMs name their secondary networks by objects of Multus' kind.
	definitions, err := manifest.Decode(networks)
	if err != nil {
		return fmt.Errorf("networks-crd.yaml: %w", err)
	}
	var rest []*unstructured.Unstructured
	for _, o := range objects {
		switch {
		case o.GetKind() == "CustomResourceDefinition":
			definitions = append(definitions, o)
		case !servedByVirtAPI(o):
			rest = append(rest, o)
		}
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
	ca, err := env.Authority()
	if err != nil {
		return err
	}
	for _, o := range rest {
		if o.GetKind() == "ConfigMap" {
			o.Object["data"] = map[string]any{"ca-bundle": string(ca.CertPEM())}
		}
	}
	return applier.Apply(ctx, rest...)
}

// Register makes kube-apiserver call virt-api: webhooks by URL, the aggregated
// API through a Service that is an alias of localhost. It waits until the
// aggregated API is available and the webhooks let a VM pass. virt-api must serve already: its webhooks
// refuse everything while they cannot be reached.
func Register(ctx context.Context, env *component.Env) error {
	objects, err := manifests(ctx, env)
	if err != nil {
		return err
	}
	applier, client, err := clients(env)
	if err != nil {
		return err
	}
	ca, err := env.Authority()
	if err != nil {
		return err
	}
	bundle := base64.StdEncoding.EncodeToString(ca.CertPEM())
	if err := applier.Apply(ctx, aliasService()); err != nil {
		return err
	}
	var services []string
	for _, o := range objects {
		if !servedByVirtAPI(o) {
			continue
		}
		if err := pointAtVirtAPI(o, bundle); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if err := applier.Apply(ctx, o); err != nil {
			return err
		}
		if o.GetKind() == "APIService" {
			services = append(services, o.GetName())
		}
	}
	for _, name := range services {
		if err := waitAvailable(ctx, client, name); err != nil {
			return err
		}
	}
	return tryWebhooks(ctx, client)
}

// manifests runs the generator of the pinned release.
func manifests(ctx context.Context, env *component.Env) ([]*unstructured.Unstructured, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, env.Binary(build.KubeVirt, "kubevirt-manifests"), "--namespace="+Namespace)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kubevirt-manifests: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return manifest.Decode(out)
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

// servedByVirtAPI tells the objects that make kube-apiserver call virt-api.
func servedByVirtAPI(o *unstructured.Unstructured) bool {
	switch o.GetKind() {
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService":
		return true
	}
	return false
}

// aliasService lets kube-apiserver's aggregator resolve virt-api to this host.
func aliasService() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"name": service, "namespace": Namespace},
		"spec":     map[string]any{"type": "ExternalName", "externalName": "localhost"},
	}}
}

// pointAtVirtAPI replaces references to KubeVirt's Service by the process on this host.
func pointAtVirtAPI(o *unstructured.Unstructured, bundle string) error {
	if o.GetKind() == "APIService" {
		if err := unstructured.SetNestedField(o.Object, int64(apiPort), "spec", "service", "port"); err != nil {
			return err
		}
		return unstructured.SetNestedField(o.Object, bundle, "spec", "caBundle")
	}
	webhooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
	if err != nil {
		return err
	}
	for i := range webhooks {
		webhook, ok := webhooks[i].(map[string]any)
		if !ok {
			return fmt.Errorf("webhook %d is no object", i)
		}
		path, found, err := unstructured.NestedString(webhook, "clientConfig", "service", "path")
		if err != nil || !found {
			return fmt.Errorf("webhook %d has no service path: %w", i, err)
		}
		webhook["clientConfig"] = map[string]any{"url": apiURL + path, "caBundle": bundle}
	}
	return unstructured.SetNestedSlice(o.Object, webhooks, "webhooks")
}

func waitEstablished(ctx context.Context, client dynamic.Interface, name string) error {
	return waitCondition(ctx, client, schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
	}, name, "Established")
}

func waitAvailable(ctx context.Context, client dynamic.Interface, name string) error {
	return waitCondition(ctx, client, schema.GroupVersionResource{
		Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices",
	}, name, "Available")
}

func waitCondition(ctx context.Context, client dynamic.Interface, resource schema.GroupVersionResource, name, kind string) error {
	_, err := watchfor.State(ctx, client, watchfor.Object{Resource: resource, Name: name},
		func(o *unstructured.Unstructured) (bool, string, error) {
			conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
			for _, c := range conditions {
				condition, _ := c.(map[string]any)
				if condition["type"] == kind {
					return condition["status"] == "True", fmt.Sprintf("%s: %v", kind, condition["message"]), err
				}
			}
			return false, kind + " is not reported yet", err
		})
	return err
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kubevirt

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// leads asks virt-controller at url whether its controllers run: it answers
// as soon as it listens, and works once it is the leader.
func leads(url string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // loopback liveness only
	}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var answer struct {
			APIServer struct {
				Leader string `json:"leader"`
			} `json:"apiserver"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return fmt.Errorf("GET %s: %s: %w", url, resp.Status, err)
		}
		if answer.APIServer.Leader != "true" {
			return errors.New("not the leader yet")
		}
		return nil
	}
}

// tryWebhooks sends a VM through all webhooks without storing it: only then
// can a user create one.
func tryWebhooks(ctx context.Context, client dynamic.Interface) error {
	vm := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
		"metadata": map[string]any{"name": "webhook-check", "namespace": metav1.NamespaceDefault},
		"spec": map[string]any{
			"runStrategy": "Halted",
			"template": map[string]any{"spec": map[string]any{
				"domain": map[string]any{
					"devices":   map[string]any{},
					"resources": map[string]any{"requests": map[string]any{"memory": "64Mi"}},
				},
			}},
		},
	}}
	resource := schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "virtualmachines"}
	_, err := client.Resource(resource).Namespace(metav1.NamespaceDefault).
		Create(ctx, vm, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return fmt.Errorf("create a VM through the webhooks (dry run): %w", err)
	}
	return nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kube speaks to the API server: clients, waits, objects that must
// exist, and errors in the words of the domain.
package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
)

// FieldManager is the name under which the tool writes.
const FieldManager = "kubectl-vmbackup"

// LonghornNamespace is where Longhorn keeps its objects.
const LonghornNamespace = "longhorn-system"

// Clients are the typed clients of everything that the tool touches.
type Clients struct {
	Core     Core
	Snapshot Snapshot
	Longhorn Longhorn
	KubeVirt Virt
	// VMs reads and writes virtual machines as JSON, so that fields which this
	// build does not know survive, and calls their subresources.
	VMs VirtualMachines
	// Lookup asks for objects of other kinds.
	Lookup Lookup
	// Services sends requests to services in the cluster.
	Services Services
	// Harvester is of a cluster that need not be Harvester's.
	Harvester harvester.Interface
}

// VirtualMachines is KubeVirt's API where the typed client would lose or log something.
type VirtualMachines interface {
	// Get returns a VirtualMachine as the API server wrote it.
	Get(ctx context.Context, namespace, name string) ([]byte, error)
	// Create creates a VirtualMachine and returns it as the API server wrote it.
	Create(ctx context.Context, namespace string, manifest []byte, dryRun bool) ([]byte, error)
	// Patch applies a JSON merge patch.
	Patch(ctx context.Context, namespace, name string, patch []byte) error
	// Update replaces a VirtualMachine; its manifest carries the version that it replaces.
	Update(ctx context.Context, namespace, name string, manifest []byte, dryRun bool) error
	// Start starts a machine whose run strategy leaves that to somebody.
	Start(ctx context.Context, namespace, name string) error
	// Freeze freezes the guest's file systems; the guest thaws itself after the deadline.
	Freeze(ctx context.Context, namespace, name string, deadline time.Duration) error
	// Unfreeze thaws the guest's file systems.
	Unfreeze(ctx context.Context, namespace, name string) error
}

// NewClients makes the clients of one cluster. All share one connection and one rate limit.
func NewClients(config *rest.Config) (*Clients, error) {
	config = rest.CopyConfig(config)
	// kubectl's own limits: the tool is a kubectl command.
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(50, 300)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connection to the cluster: %w", err)
	}
	g, err := newGroups(config, client)
	if err != nil {
		return nil, err
	}
	return &Clients{
		Core: g, Snapshot: g, Longhorn: g, KubeVirt: g, Harvester: g.harvester,
		VMs: rawVMs{g.kubevirt.RESTClient()}, Lookup: restLookup{g.discovery.RESTClient()},
		Services: proxiedServices{g.core.RESTClient()},
	}, nil
}

// rawVMs is VirtualMachines over KubeVirt's own REST client.
type rawVMs struct{ rest rest.Interface }

func (c rawVMs) Get(ctx context.Context, namespace, name string) ([]byte, error) {
	got := c.rest.Get().Namespace(namespace).Resource("virtualmachines").Name(name).Do(ctx)
	return answer(got)
}

func (c rawVMs) Create(ctx context.Context, namespace string, manifest []byte, dryRun bool) ([]byte, error) {
	req := c.rest.Post().Namespace(namespace).Resource("virtualmachines").Param("fieldManager", FieldManager).
		SetHeader("Content-Type", "application/json").Body(manifest)
	if dryRun {
		req = req.Param("dryRun", metav1.DryRunAll)
	}
	return answer(req.Do(ctx))
}

// answer is the body as it came. The error is read from the Status in it, which
// Raw alone would call "unknown".
func answer(r rest.Result) ([]byte, error) {
	if err := r.Error(); err != nil {
		return nil, err
	}
	return r.Raw()
}

func (c rawVMs) Patch(ctx context.Context, namespace, name string, patch []byte) error {
	return c.rest.Patch("application/merge-patch+json").Namespace(namespace).Resource("virtualmachines").Name(name).
		Param("fieldManager", FieldManager).Body(patch).Do(ctx).Error()
}

func (c rawVMs) Update(ctx context.Context, namespace, name string, manifest []byte, dryRun bool) error {
	req := c.rest.Put().Namespace(namespace).Resource("virtualmachines").Name(name).Param("fieldManager", FieldManager).
		SetHeader("Content-Type", "application/json").Body(manifest)
	if dryRun {
		req = req.Param("dryRun", metav1.DryRunAll)
	}
	return req.Do(ctx).Error()
}

func (c rawVMs) Start(ctx context.Context, namespace, name string) error {
	return c.subresource("virtualmachines", namespace, name, "start").Do(ctx).Error()
}

func (c rawVMs) Freeze(ctx context.Context, namespace, name string, deadline time.Duration) error {
	body, err := json.Marshal(kubevirtv1.FreezeUnfreezeTimeout{UnfreezeTimeout: &metav1.Duration{Duration: deadline}})
	if err != nil {
		return err
	}
	return c.subresource("virtualmachineinstances", namespace, name, "freeze").Body(body).Do(ctx).Error()
}

func (c rawVMs) Unfreeze(ctx context.Context, namespace, name string) error {
	return c.subresource("virtualmachineinstances", namespace, name, "unfreeze").Do(ctx).Error()
}

func (c rawVMs) subresource(resource, namespace, name, subresource string) *rest.Request {
	return c.rest.Put().AbsPath("/apis/subresources.kubevirt.io", kubevirtv1.ApiStorageVersion).
		Namespace(namespace).Resource(resource).Name(name).SubResource(subresource)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// definitions is kube.Networks with the NetworkAttachmentDefinitions of a test.
type definitions struct {
	api *apiServer

	mu   sync.Mutex
	refs []vmbackup.Ref
}

func (d *definitions) add(namespace, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refs = append(d.refs, vmbackup.Ref{Namespace: namespace, Name: name})
}

func (d *definitions) Exists(_ context.Context, namespace, name string) (kube.Existence, error) {
	if err := d.api.note("get", "network-attachment-definitions", namespace, name, false); err != nil {
		if apierrors.IsForbidden(err) {
			return kube.Unknown, nil
		}
		return kube.Unknown, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.refs, vmbackup.Ref{Namespace: namespace, Name: name}) {
		return kube.Present, nil
	}
	return kube.Absent, nil
}

func (d *definitions) List(_ context.Context, namespace string) ([]string, error) {
	if err := d.api.note("list", "network-attachment-definitions", namespace, "", false); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for _, r := range d.refs {
		if r.Namespace == namespace {
			names = append(names, r.Name)
		}
	}
	return names, nil
}

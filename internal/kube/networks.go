// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Existence is what is known of an object that may exist.
type Existence int

// What is known of an object.
const (
	Unknown Existence = iota // it could not be asked for
	Absent
	Present
)

// Networks looks for Multus' NetworkAttachmentDefinitions. Their content is
// Multus' own and is not read.
type Networks interface {
	// Exists looks for one. A cluster without Multus has none; Unknown is the
	// answer to a user who may not look.
	Exists(ctx context.Context, namespace, name string) (Existence, error)
	// List returns the names of a namespace's, in order; none to a user who may not look.
	List(ctx context.Context, namespace string) ([]string, error)
}

// networks is Networks over any REST client of the cluster.
type networks struct{ rest rest.Interface }

// get asks for the metadata of definitions alone.
func (c networks) get(namespace, as string) *rest.Request {
	return c.rest.Get().AbsPath("/apis/k8s.cni.cncf.io/v1").Namespace(namespace).Resource("network-attachment-definitions").
		SetHeader("Accept", "application/json;as="+as+";g=meta.k8s.io;v=v1,application/json")
}

func (c networks) Exists(ctx context.Context, namespace, name string) (Existence, error) {
	err := c.get(namespace, "PartialObjectMetadata").Name(name).Do(ctx).Error()
	switch {
	case err == nil:
		return Present, nil
	case apierrors.IsForbidden(err):
		return Unknown, nil
	case apierrors.IsNotFound(err):
		return Absent, nil
	}
	return Unknown, Error(err, "read", "NetworkAttachmentDefinition "+namespace+"/"+name)
}

func (c networks) List(ctx context.Context, namespace string) ([]string, error) {
	raw, err := answer(c.get(namespace, "PartialObjectMetadataList").Do(ctx))
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	list := &metav1.PartialObjectMetadataList{}
	if err == nil {
		err = json.Unmarshal(raw, list)
	}
	if err != nil {
		return nil, Error(err, "list", "NetworkAttachmentDefinitions in namespace "+namespace)
	}
	names := make([]string, 0, len(list.Items))
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names, nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Lookup is for kinds that the tool refers to and does not manage, so that it needs
// no client of theirs.
type Lookup interface {
	// Serves reports whether the API server has the resource.
	Serves(ctx context.Context, resource schema.GroupVersionResource) (bool, error)
	// Exists reports whether an object is there. The error is that of the API
	// server where it does not tell, as for a user who may not look.
	Exists(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) (bool, error)
	// Names are the names of a namespace's objects, in order; none of a resource
	// that is not served.
	Names(ctx context.Context, resource schema.GroupVersionResource, namespace string) ([]string, error)
	// Delete deletes an object, if it still is the one with the UID.
	Delete(ctx context.Context, resource schema.GroupVersionResource, namespace, name, uid string) error
}

// restLookup is Lookup over any REST client: it uses absolute paths.
type restLookup struct{ rest rest.Interface }

func (l restLookup) Serves(ctx context.Context, resource schema.GroupVersionResource) (bool, error) {
	body, err := answer(l.rest.Get().AbsPath(root(resource)...).Do(ctx))
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var served metav1.APIResourceList
	if err := json.Unmarshal(body, &served); err != nil {
		return false, err
	}
	for _, r := range served.APIResources {
		if r.Name == resource.Resource {
			return true, nil
		}
	}
	return false, nil
}

func (l restLookup) Exists(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) (bool, error) {
	path := root(resource)
	if namespace != "" {
		path = append(path, "namespaces", namespace)
	}
	_, err := answer(l.rest.Get().AbsPath(append(path, resource.Resource, name)...).Do(ctx))
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (l restLookup) Names(ctx context.Context, resource schema.GroupVersionResource, namespace string) ([]string, error) {
	body, err := answer(l.rest.Get().AbsPath(append(root(resource), "namespaces", namespace, resource.Resource)...).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json").Do(ctx))
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list.Items))
	for _, o := range list.Items {
		names = append(names, o.Name)
	}
	slices.Sort(names)
	return names, nil
}

func (l restLookup) Delete(ctx context.Context, resource schema.GroupVersionResource, namespace, name, uid string) error {
	path := append(root(resource), "namespaces", namespace, resource.Resource, name)
	body, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, Preconditions: metav1.NewUIDPreconditions(uid),
	})
	if err != nil {
		return err
	}
	_, err = answer(l.rest.Delete().AbsPath(path...).SetHeader("Content-Type", "application/json").Body(body).Do(ctx))
	return err
}

// root is the path of a group and version.
func root(resource schema.GroupVersionResource) []string {
	if resource.Group == "" {
		return []string{"/api", resource.Version}
	}
	return []string{"/apis", resource.Group, resource.Version}
}

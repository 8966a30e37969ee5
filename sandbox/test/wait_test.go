// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build sandbox

package test

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/yaml"
)

// eventually repeats a probe that nothing can be watched for until it succeeds, under a deadline.
func (c *cluster) eventually(what string, probe func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for !probe() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			c.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// awaitNone waits until no object that matches the label selector is left.
func (c *cluster) awaitNone(gvr schema.GroupVersionResource, namespace, selector string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	objects := c.client.Resource(gvr).Namespace(namespace)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = selector
			return objects.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = selector
			return objects.Watch(ctx, options)
		},
	}
	left := map[string]bool{}
	none := func(store cache.Store) (bool, error) {
		for _, key := range store.ListKeys() {
			left[key] = true
		}
		return len(left) == 0, nil
	}
	_, err := watchtools.UntilWithSync(ctx, lw, &unstructured.Unstructured{}, none, func(event watch.Event) (bool, error) {
		key, err := cache.MetaNamespaceKeyFunc(event.Object)
		if err != nil {
			return false, err
		}
		if event.Type == watch.Deleted {
			delete(left, key)
		} else {
			left[key] = true
		}
		return len(left) == 0, nil
	})
	if err != nil {
		c.t.Fatalf("%s left in %s: %v: %v", gvr.Resource, namespace, left, err)
	}
}

func yamlInto(text string, object any) error {
	return yaml.Unmarshal([]byte(text), object)
}

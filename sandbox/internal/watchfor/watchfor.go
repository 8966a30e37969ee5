// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watchfor waits for the state of a single object.
package watchfor

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// Object identifies what is watched.
type Object struct {
	Resource  schema.GroupVersionResource
	Namespace string // empty for cluster-scoped kinds
	Name      string
}

func (o Object) String() string {
	if o.Namespace == "" {
		return o.Resource.Resource + " " + o.Name
	}
	return o.Resource.Resource + " " + o.Namespace + "/" + o.Name
}

// State waits until reached says true about the object, which need not exist
// yet, and returns the object. An error of reached ends the wait. The error at
// the end of ctx names the object and carries reached's last word about it.
func State(ctx context.Context, client dynamic.Interface, o Object,
	reached func(*unstructured.Unstructured) (done bool, progress string, err error),
) (*unstructured.Unstructured, error) {
	var resource dynamic.ResourceInterface = client.Resource(o.Resource)
	if o.Namespace != "" {
		resource = client.Resource(o.Resource).Namespace(o.Namespace)
	}
	only := func(options *metav1.ListOptions) {
		options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, o.Name).String()
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			only(&options)
			return resource.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			only(&options)
			return resource.Watch(ctx, options)
		},
	}
	progress := "does not exist"
	var last *unstructured.Unstructured
	_, err := watchtools.UntilWithSync(ctx, cache.ToListWatcherWithWatchListSemantics(lw, client), &unstructured.Unstructured{}, nil, func(event watch.Event) (bool, error) {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			return false, fmt.Errorf("watch %s: unexpected %T", o, event.Object)
		}
		if event.Type == watch.Deleted {
			progress = "was deleted"
			return false, nil
		}
		last = object
		done, word, err := reached(object)
		progress = word
		return done, err
	})
	if err != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || ctx.Err() != nil) {
		return nil, fmt.Errorf("%s: %s: %w", o, progress, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o, err)
	}
	return last, nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
)

// view is what a reflector knows at the moment: a cache.ReflectorStore that says
// when it changed. Many changes may be told as one.
type view[T runtime.Object] struct {
	changed chan struct{}
	// stopped is closed when nobody will look any more.
	stopped <-chan struct{}

	mu     sync.Mutex
	items  map[string]T
	bad    error
	synced bool
	// fresh is closed by the one who looked at the newest list.
	fresh chan struct{}
	fault error
}

func newView[T runtime.Object](stopped <-chan struct{}) *view[T] {
	return &view[T]{changed: make(chan struct{}, 1), stopped: stopped, items: map[string]T{}}
}

// objects are ordered by namespace and name; synced says that they have been
// listed, the error that the API server sent something else than T. The caller
// calls looked after it looked at them.
func (v *view[T]) objects() (list []T, synced bool, looked func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad != nil || !v.synced {
		return nil, false, func() {}, v.bad
	}
	list = make([]T, 0, len(v.items))
	for _, key := range slices.Sorted(maps.Keys(v.items)) {
		list = append(list, v.items[key])
	}
	fresh := v.fresh
	v.fresh = nil
	return list, true, func() {
		if fresh != nil {
			close(fresh)
		}
	}, nil
}

func (v *view[T]) setFault(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = err
}

// lastFault is the error of the last request, nil while all is well.
func (v *view[T]) lastFault() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.fault
}

// update changes the items under the lock and tells of it.
func (v *view[T]) update(change func() error) error {
	v.mu.Lock()
	err := change()
	if err != nil {
		v.bad = err
	}
	// Before the first list is whole there is no state to look at.
	tell := v.synced || v.bad != nil
	v.mu.Unlock()
	if tell {
		select {
		case v.changed <- struct{}{}:
		default: // told already and not looked at yet
		}
	}
	return err
}

// Add is for the reflector.
func (v *view[T]) Add(obj any) error {
	return v.update(func() error { return v.put(obj, v.items) })
}

// Update is for the reflector.
func (v *view[T]) Update(obj any) error { return v.Add(obj) }

// Delete is for the reflector.
func (v *view[T]) Delete(obj any) error {
	return v.update(func() error {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
		if err != nil {
			return err
		}
		delete(v.items, key)
		return nil
	})
}

// Replace is for the reflector. It holds the watch back until the list was looked
// at: what the list shows is seen even when it changes at once, and no watch is
// opened when the list is enough.
func (v *view[T]) Replace(objs []any, _ string) error {
	fresh := make(chan struct{})
	err := v.update(func() error {
		items := make(map[string]T, len(objs))
		for _, obj := range objs {
			if err := v.put(obj, items); err != nil {
				return err
			}
		}
		v.items, v.synced, v.fresh = items, true, fresh
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case <-fresh:
	case <-v.stopped:
	}
	return nil
}

// Resync is for the reflector; there is nothing to do.
func (v *view[T]) Resync() error { return nil }

func (v *view[T]) put(obj any, items map[string]T) error {
	typed, ok := obj.(T)
	if !ok {
		return fmt.Errorf("the API server sent a %T", obj)
	}
	key, err := cache.MetaNamespaceKeyFunc(obj)
	if err != nil {
		return err
	}
	items[key] = typed
	return nil
}

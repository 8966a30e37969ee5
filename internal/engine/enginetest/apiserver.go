// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// APIServer keeps objects of any kind and answers over HTTP as an API server does:
// UIDs, versions, selectors, watches that begin where a list ended, finalizers, owners
// whose objects go with them, dry runs and preconditions. It has no admission and no rights.
type APIServer struct {
	t      testing.TB
	server *httptest.Server

	mu      sync.Mutex
	version int
	objects map[objectKey]*unstructured.Unstructured
	history []change
	news    chan struct{} // closed at the next change
	writes  []string
	// controllers are told of every change, in order, by one goroutine.
	controllers []func(resource string, object *unstructured.Unstructured)
	queue       []func()
	wake        chan struct{}
	// Refuse refuses a creation, as an admission webhook does.
	Refuse func(resource string, object *unstructured.Unstructured) error
}

type objectKey struct{ resource, namespace, name string }

type change struct {
	version int
	kind    string // ADDED, MODIFIED, DELETED
	key     objectKey
	object  *unstructured.Unstructured
}

// NewAPIServer starts one, which ends with the test.
func NewAPIServer(t testing.TB) *APIServer {
	s := &APIServer{t: t, objects: map[objectKey]*unstructured.Unstructured{}, news: make(chan struct{}), wake: make(chan struct{}, 1)}
	s.server = httptest.NewServer(s)
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { s.control(done) })
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
		close(done)
		work.Wait()
	})
	return s
}

// Config is how to reach it.
func (s *APIServer) Config() *rest.Config { return &rest.Config{Host: s.server.URL} }

// OnChange has a controller told of every object that is made or changed, and of those
// that are gone, with a deletion timestamp and no finalizers.
func (s *APIServer) OnChange(f func(resource string, object *unstructured.Unstructured)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.controllers = append(s.controllers, f)
}

// control runs what controllers have to do, one thing after the other.
func (s *APIServer) control(done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-s.wake:
		}
		for {
			s.mu.Lock()
			if len(s.queue) == 0 {
				s.mu.Unlock()
				break
			}
			next := s.queue[0]
			s.queue = s.queue[1:]
			s.mu.Unlock()
			next()
		}
	}
}

// Later runs something among the controllers' work, after a while.
func (s *APIServer) Later(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		s.mu.Lock()
		s.queue = append(s.queue, f)
		s.mu.Unlock()
		s.poke()
	})
}

func (s *APIServer) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Writes are the requests that have changed something.
func (s *APIServer) Writes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

// Put stores an object as it is, for the test and its controllers.
func (s *APIServer) Put(resource string, object any) *unstructured.Unstructured {
	s.t.Helper()
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			s.t.Fatal(err)
		}
		u = &unstructured.Unstructured{Object: content}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store(resource, u.DeepCopy())
}

// Edit changes an object that is there.
func (s *APIServer) Edit(resource, namespace, name string, f func(*unstructured.Unstructured)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.objects[objectKey{resource, namespace, name}]
	if have == nil {
		return // it was deleted in the meantime, and controllers bear that
	}
	changed := have.DeepCopy()
	f(changed)
	s.store(resource, changed)
}

// Get is an object, nil when it is not there.
func (s *APIServer) Get(resource, namespace, name string) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.objects[objectKey{resource, namespace, name}]; have != nil {
		return have.DeepCopy()
	}
	return nil
}

// All are the objects of a resource, by namespace and name.
func (s *APIServer) All(resource string) []*unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*unstructured.Unstructured
	for key, object := range s.objects {
		if key.resource == resource {
			all = append(all, object.DeepCopy())
		}
	}
	slices.SortFunc(all, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	return all
}

// Delete deletes an object, or marks it while a finalizer holds it.
func (s *APIServer) Delete(resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(objectKey{resource, namespace, name})
}

// store keeps a new or changed object and tells everybody. mu is held.
func (s *APIServer) store(resource string, object *unstructured.Unstructured) *unstructured.Unstructured {
	key := objectKey{resource, object.GetNamespace(), object.GetName()}
	kind := "MODIFIED"
	s.version++
	if s.objects[key] == nil {
		kind = "ADDED"
		if object.GetUID() == "" {
			object.SetUID(types.UID(fmt.Sprintf("uid-%d", s.version)))
		}
		object.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
	object.SetResourceVersion(strconv.Itoa(s.version))
	if object.GetDeletionTimestamp() != nil && len(object.GetFinalizers()) == 0 {
		s.gone(key, object)
		return object
	}
	s.objects[key] = object
	s.tell(change{s.version, kind, key, object})
	return object.DeepCopy()
}

// remove deletes. mu is held.
func (s *APIServer) remove(key objectKey) {
	object := s.objects[key]
	if object == nil || object.GetDeletionTimestamp() != nil {
		return
	}
	marked := object.DeepCopy()
	now := metav1.NewTime(time.Now())
	marked.SetDeletionTimestamp(&now)
	s.store(key.resource, marked)
}

// orphan takes an owner off what it owns. mu is held.
func (s *APIServer) orphan(owner types.UID) {
	for key, object := range s.objects {
		owners := object.GetOwnerReferences()
		kept := slices.DeleteFunc(slices.Clone(owners), func(o metav1.OwnerReference) bool { return o.UID == owner })
		if len(kept) < len(owners) {
			changed := object.DeepCopy()
			changed.SetOwnerReferences(kept)
			s.store(key.resource, changed)
		}
	}
}

// gone ends an object, and what it owns. mu is held.
func (s *APIServer) gone(key objectKey, object *unstructured.Unstructured) {
	delete(s.objects, key)
	s.tell(change{s.version, "DELETED", key, object})
	for owned, o := range s.objects {
		for _, owner := range o.GetOwnerReferences() {
			if owner.UID == object.GetUID() {
				s.remove(owned)
			}
		}
	}
}

// tell lets watches and controllers know. mu is held.
func (s *APIServer) tell(c change) {
	s.history = append(s.history, c)
	close(s.news)
	s.news = make(chan struct{})
	for _, f := range s.controllers {
		object := c.object.DeepCopy()
		s.queue = append(s.queue, func() { f(c.key.resource, object) })
	}
	s.poke()
}

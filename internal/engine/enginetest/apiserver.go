// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
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

// ServeHTTP implements http.Handler.
func (s *APIServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	gv := schema.GroupVersion{}
	switch {
	case len(parts) > 2 && parts[0] == "apis":
		gv.Group, gv.Version, parts = parts[1], parts[2], parts[3:]
	case len(parts) > 1 && parts[0] == "api":
		gv.Version, parts = parts[1], parts[2:]
	default:
		s.fail(w, apierrors.NewNotFound(schema.GroupResource{}, ""))
		return
	}
	key := objectKey{}
	if len(parts) > 2 && parts[0] == "namespaces" {
		key.namespace, parts = parts[1], parts[2:]
	}
	if len(parts) == 0 {
		s.discover(w, gv)
		return
	}
	key.resource = parts[0]
	if len(parts) > 1 {
		key.name = parts[1]
	}
	switch {
	case key.resource == "selfsubjectrulesreviews":
		s.answer(w, map[string]any{"apiVersion": gv.String(), "kind": "SelfSubjectRulesReview", "status": map[string]any{
			"resourceRules": []any{map[string]any{"verbs": []any{"*"}, "apiGroups": []any{"*"}, "resources": []any{"*"}}}, "nonResourceRules": []any{}, "incomplete": false,
		}})
	case r.Method == http.MethodGet && key.name == "" && r.URL.Query().Get("watch") != "":
		s.watch(w, r, key)
	case r.Method == http.MethodGet:
		s.read(w, r, gv, key)
	default:
		s.write(w, r, gv, key)
	}
}

// discover tells the resources of a group of which there are objects.
func (s *APIServer) discover(w http.ResponseWriter, gv schema.GroupVersion) {
	var resources []any
	s.mu.Lock()
	seen := map[string]bool{}
	for key, object := range s.objects {
		if object.GroupVersionKind().GroupVersion() == gv && !seen[key.resource] {
			seen[key.resource] = true
			resources = append(resources, map[string]any{"name": key.resource, "kind": object.GetKind(), "namespaced": key.namespace != "", "verbs": []any{}})
		}
	}
	s.mu.Unlock()
	if len(resources) == 0 {
		s.fail(w, apierrors.NewNotFound(schema.GroupResource{}, ""))
		return
	}
	s.answer(w, map[string]any{"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": gv.String(), "resources": resources})
}

func (s *APIServer) read(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion, key objectKey) {
	if key.name != "" {
		if object := s.Get(key.resource, key.namespace, key.name); object != nil {
			s.answer(w, object.Object)
			return
		}
		s.fail(w, apierrors.NewNotFound(schema.GroupResource{Group: gv.Group, Resource: key.resource}, key.name))
		return
	}
	items := []any{}
	s.mu.Lock()
	for have, object := range s.objects {
		if selects(r, key, have, object) {
			items = append(items, object.DeepCopy().Object)
		}
	}
	version := s.version
	s.mu.Unlock()
	// A list without a kind is of the kind that the client asks for.
	s.answer(w, map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(version)}, "items": items})
}

// selects reports whether a list or watch is of an object.
func selects(r *http.Request, want, have objectKey, object *unstructured.Unstructured) bool {
	if want.resource != have.resource || want.namespace != "" && want.namespace != have.namespace {
		return false
	}
	if name, found := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name="); found && name != have.name {
		return false
	}
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	return err == nil && selector.Matches(labels.Set(object.GetLabels()))
}

func (s *APIServer) watch(w http.ResponseWriter, r *http.Request, key objectKey) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		s.fail(w, apierrors.NewBadRequest("a watch from no version"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flusher, _ := w.(http.Flusher)
	flusher.Flush()
	seen := 0
	for {
		s.mu.Lock()
		changes, news := s.history[seen:], s.news
		seen = len(s.history)
		s.mu.Unlock()
		for _, c := range changes {
			if c.version <= from || !selects(r, key, c.key, c.object) {
				continue
			}
			event, err := json.Marshal(map[string]any{"type": c.kind, "object": c.object.Object})
			if err != nil {
				s.t.Error(err)
				return
			}
			if _, err := w.Write(event); err != nil {
				return
			}
		}
		flusher.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-news:
		}
	}
}

func (s *APIServer) write(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion, key objectKey) {
	resource := schema.GroupResource{Group: gv.Group, Resource: key.resource}
	body, err := bodyOf(r)
	if err != nil {
		s.fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	dryRun := r.URL.Query().Get("dryRun") != ""
	s.mu.Lock()
	defer s.mu.Unlock()
	object := &unstructured.Unstructured{Object: body}
	if r.Method == http.MethodPost {
		key.name = object.GetName()
	}
	have := s.objects[key]
	if !dryRun {
		s.writes = append(s.writes, fmt.Sprintf("%s %s %s/%s", r.Method, key.resource, key.namespace, key.name))
	}
	if have == nil && r.Method != http.MethodPost {
		s.fail(w, apierrors.NewNotFound(resource, key.name))
		return
	}
	if r.Method == http.MethodPut || r.Method == http.MethodPatch {
		if version := object.GetResourceVersion(); version != "" && version != have.GetResourceVersion() {
			s.fail(w, apierrors.NewConflict(resource, key.name, fmt.Errorf("the version is %s", have.GetResourceVersion())))
			return
		}
	}
	switch r.Method {
	case http.MethodPost:
		if s.Refuse != nil {
			if err := s.Refuse(key.resource, object); err != nil {
				s.fail(w, err)
				return
			}
		}
		if have != nil {
			s.fail(w, apierrors.NewAlreadyExists(resource, key.name))
			return
		}
		object.SetNamespace(key.namespace)
		if !dryRun {
			object = s.store(key.resource, object)
		}
	case http.MethodPut:
		if !dryRun {
			object = s.store(key.resource, object)
		}
	case http.MethodPatch:
		object = &unstructured.Unstructured{Object: merged(have.DeepCopy().Object, body)}
		if !dryRun {
			object = s.store(key.resource, object)
		}
	case http.MethodDelete:
		uid, wanted, _ := unstructured.NestedString(body, "preconditions", "uid")
		if wanted && uid != string(have.GetUID()) {
			s.fail(w, apierrors.NewConflict(resource, key.name, fmt.Errorf("the UID is %s", have.GetUID())))
			return
		}
		if policy, _, _ := unstructured.NestedString(body, "propagationPolicy"); policy == string(metav1.DeletePropagationOrphan) {
			s.orphan(have.GetUID())
		}
		s.remove(key)
		object = have
	}
	s.answer(w, object.Object)
}

// bodyOf is what a client has sent, in JSON or, of Kubernetes' own kinds, in protobuf.
func bodyOf(r *http.Request) (map[string]any, error) {
	sent, err := io.ReadAll(r.Body)
	if err != nil || len(sent) == 0 {
		return map[string]any{}, err
	}
	if r.Header.Get("Content-Type") == runtime.ContentTypeProtobuf {
		typed, kind, err := scheme.Codecs.UniversalDeserializer().Decode(sent, nil, nil)
		if err != nil {
			return nil, err
		}
		body, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
		if err == nil {
			body["apiVersion"], body["kind"] = kind.ToAPIVersionAndKind()
		}
		return body, err
	}
	var body map[string]any
	err = json.Unmarshal(sent, &body)
	return body, err
}

// merged is a JSON merge patch (RFC 7386).
func merged(into, patch map[string]any) map[string]any {
	for key, value := range patch {
		inner, ok := value.(map[string]any)
		switch have, both := into[key].(map[string]any); {
		case value == nil:
			delete(into, key)
		case ok && both:
			into[key] = merged(have, inner)
		default:
			into[key] = value
		}
	}
	return into
}

func (s *APIServer) answer(w http.ResponseWriter, object map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(object) //nolint:errchkjson // a client that is gone reads nothing
}

func (s *APIServer) fail(w http.ResponseWriter, err error) {
	status := apierrors.NewInternalError(err).ErrStatus
	if known, ok := err.(apierrors.APIStatus); ok {
		status = known.Status()
	}
	status.APIVersion, status.Kind = "v1", "Status"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status) //nolint:errchkjson // as above
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
)

// apiServer answers the fake clientsets as one API server would: one order of
// requests, UIDs, versions, selectors in lists and watches, watches that begin
// where a list ended, finalizers, dry run and field managers.
type apiServer struct {
	t *testing.T

	mu       sync.Mutex
	version  int
	objects  map[objectKey]runtime.Object
	history  []change
	watches  []*watching
	requests []string
	rules    map[string]authv1.SubjectRulesReviewStatus
	faults   []fault
	// after is called for every change, with the lock released.
	after []func(verb string, resource string, object runtime.Object)
}

type objectKey struct{ resource, namespace, name string }

// change is one step in the life of an object; before or now may be nil.
type change struct {
	version     int
	resource    string
	before, now runtime.Object
}

type watching struct {
	*watch.RaceFreeFakeWatcher
	resource, namespace string
	labels              labels.Selector
	fields              fields.Selector
}

type fault struct {
	verb, resource string
	err            func(name string) error
}

func newAPIServer(t *testing.T) *apiServer {
	return &apiServer{t: t, objects: map[objectKey]runtime.Object{}, rules: map[string]authv1.SubjectRulesReviewStatus{}}
}

// serve makes a fake clientset a client of the server.
func (s *apiServer) serve(fake *clienttesting.Fake, scheme *runtime.Scheme) {
	fake.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		object, err := s.request(a, scheme)
		return true, object, err
	})
	fake.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := s.watch(a.(clienttesting.WatchActionImpl))
		return true, w, err
	})
}

// fail lets requests fail; a nil error of err lets one pass.
func (s *apiServer) fail(verb, resource string, err func(name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fault{verb, resource, err})
}

// mend lets every request pass again.
func (s *apiServer) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// note writes a request down and returns the error that a test wants for it.
func (s *apiServer) note(verb, resource, namespace, name string, dryRun bool) error {
	s.mu.Lock()
	text := verb + " " + resource
	if name != "" {
		if namespace != "" {
			name = namespace + "/" + name
		}
		text += " " + name
	}
	if dryRun {
		text += " (dry run)"
	}
	s.requests = append(s.requests, text)
	faults := slices.Clone(s.faults)
	s.mu.Unlock()
	for _, f := range faults {
		if (f.verb == verb || f.verb == "*") && f.resource == resource {
			if err := f.err(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *apiServer) request(action clienttesting.Action, scheme *runtime.Scheme) (runtime.Object, error) {
	resource, namespace := action.GetResource().Resource, action.GetNamespace()
	switch a := action.(type) {
	case clienttesting.ListActionImpl:
		if err := s.note("list", resource, namespace, "", false); err != nil {
			return nil, err
		}
		return s.list(a, scheme)
	case clienttesting.GetActionImpl:
		if err := s.note("get", resource, namespace, a.Name, false); err != nil {
			return nil, err
		}
		return s.get(objectKey{resource, namespace, a.Name}, a.GetResource().GroupResource())
	case clienttesting.CreateActionImpl:
		return s.create(a)
	case clienttesting.DeleteActionImpl:
		if err := s.note("delete", resource, namespace, a.Name, false); err != nil {
			return nil, err
		}
		if err := s.precondition(objectKey{resource, namespace, a.Name}, a); err != nil {
			return nil, err
		}
		return nil, s.remove(resource, namespace, a.Name)
	case clienttesting.PatchActionImpl:
		if err := s.note("patch", resource, namespace, a.Name, false); err != nil {
			return nil, err
		}
		return s.mergePatch(objectKey{resource, namespace, a.Name}, a)
	}
	return nil, fmt.Errorf("the test's API server does not know %s %s", action.GetVerb(), resource)
}

func (s *apiServer) create(a clienttesting.CreateActionImpl) (runtime.Object, error) {
	resource, namespace := a.GetResource().Resource, a.GetNamespace()
	object := a.Object.DeepCopyObject()
	if review, ok := object.(*authv1.SelfSubjectRulesReview); ok {
		if err := s.note("review", "rights", "", review.Spec.Namespace, false); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		var known bool
		if review.Status, known = s.rules[review.Spec.Namespace]; !known {
			review.Status.ResourceRules = []authv1.ResourceRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}
		}
		return review, nil
	}
	m := accessor(s.t, object)
	dryRun := len(a.CreateOptions.DryRun) > 0
	if err := s.note("create", resource, namespace, m.GetName(), dryRun); err != nil {
		return nil, err
	}
	// The snapshot client's fake passes no options on.
	if a.CreateOptions.FieldManager == "" && a.GetResource().Group != "snapshot.storage.k8s.io" {
		return nil, fmt.Errorf("%s %s is created without a field manager", resource, m.GetName())
	}
	m.SetNamespace(namespace)
	key := objectKey{resource, namespace, m.GetName()}
	s.mu.Lock()
	_, taken := s.objects[key]
	s.mu.Unlock()
	if taken {
		return nil, apierrors.NewAlreadyExists(a.GetResource().GroupResource(), m.GetName())
	}
	if dryRun {
		return object, nil
	}
	return s.put(resource, object), nil
}

// put stores an object, new or changed, and tells everybody.
func (s *apiServer) put(resource string, object runtime.Object) runtime.Object {
	stored, _ := s.putOver(resource, object, "")
	return stored
}

// putOver is put over the version given, if it still is the current one; empty for any.
func (s *apiServer) putOver(resource string, object runtime.Object, version string) (runtime.Object, bool) {
	object = object.DeepCopyObject()
	m := accessor(s.t, object)
	key := objectKey{resource, m.GetNamespace(), m.GetName()}
	s.mu.Lock()
	before := s.objects[key]
	if version != "" && (before == nil || accessor(s.t, before).GetResourceVersion() != version) {
		s.mu.Unlock()
		return nil, false
	}
	s.version++
	if before == nil {
		if m.GetUID() == "" {
			m.SetUID(types.UID(fmt.Sprintf("uid-%d", s.version)))
		}
		m.SetCreationTimestamp(metav1.NewTime(time.Now()))
	}
	m.SetResourceVersion(strconv.Itoa(s.version))
	s.objects[key] = object
	s.tell(change{s.version, resource, before, object})
	after := slices.Clone(s.after)
	s.mu.Unlock()
	verb := "create"
	if before != nil {
		verb = "update"
	}
	for _, f := range after {
		f(verb, resource, object.DeepCopyObject())
	}
	return object.DeepCopyObject(), true
}

// precondition refuses to delete an object that is not the one, or at the version, that is meant.
func (s *apiServer) precondition(key objectKey, a clienttesting.DeleteActionImpl) error {
	want := a.DeleteOptions.Preconditions
	if want == nil {
		return nil
	}
	object, err := s.get(key, a.GetResource().GroupResource())
	if err != nil {
		return err
	}
	m := accessor(s.t, object)
	if want.UID != nil && *want.UID != m.GetUID() || want.ResourceVersion != nil && *want.ResourceVersion != m.GetResourceVersion() {
		return apierrors.NewConflict(a.GetResource().GroupResource(), key.name, errors.New("the object has been modified"))
	}
	return nil
}

// remove deletes an object, or marks it where a finalizer holds it.
func (s *apiServer) remove(resource, namespace, name string) error {
	key := objectKey{resource, namespace, name}
	s.mu.Lock()
	object, found := s.objects[key]
	s.mu.Unlock()
	if !found {
		return apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name)
	}
	m := accessor(s.t, object)
	if len(m.GetFinalizers()) == 0 {
		s.vanish(resource, namespace, name)
		return nil
	}
	if m.GetDeletionTimestamp() == nil {
		marked := object.DeepCopyObject()
		now := metav1.NewTime(time.Now())
		accessor(s.t, marked).SetDeletionTimestamp(&now)
		s.put(resource, marked)
	}
	return nil
}

// vanish removes an object whatever holds it.
func (s *apiServer) vanish(resource, namespace, name string) {
	key := objectKey{resource, namespace, name}
	s.mu.Lock()
	object, found := s.objects[key]
	if found {
		delete(s.objects, key)
		s.version++
		s.tell(change{s.version, resource, object, nil})
	}
	after := slices.Clone(s.after)
	s.mu.Unlock()
	if found {
		for _, f := range after {
			f("delete", resource, object.DeepCopyObject())
		}
	}
}

// change applies f to an object of the server that is there.
func edit[T runtime.Object](s *apiServer, resource, namespace, name string, f func(T)) {
	for {
		object, err := s.get(objectKey{resource, namespace, name}, schema.GroupResource{Resource: resource})
		if err != nil {
			return // it was deleted in the meantime, and controllers bear that
		}
		version := accessor(s.t, object).GetResourceVersion()
		f(object.(T))
		if _, done := s.putOver(resource, object, version); done {
			return
		}
	}
}

func (s *apiServer) get(key objectKey, gr schema.GroupResource) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	object, found := s.objects[key]
	if !found {
		return nil, apierrors.NewNotFound(gr, key.name)
	}
	return object.DeepCopyObject(), nil
}

func (s *apiServer) has(resource, namespace, name string) bool {
	_, err := s.get(objectKey{resource, namespace, name}, schema.GroupResource{})
	return err == nil
}

// all returns the objects of a resource, ordered by namespace and name.
func (s *apiServer) all(resource string) []runtime.Object {
	list, _ := s.state(resource)
	return list
}

// state are the objects of a resource and the version that they are of.
func (s *apiServer) state(resource string) ([]runtime.Object, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []runtime.Object
	for key, object := range s.objects {
		if key.resource == resource {
			list = append(list, object.DeepCopyObject())
		}
	}
	slices.SortFunc(list, func(a, b runtime.Object) int {
		x, y := accessor(s.t, a), accessor(s.t, b)
		return slices.Compare([]string{x.GetNamespace(), x.GetName()}, []string{y.GetNamespace(), y.GetName()})
	})
	return list, s.version
}

// names are the names of all objects of a resource, in order.
func (s *apiServer) names(resource string) []string {
	names := []string{}
	for _, object := range s.all(resource) {
		names = append(names, accessor(s.t, object).GetName())
	}
	return names
}

func (s *apiServer) list(a clienttesting.ListActionImpl, scheme *runtime.Scheme) (runtime.Object, error) {
	gvk := a.Kind
	gvk.Kind += "List"
	list, err := scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	w := newWatching(a.GetResource().Resource, a.GetNamespace(), a.ListOptions)
	var items []runtime.Object
	objects, version := s.state(w.resource)
	for _, object := range objects {
		if w.selects(s.t, object) {
			items = append(items, object)
		}
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(strconv.Itoa(version))
	return list, meta.SetList(list, items)
}

func newWatching(resource, namespace string, opts metav1.ListOptions) *watching {
	w := &watching{RaceFreeFakeWatcher: watch.NewRaceFreeFake(), resource: resource, namespace: namespace}
	w.labels, _ = labels.Parse(opts.LabelSelector)
	w.fields, _ = fields.ParseSelector(opts.FieldSelector)
	return w
}

func (w *watching) selects(t *testing.T, object runtime.Object) bool {
	if object == nil {
		return false
	}
	m := accessor(t, object)
	set := fields.Set{metav1.ObjectNameField: m.GetName()}
	if e, ok := object.(*corev1.Event); ok {
		set["type"], set["involvedObject.kind"] = e.Type, e.InvolvedObject.Kind
	}
	return (w.namespace == "" || w.namespace == m.GetNamespace()) && w.labels.Matches(labels.Set(m.GetLabels())) && w.fields.Matches(set)
}

func (s *apiServer) watch(a clienttesting.WatchActionImpl) (watch.Interface, error) {
	if err := s.note("watch", a.GetResource().Resource, a.GetNamespace(), "", false); err != nil {
		return nil, err
	}
	from, err := strconv.Atoi(a.ListOptions.ResourceVersion)
	if err != nil {
		return nil, fmt.Errorf("a watch from version %q: %w", a.ListOptions.ResourceVersion, err)
	}
	w := newWatching(a.GetResource().Resource, a.GetNamespace(), a.ListOptions)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.history {
		if c.version > from {
			w.tell(s.t, c)
		}
	}
	s.watches = append(s.watches, w)
	return w, nil
}

// tell sends a change to the watches; mu is held.
func (s *apiServer) tell(c change) {
	s.history = append(s.history, c)
	for _, w := range s.watches {
		w.tell(s.t, c)
	}
}

func (w *watching) tell(t *testing.T, c change) {
	if c.resource != w.resource {
		return
	}
	switch before, now := w.selects(t, c.before), w.selects(t, c.now); {
	case before && now:
		w.Modify(c.now.DeepCopyObject())
	case now:
		w.Add(c.now.DeepCopyObject())
	case before:
		w.Delete(c.before.DeepCopyObject())
	}
}

func (s *apiServer) mergePatch(key objectKey, a clienttesting.PatchActionImpl) (runtime.Object, error) {
	object, err := s.get(key, a.GetResource().GroupResource())
	if err != nil {
		return nil, err
	}
	if a.PatchType != types.MergePatchType {
		return nil, fmt.Errorf("patch type %s", a.PatchType)
	}
	if err := mergeInto(object, a.Patch); err != nil {
		return nil, err
	}
	return s.put(key.resource, object), nil
}

// mergeInto applies a JSON merge patch (RFC 7396) to an object.
func mergeInto(object any, patch []byte) error {
	old, err := json.Marshal(object)
	if err != nil {
		return err
	}
	var to, from map[string]any
	if err := errors.Join(json.Unmarshal(old, &to), json.Unmarshal(patch, &from)); err != nil {
		return err
	}
	merge(to, from)
	merged, err := json.Marshal(to)
	if err != nil {
		return err
	}
	return json.Unmarshal(merged, object)
}

func merge(to, from map[string]any) {
	for key, value := range from {
		switch value := value.(type) {
		case nil:
			delete(to, key)
		case map[string]any:
			below, ok := to[key].(map[string]any)
			if !ok {
				below = map[string]any{}
				to[key] = below
			}
			merge(below, value)
		default:
			to[key] = value
		}
	}
}

func accessor(t *testing.T, object runtime.Object) metav1.Object {
	t.Helper()
	m, err := meta.Accessor(object)
	if err != nil {
		t.Fatalf("%T: %v", object, err)
	}
	return m
}

// log returns the requests so far; those of the verbs given, or all.
func (s *apiServer) log(verbs ...string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var log []string
	for _, r := range s.requests {
		verb, _, _ := cut(r)
		if len(verbs) == 0 || slices.Contains(verbs, verb) {
			log = append(log, r)
		}
	}
	return log
}

// writes are the requests that change something; a dry run changes nothing.
func (s *apiServer) writes() []string {
	var writes []string
	for _, r := range s.log("create", "update", "patch", "delete", "freeze", "unfreeze", "put") {
		if _, _, remark := cut(r); remark == "" {
			writes = append(writes, r)
		}
	}
	return writes
}

// cut takes a line of the log apart: verb, resource with name, and the remark.
func cut(request string) (verb, what, remark string) {
	const dry = " (dry run)"
	if n := len(request) - len(dry); n > 0 && request[n:] == dry {
		request, remark = request[:n], dry[1:]
	}
	for i := range request {
		if request[i] == ' ' {
			return request[:i], request[i+1:], remark
		}
	}
	return request, "", remark
}

// forget empties the log.
func (s *apiServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

// sleep lets time pass for one request, unless its context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

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

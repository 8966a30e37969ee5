// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
)

// apiServer keeps objects as an API server does: with lists, watches, dry runs and
// deletions that name a UID. It serves every kind that is put into it or created.
type apiServer struct {
	t *testing.T
	// refuse makes an error of a request, by its verb and resource.
	refuse func(verb, resource string) (code int, message string)
	// created is called with each object that is created, and may change it.
	created func(resource string, o *unstructured.Unstructured)
	// removed is called with each object that is deleted.
	removed func(resource string, o *unstructured.Unstructured)
	// served are the resources of Harvester's group in discovery; none without.
	served []string
	// service answers what is proxied to a service.
	service http.HandlerFunc

	mu      sync.Mutex
	changed chan struct{} // closed at every change
	version int
	objects map[string]*unstructured.Unstructured // by path
	history []change
	// requests are "verb resource/name" of all that was changed.
	requests []string
}

type change struct {
	version int
	kind    string
	path    string
	object  *unstructured.Unstructured
}

func newAPIServer(t *testing.T) (*apiServer, *kube.Clients) {
	t.Helper()
	s := &apiServer{t: t, changed: make(chan struct{}), objects: map[string]*unstructured.Unstructured{}, version: 1}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	clients, err := kube.NewClients(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	return s, clients
}

// address is a request's object or collection.
type address struct{ prefix, namespace, resource, name string }

func parse(path string) address {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	n := 2 // api/v1
	if parts[0] == "apis" {
		n = 3
	}
	a := address{prefix: "/" + strings.Join(parts[:n], "/")}
	rest := parts[n:]
	if len(rest) > 2 && rest[0] == "namespaces" {
		a.namespace, rest = rest[1], rest[2:]
	}
	if len(rest) > 0 {
		a.resource = rest[0]
	}
	if len(rest) > 1 {
		a.name = rest[1]
	}
	return a
}

// version is the API version of the address: apps/v1.
func (a address) version() string {
	return strings.TrimPrefix(strings.TrimPrefix(a.prefix, "/apis/"), "/api/")
}

// kind is that of the resource's objects.
func (a address) kind() string {
	return map[string]string{
		"namespaces": "Namespace", "persistentvolumeclaims": "PersistentVolumeClaim", "persistentvolumes": "PersistentVolume",
		"storageclasses": "StorageClass", "backingimages": "BackingImage", "backingimagedatasources": "BackingImageDataSource", "backupbackingimages": "BackupBackingImage", "backuptargets": "BackupTarget",
		"volumes": "Volume", "nodes": "Node", "virtualmachines": "VirtualMachine", "virtualmachineimages": "VirtualMachineImage",
	}[a.resource]
}

func (a address) path(name string) string {
	p := a.prefix
	if a.namespace != "" {
		p += "/namespaces/" + a.namespace
	}
	return p + "/" + a.resource + "/" + name
}

// selects reports whether an object's path is in the collection.
func (a address) selects(path string) bool {
	o := parse(path)
	return o.prefix == a.prefix && o.resource == a.resource && (a.namespace == "" || a.namespace == o.namespace)
}

// put stores objects, as their controllers would.
func (s *apiServer) put(path string, object any) {
	s.t.Helper()
	content, err := json.Marshal(object)
	if err != nil {
		s.t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal(content, &o.Object); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := parse(path)
	o.SetName(a.name)
	o.SetNamespace(a.namespace)
	s.store(path, o)
}

// store keeps an object; the caller holds the lock.
func (s *apiServer) store(path string, o *unstructured.Unstructured) {
	o.SetAPIVersion(parse(path).version())
	o.SetKind(parse(path).kind())
	kind := "MODIFIED"
	if old := s.objects[path]; old == nil {
		kind = "ADDED"
		if o.GetUID() == "" {
			o.SetUID(randomUID(s.version))
		}
	} else if o.GetUID() == "" {
		o.SetUID(old.GetUID())
	}
	s.version++
	o.SetResourceVersion(fmt.Sprint(s.version))
	s.objects[path] = o
	s.tell(kind, path, o)
}

func (s *apiServer) drop(path string) {
	o := s.objects[path]
	s.version++
	delete(s.objects, path)
	s.tell("DELETED", path, o)
}

func (s *apiServer) tell(kind, path string, o *unstructured.Unstructured) {
	s.history = append(s.history, change{s.version, kind, path, o.DeepCopy()})
	close(s.changed)
	s.changed = make(chan struct{})
}

// has reports whether an object is there.
func (s *apiServer) has(path string) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[path]
}

// changes are the requests that have changed something.
func (s *apiServer) changes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func status(w http.ResponseWriter, code int, reason, message string, a address) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	encode(w, map[string]any{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
		"details": map[string]any{"name": a.name, "kind": a.resource},
	})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encode(w, v)
}

// encode writes an answer; a client that is gone needs none.
func encode(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return
	}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/proxy/") && s.service != nil {
		s.service(w, r)
		return
	}
	a := parse(r.URL.Path)
	if strings.HasPrefix(a.resource, "selfsubjectrulesreviews") {
		all := []any{map[string]any{"verbs": []string{"*"}, "apiGroups": []string{"*"}, "resources": []string{"*"}}}
		if s.refuse != nil {
			if code, _ := s.refuse("review", "rights"); code != 0 {
				all = []any{}
			}
		}
		reply(w, map[string]any{"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "status": map[string]any{"resourceRules": all, "nonResourceRules": []any{}, "incomplete": false}})
		return
	}
	verb := map[string]string{"POST": "create", "DELETE": "delete", "GET": "get", "PATCH": "patch", "PUT": "update"}[r.Method]
	if verb == "get" && a.name == "" {
		verb = "list"
	}
	if a.resource == "" {
		s.discover(w, a)
		return
	}
	if s.refuse != nil {
		if code, message := s.refuse(verb, a.resource); code != 0 {
			status(w, code, map[int]string{403: "Forbidden", 422: "Invalid"}[code], message, a)
			return
		}
	}
	switch {
	case r.URL.Query().Get("watch") != "":
		s.watch(w, r, a)
	case verb == "list":
		s.list(w, r, a)
	case verb == "get":
		if o := s.has(a.path(a.name)); o != nil {
			reply(w, o.Object)
			return
		}
		status(w, 404, "NotFound", a.resource+" "+a.name+" not found", a)
	case verb == "create":
		s.create(w, r, a)
	case verb == "delete":
		s.remove(w, r, a)
	default:
		status(w, 405, "MethodNotAllowed", r.Method, a)
	}
}

func (s *apiServer) discover(w http.ResponseWriter, a address) {
	if len(s.served) == 0 || !strings.Contains(a.prefix, "harvesterhci.io") {
		status(w, 404, "NotFound", "not served", a)
		return
	}
	var resources []any
	for _, r := range s.served {
		resources = append(resources, map[string]any{"name": r})
	}
	reply(w, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "harvesterhci.io/v1beta1", "resources": resources})
}

func named(r *http.Request, path string) bool {
	selector := r.URL.Query().Get("fieldSelector")
	name, ok := strings.CutPrefix(selector, "metadata.name=")
	return !ok || parse(path).name == name
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, a address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	for path, o := range s.objects {
		if a.selects(path) && named(r, path) {
			items = append(items, o.Object)
		}
	}
	reply(w, map[string]any{"kind": a.kind() + "List", "apiVersion": a.version(), "metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version)}, "items": items})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, a address) {
	w.Header().Set("Content-Type", "application/json")
	flusher := w.(http.Flusher)
	flusher.Flush()
	var since int
	_, _ = fmt.Sscan(r.URL.Query().Get("resourceVersion"), &since)
	for {
		s.mu.Lock()
		var news []change
		for _, c := range s.history {
			if c.version > since && a.selects(c.path) && named(r, c.path) {
				news = append(news, c)
			}
		}
		since = s.version
		changed := s.changed
		s.mu.Unlock()
		for _, c := range news {
			encode(w, map[string]any{"type": c.kind, "object": c.object.Object})
		}
		flusher.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

func (s *apiServer) create(w http.ResponseWriter, r *http.Request, a address) {
	o := &unstructured.Unstructured{}
	if err := json.NewDecoder(r.Body).Decode(&o.Object); err != nil {
		status(w, 400, "BadRequest", err.Error(), a)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.name = o.GetName()
	path := a.path(a.name)
	if s.objects[path] != nil {
		status(w, 409, "AlreadyExists", a.resource+" "+a.name+" exists", a)
		return
	}
	if r.URL.Query().Get("dryRun") != "" {
		reply(w, o.Object)
		return
	}
	s.requests = append(s.requests, "create "+a.resource+"/"+a.name)
	o.SetNamespace(a.namespace)
	if s.created != nil {
		s.created(a.resource, o)
	}
	s.store(path, o)
	reply(w, o.Object)
}

func (s *apiServer) remove(w http.ResponseWriter, r *http.Request, a address) {
	var options struct {
		Preconditions struct {
			UID string `json:"uid"`
		} `json:"preconditions"`
	}
	_ = json.NewDecoder(r.Body).Decode(&options)
	s.mu.Lock()
	defer s.mu.Unlock()
	path := a.path(a.name)
	o := s.objects[path]
	switch {
	case o == nil:
		status(w, 404, "NotFound", a.name+" not found", a)
		return
	case options.Preconditions.UID == "":
		s.t.Errorf("%s is deleted whatever it is by now", path)
	case options.Preconditions.UID != string(o.GetUID()):
		status(w, 409, "Conflict", "another UID", a)
		return
	}
	s.requests = append(s.requests, "delete "+a.resource+"/"+a.name)
	s.drop(path)
	if s.removed != nil {
		s.removed(a.resource, o)
	}
	reply(w, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

// noon is the time in all tests.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

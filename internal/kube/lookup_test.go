// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
)

func TestLookup(t *testing.T) {
	answers := map[string]struct {
		code int
		body string
	}{
		"/apis/cdi.kubevirt.io/v1beta1":                            {http.StatusOK, `{"kind":"APIResourceList","resources":[{"name":"datavolumes"},{"name":"datavolumes/status"}]}`},
		"/api/v1/namespaces/golden/persistentvolumeclaims/fedora":  {http.StatusOK, `{"kind":"PersistentVolumeClaim","apiVersion":"v1"}`},
		"/apis/cdi.kubevirt.io/v1beta1/namespaces/x/datasources/y": {http.StatusForbidden, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no","code":403}`},
		"/api/v1/namespaces/golden/persistentvolumeclaims":         {http.StatusOK, `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","items":[{"metadata":{"name":"b"}},{"metadata":{"name":"a"}}]}`},
		"/apis/kubevirt.io/v1":                                     {http.StatusServiceUnavailable, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"ServiceUnavailable","message":"down","code":503}`},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, found := answers[r.URL.Path]
		if !found {
			answer.code, answer.body = http.StatusNotFound, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","message":"none","code":404}`
		}
		w.WriteHeader(answer.code)
		if _, err := io.WriteString(w, answer.body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	clients, err := kube.NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	volumes := schema.GroupVersionResource{Group: "cdi.kubevirt.io", Version: "v1beta1", Resource: "datavolumes"}
	sources := schema.GroupVersionResource{Group: "cdi.kubevirt.io", Version: "v1beta1", Resource: "datasources"}
	machines := schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "virtualmachines"}
	unknown := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}
	for resource, want := range map[schema.GroupVersionResource]bool{volumes: true, sources: false, unknown: false} {
		if got, err := clients.Lookup.Serves(t.Context(), resource); err != nil || got != want {
			t.Errorf("serves %s: %t, %v", resource, got, err)
		}
	}
	if _, err := clients.Lookup.Serves(t.Context(), machines); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("an API that is down: %v", err)
	}
	claims := schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	for name, want := range map[string]bool{"fedora": true, "debian": false} {
		if got, err := clients.Lookup.Exists(t.Context(), claims, "golden", name); err != nil || got != want {
			t.Errorf("claim %s exists: %t, %v", name, got, err)
		}
	}
	if _, err := clients.Lookup.Exists(t.Context(), sources, "x", "y"); !apierrors.IsForbidden(err) {
		t.Errorf("what may not be read: %v", err)
	}
	if got, err := clients.Lookup.Names(t.Context(), claims, "golden"); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("claims %q, %v", got, err)
	}
	if got, err := clients.Lookup.Names(t.Context(), unknown, "golden"); err != nil || len(got) > 0 {
		t.Errorf("things %q, %v", got, err)
	}
}

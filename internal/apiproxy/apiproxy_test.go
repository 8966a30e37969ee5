// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package apiproxy_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/internal/apiproxy"
)

func transparent(next http.Handler) http.Handler { return next }

// What the API server gets is what the client sent, with the proxy's credentials.
func TestProxyPassesOn(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" || r.Header.Get("Authorization") != "Bearer of-the-cluster" {
			t.Errorf("%s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(api.Close)
	var seen string
	proxy, err := apiproxy.Start(t.Context(), &rest.Config{Host: api.URL, BearerToken: "of-the-cluster"}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen = r.URL.Path
			next.ServeHTTP(w, r)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := proxy.WriteKubeconfig(path); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if code := get(t, config.Host+"/version"); code != http.StatusTeapot || seen != "/version" {
		t.Errorf("%d, saw %q", code, seen)
	}
	if code := get(t, "http://"+proxy.Address()+"/version"); code != http.StatusNotFound {
		t.Errorf("without the token: %d", code)
	}
}

func get(t *testing.T, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

// An API server that is away is away for the client too: no answer stands in for it.
func TestProxyOfAnAPIServerThatIsAway(t *testing.T) {
	api := httptest.NewServer(http.NotFoundHandler())
	api.Close()
	proxy, err := apiproxy.Start(t.Context(), &rest.Config{Host: api.URL}, transparent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := proxy.WriteKubeconfig(path); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+"/version", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err == nil {
		response.Body.Close()
		t.Errorf("answered with %s", response.Status)
	}
}

func TestWhatARequestIs(t *testing.T) {
	for _, tt := range []struct {
		method, url    string
		changes, watch bool
	}{
		{http.MethodGet, "/api/v1/secrets", false, false},
		{http.MethodGet, "/api/v1/secrets?watch=true", false, true},
		{http.MethodGet, "/api/v1/secrets?watch=1", false, true},
		{http.MethodPost, "/api/v1/namespaces/demo/secrets?fieldManager=x", true, false},
		{http.MethodPost, "/api/v1/namespaces/demo/secrets?dryRun=All", false, false},
		{http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", false, false},
		{http.MethodPut, "/apis/subresources.kubevirt.io/v1/namespaces/demo/virtualmachineinstances/web/freeze", true, false},
		{http.MethodPatch, "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/web", true, false},
		{http.MethodDelete, "/api/v1/namespaces/demo/secrets/web", true, false},
	} {
		r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.url, http.NoBody)
		if apiproxy.Changes(r) != tt.changes || apiproxy.IsWatch(r) != tt.watch {
			t.Errorf("%s %s: changes %t, watch %t", tt.method, tt.url, apiproxy.Changes(r), apiproxy.IsWatch(r))
		}
	}
}

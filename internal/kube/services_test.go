// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

func TestPostToAService(t *testing.T) {
	backend := Service{Namespace: LonghornNamespace, Name: "longhorn-backend", Port: 9500}
	for name, tc := range map[string]struct {
		code   int
		answer string
		says   string
	}{
		"taken":             {200, `{"name":"x"}`, ""},
		"Longhorn's error":  {500, `{"type":"error","status":500,"message":"upload server for backing image x has not been initiated"}`, "has not been initiated"},
		"plain text":        {500, "unexpected EOF\n", "unexpected EOF"},
		"a page":            {502, "<html>bad gateway</html>", "error"},
		"nobody behind it":  {503, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no endpoints available for service \"longhorn-backend\"","reason":"ServiceUnavailable","code":503}`, "no endpoints available"},
		"not allowed":       {403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"services \"http:longhorn-backend:9500\" is forbidden","reason":"Forbidden","code":403}`, "is forbidden"},
		"a mute error":      {500, "", "error"},
		"an odd document":   {500, `{"error":{}}`, "error"},
		"a document, empty": {500, `{"message":""}`, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			var path, query, kind, body string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				content, _ := io.ReadAll(r.Body)
				path, query, kind, body = r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), string(content)
				if strings.HasPrefix(tc.answer, "{") {
					w.Header().Set("Content-Type", "application/json")
				}
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.answer)
			}))
			defer server.Close()
			clients, err := NewClients(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			err = clients.Services.Post(t.Context(), backend, []string{"v1", "backingimages", "x"}, map[string]string{"action": "upload", "size": "512"}, "text/odd", strings.NewReader("content"))
			if path != "/api/v1/namespaces/longhorn-system/services/http:longhorn-backend:9500/proxy/v1/backingimages/x" || query != "action=upload&size=512" || kind != "text/odd" || body != "content" {
				t.Errorf("%s ? %s, %s, %q", path, query, kind, body)
			}
			if tc.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var said *ServiceError
			if !errors.As(err, &said) || said.Code != tc.code || !strings.Contains(said.Message, tc.says) {
				t.Errorf("%#v, not %q", err, tc.says)
			}
			if apierrors.IsForbidden(err) != (tc.code == 403) {
				t.Errorf("forbidden: %v", err)
			}
		})
	}
}

func TestPostIsCanceled(t *testing.T) {
	begun := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body) // only then the server notices that the client has gone
		close(begun)
		<-r.Context().Done()
	}))
	defer server.Close()
	clients, err := NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	err = clients.Services.Post(ctx, Service{Namespace: "a", Name: "b", Port: 1}, nil, nil, "", strings.NewReader("x"))
	var said *ServiceError
	if !errors.Is(err, context.Canceled) || errors.As(err, &said) {
		t.Error(err)
	}
}

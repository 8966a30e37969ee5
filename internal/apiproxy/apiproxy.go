// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiproxy stands between a program and an API server, for measurements and
// for tests that count, cut off or kill.
package apiproxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Proxy passes requests on to an API server, with the credentials of its own. It
// listens on loopback and takes only requests whose path starts with its token:
// clients send no bearer token over plain HTTP.
type Proxy struct {
	server   *http.Server
	listener net.Listener
	token    string
}

// Start returns a proxy to the cluster that config names. wrap sees every request
// with the path that the API server will see; next passes it on.
func Start(ctx context.Context, config *rest.Config, wrap func(next http.Handler) http.Handler) (*Proxy, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	host, err := url.Parse(config.Host)
	if err != nil {
		return nil, fmt.Errorf("API server %s: %w", config.Host, err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, token: rand.Text()}
	forward := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // a watch must not wait for a full buffer
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(host)
		},
		// The client sees what it would see without the proxy: a connection that is cut.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		// Any other path is not found.
		Handler: http.StripPrefix("/"+p.token, wrap(forward)),
	}
	go func() {
		// Serve always returns an error; Close is how it ends here.
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			p.Close()
		}
	}()
	return p, nil
}

// Close ends the proxy and every request through it.
func (p *Proxy) Close() { _ = p.server.Close() }

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// WriteKubeconfig writes a kubeconfig that goes through the proxy.
func (p *Proxy) WriteKubeconfig(path string) error {
	const name = "proxy"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: "http://" + p.Address() + "/" + p.token}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// IsWatch reports whether a request is one that stays open.
func IsWatch(r *http.Request) bool {
	watch := r.URL.Query().Get("watch")
	return watch == "true" || watch == "1"
}

// Changes reports whether a request changes anything: neither a dry run nor a
// question about rights does.
func Changes(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return r.URL.Query().Get("dryRun") == "" && !strings.Contains(r.URL.Path, "/authorization.k8s.io/")
	}
	return false
}

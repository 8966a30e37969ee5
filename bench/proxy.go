// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// countingProxy stands between the plugin and the API server and counts the
// plugin's requests. It listens on loopback and takes only requests whose path
// starts with its token: clients send no bearer token over plain HTTP.
type countingProxy struct {
	server   *http.Server
	listener net.Listener
	token    string

	mu     sync.Mutex
	counts map[string]int
}

// startProxy returns a proxy to the cluster that config names.
func startProxy(ctx context.Context, config *rest.Config) (*countingProxy, error) {
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
	p := &countingProxy{listener: listener, token: rand.Text(), counts: map[string]int{}}
	forward := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // a watch must not wait for a full buffer
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(host)
		},
	}
	p.server = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		// Any other path is not found.
		Handler: http.StripPrefix("/"+p.token, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.count(r)
			forward.ServeHTTP(w, r)
		})),
	}
	go func() {
		// Serve always returns an error; Close is how it ends here.
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			p.Close()
		}
	}()
	return p, nil
}

// count records one request by what it asks for. Requests of one kind on one
// object count together, so that polling shows as a high count of one key.
func (p *countingProxy) count(r *http.Request) {
	key := r.Method + " " + r.URL.Path
	if watch := r.URL.Query().Get("watch"); watch == "true" || watch == "1" {
		key = "WATCH " + r.URL.Path
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[key]++
}

// reset forgets what was counted and returns it.
func (p *countingProxy) reset() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := p.counts
	p.counts = map[string]int{}
	return counts
}

// Close ends the proxy and every request through it.
func (p *countingProxy) Close() { _ = p.server.Close() }

// writeKubeconfig writes a kubeconfig that goes through the proxy.
func (p *countingProxy) writeKubeconfig(path string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: "http://" + p.listener.Addr().String() + "/" + p.token}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench"}
	config.CurrentContext = "bench"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// requestCount is what one command asked of the API server.
type requestCount struct {
	// Total is every request, a watch being one.
	Total int
	// MostReads is how often the most repeated read of one path came, which is
	// what polling would show; MostRead is that path.
	MostReads int
	MostRead  string
}

func summarize(counts map[string]int) requestCount {
	var sum requestCount
	for key, n := range counts {
		sum.Total += n
		if path, isRead := strings.CutPrefix(key, "GET "); isRead && (n > sum.MostReads || (n == sum.MostReads && path < sum.MostRead)) {
			sum.MostReads, sum.MostRead = n, path
		}
	}
	return sum
}

// printCounts lists what was asked, so that a missed goal can be understood.
func printCounts(out io.Writer, counts map[string]int) {
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "  %3d %s\n", counts[key], key)
	}
}

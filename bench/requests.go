// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/internal/apiproxy"
)

// countingProxy stands between the plugin and the API server and counts the
// plugin's requests.
type countingProxy struct {
	*apiproxy.Proxy

	mu     sync.Mutex
	counts map[string]int
}

// startProxy returns a proxy to the cluster that config names.
func startProxy(ctx context.Context, config *rest.Config) (*countingProxy, error) {
	p := &countingProxy{counts: map[string]int{}}
	proxy, err := apiproxy.Start(ctx, config, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.count(r)
			next.ServeHTTP(w, r)
		})
	})
	p.Proxy = proxy
	return p, err
}

// count records one request by what it asks for. Requests of one kind on one
// object count together, so that polling shows as a high count of one key.
func (p *countingProxy) count(r *http.Request) {
	key := r.Method + " " + r.URL.Path
	if apiproxy.IsWatch(r) {
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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Where the benchmark has a target beside a directory: Longhorn's URL of an empty
// bucket or folder of it, and a file with a JSON object of its credentials.
const (
	envBenchURL         = "VMBACKUP_BENCH_S3"
	envBenchCredentials = "VMBACKUP_BENCH_S3_CREDENTIALS"
)

// heap is the most memory in use while it is watched.
type heap struct {
	most atomic.Uint64
	done chan struct{}
	wait sync.WaitGroup
}

func watchHeap() *heap {
	h := &heap{done: make(chan struct{})}
	h.wait.Go(func() {
		var m runtime.MemStats
		for {
			runtime.ReadMemStats(&m)
			h.most.Store(max(h.most.Load(), m.HeapInuse))
			select {
			case <-h.done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return h
}

func (h *heap) stop() float64 {
	close(h.done)
	h.wait.Wait()
	return float64(h.most.Load()) / (1 << 20)
}

// fillStore puts backups of machines with one volume each on a store.
func fillStore(b *testing.B, store target.Store, machines, backupsEach int) {
	b.Helper()
	g, _ := errgroup.WithContext(b.Context())
	g.SetLimit(32)
	for m := range machines {
		g.Go(func() error {
			vm := fmt.Sprintf("machine-%05d", m)
			namespace, volume := fmt.Sprintf("team-%02d", m%50), "pvc-"+vm
			var names []string
			for n := range backupsEach {
				name := fmt.Sprintf("backup-%s-%03d", vm, n)
				names = append(names, name)
				record := machineBackup(vmbackup.Ref{Namespace: namespace, Name: fmt.Sprintf("%s-%03d", vm, n)}, vm, volume, name, n+1)
				putBackup(b, store, record)
			}
			putVolume(b, store, volume, namespace+"/"+vm+"-root", 100, names...)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkContents reads a target with 10,000 backups of machines: of 500 machines
// with 20 each, and of 10,000 with a single one, which is the worst case.
func BenchmarkContents(b *testing.B) {
	for _, shape := range []struct{ machines, each int }{{500, 20}, {10_000, 1}} {
		name := fmt.Sprintf("%dx%d", shape.machines, shape.each)
		b.Run("directory/"+name, func(b *testing.B) {
			benchmarkContents(b, target.NewDirectory(b.TempDir()), nil, shape.machines, shape.each)
		})
		b.Run("s3/"+name, func(b *testing.B) {
			bucket := os.Getenv(envBenchURL)
			if bucket == "" {
				b.Skipf("set %s and %s", envBenchURL, envBenchCredentials)
			}
			content, err := os.ReadFile(os.Getenv(envBenchCredentials))
			if err != nil {
				b.Fatal(err)
			}
			var keys map[string]string
			if err := json.Unmarshal(content, &keys); err != nil {
				b.Fatal(err)
			}
			credentials := map[string][]byte{}
			for k, v := range keys {
				credentials[k] = []byte(v)
			}
			requests := countRequests(b, credentials)
			store, err := target.Open(target.Config{URL: bucket + name + "/", Credentials: credentials})
			if err != nil {
				b.Fatal(err)
			}
			benchmarkContents(b, store, requests, shape.machines, shape.each)
		})
	}
}

// countRequests puts itself between the client and the server of the credentials, and
// counts. The Host that the client has signed goes on as it is.
func countRequests(b *testing.B, credentials map[string][]byte) *atomic.Int64 {
	b.Helper()
	server, err := url.Parse(string(credentials["AWS_ENDPOINTS"]))
	if err != nil {
		b.Fatal(err)
	}
	requests := &atomic.Int64{}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		requests.Add(1)
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = server.Scheme, server.Host, r.In.Host
	}})
	b.Cleanup(proxy.Close)
	credentials["AWS_ENDPOINTS"] = []byte(proxy.URL)
	return requests
}

func benchmarkContents(b *testing.B, store target.Store, requests *atomic.Int64, machines, each int) {
	fillStore(b, store, machines, each)
	runtime.GC()
	b.ResetTimer()
	h := watchHeap()
	if requests != nil {
		requests.Store(0)
	}
	for b.Loop() {
		got, err := Contents(b.Context(), store, "default")
		if err != nil {
			b.Fatal(err)
		}
		if s := got.Status; s.Backups != machines*each || len(s.Machines) != machines || s.Troubled() || s.OrphanCount != 0 {
			b.Fatalf("%d backups of %d machines, %d orphans, %+v", s.Backups, len(s.Machines), s.OrphanCount, s.Incomplete)
		}
	}
	b.ReportMetric(h.stop(), "MiB-heap")
	if requests != nil {
		b.ReportMetric(float64(requests.Load())/float64(b.N), "requests/op")
	}
}

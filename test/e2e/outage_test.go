// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/apiproxy"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testOutages restarts parts of the cluster under a run, in each of its waits and in
// the freeze: the very same run comes to its end, and what it has made is whole.
func (s *suite) testOutages(t *testing.T) {
	tried, survived := 0, 0
	defer func() { t.Logf("outages tried %d, survived %d", tried, survived) }()
	m := machine{namespace: s.namespace(t, "outage"), name: "app", disks: []string{"root"}}
	sums := s.make(t, m)
	apiServer := func() { s.runSandbox(t, "component", "restart", "kube-apiserver") }
	manager := func() { s.runSandbox(t, "component", "restart", "longhorn-manager") }
	expiry := &expiry{}
	expiring := s.through(t, expiry.wrap)

	// run runs a command that meets outages in its steps, in this order.
	type strike struct {
		what string
		at   func(vmbackup.Event) bool
		do   func()
	}
	run := func(s *suite, args []string, strikes ...strike) {
		t.Helper()
		began := time.Now()
		p := s.start(t, append(args, "-n", m.namespace, "--timeout", "3m")...)
		for _, strike := range strikes {
			p.until(t, strike.what, strike.at)
			strike.do()
			tried++
		}
		got := p.wait(t)
		if got.code != 0 && got.code != 3 {
			t.Fatalf("does not survive: %s", got)
		}
		survived += len(strikes)
		for _, strike := range strikes {
			t.Logf("%s: %s, with the whole run of %.0f s", args[0], strike.what, time.Since(began).Seconds())
		}
	}
	freezing := func(e vmbackup.Event) bool { return strings.Contains(e.Message, "freezing") }

	// Whether the outage is told is left to the unit tests: a quick restart lasts about a
	// second, and an answer 503 with Retry-After is repeated within the client library.
	run(s, []string{"create", "app", "--name", "first"},
		strike{"the API server restarts in the freeze", freezing, apiServer},
		strike{"the API server restarts in the upload", atStep("upload"), apiServer})
	s.once(t, s.backup(t, 0, "describe", "first", "-n", m.namespace))
	s.want(t, 0, "delete", "first", "-n", m.namespace, "--yes")
	run(expiring, []string{"create", "app", "--name", "second"},
		strike{"watches expire in the upload", atStep("upload"), expiry.now},
		strike{"longhorn-manager restarts in the upload", func(e vmbackup.Event) bool { return e.Step == "upload" }, manager})
	s.once(t, s.backup(t, 0, "describe", "second", "-n", m.namespace))

	restore := func(name string) []string {
		return []string{"restore", "second", "--to-name", name, "--name", name}
	}
	run(s, restore("one"),
		strike{"the API server restarts while data is restored", atStep("data"), apiServer},
		strike{"the API server restarts while the machine starts", atStep("start"), apiServer})
	s.restored(t, s.restore(t, 0, "describe", "restore/one", "-n", m.namespace), "Running", sums)
	run(expiring, restore("two"),
		strike{"watches expire while data is restored", atStep("data"), expiry.now},
		strike{"longhorn-manager restarts while data is restored", func(e vmbackup.Event) bool { return e.Step == "data" }, manager})
	s.restored(t, s.restore(t, 0, "describe", "restore/two", "-n", m.namespace), "Running", sums)
	s.thawed(t, m.namespace, "app")
}

// expiry is an API server that has forgotten what it would have to tell its watches:
// it closes them, and answers the next ones that go on from there with 410 Gone.
type expiry struct {
	mu      sync.Mutex
	close   []func()
	refuses int
}

func (e *expiry) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !apiproxy.IsWatch(r) {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		e.mu.Lock()
		gone := e.refuses > 0
		if gone {
			e.refuses--
		} else {
			e.close = append(e.close, cancel)
		}
		e.mu.Unlock()
		if gone {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusGone)
			_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old resource version: 1 (2)"}`))
			return
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// now closes all watches and lets the next two be refused.
func (e *expiry) now() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refuses = 2
	for _, end := range e.close {
		end()
	}
	e.close = nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/internal/apiproxy"
)

// killer stands between the plugin and the API server and kills the plugin at its
// requests that change something: once at each kind of request after each other kind,
// so that a command that is run again and again gets to its end.
type killer struct {
	suite *suite // of the plugin's kubeconfig
	// after kills with the request done and its answer unread; before it otherwise.
	after bool

	mu       sync.Mutex
	walked   map[string]bool
	points   []string
	previous string
	// left counts the requests until a kill at random; points are not walked then.
	random   bool
	left     int
	process  *process
	dead     bool
	inFlight sync.WaitGroup
}

// newKiller returns a killer whose suite runs the plugin through it.
func (s *suite) newKiller(t *testing.T, after bool) *killer {
	t.Helper()
	k := &killer{after: after, walked: map[string]bool{}}
	k.suite = s.through(t, k.wrap)
	return k
}

// through is the suite with a proxy between the plugin and the API server.
func (s *suite) through(t *testing.T, wrap func(http.Handler) http.Handler) *suite {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := apiproxy.Start(t.Context(), config, wrap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	behind := *s
	behind.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := proxy.WriteKubeconfig(behind.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return &behind
}

// run runs the plugin until it ends or is killed (code -1): at the n-th request of
// any kind, or, where n is 0, at the next point that was not walked yet.
func (k *killer) run(t *testing.T, n int, args ...string) result {
	t.Helper()
	k.mu.Lock()
	k.dead, k.previous, k.left, k.random = false, "start", n, n > 0
	k.process = k.suite.start(t, args...)
	k.mu.Unlock()
	got := k.process.wait(t)
	k.inFlight.Wait() // nothing of a dead process is taken for the next one's
	return got
}

// resource finds what a path of the API is about: its resource and subresource.
var resource = regexp.MustCompile(`^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/[^/]+)?/([^/]+)(?:/[^/]+(/[^/]+)?)?$`)

func (k *killer) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !apiproxy.IsWatch(r) {
			k.inFlight.Add(1)
			defer k.inFlight.Done()
		}
		switch k.strike(r) {
		case spare:
			next.ServeHTTP(w, r)
		case strikeAfter:
			// Read to the end, so that it is done, and not passed on.
			next.ServeHTTP(&lostAnswer{header: http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
			k.kill()
			panic(http.ErrAbortHandler)
		default:
			panic(http.ErrAbortHandler)
		}
	})
}

type verdict int

const (
	spare verdict = iota
	strikeBefore
	strikeAfter
)

// strike decides about a request, and kills where it is killed before.
func (k *killer) strike(r *http.Request) verdict {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return strikeBefore
	}
	if k.random {
		if k.left--; k.left == 0 {
			k.killLocked()
			return strikeBefore
		}
		return spare
	}
	if !apiproxy.Changes(r) {
		return spare
	}
	this := r.Method
	if m := resource.FindStringSubmatch(r.URL.Path); m != nil {
		this += " " + m[1] + m[2]
	}
	point := k.previous + " > " + this
	if r.Method == http.MethodDelete {
		point = this // what goes before what is no other state
	}
	if k.walked[point] {
		k.previous = this
		return spare
	}
	k.walked[point] = true
	k.points = append(k.points, point)
	k.dead = true // whatever comes beside it comes too late
	if k.after {
		return strikeAfter
	}
	k.killLocked()
	return strikeBefore
}

func (k *killer) kill() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.killLocked()
}

func (k *killer) killLocked() {
	k.dead = true
	_ = k.process.cmd.Process.Kill() // it may have ended by itself
}

// lostAnswer is where an answer goes that nobody reads.
type lostAnswer struct{ header http.Header }

func (l *lostAnswer) Header() http.Header         { return l.header }
func (l *lostAnswer) Write(b []byte) (int, error) { return len(b), nil }
func (l *lostAnswer) WriteHeader(int)             {}
func (l *lostAnswer) Flush()                      {}

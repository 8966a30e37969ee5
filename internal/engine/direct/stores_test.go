// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// loggedJournal writes its changes into the same log as the API server, since a
// journal in the cluster makes requests too.
type loggedJournal struct {
	journal.Store
	api *apiServer
	// gate holds readers back; nil for no gate.
	gate *gate
	// loses makes every second change lose its answer.
	loses bool
	lost  bool
}

// answer is what comes back of a change that was made.
func (j *loggedJournal) answer(e journal.Entry, err error) (journal.Entry, error) {
	if !j.loses {
		return e, err
	}
	if j.lost = j.loses && !j.lost; j.lost && err == nil {
		return journal.Entry{}, kube.Error(refused(), "write", "record")
	}
	return e, err
}

// gate holds back who comes until as many have come as it misses, and is open then.
type gate struct {
	mu     sync.Mutex
	misses int
	open   chan struct{}
}

func newGate(misses int) *gate { return &gate{misses: misses, open: make(chan struct{})} }

func (g *gate) pass() {
	g.mu.Lock()
	if g.misses--; g.misses == 0 {
		close(g.open)
	}
	g.mu.Unlock()
	<-g.open
}

func (j *loggedJournal) Get(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) (journal.Entry, error) {
	e, err := j.Store.Get(ctx, kind, ref)
	if j.gate != nil {
		j.gate.pass()
	}
	return e, err
}

func (j *loggedJournal) Create(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	if err := j.api.note("create", "journal", e.Ref.Namespace, e.Ref.Name, false); err != nil {
		return journal.Entry{}, err
	}
	return j.answer(j.Store.Create(ctx, e))
}

func (j *loggedJournal) Update(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	if err := j.api.note("update", "journal", e.Ref.Namespace, e.Ref.Name, false); err != nil {
		return journal.Entry{}, err
	}
	return j.answer(j.Store.Update(ctx, e))
}

func (j *loggedJournal) Delete(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) error {
	if err := j.api.note("delete", "journal", ref.Namespace, ref.Name, false); err != nil {
		return err
	}
	return j.Store.Delete(ctx, kind, ref)
}

// loggedStore writes its changes into the same log as the API server.
type loggedStore struct {
	target.Store
	api *apiServer

	mu sync.Mutex
	// damages changes what is written under a key.
	damages map[string]bool
	// refusal is what every look and write is answered with.
	refusal error
}

func (s *loggedStore) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = err
}

func (s *loggedStore) refused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusal
}

func (s *loggedStore) Put(ctx context.Context, key string, content []byte) error {
	if err := s.api.note("put", "file", "", key, false); err != nil {
		return err
	}
	if err := s.refused(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.damages[key] {
		content = append([]byte("x"), content[1:]...)
	}
	s.mu.Unlock()
	return s.Store.Put(ctx, key, content)
}

func (s *loggedStore) Stat(ctx context.Context, key string) (target.Object, error) {
	if err := s.api.note("stat", "file", "", key, false); err != nil {
		return target.Object{}, err
	}
	if err := s.refused(); err != nil {
		return target.Object{}, err
	}
	return s.Store.Stat(ctx, key)
}

func (s *loggedStore) Delete(ctx context.Context, key string) error {
	if err := s.api.note("delete", "file", "", key, false); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key)
}

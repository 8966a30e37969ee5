// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// loggedJournal writes its changes into the same log as the API server, since a
// journal in the cluster makes requests too.
type loggedJournal struct {
	journal.Store
	api *apiServer
	// gate holds readers back until as many have come as it counts; nil for no gate.
	gate *sync.WaitGroup
}

func (j *loggedJournal) Get(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) (journal.Entry, error) {
	e, err := j.Store.Get(ctx, kind, ref)
	if j.gate != nil {
		j.gate.Done()
		j.gate.Wait()
	}
	return e, err
}

func (j *loggedJournal) Create(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	if err := j.api.note("create", "journal", e.Ref.Namespace, e.Ref.Name, false); err != nil {
		return journal.Entry{}, err
	}
	return j.Store.Create(ctx, e)
}

func (j *loggedJournal) Update(ctx context.Context, e journal.Entry) (journal.Entry, error) {
	if err := j.api.note("update", "journal", e.Ref.Namespace, e.Ref.Name, false); err != nil {
		return journal.Entry{}, err
	}
	return j.Store.Update(ctx, e)
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
}

func (s *loggedStore) Put(ctx context.Context, key string, content []byte) error {
	if err := s.api.note("put", "file", "", key, false); err != nil {
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
	return s.Store.Stat(ctx, key)
}

func (s *loggedStore) Delete(ctx context.Context, key string) error {
	if err := s.api.note("delete", "file", "", key, false); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key)
}

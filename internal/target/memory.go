// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Memory is a Store in memory, for tests and for trying things out.
type Memory struct {
	now   vmbackup.Clock
	mu    sync.Mutex
	files map[string]memoryFile
}

type memoryFile struct {
	content  []byte
	modified time.Time
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store that dates its files by the clock.
func NewMemory(now vmbackup.Clock) *Memory {
	return &Memory{now: now, files: map[string]memoryFile{}}
}

// List implements Store. It lists what was there when it was called.
func (m *Memory) List(ctx context.Context, prefix string, each func(Object) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	m.mu.Lock()
	files := maps.Clone(m.files)
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(files)) {
		if err := interrupted(ctx, m, "listing "+prefix); err != nil {
			return err
		}
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := each(files[key].object(key)); err != nil {
			return err
		}
	}
	return interrupted(ctx, m, "listing "+prefix)
}

// Stat implements Store.
func (m *Memory) Stat(ctx context.Context, key string) (Object, error) {
	f, err := m.file(ctx, key, "looking at "+key)
	return f.object(key), err
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	f, err := m.file(ctx, key, "reading "+key)
	if err != nil {
		return nil, err
	}
	if size := int64(len(f.content)); size > limit {
		return nil, tooLarge(m, key, size, limit)
	}
	return slices.Clone(f.content), nil
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, key string, content []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := interrupted(ctx, m, "writing "+key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[key] = memoryFile{content: slices.Clone(content), modified: m.now().UTC()}
	return nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := interrupted(ctx, m, "deleting "+key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, key)
	return nil
}

// String implements Store.
func (m *Memory) String() string { return "memory:" }

func (m *Memory) file(ctx context.Context, key, doing string) (memoryFile, error) {
	if err := checkKey(key); err != nil {
		return memoryFile{}, err
	}
	if err := interrupted(ctx, m, doing); err != nil {
		return memoryFile{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f, found := m.files[key]
	if !found {
		return memoryFile{}, notFound(m, key)
	}
	return f, nil
}

func (f memoryFile) object(key string) Object {
	return Object{Key: key, Size: int64(len(f.content)), Modified: f.modified}
}

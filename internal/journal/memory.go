// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Memory is a Store that ends with the process.
type Memory struct {
	mu      sync.Mutex
	entries map[memoryKey]memoryEntry
	version int64
	changed chan struct{} // closed and replaced with every change
}

type memoryKey struct {
	kind Kind
	ref  vmbackup.Ref
}

type memoryEntry struct {
	Entry
	created int64 // tells an entry from a later one of the same name
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty journal.
func NewMemory() *Memory {
	return &Memory{entries: map[memoryKey]memoryEntry{}, changed: make(chan struct{})}
}

// Create implements Store.
func (m *Memory) Create(ctx context.Context, e Entry) (Entry, error) {
	if err := errors.Join(check(e), ended(ctx)); err != nil {
		return Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := memoryKey{e.Kind, e.Ref}
	if _, taken := m.entries[key]; taken {
		return Entry{}, errTaken(e.Kind, e.Ref)
	}
	return m.put(key, e, m.version+1), nil
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, kind Kind, ref vmbackup.Ref) (Entry, error) {
	if err := ended(ctx); err != nil {
		return Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[memoryKey{kind, ref}]
	if !ok {
		return Entry{}, errMissing(kind, ref)
	}
	return clone(e.Entry), nil
}

// Update implements Store.
func (m *Memory) Update(ctx context.Context, e Entry) (Entry, error) {
	if err := errors.Join(check(e), ended(ctx)); err != nil {
		return Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := memoryKey{e.Kind, e.Ref}
	current, ok := m.entries[key]
	switch {
	case !ok:
		return Entry{}, errMissing(e.Kind, e.Ref)
	case current.Version != e.Version:
		return Entry{}, errStale(e.Kind, e.Ref)
	}
	return m.put(key, e, current.created), nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, kind Kind, ref vmbackup.Ref) error {
	if err := ended(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, memoryKey{kind, ref})
	m.tell()
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, opts ListOptions) ([]Entry, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	want := opts.wanted()
	list := []Entry{}
next:
	for _, e := range m.entries {
		if opts.Namespace != "" && e.Ref.Namespace != opts.Namespace {
			continue
		}
		for key, value := range want {
			if got, ok := e.Labels[key]; !ok || got != value {
				continue next
			}
		}
		list = append(list, clone(e.Entry))
	}
	order(list)
	return list, nil
}

// WatchList implements Store.
func (m *Memory) WatchList(ctx context.Context, opts ListOptions, changed func([]Entry) (bool, error)) error {
	for {
		m.mu.Lock()
		next := m.changed // taken before the list, so that no change is missed
		m.mu.Unlock()
		entries, err := m.List(ctx, opts)
		if err != nil {
			return err
		}
		if done, err := changed(entries); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-next:
		}
	}
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, kind Kind, ref vmbackup.Ref, changed func(Entry) (bool, error)) error {
	var created int64
	var seen string
	for {
		m.mu.Lock()
		e, ok := m.entries[memoryKey{kind, ref}]
		e.Entry = clone(e.Entry)
		next := m.changed
		m.mu.Unlock()
		if !ok || (created != 0 && created != e.created) {
			return errMissing(kind, ref)
		}
		created = e.created
		if e.Version != seen {
			seen = e.Version
			if done, err := changed(e.Entry); done || err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-next:
		}
	}
}

// put stores a copy under a new version; m.mu is held.
func (m *Memory) put(key memoryKey, e Entry, created int64) Entry {
	m.version++
	e = clone(e)
	e.Labels, e.Version = labelsOf(e), strconv.FormatInt(m.version, 10)
	m.entries[key] = memoryEntry{Entry: e, created: created}
	m.tell()
	return clone(e)
}

// tell wakes every watch; m.mu is held.
func (m *Memory) tell() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func ended(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "journal: %w", err)
	default:
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "journal: %w", err)
	}
}

// order sorts by namespace, name and kind.
func order(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name), cmp.Compare(a.Kind, b.Kind))
	})
}

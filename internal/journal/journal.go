// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package journal keeps the state of the tool's own operations, so that any of
// them can be followed, resumed and undone from any machine.
package journal

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Kind is the kind of operation that an entry is of.
type Kind string

// The kinds of entries.
const (
	KindBackup  Kind = "backup"
	KindRestore Kind = "restore"
)

// Entry is the state of one operation. Data is the engine's; the journal does not read it.
type Entry struct {
	Kind Kind
	Ref  vmbackup.Ref
	// Labels are for List: see the Label constants.
	Labels map[string]string
	Data   []byte
	// Version changes with every update; Update refuses one that is not current.
	Version string
}

// Labels of entries, by which they are listed.
const (
	LabelKind  = vmbackup.Group + "/kind"  // a Kind
	LabelVM    = vmbackup.Group + "/vm"    // name of the virtual machine (hashed when too long for a label)
	LabelPhase = vmbackup.Group + "/phase" // a vmbackup.Phase
)

// ListOptions narrows a listing.
type ListOptions struct {
	Kind Kind
	// Namespace is empty for all namespaces.
	Namespace string
	// Labels must all be there.
	Labels map[string]string
}

// Store is a journal. Every error is or wraps a *vmbackup.Error: NotFound,
// AlreadyExists, Conflict (a stale Version), Forbidden, or Internal.
type Store interface {
	// Create adds the entry and returns it with its Version.
	Create(ctx context.Context, e Entry) (Entry, error)
	Get(ctx context.Context, kind Kind, ref vmbackup.Ref) (Entry, error)
	// Update replaces labels and data of the entry that has e.Version.
	Update(ctx context.Context, e Entry) (Entry, error)
	// Delete removes the entry; a missing one is no error.
	Delete(ctx context.Context, kind Kind, ref vmbackup.Ref) error
	// List is ordered by namespace and name.
	List(ctx context.Context, opts ListOptions) ([]Entry, error)
	// WatchList calls changed with what List returns, and again with all of it
	// after every change, until changed returns true or an error, or ctx ends.
	// Changes that come while changed runs are told together.
	WatchList(ctx context.Context, opts ListOptions, changed func([]Entry) (done bool, err error)) error
	// Watch calls changed with the entry as it is and after every change until
	// changed returns true or an error, or ctx ends. It survives a restart of
	// the API server. A deleted entry ends it with NotFound.
	Watch(ctx context.Context, kind Kind, ref vmbackup.Ref, changed func(Entry) (done bool, err error)) error
}

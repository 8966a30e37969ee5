// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package target reads and writes the files of a Longhorn backup target.
package target

import (
	"context"
	"time"
)

// Object is one file on the target.
type Object struct {
	// Key is the path below the target's root, with '/' and without a leading one.
	Key string
	// Size in bytes.
	Size int64
	// Modified is when the file was last written, UTC.
	Modified time.Time
}

// Store is a backup target. Keys are relative to the root that the target's URL
// names. Every error is or wraps a *vmbackup.Error: NotFound for a missing key,
// Forbidden for refused credentials, TargetUnavailable for anything that may pass
// (no connection, no such bucket, time-out), InvalidRequest for a malformed key,
// Canceled when the context was canceled. NotFound is said only of a target that
// answers: a bucket that is not there is TargetUnavailable.
// Implementations keep no credentials in process-wide state.
type Store interface {
	// List calls each for every file below prefix, in the order of keys, until
	// each returns an error, which List returns. Keys that the other calls refuse as
	// malformed are among them, where the target has such, so that they can be told.
	List(ctx context.Context, prefix string, each func(Object) error) error
	// Stat returns the file's size and time.
	Stat(ctx context.Context, key string) (Object, error)
	// Get returns the file's content; a file larger than limit bytes is an InvalidRequest error.
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
	// Put writes the file whole: a reader sees the old content or the new, never a part.
	Put(ctx context.Context, key string, content []byte) error
	// Delete removes the file; a missing one is no error.
	Delete(ctx context.Context, key string) error
	// String is the target's URL without credentials.
	String() string
}

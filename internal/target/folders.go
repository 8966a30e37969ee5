// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
)

// browser is a Store that can tell folders without listing what lies in them.
type browser interface {
	folders(ctx context.Context, prefix string, each func(name string) error) error
}

// Folders calls each with the name of every folder right below a prefix, which is
// empty or ends in '/', until each returns an error. Where the
// store can, nothing below the folders is listed: Longhorn keeps millions of blocks
// there. Folders in which no file lies may be missing.
func Folders(ctx context.Context, store Store, prefix string, each func(name string) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	if b, ok := store.(browser); ok {
		return b.folders(ctx, prefix, each)
	}
	last := ""
	return store.List(ctx, prefix, func(o Object) error {
		name, _, nested := strings.Cut(strings.TrimPrefix(o.Key, prefix), "/")
		if !nested || name == last {
			return nil
		}
		last = name
		return each(name)
	})
}

func (s *s3Store) folders(ctx context.Context, prefix string, each func(name string) error) error {
	doing := strings.TrimSpace("listing " + prefix)
	for info := range s.core.ListObjectsIter(withPages(ctx), s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix}) {
		if info.Err != nil {
			return s.failed(ctx, doing, "", info.Err)
		}
		s.seen.Store(true)
		name, found := strings.CutPrefix(info.Key, s.prefix+prefix)
		name, folder := strings.CutSuffix(name, "/")
		if !found || !folder || name == "" || strings.Contains(name, "/") {
			continue
		}
		if err := each(name); err != nil {
			return err
		}
	}
	return interrupted(ctx, s, doing)
}

func (d *Directory) folders(ctx context.Context, prefix string, each func(name string) error) error {
	doing := strings.TrimSpace("listing " + prefix)
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return d.failed(doing, err)
	}
	entries, err := readFolder(root, strings.TrimSuffix(prefix, "/"))
	if err := errors.Join(err, root.Close()); err != nil {
		return d.failed(doing, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := interrupted(ctx, d, doing); err != nil {
			return err
		}
		if err := each(name); err != nil {
			return err
		}
	}
	return interrupted(ctx, d, doing)
}

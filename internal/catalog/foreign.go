// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"slices"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Foreign knows the backups and restores that other controllers of the cluster have
// made and keep. Nothing of it is an error in a cluster without them.
type Foreign interface {
	// Backups returns the views of those of a namespace, empty for all, in no order.
	Backups(ctx context.Context, namespace string) ([]vmbackup.Backup, error)
	// Record returns one with all that is known of it, or NotFound.
	Record(ctx context.Context, ref vmbackup.Ref) (*metadata.Record, error)
	// Watch calls changed with the view of one, and again after every change, until
	// changed returns true, the backup is deleted, or ctx ends.
	Watch(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Backup) bool) error
	// Restores returns the views of those of a namespace, in no order and perhaps more
	// than the options ask for.
	Restores(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Restore, error)
	// Restore returns one, with all that is known of it, or NotFound.
	Restore(ctx context.Context, ref vmbackup.Ref) (*vmbackup.Restore, error)
	// WatchRestore is Watch for a restore.
	WatchRestore(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Restore) bool) error
}

// none is Foreign of a cluster that has no other controllers.
type none struct{}

func (none) Backups(context.Context, string) ([]vmbackup.Backup, error) { return nil, nil }

func (none) Record(_ context.Context, ref vmbackup.Ref) (*metadata.Record, error) {
	return nil, missing(ref, vmbackup.SourceCluster)
}

func (none) Watch(_ context.Context, ref vmbackup.Ref, _ func(*vmbackup.Backup) bool) error {
	return missing(ref, vmbackup.SourceCluster)
}

func (none) Restores(context.Context, vmbackup.ListOptions) ([]vmbackup.Restore, error) {
	return nil, nil
}

func (none) Restore(_ context.Context, ref vmbackup.Ref) (*vmbackup.Restore, error) {
	return nil, noRestore(ref)
}

func (none) WatchRestore(_ context.Context, ref vmbackup.Ref, _ func(*vmbackup.Restore) bool) error {
	return noRestore(ref)
}

// With returns the catalog with the backups of foreign controllers in it. The
// tool's own record of a backup goes before theirs.
func (c *Catalog) With(foreign Foreign) *Catalog {
	d := *c
	d.foreign = foreign
	return &d
}

// addForeign adds what the foreign controllers know and the journal does not.
func (c *Catalog) addForeign(ctx context.Context, namespace string, own []*found, warnings []string) ([]*found, []string) {
	backups, err := c.foreign.Backups(ctx, namespace)
	if err != nil {
		return own, append(warnings, err.Error())
	}
	known := make(map[vmbackup.Ref]bool, len(own))
	for _, f := range own {
		known[f.backup().Ref()] = true
	}
	for i := range backups {
		if b := &backups[i]; !known[b.Ref()] {
			own = append(own, &found{record: &metadata.Record{Backup: *b}, when: began(b, time.Time{}), foreign: true})
		}
	}
	return own, warnings
}

// withoutPoorer leaves the backups out of which the tool's own file is on the
// target: foreign controllers find a backup there that the tool has made, and
// their view of it lacks what only that file holds.
func (l *listing) withoutPoorer(cluster []*found) []*found {
	return slices.DeleteFunc(cluster, func(f *found) bool {
		return f.foreign && slices.ContainsFunc(l.files[f.backup().Ref()], func(o target.Object) bool {
			kind, _, _ := metadata.ParseKey(o.Key)
			return kind == metadata.FileRecord
		})
	})
}

// richer is the tool's own file of a backup instead of the foreign record, where
// the target may be asked and has it.
func (c *Catalog) richer(ctx context.Context, record *metadata.Record, source vmbackup.Source) *metadata.Record {
	if source != vmbackup.SourceAll {
		return record
	}
	store, err := c.target.Open(ctx, c.target.Name)
	if err != nil {
		return record
	}
	own, err := readFile(ctx, store, metadata.RecordKey(record.Backup.Ref()))
	if err != nil || own.Backup.Ref() != record.Backup.Ref() {
		return record
	}
	observe(ctx, store, &own.Backup)
	return own
}

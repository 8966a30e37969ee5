// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	// WatchAll calls changed with what Backups returns, and again after every change,
	// until changed returns an error or ctx ends. Without such controllers it calls
	// changed once, with none, and returns.
	WatchAll(ctx context.Context, namespace string, changed func([]vmbackup.Backup) error) error
	// Restores returns the views of those of a namespace, in no order and perhaps more
	// than the options ask for.
	Restores(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Restore, error)
	// Restore returns one, with all that is known of it, or NotFound.
	Restore(ctx context.Context, ref vmbackup.Ref) (*vmbackup.Restore, error)
	// WatchRestore is Watch for a restore.
	WatchRestore(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Restore) bool) error
	// WatchRestores is WatchAll for restores.
	WatchRestores(ctx context.Context, opts vmbackup.ListOptions, changed func([]vmbackup.Restore) error) error
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

func (none) WatchAll(_ context.Context, _ string, changed func([]vmbackup.Backup) error) error {
	return changed(nil)
}

func (none) WatchRestores(_ context.Context, _ vmbackup.ListOptions, changed func([]vmbackup.Restore) error) error {
	return changed(nil)
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
	if h, ok := foreign.(harvesterBackups); ok {
		h.decode = c.restore
		foreign = h
	}
	d.foreign = foreign
	return &d
}

// addForeign adds what the foreign controllers know and the journal does not.
func (c *Catalog) addForeign(ctx context.Context, namespace string, own []*found, warnings []string) ([]*found, []string) {
	backups, err := c.foreign.Backups(ctx, namespace)
	if err != nil {
		return own, append(warnings, err.Error())
	}
	return joined(own, backups), warnings
}

// joined adds the foreign backups that the tool has no record of.
func joined(own []*found, backups []vmbackup.Backup) []*found {
	known := make(map[vmbackup.Ref]bool, len(own))
	for _, f := range own {
		known[f.backup().Ref()] = true
	}
	for i := range backups {
		if b := &backups[i]; !known[b.Ref()] {
			own = append(own, &found{record: &metadata.Record{Backup: *b}, when: began(b, time.Time{}), foreign: true})
		}
	}
	return own
}

// together follows the tool's own records and the objects of the foreign controllers,
// and calls changed with both whenever either has changed, once both are known. What
// may not be looked at of the foreign ones is left out.
func together[O, F any](ctx context.Context, own func(context.Context, func(O) error) error, foreign func(context.Context, func(F) error) error, changed func(O, F) error) error {
	var mu sync.Mutex // changed is called for one change after the other
	var mine O
	var theirs F
	mineKnown, theirsKnown := false, false
	tell := func() error {
		if !mineKnown || !theirsKnown {
			return nil
		}
		return changed(mine, theirs)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return own(gctx, func(list O) error {
			mu.Lock()
			defer mu.Unlock()
			mine, mineKnown = list, true
			return tell()
		})
	})
	g.Go(func() error {
		see := func(list F) error {
			mu.Lock()
			defer mu.Unlock()
			theirs, theirsKnown = list, true
			return tell()
		}
		err := foreign(gctx, see)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
			var nothing F
			return see(nothing)
		}
		return err
	})
	return g.Wait()
}

// withoutPoorer leaves the backups out of which the tool's own file is on the
// target: foreign controllers find a backup there that the tool has made, and
// their view of it lacks what only that file holds. One that they have made in this
// cluster, for the tool, stays: its object is the record.
func (l *listing) withoutPoorer(cluster []*found) []*found {
	return slices.DeleteFunc(cluster, func(f *found) bool {
		return f.foreign && f.backup().Status.SourceUID == "" && slices.ContainsFunc(l.files[f.backup().Ref()], func(o target.Object) bool {
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
	if record.Operation != "" && record.Operation == own.Operation {
		return withFile(record, own)
	}
	observe(ctx, store, &own.Backup)
	return own
}

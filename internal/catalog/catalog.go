// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package catalog finds backups and restores: in the journal of the cluster and
// in the files on the backup target. A file or record that cannot be read is
// told, and hides nothing else.
package catalog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Target is the backup target that a catalog looks at.
type Target struct {
	// Name of Longhorn's BackupTarget. Records of another target are not judged by this one's files.
	Name string
	// Open opens it. It is called by the first look at the target, and not at all without one.
	Open func(ctx context.Context, name string) (target.Store, error)
}

// DecodeRestore reads the data of the journal entry of the restore ref, and refuses
// that of another one.
type DecodeRestore func(ref vmbackup.Ref, data []byte) (*vmbackup.Restore, error)

// Catalog implements vmbackup.Catalog over a journal and a backup target.
type Catalog struct {
	journal journal.Store
	target  Target
	restore DecodeRestore
	foreign Foreign
}

var _ vmbackup.Catalog = (*Catalog)(nil)

// New returns a catalog of the journal's records and the target's files.
func New(store journal.Store, t Target, restore DecodeRestore) *Catalog {
	return &Catalog{journal: store, target: t, restore: restore, foreign: none{}}
}

// found is a backup as one source knows it.
type found struct {
	record *metadata.Record
	// when orders the listing: when the backup began, or what is nearest to it.
	when time.Time
	// foreign is a backup that the journal does not know; the record is its view alone.
	foreign bool
}

func (f *found) backup() *vmbackup.Backup { return &f.record.Backup }

// Backups implements vmbackup.Catalog.
func (c *Catalog) Backups(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Backup, []string, error) {
	if err := opts.Validate(); err != nil {
		return nil, nil, err
	}
	selector, err := parse(opts.Selector)
	if err != nil {
		return nil, nil, err
	}
	all, warnings, err := c.find(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	return narrow(all, selector, opts), warnings, nil
}

// narrow picks what the options ask for, newest first.
func narrow(all []*found, selector labels.Selector, opts vmbackup.ListOptions) []vmbackup.Backup {
	all = slices.DeleteFunc(all, func(f *found) bool {
		b := f.backup()
		return (opts.VM != "" && b.Spec.VM != opts.VM) || !selector.Matches(labels.Set(b.Metadata.Labels))
	})
	slices.SortFunc(all, func(a, b *found) int {
		return cmp.Or(b.when.Compare(a.when), cmp.Compare(a.backup().Ref().String(), b.backup().Ref().String()))
	})
	all = limit(all, opts.Limit)
	backups := make([]vmbackup.Backup, 0, len(all))
	for _, f := range all {
		backups = append(backups, *f.backup())
	}
	return backups
}

// WatchBackups implements vmbackup.Catalog. A record that cannot be read is left out.
func (c *Catalog) WatchBackups(ctx context.Context, opts vmbackup.ListOptions, changed func([]vmbackup.Backup) error) error {
	selector, err := parse(opts.Selector)
	if err != nil {
		return err
	}
	return together(ctx,
		func(ctx context.Context, see func([]journal.Entry) error) error {
			return c.journal.WatchList(ctx, journalOptions(journal.KindBackup, opts), func(entries []journal.Entry) (bool, error) { return false, see(entries) })
		},
		func(ctx context.Context, see func([]vmbackup.Backup) error) error {
			return c.foreign.WatchAll(ctx, opts.Namespace, see)
		},
		func(entries []journal.Entry, foreign []vmbackup.Backup) error {
			own, _ := ofEntries(entries)
			return changed(narrow(joined(own, foreign), selector, opts))
		})
}

// find collects the backups of the sources, in no order and not yet narrowed to machine and labels.
func (c *Catalog) find(ctx context.Context, opts vmbackup.ListOptions) ([]*found, []string, error) {
	switch opts.Source {
	case vmbackup.SourceCluster:
		return c.inCluster(ctx, opts)
	case vmbackup.SourceTarget:
		listing, err := c.listTarget(ctx, opts.Namespace)
		if err != nil {
			return nil, nil, err
		}
		return listing.read(ctx, nil)
	}
	// The journal first: what it calls Ready was on the target before the listing.
	// The machine is not asked for, since its other backups tell whether this is their target.
	wide := opts
	wide.VM = ""
	cluster, warnings, clusterErr := c.inCluster(ctx, wide)
	listing, targetErr := c.listTarget(ctx, opts.Namespace)
	switch {
	case ctx.Err() != nil:
		return nil, nil, cmp.Or(clusterErr, targetErr, ctx.Err())
	case clusterErr != nil && targetErr != nil:
		return nil, nil, fmt.Errorf("%w; and the backup target: %w", clusterErr, targetErr)
	case targetErr != nil:
		//nolint:nilerr // a target that is down is told, and hides nothing of the cluster
		return cluster, append(warnings, "backup target not looked at: "+targetErr.Error()), nil
	case clusterErr != nil:
		warnings = append(warnings, "records in the cluster not looked at: "+clusterErr.Error())
	}
	cluster = listing.withoutPoorer(cluster)
	cluster, judged, err := c.judge(ctx, cluster, listing)
	if err != nil {
		return nil, nil, err
	}
	known := make(map[vmbackup.Ref]bool, len(cluster))
	for _, f := range cluster {
		known[f.backup().Ref()] = true
	}
	onTarget, unread, err := listing.read(ctx, known)
	if err != nil {
		return nil, nil, err
	}
	return append(cluster, onTarget...), slices.Concat(warnings, judged, unread), nil
}

// inCluster reads the journal.
func (c *Catalog) inCluster(ctx context.Context, opts vmbackup.ListOptions) ([]*found, []string, error) {
	entries, err := c.journal.List(ctx, journalOptions(journal.KindBackup, opts))
	if err != nil {
		return nil, nil, err
	}
	list, warnings := ofEntries(entries)
	list, warnings = c.addForeign(ctx, opts.Namespace, list, warnings)
	return list, warnings, ctx.Err()
}

// ofEntries reads entries; one that cannot be read is a warning.
func ofEntries(entries []journal.Entry) (list []*found, warnings []string) {
	list = make([]*found, 0, len(entries))
	for _, e := range entries {
		f, err := ofEntry(e)
		if err != nil {
			warnings = append(warnings, err.Error())
			continue
		}
		list = append(list, f)
	}
	return list, warnings
}

func ofEntry(e journal.Entry) (*found, error) {
	record, err := metadata.DecodeJournal(e.Ref, e.Data)
	if err != nil {
		return nil, err
	}
	record.Backup.Status.FoundOn = string(vmbackup.SourceCluster)
	return &found{record: record, when: began(&record.Backup, time.Time{})}, nil
}

// began is when a backup began; files by Harvester do not say, so that the time of the file must do.
func began(b *vmbackup.Backup, otherwise time.Time) time.Time {
	switch {
	case b.Status.StartedAt != nil:
		return *b.Status.StartedAt
	case b.Status.CompletedAt != nil:
		return *b.Status.CompletedAt
	}
	return otherwise
}

// Backup implements vmbackup.Catalog.
func (c *Catalog) Backup(ctx context.Context, ref vmbackup.Ref, source vmbackup.Source) (*vmbackup.Backup, error) {
	record, err := c.Record(ctx, ref, source)
	if err != nil {
		return nil, err
	}
	b := &record.Backup
	if source != vmbackup.SourceAll || b.Status.FoundOn != string(vmbackup.SourceCluster) {
		return b, nil
	}
	// The cluster's view is judged as in a listing, by the same evidence.
	all, _, err := c.find(ctx, vmbackup.ListOptions{Namespace: ref.Namespace, Source: source})
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		if f.backup().Ref() == ref {
			return f.backup(), nil
		}
	}
	return nil, missing(ref, source) // deleted in between
}

// Record returns everything that is known of a backup: from the journal or else
// from the target, as source says. A backup that neither has is NotFound; a
// target that cannot be asked is its own error, since the backup may lie there.
func (c *Catalog) Record(ctx context.Context, ref vmbackup.Ref, source vmbackup.Source) (*metadata.Record, error) {
	var first error
	if source != vmbackup.SourceTarget {
		e, err := c.journal.Get(ctx, journal.KindBackup, ref)
		if err == nil {
			var f *found
			if f, err = ofEntry(e); err == nil {
				return f.record, nil
			}
		}
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			var record *metadata.Record
			if record, err = c.foreign.Record(ctx, ref); err == nil {
				return c.richer(ctx, record, source), nil
			}
		}
		if source == vmbackup.SourceCluster || ctx.Err() != nil {
			return nil, err
		}
		if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			first = err
		}
	}
	record, err := c.onTarget(ctx, ref)
	switch {
	case err == nil && first != nil:
		warn(&record.Backup, "record in the cluster not used: "+first.Error())
	case first != nil:
		return nil, first
	case vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound:
		return nil, c.missing(ctx, ref, source)
	}
	return record, err
}

// missing says that there is no backup. Of a target alone that is said only when
// there is anything on it: an empty one proves nothing.
func (c *Catalog) missing(ctx context.Context, ref vmbackup.Ref, source vmbackup.Source) error {
	if source != vmbackup.SourceTarget {
		return missing(ref, source)
	}
	store, err := c.target.Open(ctx, c.target.Name)
	if err != nil {
		return err
	}
	empty, err := target.Empty(ctx, store)
	switch {
	case err != nil:
		return err
	case empty:
		return vmbackup.Errorf(vmbackup.ReasonTargetEmpty, "no backup %s on backup target %s; not one file lies there, so that it is another target than the backup was made on, or was emptied", ref, store).
			WithHint("look at the bucket or the directory itself, and at the URL in Longhorn's BackupTarget; an empty target says nothing about the backup")
	}
	return missing(ref, source)
}

func missing(ref vmbackup.Ref, source vmbackup.Source) error {
	where := map[vmbackup.Source]string{
		vmbackup.SourceCluster: "in the cluster",
		vmbackup.SourceTarget:  "on the backup target",
	}[source]
	if where == "" {
		where = "in the cluster or on the backup target"
	}
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "no backup %s %s", ref, where).
		WithHint("see what is there with: kubectl vmbackup list -A --from all")
}

// WatchBackup implements vmbackup.Catalog: it follows the record in the cluster, or
// else the object of the foreign controllers.
func (c *Catalog) WatchBackup(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Backup) bool) error {
	if _, err := c.journal.Get(ctx, journal.KindBackup, ref); vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		if _, err := c.foreign.Record(ctx, ref); err == nil {
			return c.foreign.Watch(ctx, ref, changed)
		}
	}
	return c.journal.Watch(ctx, journal.KindBackup, ref, func(e journal.Entry) (bool, error) {
		f, err := ofEntry(e)
		if err != nil {
			return false, err
		}
		return changed(f.backup()), nil
	})
}

func journalOptions(kind journal.Kind, opts vmbackup.ListOptions) journal.ListOptions {
	o := journal.ListOptions{Kind: kind, Namespace: opts.Namespace}
	if opts.VM != "" {
		o.Labels = map[string]string{journal.LabelVM: opts.VM}
	}
	return o
}

func parse(selector string) (labels.Selector, error) {
	s, err := labels.Parse(selector)
	if err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "label selector %q: %w", selector, err).AsPreflight()
	}
	return s, nil
}

func limit[T any](list []T, most int) []T {
	if most > 0 && len(list) > most {
		return list[:most]
	}
	return list
}

func warn(b *vmbackup.Backup, text string) {
	if !slices.Contains(b.Status.Warnings, text) {
		b.Status.Warnings = append(b.Status.Warnings, strings.TrimSpace(text))
	}
}

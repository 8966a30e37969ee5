// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Restores implements vmbackup.Catalog. They are in the cluster only, whatever
// the source. A record that cannot be read is listed with phase Unknown and the error.
func (c *Catalog) Restores(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Restore, []string, error) {
	if err := opts.Validate(); err != nil {
		return nil, nil, err
	}
	selector, err := parse(opts.Selector)
	if err != nil {
		return nil, nil, err
	}
	entries, err := c.journal.List(ctx, journalOptions(journal.KindRestore, opts))
	if err != nil {
		return nil, nil, err
	}
	var warnings []string
	foreign, err := c.foreign.Restores(ctx, opts)
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	return c.restoresOf(entries, foreign, selector, opts), warnings, ctx.Err()
}

// WatchRestores implements vmbackup.Catalog.
func (c *Catalog) WatchRestores(ctx context.Context, opts vmbackup.ListOptions, changed func([]vmbackup.Restore) error) error {
	selector, err := parse(opts.Selector)
	if err != nil {
		return err
	}
	return together(ctx,
		func(ctx context.Context, see func([]journal.Entry) error) error {
			return c.journal.WatchList(ctx, journalOptions(journal.KindRestore, opts), func(entries []journal.Entry) (bool, error) { return false, see(entries) })
		},
		func(ctx context.Context, see func([]vmbackup.Restore) error) error {
			return c.foreign.WatchRestores(ctx, opts, see)
		},
		func(entries []journal.Entry, foreign []vmbackup.Restore) error {
			return changed(c.restoresOf(entries, foreign, selector, opts))
		})
}

// restoresOf reads entries, adds what only the foreign controllers know, and picks
// what the options ask for, newest first.
func (c *Catalog) restoresOf(entries []journal.Entry, foreign []vmbackup.Restore, selector labels.Selector, opts vmbackup.ListOptions) []vmbackup.Restore {
	list := make([]vmbackup.Restore, 0, len(entries)+len(foreign))
	known := make(map[vmbackup.Ref]bool, len(entries))
	for _, e := range entries {
		known[e.Ref] = true
		r, err := c.restoreOf(e)
		if err != nil {
			r = vmbackup.NewRestore(e.Ref)
			r.Status.Phase, r.Status.Error = vmbackup.PhaseUnknown, vmbackup.AsError(err, vmbackup.ReasonDataDamaged)
		}
		if selector.Matches(labels.Set(r.Metadata.Labels)) {
			list = append(list, *r)
		}
	}
	for i := range foreign {
		r := &foreign[i]
		if !known[r.Ref()] && (opts.VM == "" || opts.VM == r.Spec.TargetName) && selector.Matches(labels.Set(r.Metadata.Labels)) {
			list = append(list, *r)
		}
	}
	when := func(r *vmbackup.Restore) time.Time {
		if r.Status.StartedAt == nil {
			return time.Time{}
		}
		return *r.Status.StartedAt
	}
	slices.SortStableFunc(list, func(a, b vmbackup.Restore) int {
		return cmp.Or(when(&b).Compare(when(&a)), cmp.Compare(a.Ref().String(), b.Ref().String()))
	})
	return limit(list, opts.Limit)
}

// Restore implements vmbackup.Catalog.
func (c *Catalog) Restore(ctx context.Context, ref vmbackup.Ref) (*vmbackup.Restore, error) {
	e, err := c.journal.Get(ctx, journal.KindRestore, ref)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return c.foreign.Restore(ctx, ref)
	}
	if err != nil {
		return nil, err
	}
	return c.restoreOf(e)
}

// WatchRestore implements vmbackup.Catalog: it follows the record in the cluster, or
// else the object of the foreign controllers.
func (c *Catalog) WatchRestore(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Restore) bool) error {
	if _, err := c.journal.Get(ctx, journal.KindRestore, ref); vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return c.foreign.WatchRestore(ctx, ref, changed)
	}
	return c.journal.Watch(ctx, journal.KindRestore, ref, func(e journal.Entry) (bool, error) {
		r, err := c.restoreOf(e)
		if err != nil {
			return false, err
		}
		return changed(r), nil
	})
}

func (c *Catalog) restoreOf(e journal.Entry) (*vmbackup.Restore, error) {
	r, err := c.restore(e.Ref, e.Data)
	if err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "record of restore %s: %w", e.Ref, err)
	}
	if r.Ref() != e.Ref {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "record of restore %s is of restore %s", e.Ref, r.Ref())
	}
	return r, nil
}

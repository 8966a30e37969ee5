// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// follow prints the list and, until interrupted, each object that changed.
func (o *listOptions) follow(ctx context.Context, s *session) error {
	// A watch tries again and again, for good; what is wrong from the start is told.
	warnings, _, err := o.look(ctx, s)
	if err != nil {
		return err
	}
	if err := render.Warnings(o.streams.ErrOut, warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	switch o.kind {
	case listSchedules:
		err = o.followSchedules(ctx, s)
	case listRestores:
		seen := changes[vmbackup.Restore]{
			state: func(r *vmbackup.Restore) (vmbackup.Ref, string) {
				return r.Ref(), fmt.Sprint(r.Status.Phase, r.Status.Steps, r.Status.Volumes, r.Status.VM, r.Status.Error)
			},
			render: render.Restores,
		}
		err = s.catalog.WatchRestores(ctx, o.options, func(restores []vmbackup.Restore) error {
			sortRestores(restores, o.sortBy)
			return seen.print(o, restores)
		})
	default:
		seen := changes[vmbackup.Backup]{
			state: func(b *vmbackup.Backup) (vmbackup.Ref, string) {
				return b.Ref(), fmt.Sprint(b.Status.Phase, b.Status.Volumes, b.Status.Error)
			},
			render: render.Backups,
		}
		err = s.catalog.WatchBackups(ctx, o.options, func(backups []vmbackup.Backup) error {
			sortBackups(backups, o.sortBy)
			return seen.print(o, backups)
		})
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil // Ctrl-C is how a watch ends
	}
	return err
}

// changes prints of a list, given again and again, what is not printed yet.
type changes[T any] struct {
	// state is an object's name, and what makes it worth printing anew.
	state  func(*T) (vmbackup.Ref, string)
	render func(io.Writer, []T, render.Options) error

	printed map[vmbackup.Ref]string
	widths  map[string]int
}

func (c *changes[T]) print(o *listOptions, list []T) error {
	current := make(map[vmbackup.Ref]string, len(list))
	changed := make([]bool, len(list))
	some := false
	for i := range list {
		ref, state := c.state(&list[i])
		before, known := c.printed[ref]
		changed[i] = !known || before != state
		some = some || changed[i]
		current[ref] = state
	}
	c.printed = current
	if !some {
		return nil
	}
	if o.human() {
		options := o.render()
		options.Only, options.NoHeader = func(row int) bool { return changed[row] }, c.widths != nil
		if c.widths == nil {
			c.widths = map[string]int{}
		}
		options.Widths = c.widths
		return c.render(o.streams.Out, list, options)
	}
	for i := range list {
		if !changed[i] {
			continue
		}
		if err := o.print(o.streams.Out, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

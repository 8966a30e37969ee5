// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// syncTimeout is how long a target that answers is given to be looked at.
const syncTimeout = 2 * time.Minute

// targetSyncOptions are the flags of target sync.
type targetSyncOptions struct {
	*globals
	output

	name    string
	timeout time.Duration
}

func (g *globals) newTargetSync() *cobra.Command {
	o := &targetSyncOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "sync [NAME]",
		Short: "Have Longhorn and Harvester look at a backup target now",
		Long: `Have Longhorn and, on its target, Harvester look at a backup target now
instead of when their intervals end, wait until they have, and show what has
appeared and what has disappeared: after another cluster has written there, or
the target was away.

Nothing on the target is changed. What has disappeared from the cluster's
lists is not deleted by that.`,
		Example: `
# Find what another cluster has backed up
kubectl vmbackup target sync

# Another target, with more time for a large one
kubectl vmbackup target sync offsite --timeout 10m`,
		Args:              usageArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: g.completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = vmbackup.DefaultTarget
			if len(args) == 1 {
				o.name = args[0]
			}
			if o.timeout <= 0 {
				return usageError(cmd, invalid("--timeout %s is not more than nothing", o.timeout))
			}
			if err := o.check(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&o.timeout, "timeout", syncTimeout, "How long to wait for Longhorn and Harvester. They go on after that")
	o.addFlags(cmd, true)
	return cmd
}

func (o *targetSyncOptions) execute(ctx context.Context) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	synced, err := s.targets.Sync(ctx, o.name)
	if err != nil {
		return err
	}
	if err := render.Warnings(o.streams.ErrOut, synced.Status.Warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	if !o.human() {
		err = o.print(o.streams.Out, synced)
	} else {
		options := o.outTerminal().Options(o.clock())
		options.Wide = o.wide()
		err = render.TargetSync(o.streams.Out, synced, options)
	}
	if err == nil && len(synced.Status.Warnings) > 0 {
		return &exitError{exitPartly}
	}
	return err
}

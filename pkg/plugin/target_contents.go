// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/internal/backuptarget"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// targetContentsOptions are the flags of target contents.
type targetContentsOptions struct {
	*globals
	output
	namedTarget

	name string
}

func (g *globals) newTargetContents() *cobra.Command {
	o := &targetContentsOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "contents [NAME]",
		Short: "Show what lies on a backup target",
		Long: `Show what lies on a backup target, read from the target itself, whatever this
cluster knows of it: machines with their backups, images, and how much it is.

It also shows what is not as it should be (exit code 3): backups whose data is
gone, and files that cannot be read, with those that keep Harvester from
finding anything on the target. Orphans are data that no description names:
what is left of a deleted backup, or Longhorn backups of volumes that belong
to no machine, so that they are not to be deleted unseen.

Sizes are Longhorn's count of blocks, before compression. Blocks themselves
are neither read nor listed, so that a target with thousands of backups takes
seconds to minutes; something that comes or goes meanwhile may be told as
missing.`,
		Example: `
# What lies on the default target
kubectl vmbackup target contents

# All of it, for a script
kubectl vmbackup target contents offsite -o json

# A target that this machine has mounted, or a copy of one, without a cluster
kubectl vmbackup target contents --url file:///mnt/backups

# A bucket, with keys from a file of lines KEY=VALUE
kubectl vmbackup target contents --url s3://vm-backups@eu-1/ --credentials keys.env`,
		Args:              usageArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: g.completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(args); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	o.namedTarget.addFlags(cmd)
	o.output.addFlags(cmd, true)
	return cmd
}

func (o *targetContentsOptions) validate(args []string) error {
	o.name = vmbackup.DefaultTarget
	if len(args) == 1 {
		o.name = args[0]
	}
	if err := o.namedTarget.validate(len(args) > 0); err != nil {
		return err
	}
	return o.check()
}

func (o *targetContentsOptions) execute(ctx context.Context) error {
	contents, err := o.read(ctx)
	if err != nil {
		return err
	}
	if err := o.show(contents); err != nil {
		return err
	}
	if contents.Status.Troubled() {
		return &exitError{exitPartly}
	}
	return nil
}

func (o *targetContentsOptions) read(ctx context.Context) (*vmbackup.TargetContents, error) {
	if o.url != "" {
		store, err := o.open(o.globals)
		if err != nil {
			return nil, err
		}
		return backuptarget.Contents(ctx, store, "")
	}
	s, err := o.connect("")
	if err != nil {
		return nil, err
	}
	return s.targets.Contents(ctx, o.name)
}

func (o *targetContentsOptions) show(c *vmbackup.TargetContents) error {
	if !o.human() {
		return o.print(o.streams.Out, c)
	}
	options := o.outTerminal().Options(o.clock())
	options.Wide = o.wide()
	if err := render.TargetContents(o.streams.Out, c, options); err != nil {
		return err
	}
	if options.TTY {
		return nil
	}
	// The table alone is for scripts; what is wrong must be seen all the same.
	return render.Warnings(o.streams.ErrOut, backuptarget.Troubles(c), o.errTerminal().Options(o.clock()))
}

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

// targetCheckOptions are the flags of target check.
type targetCheckOptions struct {
	*globals
	output
	namedTarget

	name string
}

func (g *globals) newTargetCheck() *cobra.Command {
	o := &targetCheckOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "check [NAME]",
		Short: "Prove that a backup target can be used from here",
		Long: `Prove that this machine can use a backup target: list, write a small file,
read it back and delete it, with the URL and the credentials that Longhorn
has. What lies on the target is not touched.

Longhorn's own view stands beside it. Volumes are uploaded by Longhorn and the
machines' descriptions by this machine, so that both must be able to use the
target: when only one can, that is said.

An NFS or CIFS target is mounted by Longhorn inside of the cluster. It is
refused here at once (exit code 4), with the commands that try it there.

Exit codes: 0 both can use it, 1 this machine cannot, 3 Longhorn cannot.`,
		Example: `
# The default target
kubectl vmbackup target check

# An NFS target that is mounted here
kubectl vmbackup target check --url file:///mnt/backups

# A bucket before it is set, with keys from a file of lines KEY=VALUE
kubectl vmbackup target check --url s3://vm-backups@eu-1/ --credentials keys.env`,
		Args:              usageArgs(cobra.MaximumNArgs(1)),
		ValidArgsFunction: g.completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = vmbackup.DefaultTarget
			if len(args) == 1 {
				o.name = args[0]
			}
			if err := o.namedTarget.validate(len(args) > 0); err != nil {
				return usageError(cmd, err)
			}
			if err := o.check(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	o.namedTarget.addFlags(cmd)
	o.output.addFlags(cmd, false)
	return cmd
}

func (o *targetCheckOptions) execute(ctx context.Context) error {
	c, err := o.run(ctx)
	if err != nil {
		return err
	}
	if o.human() {
		err = render.TargetCheck(o.streams.Out, c, o.outTerminal().Options(o.clock()))
	} else {
		err = o.print(o.streams.Out, c)
	}
	if err != nil {
		return err
	}
	if err := render.Warnings(o.streams.ErrOut, c.Status.Warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	if err := backuptarget.Failure(c); err != nil {
		return err
	}
	if len(c.Status.Warnings) > 0 {
		return &exitError{exitPartly}
	}
	return nil
}

func (o *targetCheckOptions) run(ctx context.Context) (*vmbackup.TargetCheck, error) {
	if o.url != "" {
		store, err := o.open(o.globals)
		if err != nil {
			return nil, err
		}
		return backuptarget.CheckStore(ctx, store, o.clock), nil
	}
	s, err := o.connect("")
	if err != nil {
		return nil, err
	}
	return s.targets.Check(ctx, o.name)
}

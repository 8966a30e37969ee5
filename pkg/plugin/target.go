// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func (g *globals) newTarget() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "target",
		Short: "Look after the backup targets",
		Long: `Look after the backup targets: the places outside of the cluster where
Longhorn keeps the data of backups, and this tool and Harvester the
descriptions of machines.`,
		Example: `
# The backup targets and whether Longhorn can use them
kubectl vmbackup target show`,
		Args:                       knownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(g.newTargetShow(), g.newTargetCheck(), g.newTargetContents(), g.newTargetSync(), g.newTargetSet())
	return cmd
}

// targetShowOptions are the flags of target show.
type targetShowOptions struct {
	*globals
	output
}

func (g *globals) newTargetShow() *cobra.Command {
	o := &targetShowOptions{globals: g}
	cmd := &cobra.Command{
		Use:     "show [NAME...]",
		Aliases: []string{"list", "ls", "get"},
		Short:   "Show backup targets as Longhorn and Harvester see them",
		Long: `Show the backup targets of the cluster: whether Longhorn can use them and why
not, when it last looked, whether the credentials are there (their values are
never shown), and what it lists of them. On Harvester, its setting
backup-target too.

A single name shows all that is known of that target, as a tree. The target
itself is not asked: see what lies there with 'target contents', and whether
this machine can use it with 'target check'.`,
		Example: `
# All backup targets
kubectl vmbackup target show

# All that is known of one
kubectl vmbackup target show default

# Whether Longhorn can use it, for a script
kubectl vmbackup target show default -o jsonpath='{.status.state}'`,
		ValidArgsFunction: g.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context(), args)
		},
	}
	o.addFlags(cmd, true)
	return cmd
}

func (o *targetShowOptions) execute(ctx context.Context, names []string) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	if len(names) == 1 {
		t, err := s.targets.Get(ctx, names[0])
		if err != nil {
			return err
		}
		switch {
		case !o.human():
			return o.print(o.streams.Out, t)
		case o.wide():
			return o.table([]vmbackup.Target{*t})
		}
		return render.Target(o.streams.Out, t, o.outTerminal().Options(o.clock()))
	}
	targets := make([]vmbackup.Target, 0, len(names))
	if len(names) == 0 {
		if targets, err = s.targets.List(ctx); err != nil {
			return err
		}
	}
	for _, name := range names {
		t, err := s.targets.Get(ctx, name)
		if err != nil {
			return err
		}
		targets = append(targets, *t)
	}
	if !o.human() {
		return o.print(o.streams.Out, targets)
	}
	if len(targets) == 0 {
		fmt.Fprintln(o.streams.ErrOut, "Longhorn has no backup targets.")
		return nil
	}
	return o.table(targets)
}

func (o *targetShowOptions) table(targets []vmbackup.Target) error {
	options := o.outTerminal().Options(o.clock())
	options.Wide = o.wide()
	return render.Targets(o.streams.Out, targets, options)
}

// completeTargets completes the names of backup targets.
func (g *globals) completeTargets(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, given, toComplete, func(ctx context.Context, s *session) []string {
		names, err := s.targets.Names(ctx)
		if err != nil {
			return nil
		}
		return names
	})
}

// completeTarget completes a single name.
func (g *globals) completeTarget(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completeTargets(cmd, nil, toComplete)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restorePrefix marks a restore where a backup or a restore may be named.
const restorePrefix = "restore/"

// operationRef reads BACKUP or restore/NAME.
func operationRef(arg, namespace string) (ref vmbackup.Ref, isRestore bool, err error) {
	name, isRestore := strings.CutPrefix(arg, restorePrefix)
	if !isRestore {
		name = strings.TrimPrefix(arg, "backup/")
	}
	ref, err = vmbackup.ParseRef(name, namespace)
	return ref, isRestore, err
}

// resumeOptions are the flags of resume.
type resumeOptions struct {
	*globals
	output
	run runFlags
}

func (g *globals) newResume() *cobra.Command {
	o := &resumeOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "resume BACKUP | restore/NAME",
		Short: "Go on with a backup or restore that was interrupted",
		Long: `Go on with a backup or a restore that was interrupted, from any machine.

Every step looks at what is there before it does anything, so nothing is done twice.
An operation that has ended already is only shown, with its result as exit code.`,
		Example: `  kubectl vmbackup resume web-20260102-030405
  kubectl vmbackup resume restore/web-20260102-040506 -n test`,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOperations,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.run.validate(); err != nil {
				return usageError(cmd, err)
			}
			if err := o.check(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context(), args[0])
		},
	}
	o.run.addFlags(cmd.Flags())
	o.addFlags(cmd, true)
	return cmd
}

func (o *resumeOptions) execute(ctx context.Context, arg string) error {
	s, err := o.newSession("")
	if err != nil {
		return err
	}
	ref, isRestore, err := operationRef(arg, s.namespace)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	if isRestore {
		return o.runRestore(ctx, s, ref, &o.run, &o.output)
	}
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	backup, runErr := s.engine.RunBackup(ctx, ref, vmbackup.RunOptions{Sink: progress, NoWait: !o.run.wait})
	if err := progress.Close(); err != nil {
		return err
	}
	if backup != nil {
		if err := o.showBackup(backup, &o.output); err != nil {
			return err
		}
	}
	if runErr != nil {
		return o.run.explain(ctx, runErr, "backup", ref, backup != nil)
	}
	if len(backup.Status.Warnings) > 0 {
		return &exitError{exitPartly}
	}
	return nil
}

func (g *globals) showBackup(backup *vmbackup.Backup, out *output) error {
	if !out.human() {
		return out.print(g.streams.Out, backup)
	}
	terminal, err := g.outTerminal()
	if err != nil {
		return err
	}
	options := terminal.Options(g.clock())
	options.Wide = out.format == "wide"
	return render.Backups(g.streams.Out, []vmbackup.Backup{*backup}, options)
}

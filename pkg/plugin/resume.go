// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// resumeOptions are the flags of resume.
type resumeOptions struct {
	*globals
	output
	run runFlags
}

func (g *globals) newResume() *cobra.Command {
	o := &resumeOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "resume (BACKUP | restore/NAME)",
		Short: "Go on with a backup or restore that was interrupted",
		Long: `Go on with a backup or a restore that was interrupted, from any machine.

Every step looks at what is there before it does anything, so nothing is done
twice. An operation that has ended already is only shown, with its result as
exit code.`,
		Example: `
# Go on with a backup
kubectl vmbackup resume web-20260102-030405

# Go on with a restore, but wait for ten minutes at most
kubectl vmbackup resume restore/web-20260102-040506 -n test --timeout 10m`,
		Args:              named("the name of what to go on with", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOperation,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validOperation(args[0], o.run.validate, o.check); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context(), args[0])
		},
	}
	o.run.addFlags(cmd.Flags())
	o.addFlags(cmd, true)
	return cmd
}

// validOperation checks the argument of a command on an operation, and its flags.
func validOperation(arg string, checks ...func() error) error {
	if _, err := parseOperation(arg, "default"); err != nil {
		return err
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *resumeOptions) execute(ctx context.Context, arg string) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	op, err := parseOperation(arg, s.namespace)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	if op.restore {
		return o.runRestore(ctx, s, op.ref, &o.run, &o.output)
	}
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	backup, runErr := s.engine.RunBackup(ctx, op.ref, vmbackup.RunOptions{Sink: progress, NoWait: !o.run.wait})
	if err := progress.Close(); err != nil {
		return err
	}
	if backup == nil {
		return unbegun(ctx, runErr, o.run.timeout)
	}
	if runErr == nil || !o.human() { // an error tells all that a row would
		if err := o.showBackups([]vmbackup.Backup{*backup}, false, &o.output); err != nil {
			return err
		}
	}
	switch {
	case runErr == nil && len(backup.Status.Warnings) > 0:
		return &exitError{exitPartly}
	case runErr == nil || backup.Status.Phase.Done():
		return runErr
	}
	return o.stopped(ctx, runErr, op, "resume", o.run.timeout)
}

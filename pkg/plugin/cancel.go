// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// cancelOptions are the flags of cancel.
type cancelOptions struct {
	*globals
	output
	run runFlags
}

func (g *globals) newCancel() *cobra.Command {
	o := &cancelOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "cancel (BACKUP | restore/NAME)",
		Short: "Give up a backup or restore that has not ended",
		Long: `Give up a backup or a restore that has not ended, from any machine.

Whoever runs it stops, the guest thaws, and what the operation has made is
removed: snapshots, uploaded data, new volumes, a machine that is still halted.
Nothing else is touched. The machine of a restore in place runs again as it did.

It is too late once a restored machine was started or has its restored disks in
place: its guest may have written to them. What can be done then is said.

The operation is listed as Canceled until 'delete' removes its record; of a
backup that Harvester makes nothing stays, not even that. A
cancellation that was interrupted is finished by the same command.`,
		Example: `
# Give up a backup that takes too long
kubectl vmbackup cancel web-20260102-030405

# Give up a restore
kubectl vmbackup cancel restore/web-20260102-040506 -n test`,
		Args:              named("the name of what to cancel", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validOperation(args[0], o.run.validate, o.check); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context(), args[0])
		},
	}
	o.run.addTimeout(cmd.Flags())
	o.addFlags(cmd, true)
	return cmd
}

func (o *cancelOptions) execute(ctx context.Context, arg string) error {
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
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	object, runErr := o.cancel(ctx, s, op, vmbackup.RunOptions{Sink: progress})
	if err := progress.Close(); err != nil {
		return err
	}
	switch {
	case runErr != nil && vmbackup.AsError(runErr, vmbackup.ReasonInternal).Preflight:
		return unbegun(ctx, runErr, o.run.timeout)
	case runErr != nil:
		return o.stopped(ctx, runErr, op, "cancel", o.run.timeout)
	case !o.human():
		return o.print(o.streams.Out, object)
	}
	_, err = fmt.Fprintf(o.streams.Out, "%s.%s/%s canceled\n", op.kind(), vmbackup.Group, op.ref.Name)
	return err
}

// cancel gives the operation up and returns it as it is then.
func (o *cancelOptions) cancel(ctx context.Context, s *session, op operation, opts vmbackup.RunOptions) (any, error) {
	if op.restore {
		return s.engine.CancelRestore(ctx, op.ref, opts)
	}
	return s.engine.CancelBackup(ctx, op.ref, opts)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// watchOptions are the flags of watch.
type watchOptions struct {
	*globals
	output
	run runFlags
}

// watchPatience is how long after the last upload somebody should have finished a backup.
const watchPatience = 30 * time.Second

func (g *globals) newWatch() *cobra.Command {
	o := &watchOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "watch BACKUP | restore/NAME",
		Short: "Follow a backup or restore to its end",
		Long: `Follow a backup or a restore that runs, from any machine, and exit with its result.

Watching changes nothing. When nobody finishes the operation any more, it says so:
'kubectl vmbackup resume' then takes it to its end.`,
		Example: `  kubectl vmbackup watch web-20260102-030405
  kubectl vmbackup watch restore/web-20260102-040506 -n test --timeout 10m`,
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
	cmd.Flags().DurationVar(&o.run.timeout, "timeout", 0, "Stop watching after this time, with exit code 5; 0 watches as long as it takes")
	o.addFlags(cmd, true)
	return cmd
}

func (o *watchOptions) execute(ctx context.Context, arg string) error {
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
		return o.restore(ctx, s, ref)
	}
	return o.backup(ctx, s, ref)
}

func (o *watchOptions) backup(ctx context.Context, s *session, ref vmbackup.Ref) error {
	var last *vmbackup.Backup
	err := o.follow(ctx, "backup "+ref.String(),
		func(ctx context.Context, sink vmbackup.Sink) error { return s.engine.FollowBackup(ctx, ref, sink) },
		func(ctx context.Context) error {
			return s.catalog.WatchBackup(ctx, ref, func(b *vmbackup.Backup) bool {
				last = b
				return b.Status.Phase.Done()
			})
		})
	if err != nil {
		return o.run.explain(ctx, err, "backup", ref, last != nil)
	}
	if err := o.showBackup(last, &o.output); err != nil {
		return err
	}
	return result(last.Status.Phase, last.Status.Error, last.Status.Warnings)
}

func (o *watchOptions) restore(ctx context.Context, s *session, ref vmbackup.Ref) error {
	var last *vmbackup.Restore
	err := o.follow(ctx, "restore "+ref.String(),
		func(ctx context.Context, sink vmbackup.Sink) error { return s.engine.FollowRestore(ctx, ref, sink) },
		func(ctx context.Context) error {
			return s.catalog.WatchRestore(ctx, ref, func(r *vmbackup.Restore) bool {
				last = r
				return r.Status.Phase.Done()
			})
		})
	if err != nil {
		return o.run.explain(ctx, err, "restore", ref, last != nil)
	}
	if err := o.showRestore(last, &o.output); err != nil {
		return err
	}
	return result(last.Status.Phase, last.Status.Error, last.Status.Warnings)
}

// follow shows the progress until the record says that the operation has ended.
func (o *watchOptions) follow(ctx context.Context, what string, progress func(context.Context, vmbackup.Sink) error, record func(context.Context) error) error {
	shown, err := o.newProgress()
	if err != nil {
		return err
	}
	side, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What is shown on the way is a help; the record alone decides.
		if err := progress(side, shown); err != nil || side.Err() != nil {
			return
		}
		select {
		case <-side.Done():
		case <-time.After(watchPatience):
			shown.Emit(vmbackup.Event{
				Type: vmbackup.EventWarning, Time: o.clock().UTC(), Operation: what,
				Message: "the data is there, but nobody has finished " + what + " in " + watchPatience.String() + "; finish it with: kubectl vmbackup resume",
			})
		}
	}()
	err = record(ctx)
	stop()
	<-done
	if closeErr := shown.Close(); err == nil {
		err = closeErr
	}
	return err
}

// result is the outcome of an operation that somebody else ran.
func result(phase vmbackup.Phase, failure *vmbackup.Error, warnings []string) error {
	switch {
	case failure != nil:
		return failure
	case phase == vmbackup.PhaseReady && len(warnings) == 0:
		return nil
	case phase == vmbackup.PhaseReady, phase == vmbackup.PhaseIncomplete:
		return &exitError{exitPartly}
	}
	return &exitError{exitFailed}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
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
		Use:   "watch (BACKUP | restore/NAME)",
		Short: "Follow a backup or restore to its end",
		Long: `Follow a backup or a restore that runs, from any machine, and exit with its
result.

Watching changes nothing. When nobody finishes the operation any more, it says
so: 'kubectl vmbackup resume' then takes it to its end.`,
		Example: `
# Follow a backup
kubectl vmbackup watch web-20260102-030405

# Follow a restore, for ten minutes at most
kubectl vmbackup watch restore/web-20260102-040506 -n test --timeout 10m`,
		Args:              named("the name of what to watch", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOperation,
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

func (o *watchOptions) execute(ctx context.Context, arg string) error {
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
	// A watch tries again and again, for good; what is wrong from the start is told.
	if op.restore {
		restore, err := s.catalog.Restore(ctx, op.ref)
		if err != nil {
			return unbegun(ctx, err, o.run.timeout)
		}
		return o.restore(ctx, s, op, restore.Status.Engine)
	}
	if _, err := s.catalog.Backup(ctx, op.ref, vmbackup.SourceCluster); err != nil {
		return unbegun(ctx, err, o.run.timeout)
	}
	return o.backup(ctx, s, op)
}

func (o *watchOptions) backup(ctx context.Context, s *session, op operation) error {
	var last *vmbackup.Backup
	err := o.follow(ctx, op,
		func(ctx context.Context, sink vmbackup.Sink) error { return s.engine.FollowBackup(ctx, op.ref, sink) },
		func(ctx context.Context, _ vmbackup.Sink) (vmbackup.Phase, *vmbackup.Error, error) {
			err := s.catalog.WatchBackup(ctx, op.ref, func(b *vmbackup.Backup) bool {
				last = b
				return b.Status.Phase.Done()
			})
			if last == nil {
				return "", nil, err
			}
			return last.Status.Phase, last.Status.Error, err
		})
	if err != nil {
		return o.stopped(ctx, err, op, "watch", o.run.timeout)
	}
	if err := o.showBackups([]vmbackup.Backup{*last}, false, &o.output); err != nil {
		return err
	}
	return result(last.Status.Phase, last.Status.Error, last.Status.Warnings)
}

func (o *watchOptions) restore(ctx context.Context, s *session, op operation, engine string) error {
	var last *vmbackup.Restore
	progress := func(ctx context.Context, sink vmbackup.Sink) error { return s.engine.FollowRestore(ctx, op.ref, sink) }
	tell := func(vmbackup.Sink) func(*vmbackup.Restore) { return func(*vmbackup.Restore) {} }
	if engine == vmbackup.EngineHarvester {
		progress = nil
		tell = func(sink vmbackup.Sink) func(*vmbackup.Restore) {
			return flow.NewTeller(flow.NewEvents(sink, op.id(), o.clock)).Restore
		}
	}
	err := o.follow(ctx, op, progress,
		func(ctx context.Context, sink vmbackup.Sink) (vmbackup.Phase, *vmbackup.Error, error) {
			tell := tell(sink)
			err := s.catalog.WatchRestore(ctx, op.ref, func(r *vmbackup.Restore) bool {
				tell(r)
				last = r
				return r.Status.Phase.Done()
			})
			if last == nil {
				return "", nil, err
			}
			return last.Status.Phase, last.Status.Error, err
		})
	if err != nil {
		return o.stopped(ctx, err, op, "watch", o.run.timeout)
	}
	if err := o.showRestore(last, &o.output); err != nil {
		return err
	}
	return result(last.Status.Phase, last.Status.Error, last.Status.Warnings)
}

// follow shows the progress until the record says that the operation has ended.
// Without progress, what the record tells on the way is all there is.
func (o *watchOptions) follow(ctx context.Context, op operation, progress func(context.Context, vmbackup.Sink) error,
	record func(context.Context, vmbackup.Sink) (vmbackup.Phase, *vmbackup.Error, error),
) error {
	shown, err := o.newProgress()
	if err != nil {
		return err
	}
	events := &continued{sink: shown, operation: op.id(), clock: o.clock}
	side, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if progress == nil {
			return
		}
		// What is shown on the way is a help; the record alone decides.
		if err := progress(side, events); err != nil || side.Err() != nil {
			return
		}
		patience := time.NewTimer(watchPatience)
		defer patience.Stop()
		select {
		case <-side.Done():
		case <-patience.C:
			events.add(vmbackup.Event{
				Type:    vmbackup.EventWarning,
				Message: "the data is there, but nobody has finished " + op.String() + " in " + watchPatience.String() + "; finish it with: " + o.command("resume", op),
			})
		}
	}()
	phase, failure, err := record(ctx, events)
	stop()
	<-done
	if err == nil {
		end := vmbackup.Event{Type: vmbackup.EventResult, Phase: phase}
		if failure != nil {
			end.Reason, end.Message = failure.Reason, failure.Message
		}
		events.add(end)
	}
	if closeErr := shown.Close(); err == nil {
		err = closeErr
	}
	return err
}

// continued passes the events of an operation on and adds its own, numbered on from there.
type continued struct {
	sink      vmbackup.Sink
	operation string
	clock     vmbackup.Clock
	last      atomic.Int64
}

// Emit passes an event of the engine on.
func (c *continued) Emit(e vmbackup.Event) {
	c.last.Store(e.Seq)
	c.sink.Emit(e)
}

// add is called when the engine tells nothing more.
func (c *continued) add(e vmbackup.Event) {
	e.Seq, e.Operation, e.Time = c.last.Add(1), c.operation, c.clock().UTC().Truncate(time.Millisecond)
	c.sink.Emit(e)
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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// heed returns a context for a run that ends when somebody, on whatever machine,
// gives the operation up or deletes it. heard ends the watching and returns the
// run's own error, or in its place why the run was stopped.
//
// A watch that cannot be had stops nothing: the run's next write of its entry
// meets the mark as well.
func (o *operation) heed(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) (running context.Context, heard func(error) error) {
	running, stopRun := context.WithCancelCause(ctx)
	watching, stopWatch := context.WithCancel(ctx)
	var stopped error
	var watcher sync.WaitGroup
	watcher.Go(func() {
		met := fate("")
		err := o.engine.journal.Watch(watching, kind, ref, func(entry journal.Entry) (bool, error) {
			if met = fateOf(entry); vmbackup.Phase(entry.Labels[journal.LabelPhase]) == vmbackup.PhaseCanceled {
				met = fateCancel // and the removal was done before the mark was seen
			}
			return met != "", nil
		})
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			met = fateDelete // so fast that the mark was not seen
		}
		if met != "" {
			stopped = met.stops(kind, ref)
			stopRun(stopped)
		}
	})
	return running, func(err error) error {
		stopWatch()
		watcher.Wait()
		stopRun(nil)
		if err != nil && stopped != nil && ctx.Err() == nil {
			return stopped
		}
		return err
	}
}

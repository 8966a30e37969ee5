// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// operation is what a plan has decided: its steps take it to its end from wherever
// it stands.
type operation interface {
	steps(i *Images, events *flow.Events) []flow.Step
}

// Run implements vmbackup.Images.
func (i *Images) Run(ctx context.Context, plan *vmbackup.ImagePlan, opts vmbackup.RunOptions) (*vmbackup.Image, error) {
	o, ok := plan.State.(operation)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "the plan of image %s is none of these", plan.Image.Ref())
	}
	ref := plan.Image.Ref()
	events := i.events(opts.Sink, ref)
	steps := o.steps(i, events)
	events.Plan(flow.Statuses(steps), "image "+ref.String())
	err := flow.Run(ctx, steps, opts.NoWait, events, nil)
	detached := errors.Is(err, flow.ErrDetached)
	if detached {
		err = nil
	}
	image, lookErr := i.Get(context.WithoutCancel(ctx), ref)
	_, deletes := o.(*deletion)
	_, backsUp := o.(*upload)
	switch {
	case deletes && vmbackup.ReasonOf(lookErr) == vmbackup.ReasonNotFound:
		image = nil
	case err == nil:
		err = lookErr
	}
	if image == nil {
		image = plan.Image
		if deletes && err == nil {
			image.Status.Phase, image.Status.Ready = vmbackup.ImageDeleting, false
		}
	}
	phase, said := vmbackup.PhaseReady, "image "+ref.String()+": "+words(image.Status.Phase)
	switch {
	case err != nil:
		phase, said = phaseOf(err), ""
	case detached:
		phase = vmbackup.PhaseRunning
	case backsUp:
		said = fmt.Sprintf("image %s is on the backup target", ref)
	case deletes:
		said = fmt.Sprintf("image %s is deleted", ref)
	}
	events.Result(phase, err, said)
	return image, err
}

// events is the stream of an image's operation.
func (i *Images) events(sink vmbackup.Sink, ref vmbackup.Ref) *flow.Events {
	if sink == nil {
		sink = vmbackup.NopSink{}
	}
	return flow.NewEvents(sink, "image/"+ref.String(), i.clock)
}

// phaseOf is the phase of an operation that ended with an error.
func phaseOf(err error) vmbackup.Phase {
	switch vmbackup.ReasonOf(err) {
	case vmbackup.ReasonTimeout, vmbackup.ReasonCanceled, vmbackup.ReasonEngineUnavailable:
		return vmbackup.PhaseRunning // Longhorn goes on
	}
	return vmbackup.PhaseFailed
}

// words is a phase as it is said.
func words(p vmbackup.ImagePhase) string {
	if p == vmbackup.ImageInProgress {
		return "in progress"
	}
	return strings.ToLower(string(p))
}

// preflight marks an error of a plan as one that refused before any change.
func preflight(plan *vmbackup.ImagePlan, err error) (*vmbackup.ImagePlan, error) {
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	return plan, nil
}

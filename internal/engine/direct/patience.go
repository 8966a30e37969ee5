// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// outageLimit is how long requests are repeated while the API server is away. A
	// wait, which asks for nothing that would be missing, is not bounded by it.
	outageLimit = 2 * time.Minute
	// beginLimit is the same where nothing was begun and nobody hears of it.
	beginLimit = time.Minute
	// startGrace is how long after an outage a refusal may be one of an API server
	// that has not read its roles yet.
	startGrace = 20 * time.Second
	// answeredAfter is how long an attempt lasts at least that was answered in
	// between: without an answer it fails sooner.
	answeredAfter = time.Minute
	// conflictLimit is how often what somebody else changed in between is tried again.
	conflictLimit = 8
)

// errGaveUp marks an outage that lasted longer than it is borne.
var errGaveUp = errors.New("the API server is away")

// patience bears an API server that is away for a while: whatever observes before it
// acts is run again until it is answered. All of one run share one patience, so that
// an outage is told once and is as long as it is.
type patience struct {
	events *flow.Events
	limit  time.Duration
	// goOn is the command that goes on when the patience is at its end.
	goOn string

	mu sync.Mutex
	// step is the one that runs, for the events.
	step string
	// told is true from when an outage was told until its end is.
	told bool
	// retrying counts what is run again and has not succeeded yet. Other requests may
	// be answered meanwhile: only the webhook of one kind may be away, for example.
	retrying int
	// last is when the API server was away last.
	last time.Time
}

func newPatience(events *flow.Events, goOn string) *patience {
	return &patience{events: events, limit: outageLimit, goOn: goOn}
}

// steps makes every step of a flow patient.
func (p *patience) steps(steps []flow.Step) []flow.Step {
	patient := make([]flow.Step, len(steps))
	for i, s := range steps {
		ensure := s.Ensure
		s.Ensure = func(ctx context.Context) error {
			p.mu.Lock()
			p.step = s.ID
			p.mu.Unlock()
			return p.bear(ctx, ensure)
		}
		patient[i] = s
	}
	return patient
}

// bear runs try, and runs it again while the API server is away or somebody else has
// changed an object in between. try must observe before it acts.
func (p *patience) bear(ctx context.Context, try func(context.Context) error) error {
	delays := wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Cap: 5 * time.Second, Steps: math.MaxInt32}
	conflicts := 0
	var since time.Time // when the first of the attempts failed that have all failed
	defer func() {
		if !since.IsZero() {
			p.retry(-1)
		}
	}()
	for {
		began := time.Now()
		err := try(kube.WithOutcomes(ctx, p.hear))
		switch now := time.Now(); {
		case err == nil:
			if !since.IsZero() {
				since = time.Time{}
				p.retry(-1)
				p.hear(nil)
			}
			return nil
		case ctx.Err() != nil || errors.Is(err, errGaveUp):
			return err
		case conflicted(err) && conflicts < conflictLimit:
			conflicts++
		case kube.Away(err) || p.starting(err):
			if since.IsZero() {
				since = now
				p.retry(1)
			} else if now.Sub(began) >= answeredAfter {
				since = now
			}
			p.tell(err)
			if lasted := now.Sub(since); lasted >= p.limit {
				return p.gaveUp(err, lasted)
			}
		default:
			return err
		}
		if pause(ctx, delays.Step()) != nil {
			return err
		}
	}
}

// conflicted reports whether the API server refused a change since the object is not
// as it was read. What the journal tells of another run is not meant.
func conflicted(err error) bool {
	return apierrors.IsConflict(err) && vmbackup.ReasonOf(kube.Error(err, "change", "object")) == vmbackup.ReasonConflict
}

// starting reports whether a refusal comes so soon after an outage that it may be
// one of an API server which does not know its roles yet.
func (p *patience) starting(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.last) < startGrace && (apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err))
}

func (p *patience) retry(more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retrying += more
}

// hear takes the outcome of a request that is repeated by itself, in a wait, or was
// repeated here.
func (p *patience) hear(err error) {
	if err != nil {
		if kube.Away(err) {
			p.tell(err)
		}
		return
	}
	p.mu.Lock()
	over, step := p.told && p.retrying == 0, p.step
	if over {
		p.told = false
	}
	p.mu.Unlock()
	if over {
		p.events.Step(step, vmbackup.StateRunning, "the API server answers again")
	}
}

// tell says once that the API server is away.
func (p *patience) tell(err error) {
	p.mu.Lock()
	isNew, step := !p.told, p.step
	p.told = true
	if kube.Away(err) {
		p.last = time.Now()
	}
	p.mu.Unlock()
	if isNew {
		p.events.Step(step, vmbackup.StateRunning, fmt.Sprintf("the API server does not answer; waiting (%v)", err))
	}
}

func (p *patience) gaveUp(err error, after time.Duration) error {
	return vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "the API server has not answered for %s: %w", after.Round(time.Second), &outageError{err}).
		WithHint("nothing is lost, and what Longhorn does goes on; once the API server answers, %s", p.goOn)
}

// outageError is the last error of an outage.
type outageError struct{ err error }

func (e *outageError) Error() string   { return e.err.Error() }
func (e *outageError) Unwrap() []error { return []error{errGaveUp, e.err} }

// pause lets time pass, unless ctx ends first, whose error it returns.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// WatchAll lists what lw selects, follows it by watch and calls seen with every
// object, ordered by namespace and name: first as listed (perhaps none), then
// after every change, until seen returns true or an error, which WatchAll returns
// as it is. Changes that come while seen runs are seen together. seen runs in the
// caller's goroutine, must not change the objects, and may be given the same ones again.
//
// It costs one list and, when that is not enough, one watch, and survives closed
// and expired watches and a restart of the API server. When ctx ends it returns
// Timeout or Canceled, naming what; a request that the API server refuses for
// good ends it with that error.
func WatchAll[T runtime.Object](ctx context.Context, lw cache.ListerWatcher, what string, seen func(objects []T) (done bool, err error)) error {
	return watchAll(ctx, lw, what, defaultPace(), seen)
}

// WaitFor waits until cond returns true for the one object that lw selects; see
// One. An object that is not there yet is waited for. One that was there and is
// deleted ends the wait with NotFound, even when another of the same name has
// taken its place already.
func WaitFor[T runtime.Object](ctx context.Context, lw cache.ListerWatcher, what string, cond func(obj T) (done bool, err error)) error {
	var first types.UID
	var known bool
	return WatchAll(ctx, lw, what, func(objects []T) (bool, error) {
		if len(objects) > 1 {
			return false, vmbackup.Errorf(vmbackup.ReasonInternal, "waiting for %s: %d objects where one was expected", what, len(objects))
		}
		if len(objects) == 0 {
			if known {
				return false, deleted(what)
			}
			return false, nil
		}
		object, err := meta.Accessor(objects[0])
		if err != nil {
			return false, vmbackup.Errorf(vmbackup.ReasonInternal, "waiting for %s: %w", what, err)
		}
		if known && object.GetUID() != first {
			return false, deleted(what)
		}
		first, known = object.GetUID(), true
		return cond(objects[0])
	})
}

// WaitGone waits until the one object that lw selects is gone. With a uid, an
// object of the same name with another UID counts as gone.
func WaitGone[T runtime.Object](ctx context.Context, lw cache.ListerWatcher, what string, uid types.UID) error {
	return WatchAll(ctx, lw, what, func(objects []T) (bool, error) {
		for _, o := range objects {
			object, err := meta.Accessor(o)
			if err != nil {
				return false, vmbackup.Errorf(vmbackup.ReasonInternal, "waiting for %s: %w", what, err)
			}
			if uid == "" || object.GetUID() == uid {
				return false, nil
			}
		}
		return true, nil
	})
}

// Client is the part of a typed or dynamic client that a wait needs:
// clientset.CoreV1().Secrets(namespace), for example.
type Client[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// One selects the object of that name. A role that names the object in its
// resourceNames suffices for it.
func One[L runtime.Object](client Client[L], name string) cache.ListerWatcher {
	return Select(client, metav1.ListOptions{FieldSelector: metav1.ObjectNameField + "=" + name})
}

// Select selects by the label and field selectors of opts; its other fields are ignored.
func Select[L runtime.Object](client Client[L], opts metav1.ListOptions) cache.ListerWatcher {
	narrow := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector, o.FieldSelector = opts.LabelSelector, opts.FieldSelector
		return o
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, narrow(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, narrow(o))
		},
	}
}

// pace is how a wait behaves while the API server does not answer.
type pace struct {
	// first and longest delay between two attempts.
	first, longest time.Duration
	// grace is how long a refusal is borne after an earlier success: an API
	// server that starts answers Forbidden and NotFound until its own caches
	// of roles and custom resources are filled.
	grace time.Duration
}

func defaultPace() pace {
	return pace{first: 100 * time.Millisecond, longest: 2 * time.Second, grace: 20 * time.Second}
}

func (p pace) backoff() wait.Backoff {
	return wait.Backoff{Duration: p.first, Factor: 2, Jitter: 0.2, Cap: p.longest, Steps: math.MaxInt32}
}

func watchAll[T runtime.Object](ctx context.Context, lw cache.ListerWatcher, what string, p pace, seen func([]T) (bool, error)) error {
	running, stop := context.WithCancel(ctx)
	store := newView[T](running.Done())
	followed := make(chan error, 1)
	go func() { followed <- follow(running, lw, store, p) }()
	// Nothing of the wait outlives it: no goroutine, no open watch.
	ended := false
	defer func() {
		stop()
		if !ended {
			<-followed //nolint:errcheck // the wait has its result already
		}
	}()

	look := func() (bool, error) {
		objects, synced, looked, err := store.objects()
		if err != nil {
			return false, vmbackup.Errorf(vmbackup.ReasonInternal, "waiting for %s: %w", what, err)
		}
		if !synced {
			return false, nil
		}
		done, err := seen(objects)
		if !done && err == nil {
			looked() // and the watch goes on
		}
		return done, err
	}
	for {
		select {
		case <-store.changed:
			if done, err := look(); done || err != nil {
				return err
			}
			// A busy watch must not hide the deadline.
			if ctx.Err() != nil {
				return interrupted(ctx, what, store.lastFault())
			}
		case err := <-followed:
			ended = true
			if ctx.Err() != nil {
				return interrupted(ctx, what, store.lastFault())
			}
			// What was listed before the refusal may be all that was waited for.
			if done, seenErr := look(); done || seenErr != nil {
				return seenErr
			}
			if fault := store.lastFault(); fault != nil {
				err = fault // without the reflector's own words
			}
			return Error(err, "watch", what)
		case <-ctx.Done():
			return interrupted(ctx, what, store.lastFault())
		}
	}
}

// follow keeps store up to date until ctx ends or the API server refuses for good.
func follow[T runtime.Object](ctx context.Context, lw cache.ListerWatcher, store *view[T], p pace) error {
	// The reflector tells of every hiccup on its own; the wait tells of the last one, when it matters.
	quiet := logr.Discard()
	tell := outcomes(ctx)
	requests := &requests{ListerWatcherWithContext: cache.ToListerWatcherWithContext(lw), ctx: ctx, fault: func(err error) {
		store.setFault(err)
		tell(err)
	}}
	backoff := p.backoff()
	reflector := cache.NewReflectorWithOptions(requests, nil, store, cache.ReflectorOptions{
		Name: "wait", Logger: &quiet, Backoff: &backoff,
	})
	delays := p.backoff()
	var refused time.Time // since when nothing but refusals came
	for {
		began, opened := time.Now(), requests.opened.Load()
		err := reflector.ListAndWatchWithContext(klog.NewContext(ctx, quiet))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if requests.opened.Load() > opened {
			refused = time.Time{}
		}
		if err != nil && permanent(err) {
			if refused.IsZero() {
				refused = time.Now()
			}
			// The very first answer is taken at its word.
			if requests.opened.Load() == 0 || time.Since(refused) >= p.grace {
				return err
			}
		}
		if time.Since(began) > time.Minute {
			delays = p.backoff()
		}
		timer := time.NewTimer(delays.Step())
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// requests makes the reflector's requests what a wait needs.
type requests struct {
	cache.ListerWatcherWithContext
	// ctx is that of the wait; requests log where its logger does.
	ctx context.Context
	// fault takes the outcome of every request.
	fault func(error)
	// opened counts the watches that the API server accepted.
	opened atomic.Int64
}

// ListWithContext asks for the newest state where the reflector would take any
// cached one: an object that was just created or deleted must be seen so.
func (r *requests) ListWithContext(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	if opts.ResourceVersion == "0" {
		opts.ResourceVersion = ""
	}
	list, err := r.ListerWatcherWithContext.ListWithContext(klog.NewContext(ctx, klog.FromContext(r.ctx)), opts)
	r.note(ctx, err)
	return list, err
}

// WatchWithContext logs as the caller's requests do.
func (r *requests) WatchWithContext(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	w, err := r.ListerWatcherWithContext.WatchWithContext(klog.NewContext(ctx, klog.FromContext(r.ctx)), opts)
	r.note(ctx, err)
	if err == nil {
		r.opened.Add(1)
	}
	return w, err
}

// note leaves out the end of the wait itself, which is no fault of the API server.
func (r *requests) note(ctx context.Context, err error) {
	if ctx.Err() == nil {
		r.fault(err)
	}
}

// List and Watch are never called by a reflector that has a context.
func (r *requests) List(opts metav1.ListOptions) (runtime.Object, error) {
	return r.ListWithContext(r.ctx, opts)
}

// Watch: see List.
func (r *requests) Watch(opts metav1.ListOptions) (watch.Interface, error) {
	return r.WatchWithContext(r.ctx, opts)
}

// IsWatchListSemanticsUnSupported keeps to list and watch: for the few objects of
// a wait a streamed list saves nothing, and API servers and proxies that ignore
// it would let the wait hang.
func (*requests) IsWatchListSemanticsUnSupported() bool { return true }

// endedError is a context's end told in the words of the wait.
type endedError struct {
	text string
	err  error
}

func (e *endedError) Error() string { return e.text }
func (e *endedError) Unwrap() error { return e.err }

func interrupted(ctx context.Context, what string, fault error) error {
	reason, text := vmbackup.ReasonCanceled, "interrupted while waiting for "+what
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason, text = vmbackup.ReasonTimeout, "timed out waiting for "+what
	}
	if fault != nil {
		text = fmt.Sprintf("%s; last error of the API server: %v", text, fault)
	}
	return vmbackup.Errorf(reason, "%w", &endedError{text: text, err: ctx.Err()})
}

func deleted(what string) error {
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "waiting for %s: it was deleted", what)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journaltest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// watched follows an entry in the background: seen has the data of every change,
// ended the result.
func watched(ctx context.Context, p Place, e journal.Entry) (seen chan string, ended chan error) {
	seen, ended = make(chan string), make(chan error, 1)
	go func() {
		ended <- p.Store.Watch(ctx, e.Kind, e.Ref, func(e journal.Entry) (bool, error) {
			select {
			case seen <- string(e.Data):
			case <-ctx.Done():
			}
			return string(e.Data) == "end", nil
		})
	}()
	return seen, ended
}

// receive takes from c, or fails when ctx ends.
func receive[T any](t *testing.T, ctx context.Context, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		t.Fatal("nothing came: ", ctx.Err())
		panic("unreachable")
	}
}

func watchToTheEnd(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	create(t, ctx, p, entry(p, "other", "end"))
	seen, ended := watched(ctx, p, e)
	if got := receive(t, ctx, seen); got != "1" {
		t.Errorf("saw %q first", got)
	}
	for _, data := range []string{"2", "end"} {
		e.Data = []byte(data)
		var err error
		if e, err = p.Store.Update(ctx, e); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, ctx, seen); got != data {
			t.Errorf("saw %q, want %q", got, data)
		}
	}
	if err := receive(t, ctx, ended); err != nil {
		t.Error(err)
	}
}

func watchSeesTheDeletion(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	seen, ended := watched(ctx, p, e)
	receive(t, ctx, seen)
	if err := p.Store.Delete(ctx, e.Kind, e.Ref); err != nil {
		t.Fatal(err)
	}
	wantReason(t, receive(t, ctx, ended), vmbackup.ReasonNotFound)
}

func watchIsNotOfTheNext(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	ended := make(chan error, 1)
	go func() {
		ended <- p.Store.Watch(ctx, e.Kind, e.Ref, func(journal.Entry) (bool, error) {
			// While the watch looks away, another entry takes the name.
			if err := p.Store.Delete(ctx, e.Kind, e.Ref); err != nil {
				return false, err
			}
			_, err := p.Store.Create(ctx, entry(p, "nightly", "end"))
			return false, err
		})
	}()
	wantReason(t, receive(t, ctx, ended), vmbackup.ReasonNotFound)
}

func watchOfNothing(t *testing.T, ctx context.Context, p Place) {
	err := p.Store.Watch(ctx, journal.KindBackup, vmbackup.Ref{Namespace: p.First, Name: "none"}, func(journal.Entry) (bool, error) {
		t.Error("called")
		return true, nil
	})
	wantReason(t, err, vmbackup.ReasonNotFound)
}

func watchReturnsTheError(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	broken := errors.New("broken")
	err := p.Store.Watch(ctx, e.Kind, e.Ref, func(journal.Entry) (bool, error) { return false, broken })
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func watchEndsWithContext(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	err := p.Store.Watch(short, e.Kind, e.Ref, func(journal.Entry) (bool, error) { return false, nil })
	wantReason(t, err, vmbackup.ReasonTimeout)

	stopped, stop := context.WithCancel(ctx)
	err = p.Store.Watch(stopped, e.Kind, e.Ref, func(journal.Entry) (bool, error) { stop(); return false, nil })
	wantReason(t, err, vmbackup.ReasonCanceled)
}

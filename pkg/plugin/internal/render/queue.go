// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// backlog is how many events wait for a slow reader before intermediate figures
// of volumes are left out.
const backlog = 256

// queue holds events between those who emit and the one who shows them.
type queue struct {
	mu     sync.Mutex
	events []vmbackup.Event
	closed bool
	// ready holds a token when there may be something to take.
	ready chan struct{}
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// put adds an event and never blocks.
func (q *queue) put(e vmbackup.Event) {
	q.mu.Lock()
	if !q.closed {
		if len(q.events) >= backlog && intermediate(e) {
			q.dropOlder(e)
		}
		q.events = append(q.events, e)
	}
	q.mu.Unlock()
	q.wake()
}

// dropOlder removes a waiting figure that e makes worthless. Only figures since
// the volume's last change of state are: all others are news of their own.
func (q *queue) dropOlder(e vmbackup.Event) {
	for i := len(q.events) - 1; i >= 0; i-- {
		older := &q.events[i]
		if older.Type != vmbackup.EventVolume || older.Operation != e.Operation || older.Volume != e.Volume {
			continue
		}
		if intermediate(*older) {
			q.events = append(q.events[:i], q.events[i+1:]...)
		}
		return
	}
}

// intermediate reports whether a later figure of the same volume replaces e.
func intermediate(e vmbackup.Event) bool {
	return e.Type == vmbackup.EventVolume && e.State == vmbackup.StateRunning && e.Reason == ""
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns what has come since the last take, and whether nothing more will.
func (q *queue) take() (events []vmbackup.Event, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, q.events = q.events, nil
	return events, q.closed
}

// close lets no more events in.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wake()
}

// written is a Progress that hands every event to a function, in order.
type written struct {
	queue *queue
	done  chan struct{}
	err   error // read after done
}

func newWritten(show func(vmbackup.Event) error) *written {
	w := &written{queue: newQueue(), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for range w.queue.ready {
			events, closed := w.queue.take()
			for _, e := range events {
				if w.err == nil { // a reader who has gone is not written to again
					w.err = show(e)
				}
			}
			if closed {
				return
			}
		}
	}()
	return w
}

// Emit queues the event.
func (w *written) Emit(e vmbackup.Event) { w.queue.put(e) }

// Close shows what is queued and ends.
func (w *written) Close() error {
	w.queue.close()
	<-w.done
	return w.err
}

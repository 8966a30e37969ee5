// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// server is a scripted API server for one resource.
type server struct {
	lists   []answer // one for each list; the last one repeats
	watches []stream // one for each watch; the last one repeats
	asked   []string // "list <rv>" and "watch <rv>", in order
}

type answer struct {
	items []string // name=phase
	rv    string
	err   error
}

type stream struct {
	events []watch.Event
	close  bool // after the events
	err    error
}

func (s *server) List(_ context.Context, o metav1.ListOptions) (*corev1.SecretList, error) {
	s.asked = append(s.asked, "list "+o.ResourceVersion)
	a := s.lists[0]
	if len(s.lists) > 1 {
		s.lists = s.lists[1:]
	}
	if a.err != nil {
		return nil, a.err
	}
	list := &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: a.rv}}
	for _, item := range a.items {
		list.Items = append(list.Items, *secret(item, a.rv))
	}
	return list, nil
}

func (s *server) Watch(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if o.SendInitialEvents != nil {
		return nil, errors.New("a streamed list was asked for")
	}
	s.asked = append(s.asked, "watch "+o.ResourceVersion)
	st := stream{}
	if len(s.watches) > 0 {
		st = s.watches[0]
		if len(s.watches) > 1 {
			s.watches = s.watches[1:]
		}
	}
	if st.err != nil {
		return nil, st.err
	}
	w := watch.NewFakeWithChanSize(len(st.events), false)
	for _, e := range st.events {
		w.Action(e.Type, e.Object)
	}
	if st.close {
		w.Stop()
	}
	return w, nil
}

func secret(item, rv string) *corev1.Secret {
	name, phase, _ := strings.Cut(item, "=")
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: name, UID: types.UID("uid-" + name), ResourceVersion: rv},
		Data:       map[string][]byte{"phase": []byte(phase)},
	}
}

func event(t watch.EventType, item, rv string) watch.Event {
	return watch.Event{Type: t, Object: secret(item, rv)}
}

func gone() watch.Event {
	status := apierrors.NewResourceExpired("too old resource version").Status()
	return watch.Event{Type: watch.Error, Object: &status}
}

func forbidden(verb string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "",
		errors.New(`User "ann" cannot `+verb+` resource "secrets" in API group "" in the namespace "demo"`))
}

func refused() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
}

// phases waits until the object's phase is done and returns those that were seen, without repetitions.
func phases(ctx context.Context, lw cache.ListerWatcher) ([]string, error) {
	var got []string
	err := kube.WaitFor(ctx, lw, "Secret demo/a", func(s *corev1.Secret) (bool, error) {
		phase := string(s.Data["phase"])
		if len(got) == 0 || got[len(got)-1] != phase {
			got = append(got, phase)
		}
		return phase == "done", nil
	})
	return got, err
}

func TestWaitFor(t *testing.T) {
	added, modified, deletion := watch.Added, watch.Modified, watch.Deleted
	recreated := event(modified, "a=done", "9")
	recreated.Object.(*corev1.Secret).UID = "another"
	tests := map[string]struct {
		server server
		last   string // the last phase seen
		asked  []string
		within time.Duration
		reason vmbackup.Reason
		text   string
	}{
		"there already": {
			server: server{lists: []answer{{items: []string{"a=done"}, rv: "5"}}},
			last:   "done", asked: []string{"list "},
		},
		"changed later": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}},
				watches: []stream{{events: []watch.Event{event(modified, "a=half", "6"), event(modified, "a=done", "7")}}},
			},
			last: "done", asked: []string{"list ", "watch 5"},
		},
		"created later": {
			server: server{
				lists:   []answer{{rv: "5"}},
				watches: []stream{{events: []watch.Event{event(added, "a=done", "6")}}},
			},
			last: "done", asked: []string{"list ", "watch 5"},
		},
		"watch closed in the middle": {
			server: server{
				lists: []answer{{items: []string{"a=new"}, rv: "5"}},
				watches: []stream{
					{events: []watch.Event{event(modified, "a=half", "6")}, close: true},
					{events: []watch.Event{event(modified, "a=done", "7")}},
				},
			},
			// The second watch goes on from where the first ended, with no list and no delay.
			last: "done", asked: []string{"list ", "watch 5", "watch 6"},
		},
		"watch expired": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}, {items: []string{"a=done"}, rv: "90"}},
				watches: []stream{{events: []watch.Event{gone()}}},
			},
			last: "done", asked: []string{"list ", "watch 5", "list 5"}, within: 200 * time.Millisecond,
		},
		"list expired after the watch": {
			server: server{
				lists: []answer{
					{items: []string{"a=new"}, rv: "5"},
					{err: apierrors.NewResourceExpired("too old")},
					{items: []string{"a=done"}, rv: "90"},
				},
				watches: []stream{{events: []watch.Event{gone()}}},
			},
			last: "done", asked: []string{"list ", "watch 5", "list 5", "list "}, within: 200 * time.Millisecond,
		},
		"API server restarts": {
			server: server{
				lists: []answer{{items: []string{"a=new"}, rv: "5"}},
				watches: []stream{
					{events: []watch.Event{event(modified, "a=half", "6")}, close: true},
					{err: refused()},
					{err: refused()},
					{err: refused()},
					{events: []watch.Event{event(modified, "a=done", "7")}},
				},
			},
			last: "done", asked: []string{"list ", "watch 5", "watch 6", "watch 6", "watch 6", "watch 6"}, within: time.Second,
		},
		"API server is not there yet": {
			server: server{lists: []answer{{err: refused()}, {err: refused()}, {items: []string{"a=done"}, rv: "5"}}},
			last:   "done", asked: []string{"list ", "list ", "list "}, within: 500 * time.Millisecond,
		},
		"starting API server knows no roles": {
			server: server{
				lists: []answer{
					{items: []string{"a=new"}, rv: "5"},
					{err: forbidden("list")},
					{err: forbidden("list")},
					{items: []string{"a=done"}, rv: "6"},
				},
				watches: []stream{{events: []watch.Event{gone()}}},
			},
			last: "done", asked: []string{"list ", "watch 5", "list 5", "list 5", "list 5"}, within: time.Second,
		},
		"list forbidden": {
			server: server{lists: []answer{{err: forbidden("list")}}},
			asked:  []string{"list "}, reason: vmbackup.ReasonForbidden, text: `cannot watch Secret demo/a: secrets is forbidden: User "ann" cannot list`,
		},
		"watch forbidden": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}},
				watches: []stream{{err: forbidden("watch")}},
			},
			last: "new", asked: []string{"list ", "watch 5"}, reason: vmbackup.ReasonForbidden, text: "cannot watch resource",
		},
		"watch forbidden and not needed": {
			server: server{
				lists:   []answer{{items: []string{"a=done"}, rv: "5"}},
				watches: []stream{{err: forbidden("watch")}},
			},
			last: "done", asked: []string{"list "},
		},
		"right withdrawn": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}, {err: forbidden("list")}},
				watches: []stream{{events: []watch.Event{gone()}}},
			},
			last: "new", within: 25 * time.Second, reason: vmbackup.ReasonForbidden, text: "cannot list resource",
		},
		"kind not served": {
			server: server{lists: []answer{{err: &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
				Message: "the server could not find the requested resource",
			}}}}},
			asked: []string{"list "}, reason: vmbackup.ReasonEngineUnavailable, text: "could not find the requested resource",
		},
		"deleted": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}},
				watches: []stream{{events: []watch.Event{event(deletion, "a=new", "6")}}},
			},
			reason: vmbackup.ReasonNotFound, text: "waiting for Secret demo/a: it was deleted",
		},
		"deleted while the watch was away": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}, {rv: "90"}},
				watches: []stream{{events: []watch.Event{gone()}}},
			},
			last: "new", within: time.Second, reason: vmbackup.ReasonNotFound, text: "it was deleted",
		},
		"made again under the name": {
			server: server{
				lists:   []answer{{items: []string{"a=new"}, rv: "5"}, {items: []string{"a=new"}, rv: "8"}},
				watches: []stream{{close: true}, {events: []watch.Event{recreated}}},
			},
			last: "new", within: time.Second, reason: vmbackup.ReasonNotFound, text: "it was deleted",
		},
		"never done": {
			server: server{lists: []answer{{items: []string{"a=new"}, rv: "5"}}},
			last:   "new", within: time.Hour, reason: vmbackup.ReasonTimeout, text: "timed out waiting for Secret demo/a",
		},
		"never reachable": {
			server: server{lists: []answer{{err: refused()}}},
			within: time.Hour, reason: vmbackup.ReasonTimeout, text: "last error of the API server: dial tcp: connection refused",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began := time.Now()
				got, err := phases(ctx, kube.One(&tt.server, "a"))
				if took := time.Since(began); took > tt.within {
					t.Errorf("took %s, want at most %s", took, tt.within)
				}
				if vmbackup.ReasonOf(err) != tt.reason {
					t.Fatalf("error %v (%s), want reason %q", err, vmbackup.ReasonOf(err), tt.reason)
				}
				if err != nil && !strings.Contains(err.Error(), tt.text) {
					t.Errorf("error %q does not say %q", err, tt.text)
				}
				if tt.last != "" && (len(got) == 0 || got[len(got)-1] != tt.last) {
					t.Errorf("saw %q, want %q at last", got, tt.last)
				}
				if tt.asked != nil && !slices.Equal(tt.server.asked, tt.asked) {
					t.Errorf("asked %q, want %q", tt.server.asked, tt.asked)
				}
			})
		})
	}
}

func TestWaitForCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &server{lists: []answer{{items: []string{"a=new"}, rv: "5"}}}
		err := kube.WaitFor(ctx, kube.One(s, "a"), "Secret demo/a", func(*corev1.Secret) (bool, error) {
			cancel()
			return false, nil
		})
		if vmbackup.ReasonOf(err) != vmbackup.ReasonCanceled || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want Canceled that wraps context.Canceled", err)
		}
		if want := "interrupted while waiting for Secret demo/a"; err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	})
}

func TestConditionErrorIsReturnedAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("upload failed")
		s := &server{lists: []answer{{items: []string{"a=new"}, rv: "5"}}}
		err := kube.WaitFor(t.Context(), kube.One(s, "a"), "Secret demo/a", func(*corev1.Secret) (bool, error) { return false, broken })
		if !errors.Is(err, broken) || err.Error() != broken.Error() {
			t.Errorf("error %v, want %v", err, broken)
		}
	})
}

func TestWatchAllSeesTheSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{
			lists: []answer{{items: []string{"c=1", "a=1"}, rv: "5"}},
			watches: []stream{{events: []watch.Event{
				event(watch.Added, "b=1", "6"), event(watch.Deleted, "c=1", "7"), event(watch.Modified, "a=2", "8"),
			}}},
		}
		var first, last []string
		err := kube.WatchAll(t.Context(), kube.Select(s, metav1.ListOptions{}), "Secrets", func(all []*corev1.Secret) (bool, error) {
			last = nil
			for _, o := range all {
				last = append(last, o.Name+"="+string(o.Data["phase"]))
			}
			if first == nil {
				first = last
			}
			return slices.Equal(last, []string{"a=2", "b=1"}), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSorted(first) {
			t.Errorf("first view %q is not ordered", first)
		}
	})
}

func TestWatchAllTellsOfAnEmptySet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		s := &server{lists: []answer{{rv: "5"}}}
		err := kube.WatchAll(t.Context(), kube.Select(s, metav1.ListOptions{}), "Secrets", func(all []*corev1.Secret) (bool, error) {
			calls++
			return len(all) == 0, nil
		})
		if err != nil || calls != 1 {
			t.Errorf("%d calls, error %v; want one call", calls, err)
		}
	})
}

func TestWaitGone(t *testing.T) {
	for name, uid := range map[string]types.UID{"by name": "", "by UID": "uid-a", "another took the name": "uid-before"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{
					lists:   []answer{{items: []string{"a=1"}, rv: "5"}},
					watches: []stream{{events: []watch.Event{event(watch.Deleted, "a=1", "6")}}},
				}
				if err := kube.WaitGone[*corev1.Secret](t.Context(), kube.One(s, "a"), "Secret demo/a", uid); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestWrongTypeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{lists: []answer{{items: []string{"a=1"}, rv: "5"}}}
		err := kube.WaitFor(t.Context(), kube.One(s, "a"), "Pod demo/a", func(*corev1.Pod) (bool, error) { return true, nil })
		if err == nil || !strings.Contains(err.Error(), "the API server sent a *v1.Secret") {
			t.Errorf("error %v", err)
		}
	})
}

// The generated fake clients must do for the tests of the packages above.
func TestFakeClientset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(runtime.Object(secret("a=new", "")))
		secrets := client.CoreV1().Secrets("demo")
		go func() {
			synctest.Wait() // until the wait below stands
			if _, err := secrets.Update(t.Context(), secret("a=done", ""), metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
		}()
		got, err := phases(t.Context(), kube.One(secrets, "a"))
		if err != nil || !slices.Equal(got, []string{"new", "done"}) {
			t.Errorf("saw %q, error %v", got, err)
		}
	})
}

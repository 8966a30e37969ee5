// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// secretServer is what the generated fake lacks for Secrets: resource versions
// that are checked, UIDs, preconditions, pages, field selectors, and watches that
// go on from a resource version.
type secretServer struct {
	mu      sync.Mutex
	log     []watch.Event // the n-th has resource version n+1
	items   map[types.NamespacedName]*corev1.Secret
	watches []*secretWatch
	lists   int
}

type secretWatch struct {
	namespace string
	selects   func(*corev1.Secret) bool
	*watch.RaceFreeFakeWatcher
}

// newCluster returns a clientset whose Secrets behave as an API server's.
func newCluster() (*fake.Clientset, *secretServer) {
	client, server := fake.NewClientset(), &secretServer{items: map[types.NamespacedName]*corev1.Secret{}}
	client.PrependReactor("*", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		server.mu.Lock()
		defer server.mu.Unlock()
		obj, err := server.serve(action)
		return true, obj, err
	})
	client.PrependWatchReactor("secrets", func(action clienttesting.Action) (bool, watch.Interface, error) {
		server.mu.Lock()
		defer server.mu.Unlock()
		w, err := server.watch(action.(clienttesting.WatchActionImpl))
		return true, w, err
	})
	return client, server
}

func (s *secretServer) serve(action clienttesting.Action) (runtime.Object, error) {
	gr := action.GetResource().GroupResource()
	switch a := action.(type) {
	case clienttesting.GetActionImpl:
		if found, ok := s.items[types.NamespacedName{Namespace: a.Namespace, Name: a.Name}]; ok {
			return found.DeepCopy(), nil
		}
		return nil, apierrors.NewNotFound(gr, a.Name)
	case clienttesting.CreateActionImpl:
		secret := a.Object.(*corev1.Secret).DeepCopy()
		if _, ok := s.items[key(secret)]; ok {
			return nil, apierrors.NewAlreadyExists(gr, secret.Name)
		}
		secret.UID = types.UID(fmt.Sprint("uid-", len(s.log)))
		return s.put(watch.Added, secret), nil
	case clienttesting.UpdateActionImpl:
		secret := a.Object.(*corev1.Secret).DeepCopy()
		current, ok := s.items[key(secret)]
		switch {
		case !ok:
			return nil, apierrors.NewNotFound(gr, secret.Name)
		case secret.ResourceVersion != "" && secret.ResourceVersion != current.ResourceVersion:
			return nil, apierrors.NewConflict(gr, secret.Name, errors.New("the object has been modified"))
		}
		secret.UID = current.UID
		return s.put(watch.Modified, secret), nil
	case clienttesting.DeleteActionImpl:
		name := types.NamespacedName{Namespace: a.Namespace, Name: a.Name}
		current, ok := s.items[name]
		if !ok {
			return nil, apierrors.NewNotFound(gr, a.Name)
		}
		if p := a.DeleteOptions.Preconditions; p != nil && p.UID != nil && *p.UID != current.UID {
			return nil, apierrors.NewConflict(gr, a.Name, errors.New("UID differs"))
		}
		s.put(watch.Deleted, current.DeepCopy())
		delete(s.items, name)
		return nil, nil
	case clienttesting.ListActionImpl:
		return s.list(a)
	}
	return nil, fmt.Errorf("verb %q is not served", action.GetVerb())
}

func (s *secretServer) put(event watch.EventType, secret *corev1.Secret) *corev1.Secret {
	secret.ResourceVersion = strconv.Itoa(len(s.log) + 1)
	s.items[key(secret)] = secret
	e := watch.Event{Type: event, Object: secret.DeepCopy()}
	s.log = append(s.log, e)
	for _, w := range s.watches {
		w.tell(e)
	}
	return secret.DeepCopy()
}

func (s *secretServer) list(a clienttesting.ListActionImpl) (runtime.Object, error) {
	s.lists++
	selects, err := selector(a.ListOptions)
	if err != nil {
		return nil, err
	}
	var all []corev1.Secret
	for _, secret := range s.items {
		if (a.Namespace == "" || secret.Namespace == a.Namespace) && selects(secret) {
			all = append(all, *secret.DeepCopy())
		}
	}
	slices.SortFunc(all, func(x, y corev1.Secret) int { return cmp.Compare(key(&x).String(), key(&y).String()) })
	list := &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(len(s.log))}}
	from := 0
	if a.ListOptions.Continue != "" {
		if from, err = strconv.Atoi(a.ListOptions.Continue); err != nil {
			return nil, err
		}
	}
	to := len(all)
	if limit := int(a.ListOptions.Limit); limit > 0 && from+limit < to {
		to = from + limit
		list.Continue = strconv.Itoa(to)
	}
	list.Items = all[from:to]
	return list, nil
}

func (s *secretServer) watch(a clienttesting.WatchActionImpl) (watch.Interface, error) {
	selects, err := selector(a.ListOptions)
	if err != nil {
		return nil, err
	}
	from, err := strconv.Atoi(a.ListOptions.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := &secretWatch{namespace: a.Namespace, selects: selects, RaceFreeFakeWatcher: watch.NewRaceFreeFake()}
	for _, e := range s.log[from:] {
		w.tell(e)
	}
	s.watches = append(s.watches, w)
	return w, nil
}

// drop closes every watch, as an API server that goes away does.
func (s *secretServer) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watches {
		w.Stop()
	}
	s.watches = nil
}

func (w *secretWatch) tell(e watch.Event) {
	secret := e.Object.(*corev1.Secret)
	if (w.namespace == "" || w.namespace == secret.Namespace) && w.selects(secret) && !w.IsStopped() {
		w.Action(e.Type, secret.DeepCopy())
	}
}

func selector(o metav1.ListOptions) (func(*corev1.Secret) bool, error) {
	byLabel, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	byField, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return func(s *corev1.Secret) bool {
		return byLabel.Matches(labels.Set(s.Labels)) &&
			byField.Matches(fields.Set{"metadata.name": s.Name, "type": string(s.Type)})
	}, nil
}

func key(s *corev1.Secret) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}

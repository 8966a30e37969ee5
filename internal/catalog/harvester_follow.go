// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// lookAgain is how often a view is made anew without any change: an error that stays
// for long enough is a failure then.
const lookAgain = 5 * time.Second

// WatchRestore implements Foreign. Whatever the view rests on is watched: Harvester
// itself says little while volumes are restored.
func (h harvesterBackups) WatchRestore(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Restore) bool) error {
	object, err := h.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		if h.absent(ctx, err) {
			return noRestore(ref)
		}
		return kube.Error(err, "read", whatRestore(ref))
	}
	g, gctx := errgroup.WithContext(ctx)
	f := &restoreFollower{
		h: h, ref: ref, group: g, ctx: gctx, changed: changed, object: object,
		evidence: h.restoreEvidence(ctx, object), watched: map[string]bool{},
	}
	if err := f.look(); err != nil {
		if errors.Is(err, errSeen) {
			return nil
		}
		return err
	}
	f.start(object)
	if err := g.Wait(); !errors.Is(err, errSeen) {
		return err
	}
	return nil
}

// restoreFollower keeps the evidence of one restore up to date by watches.
type restoreFollower struct {
	h       harvesterBackups
	ref     vmbackup.Ref
	group   *errgroup.Group
	ctx     context.Context //nolint:containedctx // that of the group, for watches that begin later
	changed func(*vmbackup.Restore) bool

	mu       sync.Mutex // guards what follows; changed is called for one change after the other
	object   *harvester.VirtualMachineRestore
	evidence harvester.RestoreEvidence
	watched  map[string]bool // Longhorn's volumes
	last     *vmbackup.Restore
}

func (f *restoreFollower) start(object *harvester.VirtualMachineRestore) {
	ns, backup := f.ref.Namespace, object.BackupRef()
	f.group.Go(func() error {
		return kube.WaitFor(f.ctx, kube.One(f.h.clients.Harvester.Restores(ns), f.ref.Name), whatRestore(f.ref),
			func(object *harvester.VirtualMachineRestore) (bool, error) {
				return false, f.update(func() { f.object = object })
			})
	})
	follow(f, kube.One(f.h.clients.Harvester.Backups(backup.Namespace), backup.Name), func(list []*harvester.VirtualMachineBackup) {
		f.evidence.Backup = first(list)
	})
	follow(f, kube.Select(f.h.clients.Core.CoreV1().PersistentVolumeClaims(ns), metav1.ListOptions{}), func(list []*corev1.PersistentVolumeClaim) {
		have := map[string]*corev1.PersistentVolumeClaim{}
		for _, claim := range list {
			have[claim.Name] = claim
		}
		for _, name := range claimsOf(f.object) {
			f.evidence.AddClaim(name, have[name])
		}
	})
	follow(f, kube.One(f.h.clients.KubeVirt.KubevirtV1().VirtualMachines(ns), object.Spec.Target.Name), func(list []*kubevirtv1.VirtualMachine) {
		f.evidence.Machine = first(list)
	})
	follow(f, kube.Select(f.h.clients.Core.CoreV1().Events(ns), warningsOnly()), func(list []*corev1.Event) {
		events := make([]corev1.Event, len(list))
		for i := range list {
			events[i] = *list[i]
		}
		f.evidence.Warnings = newest(events, object.CreationTimestamp.Time)
	})
	f.group.Go(func() error {
		return everySoOften(f.ctx, func() error { return f.update(func() {}) })
	})
}

// first is the only object of a list, nil when there is none.
func first[T any](list []*T) *T {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// follow keeps one kind of evidence up to date. A user without the right to watch it
// does without.
func follow[T runtime.Object](f *restoreFollower, lw cache.ListerWatcher, take func([]T)) {
	f.group.Go(func() error {
		return withRights(kube.WatchAll(f.ctx, lw, "what restore "+f.ref.String()+" rests on", func(list []T) (bool, error) {
			return false, f.update(func() { take(list) })
		}))
	})
}

// update changes the evidence and looks at what has come of it.
func (f *restoreFollower) update(change func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.evidence.Now = time.Now()
	for _, name := range f.evidence.LonghornVolumes() {
		if !f.watched[name] {
			f.watched[name] = true
			f.followVolume(name)
		}
	}
	return f.look()
}

func (f *restoreFollower) followVolume(name string) {
	longhorn := f.h.clients.Longhorn.LonghornV1beta2()
	follow(f, kube.One(longhorn.Volumes(kube.LonghornNamespace), name), func(list []*longhornv1.Volume) {
		for _, volume := range list {
			f.evidence.AddVolume(volume)
		}
	})
	follow(f, kube.Select(longhorn.Engines(kube.LonghornNamespace), ofVolumes([]string{name})), func(list []*longhornv1.Engine) {
		for _, engine := range list {
			f.evidence.AddEngine(engine)
		}
	})
}

// look tells the view when it is another one than the last.
func (f *restoreFollower) look() error {
	view := f.h.restoreView(f.object, f.evidence)
	if reflect.DeepEqual(view, f.last) {
		return nil
	}
	f.last = view
	if f.changed(view) {
		return errSeen
	}
	return nil
}

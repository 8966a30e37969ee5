// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"sync"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// WatchAll implements Foreign. What the views rest on is watched too.
func (h harvesterBackups) WatchAll(ctx context.Context, namespace string, changed func([]vmbackup.Backup) error) error {
	served, err := h.clients.Lookup.Serves(ctx, harvester.GroupVersion().WithResource(harvester.BackupResource))
	if err != nil {
		return kube.Error(err, "ask for the kinds of", harvester.Group)
	}
	if !served {
		return changed(nil)
	}
	return h.watchBackups(ctx, kube.Select(h.clients.Harvester.Backups(namespace), metav1.ListOptions{}), false, changed)
}

// watchBackups calls changed with the views of the backups that lw selects. Closely
// looked at are also the VolumeSnapshots of Longhorn backups that Harvester does not
// name, and what comes of an error as time goes by.
func (h harvesterBackups) watchBackups(ctx context.Context, lw cache.ListerWatcher, closely bool, changed func([]vmbackup.Backup) error) error {
	g, gctx := errgroup.WithContext(ctx)
	w := &backupsWatch{group: g, parts: 3, evidence: harvester.Evidence{TargetName: vmbackup.DefaultTarget}, changed: changed}
	var err error
	if w.evidence.Target, err = h.targetNow(ctx); err != nil {
		w.evidence.Unseen = err.Error()
	}
	client := h.clients.Longhorn.LonghornV1beta2()
	watchPart(gctx, w, lw, "VirtualMachineBackups of Harvester", func(list []*harvester.VirtualMachineBackup) {
		w.objects = list
		for _, object := range list {
			if closely && object.Spec.Type != harvester.TypeSnapshot {
				w.evidence.Snapshots = h.snapshots(gctx, object, w.evidence.Snapshots)
			}
		}
	})
	watchPart(gctx, w, kube.Select(client.Backups(kube.LonghornNamespace), metav1.ListOptions{}), "Longhorn Backups", func(list []*longhornv1.Backup) {
		w.evidence.Backups = make(map[string]*longhornv1.Backup, len(list))
		for _, b := range list {
			w.evidence.Backups[b.Name] = b
		}
	})
	watchPart(gctx, w, kube.Select(client.BackupBackingImages(kube.LonghornNamespace), metav1.ListOptions{}), "Longhorn BackupBackingImages", func(list []*longhornv1.BackupBackingImage) {
		w.evidence.Images = byImage(list)
	})
	if closely {
		g.Go(func() error {
			return everySoOften(gctx, func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.tell()
			})
		})
	}
	return g.Wait()
}

// everySoOften calls look until it returns an error or ctx ends.
func everySoOften(ctx context.Context, look func() error) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if err := look(); err != nil {
				return err
			}
		}
	}
}

// backupsWatch keeps the views of all backups up to date.
type backupsWatch struct {
	group   *errgroup.Group
	changed func([]vmbackup.Backup) error

	mu       sync.Mutex // guards what follows; changed is called for one change after the other
	objects  []*harvester.VirtualMachineBackup
	evidence harvester.Evidence
	// parts are watched, and so many of them are known.
	parts, known int
}

// watchPart keeps one kind up to date. Without the right to look at what Longhorn has,
// the views say that they could not be checked; without the right to Harvester's objects
// there is nothing to show.
func watchPart[T runtime.Object](ctx context.Context, w *backupsWatch, lw cache.ListerWatcher, what string, take func([]T)) {
	first := true
	see := func(change func()) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		change()
		if first {
			first, w.known = false, w.known+1
		}
		return w.tell()
	}
	w.group.Go(func() error {
		err := kube.WatchAll(ctx, lw, what, func(list []T) (bool, error) {
			return false, see(func() { take(list) })
		})
		if _, own := any(take).(func([]*harvester.VirtualMachineBackup)); own || vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
			return err
		}
		return see(func() { w.evidence.Unseen = err.Error() })
	})
}

// tell makes the views, once every part is known.
func (w *backupsWatch) tell() error {
	if w.known < w.parts {
		return nil
	}
	w.evidence.Now = time.Now()
	views := make([]vmbackup.Backup, 0, len(w.objects))
	for _, object := range w.objects {
		views = append(views, *object.View(w.evidence))
	}
	return w.changed(views)
}

// WatchRestores implements Foreign. Each restore that runs is followed on its own:
// what it rests on is its own, and there are few.
func (h harvesterBackups) WatchRestores(ctx context.Context, opts vmbackup.ListOptions, changed func([]vmbackup.Restore) error) error {
	served, err := h.clients.Lookup.Serves(ctx, harvester.GroupVersion().WithResource(harvester.RestoreResource))
	if err != nil {
		return kube.Error(err, "ask for the kinds of", harvester.Group)
	}
	if !served {
		return changed(nil)
	}
	g, gctx := errgroup.WithContext(ctx)
	w := &restoresWatch{h: h, group: g, changed: changed, opts: opts, followed: map[vmbackup.Ref]string{}, views: map[vmbackup.Ref]vmbackup.Restore{}}
	g.Go(func() error {
		return kube.WatchAll(gctx, kube.Select(h.clients.Harvester.Restores(opts.Namespace), metav1.ListOptions{}), "VirtualMachineRestores of Harvester",
			func(list []*harvester.VirtualMachineRestore) (bool, error) { return false, w.see(gctx, list) })
	})
	return g.Wait()
}

// restoresWatch keeps the views of all restores up to date.
type restoresWatch struct {
	h       harvesterBackups
	group   *errgroup.Group
	opts    vmbackup.ListOptions
	changed func([]vmbackup.Restore) error

	mu    sync.Mutex // guards what follows; changed is called for one change after the other
	order []vmbackup.Ref
	views map[vmbackup.Ref]vmbackup.Restore
	// followed are the restores that are followed on their own, by their versions when
	// that began or ended.
	followed map[vmbackup.Ref]string
}

// see takes in the objects as they are now.
func (w *restoresWatch) see(ctx context.Context, list []*harvester.VirtualMachineRestore) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.order = w.order[:0]
	waits := false
	for _, object := range list {
		ref := vmbackup.Ref{Namespace: object.Namespace, Name: object.Name}
		w.order = append(w.order, ref)
		version, follows := w.followed[ref]
		switch {
		case object.Ended():
			delete(w.followed, ref)
			e := harvester.RestoreEvidence{}
			if w.opts.Selector != "" {
				e.Backup = w.h.backupOf(ctx, object)
			}
			w.views[ref] = *w.h.restoreView(object, e)
		case !follows || version != "" && version != object.ResourceVersion:
			w.followed[ref] = ""
			if _, seen := w.views[ref]; !seen {
				w.views[ref], waits = *w.h.restoreView(object, harvester.RestoreEvidence{}), true // until it is looked into
			}
			w.follow(ctx, ref)
		}
	}
	if waits {
		return nil
	}
	return w.tell()
}

// follow keeps the view of one restore up to date until nothing moves any more.
func (w *restoresWatch) follow(ctx context.Context, ref vmbackup.Ref) {
	w.group.Go(func() error {
		var failed error
		version := "gone"
		err := w.h.WatchRestore(ctx, ref, func(r *vmbackup.Restore) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.views[ref] = *r
			failed = w.tell()
			return failed != nil || r.Status.Phase.Done()
		})
		if failed != nil || ctx.Err() != nil {
			return failed
		}
		if object, getErr := w.h.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}); getErr == nil {
			version = object.ResourceVersion
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, follows := w.followed[ref]; follows {
			w.followed[ref] = version // it is followed anew when it changes
		}
		if reason := vmbackup.ReasonOf(err); reason == vmbackup.ReasonNotFound || reason == vmbackup.ReasonForbidden {
			return w.tell() // deleted, which the list tells, or not for the user
		}
		return err
	})
}

func (w *restoresWatch) tell() error {
	views := make([]vmbackup.Restore, 0, len(w.order))
	for _, ref := range w.order {
		views = append(views, w.views[ref])
	}
	return w.changed(views)
}

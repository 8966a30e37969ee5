// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// settleAfter is how long a view that is not Ready has to last before it is
	// believed: Harvester names Longhorn's backups late, and Longhorn drops its records
	// of a target that it cannot list for a moment.
	settleAfter = 30 * time.Second
	// failAfter is the same for an error, which Harvester tries to get over by itself.
	failAfter = time.Minute
)

// follower keeps what the view of one backup rests on up to date, by watches: the
// object itself and, once it names volumes, Longhorn's backups of them and of their images.
type follower struct {
	engine *Engine
	ref    vmbackup.Ref
	group  *errgroup.Group
	// news says that something has changed; one waits at most.
	news chan struct{}

	mu       sync.Mutex
	object   *hv.VirtualMachineBackup
	evidence hv.Evidence
	// asked and known are the kinds of evidence that are watched, and that were seen.
	asked, known map[string]bool
}

// seen is what a follower shows: the object and the view of it.
type seen struct {
	object *hv.VirtualMachineBackup
	backup *vmbackup.Backup
	// unseen is true when what the view rests on may not be looked at.
	unseen bool
	// settled is true when the view will not change by itself any more, as far as
	// anybody can tell.
	settled bool
}

// follow calls changed with the backup as it is, and again after every change, until
// changed returns true or an error, which follow returns, or the view has settled.
// A backup that is deleted ends it with Canceled.
func (e *Engine) follow(ctx context.Context, ref vmbackup.Ref, changed func(seen) (done bool, err error)) error {
	running, stop := context.WithCancel(ctx)
	group, gctx := errgroup.WithContext(running)
	f := &follower{
		engine: e, ref: ref, group: group, news: make(chan struct{}, 1),
		evidence: hv.Evidence{TargetName: vmbackup.DefaultTarget}, asked: map[string]bool{}, known: map[string]bool{},
	}
	defer func() {
		stop()
		_ = group.Wait() // its error was told, or is that it was stopped
	}()
	group.Go(func() error {
		return kube.WaitFor(gctx, kube.One(e.clients.Harvester.Backups(ref.Namespace), ref.Name), what(ref), func(object *hv.VirtualMachineBackup) (bool, error) {
			f.update(func() { f.object = object })
			return false, nil
		})
	})
	var last string
	lasts := time.NewTimer(time.Hour)
	defer lasts.Stop()
	settled := false
	for {
		select {
		case <-gctx.Done():
			if err := group.Wait(); vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
				return deleted(ref)
			} else if err != nil {
				return err
			}
			return ctx.Err()
		case <-f.news:
		case <-lasts.C:
			settled = true
		}
		s, whole := f.look(gctx)
		if !whole {
			continue
		}
		if s.object.DeletionTimestamp != nil {
			return deleted(ref)
		}
		state := string(s.backup.Status.Phase)
		if s.backup.Status.Error != nil {
			state += s.backup.Status.Error.Message
		}
		limit := e.patienceFor(s.backup)
		if state != last {
			last, settled = state, false
			lasts.Reset(limit)
		}
		s.settled = s.backup.Status.Phase == vmbackup.PhaseReady || s.backup.Status.Phase != vmbackup.PhaseRunning && (settled || s.unseen)
		if done, err := changed(s); done || err != nil || s.settled {
			return err
		}
	}
}

// patienceFor is how long a view has to last before it counts.
func (e *Engine) patienceFor(b *vmbackup.Backup) time.Duration {
	switch b.Status.Phase {
	case vmbackup.PhaseRunning:
		return 365 * 24 * time.Hour
	case vmbackup.PhaseFailed:
		return e.failAfter
	}
	return e.settleAfter
}

// deleted is the end of a run whose backup somebody deletes.
func deleted(ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "backup %s is being deleted and does not go on", ref)
}

func (f *follower) update(change func()) {
	f.mu.Lock()
	change()
	f.mu.Unlock()
	select {
	case f.news <- struct{}{}:
	default: // there is news already
	}
}

// look makes the view. It is whole when everything that it rests on was seen, or
// may not be seen.
func (f *follower) look(ctx context.Context) (s seen, whole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.object == nil {
		return seen{}, false
	}
	if f.object.Spec.Type != hv.TypeSnapshot && len(f.object.Status.VolumeBackups) > 0 {
		f.askTarget(ctx)
		longhorn := f.engine.clients.Longhorn.LonghornV1beta2()
		watchEvidence(ctx, f, "Longhorn Backups", kube.Select(longhorn.Backups(kube.LonghornNamespace), f.ofVolumes()), func(list []*longhornv1.Backup) {
			f.evidence.Backups = map[string]*longhornv1.Backup{}
			for _, b := range list {
				f.evidence.Backups[b.Name] = b
			}
		})
		for _, b := range f.evidence.Backups {
			if b.Status.VolumeBackingImageName == "" {
				continue
			}
			watchEvidence(ctx, f, "Longhorn BackupBackingImages", kube.Select(longhorn.BackupBackingImages(kube.LonghornNamespace), metav1.ListOptions{}), func(list []*longhornv1.BackupBackingImage) {
				f.evidence.Images = map[string]*longhornv1.BackupBackingImage{}
				for _, image := range list {
					// One of another target, or one that failed, does not hide a good one.
					if had := f.evidence.Images[image.Status.BackingImage]; had == nil || had.Status.State != longhornv1.BackupStateCompleted {
						f.evidence.Images[image.Status.BackingImage] = image
					}
				}
			})
			break
		}
	}
	for kind := range f.asked {
		if !f.known[kind] {
			return seen{}, false
		}
	}
	return seen{object: f.object, backup: f.object.View(f.evidence), unseen: f.evidence.Unseen != ""}, true
}

// ofVolumes selects Longhorn's backups of the volumes of the backup.
func (f *follower) ofVolumes() metav1.ListOptions {
	var names []string
	for _, v := range f.object.View(hv.Evidence{Unseen: "not looked at"}).Status.Volumes {
		if v.LonghornVolume != "" {
			names = append(names, v.LonghornVolume)
		}
	}
	if len(names) == 0 {
		return metav1.ListOptions{}
	}
	slices.Sort(names)
	return metav1.ListOptions{LabelSelector: "backup-volume in (" + strings.Join(slices.Compact(names), ",") + ")"}
}

// askTarget reads Harvester's target once. The mutex is held.
func (f *follower) askTarget(ctx context.Context) {
	const kind = "target"
	if f.asked[kind] {
		return
	}
	f.asked[kind] = true
	f.group.Go(func() error {
		set, err := f.engine.harvesterTarget(ctx)
		if err != nil && ctx.Err() != nil {
			return err
		}
		f.update(func() {
			f.known[kind], f.evidence.Target = true, set
			if err != nil {
				f.evidence.Unseen = err.Error()
			}
		})
		return nil
	})
}

// watchEvidence follows a kind of evidence from now on. A user without the right to
// it does without. The mutex is held.
func watchEvidence[T runtime.Object](ctx context.Context, f *follower, kind string, lw cache.ListerWatcher, take func([]T)) {
	if f.asked[kind] {
		return
	}
	f.asked[kind] = true
	f.group.Go(func() error {
		err := kube.WatchAll(ctx, lw, fmt.Sprintf("the %s of backup %s", kind, f.ref), func(list []T) (bool, error) {
			f.update(func() {
				f.known[kind] = true
				take(list)
			})
			return false, nil
		})
		if vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
			return err
		}
		f.update(func() { f.known[kind], f.evidence.Unseen = true, kube.Error(err, "list", kind).Error() })
		return nil
	})
}

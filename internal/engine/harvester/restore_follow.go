// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// startLimit is how long the machine may take to run once its data is there.
	startLimit = 5 * time.Minute
	// freshError is how long an error of Harvester's is not told: its first attempts
	// often meet its own caches, which lag behind.
	freshError = 3 * time.Second
)

var errStarts = errors.New("the machine does not run in time")

// followData waits until Harvester says that the restore is complete.
func (r *restoreSteps) followData(ctx context.Context) error {
	if err := r.watchData(ctx); err != nil {
		return err
	}
	return r.d.Save(ctx)
}

// watchData tells what happens until Harvester says that the restore is complete, for
// which it has bound the claims, started the machine and seen it ready, and Longhorn
// that the data is there.
func (r *restoreSteps) watchData(ctx context.Context) error {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	side := r.aside(waiting, "data", r.tellErrors, r.tellWarnings, func(ctx context.Context, side *aside) {
		if err := r.followVolumes(ctx); err != nil {
			cancel(err) // what Longhorn cannot restore, Harvester waits for, for ever
			return
		}
		side.restored(ctx, cancel)
	})
	defer side.stop()
	ref := r.d.Restore().Ref()
	one := kube.One(r.engine.clients.Harvester.Restores(ref.Namespace), ref.Name)
	err := kube.WaitFor(waiting, one, restoreName(ref)+" to be complete", func(o *hv.VirtualMachineRestore) (bool, error) {
		return o.Ended(), nil
	})
	if cause := context.Cause(waiting); err != nil && ctx.Err() == nil && waiting.Err() != nil {
		err = cause
		if errors.Is(cause, errStarts) {
			err = vmbackup.Errorf(vmbackup.ReasonTimeout, "VirtualMachine %s is restored with all its data, but does not run after %s: %s", r.d.Machine(), startLimit, side.last()).
				WithHint("see why with: kubectl describe virtualmachines.kubevirt.io %s -n %s; once it runs, end the restore with: kubectl vmbackup resume restore/%s -n %s", r.d.Machine().Name, ref.Namespace, ref.Name, ref.Namespace)
		}
	}
	if err != nil {
		return err
	}
	side.stop()
	return r.awaitVolumes(ctx)
}

// awaitVolumes waits, once Harvester calls the restore complete, until the data of
// every volume is there: a bound claim says nothing about that, nor does a machine that
// is off. A user who may not look at Longhorn's objects has Harvester's word alone.
func (r *restoreSteps) awaitVolumes(ctx context.Context) error {
	volumes := r.d.Restore().Status.Volumes
	for i := range volumes {
		v := &volumes[i]
		if v.State == vmbackup.StateReady {
			continue
		}
		if err := r.awaitVolume(ctx, v); err != nil {
			return err
		}
		v.State, v.Progress = vmbackup.StateReady, 100
		r.d.Events().Volume("data", v.Name, v.State, 100, v.SizeBytes, v.SizeBytes, "restored")
	}
	return nil
}

func (r *restoreSteps) awaitVolume(ctx context.Context, v *vmbackup.RestoreVolume) error {
	if v.LonghornVolume == "" { // the restore was complete before anybody had looked
		c, err := r.engine.clients.Core.CoreV1().PersistentVolumeClaims(r.namespace()).Get(ctx, v.PVC, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			return nil
		case err != nil:
			return kube.Error(err, "read", "PersistentVolumeClaim "+v.PVC)
		}
		v.LonghornVolume = "pvc-" + string(c.UID)
	}
	client := r.engine.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace)
	what := "Longhorn volume " + v.LonghornVolume
	switch _, err := client.Get(ctx, v.LonghornVolume, metav1.GetOptions{}); {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil
	case err != nil:
		return kube.Error(err, "read", what)
	}
	waits := false
	return kube.WaitFor(ctx, kube.One(client, v.LonghornVolume), what+" to have its data", func(lv *longhornv1.Volume) (bool, error) {
		done, failure := longhorn.Restored(lv)
		if failure != "" {
			return false, r.volumeFailed(v, failure)
		}
		if !done && !waits {
			waits = true
			r.d.Events().Volume("data", v.Name, vmbackup.StateRunning, v.Progress, 0, v.SizeBytes, "Harvester calls the restore complete; Longhorn still puts the data there")
		}
		return done, nil
	})
}

// aside is what explains a wait while it lasts. Nothing of it is an error of the restore.
type aside struct {
	step   string
	cancel context.CancelFunc
	group  sync.WaitGroup
	steps  *restoreSteps

	mu   sync.Mutex
	said string
}

// aside begins to explain.
func (r *restoreSteps) aside(ctx context.Context, step string, explain ...func(context.Context, *aside)) *aside {
	ctx, cancel := context.WithCancel(ctx)
	a := &aside{step: step, cancel: cancel, steps: r}
	for _, f := range explain {
		a.group.Go(func() { f(ctx, a) })
	}
	return a
}

func (a *aside) stop() {
	a.cancel()
	a.group.Wait()
}

// say tells what the wait is about, once.
func (a *aside) say(message string) {
	a.mu.Lock()
	again := a.said == message
	a.said = message
	a.mu.Unlock()
	if !again && message != "" {
		a.steps.d.Events().Step(a.step, vmbackup.StateRunning, message)
	}
}

// last is what was said last.
func (a *aside) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.said
}

// restored gives the machine its time to run, once its data is there.
func (a *aside) restored(ctx context.Context, cancel context.CancelCauseFunc) {
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		cancel(errStarts)
	}
}

// tellErrors tells what Harvester complains of. It repeats what has failed, and its
// text stays when the cause is over, so that one that stands is told, not a fresh one.
func (r *restoreSteps) tellErrors(ctx context.Context, a *aside) {
	ref := r.d.Restore().Ref()
	one := kube.One(r.engine.clients.Harvester.Restores(ref.Namespace), ref.Name)
	complaint := ""
	var fresh *time.Timer
	stop := func() {
		if fresh != nil {
			fresh.Stop()
		}
	}
	defer stop()
	_ = kube.WatchAll(ctx, one, "what Harvester says", func(objects []*hv.VirtualMachineRestore) (bool, error) {
		now := ""
		for _, o := range objects {
			now = complaintOf(o)
		}
		if now == complaint {
			return false, nil
		}
		stop()
		if complaint = now; now == "" {
			return false, nil
		}
		fresh = time.AfterFunc(freshError, func() { a.say("Harvester tries again after an error: " + now) })
		return false, nil
	})
}

// complaintOf is the error that Harvester shows, empty for none.
func complaintOf(o *hv.VirtualMachineRestore) string {
	c, _ := hv.FindCondition(o.Status.Conditions, hv.ConditionInProgress)
	if c.Status == corev1.ConditionFalse && c.Reason == "Error" && !o.Ended() {
		return c.Message
	}
	return ""
}

// remedy is what can be done about an error of Harvester's.
func remedy(complaint string) string {
	switch {
	case strings.Contains(complaint, "already exists") && strings.Contains(complaint, "volumesnapshotcontent"):
		return "an earlier restore of that name has left a VolumeSnapshotContent (policy Retain: no data goes with it); remove it with: kubectl delete volumesnapshotcontents.snapshot.storage.k8s.io NAME"
	case strings.Contains(complaint, "exceeded quota"):
		return "have the ResourceQuota of the namespace raised, or free what it counts"
	case strings.Contains(complaint, "storageclass") && strings.Contains(complaint, "not found"):
		return "make the StorageClass again, or restore with --engine direct and --map-storage-class"
	case strings.Contains(complaint, "memory") || strings.Contains(complaint, "admission webhook"):
		return "the machine is refused as Harvester makes it; restore with --engine direct"
	}
	return "the events say more: kubectl get events"
}

// tellWarnings tells the cluster's warnings about what the restore makes: claims that
// get no volume, pods that find no node or cannot be started.
func (r *restoreSteps) tellWarnings(ctx context.Context, a *aside) {
	claims := map[string]string{}
	for _, v := range r.d.Restore().Status.Volumes {
		claims[v.PVC] = v.Name
	}
	vm := r.d.Machine()
	since := time.Now().Add(-time.Minute) // of the events that are there, only what may be of this restore
	told := map[string]bool{}
	events := kube.Select(r.engine.clients.Core.CoreV1().Events(vm.Namespace), metav1.ListOptions{FieldSelector: "type=Warning"})
	_ = kube.WatchAll(ctx, events, "the warnings in namespace "+vm.Namespace, func(list []*corev1.Event) (bool, error) {
		for _, e := range list {
			name := e.InvolvedObject.Name
			volume, claim := claims[name]
			ours := claim || name == vm.Name || strings.HasPrefix(name, "virt-launcher-"+vm.Name+"-")
			if !ours || told[name+e.Message] || lastSeen(e).Before(since) {
				continue
			}
			told[name+e.Message] = true
			if claim {
				r.d.Events().Volume("data", volume, vmbackup.StateRunning, 0, 0, 0, e.Message)
				continue
			}
			a.say(fmt.Sprintf("%s: %s", e.Reason, e.Message))
		}
		return false, nil
	})
}

func lastSeen(e *corev1.Event) time.Time {
	seen := e.LastTimestamp.Time
	if e.EventTime.After(seen) {
		seen = e.EventTime.Time
	}
	if e.Series != nil && e.Series.LastObservedTime.After(seen) {
		seen = e.Series.LastObservedTime.Time
	}
	if seen.IsZero() {
		seen = e.CreationTimestamp.Time
	}
	return seen
}

// followVolumes tells the progress of the volumes until Longhorn has restored all of
// them. An error is one that Longhorn will not get over; a user who may not look at
// Longhorn's objects, or at the claims, is told less.
func (r *restoreSteps) followVolumes(ctx context.Context) error {
	volumes := r.d.Restore().Status.Volumes
	if err := r.nameVolumes(ctx, volumes); err != nil {
		<-ctx.Done() // nothing can be told, which decides nothing
		return nil
	}
	names := make([]string, len(volumes))
	for i, v := range volumes {
		names[i] = v.LonghornVolume
	}
	var mu sync.Mutex // guards volumes
	progress, stop := context.WithCancel(ctx)
	defer stop()
	var side sync.WaitGroup
	defer side.Wait()
	defer stop()
	side.Go(func() { r.d.FollowProgress(progress, &mu, names) })
	missing := map[string]string{}
	lw := kube.Select(r.engine.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace), metav1.ListOptions{})
	err := kube.WatchAll(ctx, lw, "Longhorn's volumes", func(list []*longhornv1.Volume) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		all := true
		for i := range volumes {
			v := &volumes[i]
			at := slices.IndexFunc(list, func(lv *longhornv1.Volume) bool { return lv.Name == v.LonghornVolume })
			if at < 0 {
				all = false
				continue
			}
			done, failure := longhorn.Restored(list[at])
			switch {
			case failure != "":
				v.State = vmbackup.StateFailed
				return false, r.volumeFailed(v, failure)
			case done && v.State != vmbackup.StateReady:
				v.State, v.Progress = vmbackup.StateReady, 100
				r.d.Events().Volume("data", v.Name, v.State, 100, v.SizeBytes, v.SizeBytes, "restored")
			case !done:
				all = false
				if why := longhorn.Unscheduled(list[at]); why != missing[v.Name] {
					missing[v.Name] = why
					r.d.Events().Volume("data", v.Name, vmbackup.StateRunning, v.Progress, 0, v.SizeBytes, why)
				}
			}
		}
		return all, nil
	})
	switch vmbackup.ReasonOf(err) {
	case "", vmbackup.ReasonBackupFailed:
		return err
	}
	<-ctx.Done()
	return nil
}

func (r *restoreSteps) volumeFailed(v *vmbackup.RestoreVolume, why string) error {
	ref := r.d.Restore().Ref()
	return vmbackup.Errorf(vmbackup.ReasonBackupFailed, "Longhorn could not restore volume %s of backup %s into claim %s: %s", v.Name, r.d.Restore().Spec.Backup, v.PVC, why).
		WithHint("the backup is untouched; delete the half-restored machine, with which Harvester removes the rest: kubectl delete virtualmachines.kubevirt.io %s -n %s; mend the cause and restore again", r.d.Machine().Name, ref.Namespace)
}

// nameVolumes finds Longhorn's volumes by the claims: csi-provisioner names them after
// those, before they exist.
func (r *restoreSteps) nameVolumes(ctx context.Context, volumes []vmbackup.RestoreVolume) error {
	client := r.engine.clients.Core.CoreV1().PersistentVolumeClaims(r.namespace())
	for i := range volumes {
		v := &volumes[i]
		if v.LonghornVolume != "" {
			continue
		}
		err := kube.WaitFor(ctx, kube.One(client, v.PVC), "PersistentVolumeClaim "+v.PVC, func(c *corev1.PersistentVolumeClaim) (bool, error) {
			v.LonghornVolume = "pvc-" + string(c.UID)
			return true, nil
		})
		if err != nil {
			return err
		}
		if v.State == vmbackup.StatePending {
			v.State = vmbackup.StateRunning
		}
	}
	return nil
}

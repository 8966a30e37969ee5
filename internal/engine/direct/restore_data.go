// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// followData waits until Longhorn has restored the data of every volume. A bound
// claim says nothing about that: it is bound long before.
func (r *restoreRun) followData(ctx context.Context) error {
	if r.record.DataRestored {
		return nil
	}
	if err := r.copyData(ctx); err != nil {
		return err
	}
	r.record.DataRestored = true
	return r.save(ctx)
}

// watchData tells the progress of the volumes' data until all of it is there.
func (r *restoreRun) watchData(ctx context.Context) error {
	volumes := r.restore().Status.Volumes
	names := make([]string, len(volumes))
	for i, v := range volumes {
		names[i] = v.LonghornVolume
	}
	var mu sync.Mutex // guards volumes

	for _, v := range volumes {
		r.events.Volume("data", v.Name, v.State, v.Progress, 0, v.SizeBytes, "")
	}
	progress, stop := context.WithCancel(ctx)
	var side sync.WaitGroup
	side.Go(func() { r.followProgress(progress, &mu, names) })
	group, gctx := errgroup.WithContext(ctx)
	for i := range volumes {
		v := &volumes[i]
		group.Go(func() error { return r.followVolume(gctx, &mu, v) })
	}
	err := group.Wait()
	stop()
	side.Wait()
	return err
}

// followVolume waits until one volume is restored and at rest.
func (r *restoreRun) followVolume(ctx context.Context, mu *sync.Mutex, v *vmbackup.RestoreVolume) error {
	waits := ""
	one := kube.One(r.engine.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace), v.LonghornVolume)
	return kube.WaitFor(ctx, one, "the data of volume "+v.Name+" (Longhorn volume "+v.LonghornVolume+")", func(lv *longhornv1.Volume) (bool, error) {
		done, failure := longhorn.Restored(lv)
		if failure != "" {
			return false, &copyFailed{r.restoreFailed(v, failure), failure}
		}
		if why := longhorn.Unscheduled(lv); why != waits {
			waits = why
			r.events.Volume("data", v.Name, vmbackup.StateRunning, v.Progress, 0, v.SizeBytes, why)
		}
		// At rest: what Longhorn attached for the restore is detached again.
		if !done || lv.Status.State != longhornv1.VolumeStateDetached {
			return false, nil
		}
		mu.Lock()
		defer mu.Unlock()
		v.State, v.Progress = vmbackup.StateReady, 100
		r.events.Volume("data", v.Name, v.State, 100, v.SizeBytes, v.SizeBytes, "restored")
		return true, nil
	})
}

func (r *restoreRun) restoreFailed(v *vmbackup.RestoreVolume, why string) error {
	return vmbackup.Errorf(vmbackup.ReasonBackupFailed, "Longhorn could not restore volume %s of backup %s into claim %s: %s", v.Name, r.restore().Spec.Backup, v.PVC, why).
		WithHint("the backup is untouched; the half-restored machine %s is off and can be deleted; mend the cause and restore again", r.restore().Status.VM)
}

// followProgress tells the percentage of the running restores, as the volumes'
// engines report it. It is for the eye alone: an error here is none of the restore.
func (r *restoreRun) followProgress(ctx context.Context, mu *sync.Mutex, names []string) {
	engines := kube.Select(r.engine.clients.Longhorn.LonghornV1beta2().Engines(kube.LonghornNamespace),
		metav1.ListOptions{LabelSelector: "longhornvolume in (" + strings.Join(names, ",") + ")"})
	_ = kube.WatchAll(ctx, engines, "the progress of the restore", func(list []*longhornv1.Engine) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range list {
			for i := range r.restore().Status.Volumes {
				v := &r.restore().Status.Volumes[i]
				if v.LonghornVolume != e.Spec.VolumeName || v.State == vmbackup.StateReady {
					continue
				}
				if p := longhorn.RestoreProgress(e); p > v.Progress {
					v.Progress = p
					r.events.Volume("data", v.Name, v.State, p, v.SizeBytes*int64(p)/100, v.SizeBytes, "")
				}
			}
		}
		return false, nil
	})
}

// start puts the run strategy back and, where it starts the machine, waits until
// the machine runs.
func (r *restoreRun) start(ctx context.Context) error {
	strategy := r.record.RunStrategy
	if strategy == kubevirtv1.RunStrategyHalted {
		return nil
	}
	vm := vmbackup.Ref{Namespace: r.namespace(), Name: r.restore().Spec.TargetName}
	patch, err := r.engine.startPatch(ctx, strategy)
	if err != nil {
		return err
	}
	if err := r.engine.clients.VMs.Patch(ctx, vm.Namespace, vm.Name, patch); err != nil {
		return kube.Error(err, "start", "VirtualMachine "+vm.String())
	}
	switch {
	case r.record.StartByHand:
		if err := r.engine.clients.VMs.Start(ctx, vm.Namespace, vm.Name); err != nil && !apierrors.IsConflict(err) { // it runs already
			return kube.Error(err, "start", "VirtualMachine "+vm.String())
		}
	case strategy == kubevirtv1.RunStrategyManual:
		return nil // started by hand only
	}
	waiting, cancel := context.WithTimeoutCause(ctx, startDeadline, errStartDeadline)
	defer cancel()
	told := ""
	one := kube.One(r.engine.clients.KubeVirt.KubevirtV1().VirtualMachines(vm.Namespace), vm.Name)
	err = kube.WaitFor(waiting, one, "VirtualMachine "+vm.String()+" to run", func(m *kubevirtv1.VirtualMachine) (bool, error) {
		if m.Status.Ready {
			return true, nil
		}
		if say := machineState(m); say != told {
			told = say
			r.events.Step("start", vmbackup.StateRunning, say)
		}
		return false, nil
	})
	if errors.Is(context.Cause(waiting), errStartDeadline) {
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "VirtualMachine %s is restored with all its data, but does not run after %s: %s", vm, startDeadline, told).
			WithHint("see why with: kubectl describe virtualmachines.kubevirt.io %s -n %s; once it runs, end the restore with: kubectl vmbackup resume restore/%s -n %s", vm.Name, vm.Namespace, r.restore().Metadata.Name, vm.Namespace)
	}
	return err
}

// startDeadline is how long a restored machine may take to run. Its data is safe by
// then, so that waiting longer helps nobody.
const startDeadline = 5 * time.Minute

var errStartDeadline = vmbackup.Errorf(vmbackup.ReasonTimeout, "the machine does not run in %s", startDeadline)

// machineState says in words what a machine waits for.
func machineState(m *kubevirtv1.VirtualMachine) string {
	say := string(m.Status.PrintableStatus)
	for _, c := range m.Status.Conditions {
		if c.Type == kubevirtv1.VirtualMachineReady || c.Message == "" {
			continue
		}
		say += ": " + c.Message
	}
	return say
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// lookers is how many restores are looked into at the same time.
const lookers = 8

// Restores implements Foreign. Those that have ended are told as Harvester tells
// them; into those that run, and where labels are asked for, one looks closer.
func (h harvesterBackups) Restores(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Restore, error) {
	var objects []harvester.VirtualMachineRestore
	page := metav1.ListOptions{Limit: page}
	for {
		list, err := h.clients.Harvester.Restores(opts.Namespace).List(ctx, page)
		if err != nil {
			if h.absent(ctx, err) {
				return nil, nil
			}
			return nil, kube.Error(err, "list", "VirtualMachineRestores of Harvester")
		}
		objects = append(objects, list.Items...)
		if page.Continue = list.Continue; page.Continue == "" {
			break
		}
	}
	views := make([]vmbackup.Restore, len(objects))
	g := errgroup.Group{}
	g.SetLimit(lookers)
	for i := range objects {
		g.Go(func() error {
			e := harvester.RestoreEvidence{Now: time.Now()}
			switch object := &objects[i]; {
			case !object.Ended():
				e = h.restoreEvidence(ctx, object)
			case opts.Selector != "":
				e.Backup = h.backupOf(ctx, object)
			}
			views[i] = *h.restoreView(&objects[i], e)
			return nil
		})
	}
	_ = g.Wait() // what cannot be looked at is left out of the views
	return views, ctx.Err()
}

// Restore implements Foreign.
func (h harvesterBackups) Restore(ctx context.Context, ref vmbackup.Ref) (*vmbackup.Restore, error) {
	object, err := h.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err != nil && h.absent(ctx, err)) {
		return nil, noRestore(ref)
	}
	if err != nil {
		return nil, kube.Error(err, "read", whatRestore(ref))
	}
	return h.restoreView(object, h.restoreEvidence(ctx, object)), ctx.Err()
}

// restoreEvidence looks at all that the view of a restore rests on. What the user may
// not look at is left out.
func (h harvesterBackups) restoreEvidence(ctx context.Context, r *harvester.VirtualMachineRestore) harvester.RestoreEvidence {
	e := harvester.RestoreEvidence{Now: time.Now(), Backup: h.backupOf(ctx, r)}
	for _, name := range claimsOf(r) {
		claim, err := h.clients.Core.CoreV1().PersistentVolumeClaims(r.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			e.AddClaim(name, claim)
		case apierrors.IsNotFound(err):
			e.AddClaim(name, nil)
		}
	}
	longhorn := h.clients.Longhorn.LonghornV1beta2()
	volumes := e.LonghornVolumes()
	for _, name := range volumes {
		if volume, err := longhorn.Volumes(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			e.AddVolume(volume)
		}
	}
	if r.Ended() {
		e.Machine = h.machine(ctx, r)
		return e
	}
	if len(volumes) > 0 {
		if list, err := longhorn.Engines(kube.LonghornNamespace).List(ctx, ofVolumes(volumes)); err == nil {
			for i := range list.Items {
				e.AddEngine(&list.Items[i])
			}
		}
	}
	e.Machine = h.machine(ctx, r)
	if list, err := h.clients.Core.CoreV1().Events(r.Namespace).List(ctx, warningsOnly()); err == nil {
		e.Warnings = newest(list.Items, r.CreationTimestamp.Time)
	}
	return e
}

func (h harvesterBackups) machine(ctx context.Context, r *harvester.VirtualMachineRestore) *kubevirtv1.VirtualMachine {
	m, err := h.clients.KubeVirt.KubevirtV1().VirtualMachines(r.Namespace).Get(ctx, r.Spec.Target.Name, metav1.GetOptions{})
	if err != nil {
		return nil // not there, or not for the user
	}
	return m
}

func (h harvesterBackups) backupOf(ctx context.Context, r *harvester.VirtualMachineRestore) *harvester.VirtualMachineBackup {
	ref := r.BackupRef()
	b, err := h.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil // deleted since, or not for the user
	}
	return b
}

func claimsOf(r *harvester.VirtualMachineRestore) []string {
	names := make([]string, len(r.Status.VolumeRestores))
	for i := range names {
		names[i] = r.Status.VolumeRestores[i].PersistentVolumeClaim.ObjectMeta.Name
	}
	return names
}

// ofVolumes selects what Longhorn has of volumes.
func ofVolumes(volumes []string) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: "longhornvolume in (" + strings.Join(volumes, ",") + ")"}
}

func warningsOnly() metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning}
}

// newest is the last warning about each object since a restore began.
func newest(events []corev1.Event, since time.Time) map[string]string {
	last, texts := map[string]time.Time{}, map[string]string{}
	for i := range events {
		e := &events[i]
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.EventTime.Time
		}
		name := e.InvolvedObject.Name
		if e.Type != corev1.EventTypeWarning || at.Before(since.Truncate(time.Second)) || at.Before(last[name]) {
			continue
		}
		last[name], texts[name] = at, e.Reason+": "+kube.Brief(e.Message)
	}
	return texts
}

func noRestore(ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "no restore %s in the cluster", ref).
		WithHint("see what is there with: kubectl vmbackup list restores -A")
}

func whatRestore(ref vmbackup.Ref) string {
	return harvester.RestoreResource + "." + harvester.Group + " " + ref.String()
}

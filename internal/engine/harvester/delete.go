// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"errors"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// removeDeadline is how long Harvester and the CSI controllers may take to remove an
// object and what was made of it.
const removeDeadline = 5 * time.Minute

var errRemoveDeadline = errors.New("not removed in time")

// Delete deletes the object, with which Harvester removes what it has made, and sees
// that nothing of it is left: in the cluster, in Longhorn, and on the target.
func (e *Engine) Delete(ctx context.Context, plan *vmbackup.DeletePlan, opts vmbackup.RunOptions) error {
	own, ok := plan.State.(*deletePlan)
	if !ok {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "the plan to delete backup %s was not made by this engine", plan.Request.Backup)
	}
	ref := plan.Request.Backup
	events := flow.NewEvents(sinkOf(opts), "delete/"+ref.String(), e.clock)
	d := &deletion{engine: e, ref: ref, own: own, events: events}
	steps := d.steps(ctx)
	events.Plan(flow.Statuses(steps), "delete backup "+ref.String())
	err := flow.Run(ctx, steps, false, events, nil)
	phase := vmbackup.PhaseReady
	if err != nil {
		phase = vmbackup.PhaseFailed
	}
	events.Result(phase, err, "deleted")
	return err
}

// deletion removes one backup.
type deletion struct {
	engine *Engine
	ref    vmbackup.Ref
	own    *deletePlan
	events *flow.Events
}

// steps are those of a deletion: Harvester's part, and then whatever it leaves.
func (d *deletion) steps(ctx context.Context) []flow.Step {
	steps := []flow.Step{{ID: "object", Title: "Have Harvester remove the backup and its snapshots", Ensure: d.object}}
	if d.own.elsewhere {
		return steps
	}
	b := &d.own.record.Backup
	if b.Spec.Type == vmbackup.TypeBackup && !d.reachesTarget(ctx) {
		// Longhorn's word has to do.
		return append(steps, flow.Step{ID: "backups", Title: "See Longhorn remove the backups", Ensure: d.awaitLonghorn})
	}
	for i, step := range d.remains() {
		// What Harvester has made is known whole only once the object is being deleted.
		step.Ensure = func(ctx context.Context) error { return d.remains()[i].Ensure(ctx) }
		steps = append(steps, step)
	}
	return steps
}

// remains removes what Harvester's deletion leaves, or is late with.
func (d *deletion) remains() []flow.Step {
	return d.engine.direct.Removal(d.own.record, d.own.made.longhorn, d.events)
}

// reachesTarget reports whether the target can be looked at from here.
func (d *deletion) reachesTarget(ctx context.Context) bool {
	_, err := d.engine.open(ctx, vmbackup.DefaultTarget)
	return err == nil
}

// object deletes the object and waits until it and all that Harvester and the CSI
// controllers remove with it are gone.
func (d *deletion) object(ctx context.Context) error {
	waiting, cancel := context.WithTimeoutCause(ctx, removeDeadline, errRemoveDeadline)
	defer cancel()
	err := d.removeObject(waiting)
	if errors.Is(context.Cause(waiting), errRemoveDeadline) && err != nil {
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "Harvester has not removed backup %s in %s: %w", d.ref, removeDeadline, err).
			WithHint("see whether its controllers work with: kubectl vmbackup version; and what holds the object with: kubectl get %s.%s %s -n %s -o yaml", hv.BackupResource, hv.Group, d.ref.Name, d.ref.Namespace)
	}
	return err
}

func (d *deletion) removeObject(ctx context.Context) error {
	e := d.engine
	client := e.clients.Harvester.Backups(d.ref.Namespace)
	err := client.Delete(ctx, d.ref.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(d.own.object.UID))})
	switch {
	case apierrors.IsNotFound(err):
	case apierrors.IsConflict(err):
		return vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s is another one by now than the one that was shown; nothing was removed", d.ref).
			WithHint("look at it, and run the same command again")
	case err != nil:
		return kube.Error(err, "delete", what(d.ref))
	}
	// From its deletion on Harvester makes nothing more of it.
	if err := e.addMade(ctx, d.own); err != nil {
		return err
	}
	if err := kube.WaitGone[*hv.VirtualMachineBackup](ctx, kube.One(client, d.ref.Name), what(d.ref)+" to be gone", d.own.object.UID); err != nil {
		return err
	}
	snapshots := e.clients.Snapshot.SnapshotV1().VolumeSnapshots(d.ref.Namespace)
	for _, s := range d.own.made.snapshots {
		if err := kube.WaitGone[*snapshotv1.VolumeSnapshot](ctx, kube.One(snapshots, s.Name), "VolumeSnapshot "+s.Namespace+"/"+s.Name+" to be gone", s.UID); err != nil {
			return err
		}
	}
	for _, name := range d.own.made.contents {
		err := d.contentGone(ctx, name)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
			break // cluster-wide objects, which not everybody may look at
		}
		if err != nil {
			return err
		}
	}
	return d.deletedGone(ctx)
}

// deletedGone waits for those of Longhorn's backups that are being deleted: it removes
// their data from the target first.
func (d *deletion) deletedGone(ctx context.Context) error {
	client := d.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	for _, v := range d.own.record.Backup.Status.Volumes {
		if v.LonghornBackup == "" || d.own.elsewhere {
			continue
		}
		err := kube.WatchAll(ctx, kube.One(client, v.LonghornBackup), "Longhorn Backup "+v.LonghornBackup+" to be gone", func(list []*longhornv1.Backup) (bool, error) {
			return len(list) == 0 || list[0].DeletionTimestamp == nil, nil
		})
		if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// contentGone waits until a VolumeSnapshotContent is gone. One that is kept, as its
// class may say, is left: it is found by nothing any more, and holds no data itself.
func (d *deletion) contentGone(ctx context.Context, name string) error {
	contents := d.engine.clients.Snapshot.SnapshotV1().VolumeSnapshotContents()
	kept := false
	err := kube.WatchAll(ctx, kube.One(contents, name), "VolumeSnapshotContent "+name+" to be gone", func(list []*snapshotv1.VolumeSnapshotContent) (bool, error) {
		kept = len(list) > 0 && list[0].Spec.DeletionPolicy == snapshotv1.VolumeSnapshotContentRetain && list[0].DeletionTimestamp == nil
		return len(list) == 0 || kept, nil
	})
	if err != nil || !kept {
		return err
	}
	if err := contents.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return kube.Error(err, "delete", "VolumeSnapshotContent "+name)
	}
	return kube.WaitGone[*snapshotv1.VolumeSnapshotContent](ctx, kube.One(contents, name), "VolumeSnapshotContent "+name+" to be gone", "")
}

// awaitLonghorn waits until Longhorn has no backup of the volumes any more, as far as
// this user may look.
func (d *deletion) awaitLonghorn(ctx context.Context) error {
	waiting, cancel := context.WithTimeoutCause(ctx, removeDeadline, errRemoveDeadline)
	defer cancel()
	client := d.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	for _, v := range d.own.record.Backup.Status.Volumes {
		if v.LonghornBackup == "" {
			continue
		}
		err := kube.WaitGone[*longhornv1.Backup](waiting, kube.One(client, v.LonghornBackup), "Longhorn Backup "+v.LonghornBackup+" to be gone", "")
		if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
			d.events.Warning("this user may not look at Longhorn's backups, so that nobody has seen whether the data is gone")
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

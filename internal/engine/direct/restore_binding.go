// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// awaitBound waits until the snapshot controller has bound every composed
// VolumeSnapshot, for nudgeAfter, and makes it look again at those that it has not. It sends five requests a second unless it is told otherwise; a
// claim that is there before its snapshot is bound fails, and is tried again by the
// provisioner with growing pauses. told holds the reasons that have been told.
func (r *restoreRun) awaitBound(ctx context.Context, told map[string]bool) (bool, error) {
	client := r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshots(r.namespace())
	selected := kube.Select(client, metav1.ListOptions{LabelSelector: LabelOperation + "=" + r.record.Operation})
	volumes := map[string]string{} // the volume's name by snapshot
	for i := range r.restore().Status.Volumes {
		v := &r.restore().Status.Volumes[i]
		volumes[r.record.snapshotName(v)] = v.Name
	}
	waiting, stop := context.WithTimeout(ctx, nudgeAfter)
	defer stop()
	var open []string
	err := kube.WatchAll(waiting, selected, "the composed VolumeSnapshots of restore "+r.restore().Ref().String()+" to be bound",
		func(list []*snapshotv1.VolumeSnapshot) (bool, error) {
			bound := 0
			open = open[:0]
			for _, s := range list {
				volume, ours := volumes[s.Name]
				switch why := unbound(s); {
				case !ours:
				case why == "":
					bound++
				default:
					open = append(open, s.Name)
					if why != waitsForController && !told[volume+why] {
						told[volume+why] = true
						r.events.Volume("snapshots", volume, vmbackup.StatePending, 0, 0, 0, why)
					}
				}
			}
			return bound == len(volumes), nil
		})
	if err == nil {
		return true, nil
	}
	if waiting.Err() == nil || ctx.Err() != nil {
		return false, err
	}
	for _, name := range open {
		_, err := client.Patch(ctx, name, types.MergePatchType, r.engine.nudge(), metav1.PatchOptions{FieldManager: kube.FieldManager})
		if err := nudged(err); err != nil {
			return false, kube.Error(err, "patch", "VolumeSnapshot "+r.namespace()+"/"+name)
		}
	}
	return false, nil
}

// waitsForController is a snapshot of which nothing is known yet.
const waitsForController = "not bound yet"

// unbound says why a snapshot is not bound; empty when it is.
func unbound(s *snapshotv1.VolumeSnapshot) string {
	switch {
	case s.Status == nil:
		return waitsForController
	case s.Status.BoundVolumeSnapshotContentName != nil:
		return ""
	case s.Status.Error != nil && s.Status.Error.Message != nil:
		return "VolumeSnapshot " + s.Name + " is not bound: " + *s.Status.Error.Message
	}
	return waitsForController
}

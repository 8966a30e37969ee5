// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"slices"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
)

// madeSnapshots are the UIDs of the VolumeSnapshots that a backup has made in its
// rounds, also of those that are gone and left their content.
func (e *Engine) madeSnapshots(ctx context.Context, record *metadata.Record, rounds int) (uids []string, existing []snapshotv1.VolumeSnapshot, err error) {
	namespace := record.Backup.Metadata.Namespace
	list, err := e.clients.Snapshot.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{LabelSelector: LabelOperation + "=" + record.Operation})
	if err != nil {
		return nil, nil, kube.Error(err, "list", "VolumeSnapshots in namespace "+namespace)
	}
	for _, s := range list.Items {
		uids = append(uids, string(s.UID))
	}
	names := map[string]bool{}
	for round := 1; round <= rounds; round++ {
		for i := range record.Backup.Status.Volumes {
			names[snapshotName(&record.Backup, &record.Backup.Status.Volumes[i], round)] = true
		}
	}
	contents, err := e.clients.Snapshot.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, kube.Error(err, "list", "VolumeSnapshotContents")
	}
	for _, c := range contents.Items {
		ref := c.Spec.VolumeSnapshotRef
		if c.Spec.Driver == Driver && ref.Namespace == namespace && names[ref.Name] && ref.UID != "" {
			uids = append(uids, string(ref.UID))
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids), list.Items, nil
}

// removeSnapshots deletes the VolumeSnapshots of a backup's rounds and their
// contents. The contents have the policy Retain: Longhorn is not asked, and what
// it holds of them is found through them alone. Their names in Longhorn are
// therefore handed to remember before anything goes.
func (e *Engine) removeSnapshots(ctx context.Context, record *metadata.Record, rounds int, remember func(snapshots []string) error) error {
	uids, existing, err := e.madeSnapshots(ctx, record, rounds)
	if err != nil {
		return err
	}
	var snapshots, contents []string
	for _, uid := range uids {
		snapshots = append(snapshots, longhornSnapshot(uid))
		contents = append(contents, "snapcontent-"+uid)
	}
	if err := remember(snapshots); err != nil {
		return err
	}
	client := e.clients.Snapshot.SnapshotV1().VolumeSnapshots(record.Backup.Metadata.Namespace)
	for _, s := range existing {
		if err := client.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "VolumeSnapshot "+s.Namespace+"/"+s.Name)
		}
	}
	for _, s := range existing {
		if err := kube.WaitGone[*snapshotv1.VolumeSnapshot](ctx, kube.One(client, s.Name), "VolumeSnapshot "+s.Namespace+"/"+s.Name+" to be gone", s.UID); err != nil {
			return err
		}
	}
	return e.removeContents(ctx, contents)
}

// longhornSnapshot is the name that external-snapshotter gives Longhorn's snapshot.
func longhornSnapshot(volumeSnapshotUID string) string {
	return "snapshot-" + volumeSnapshotUID
}

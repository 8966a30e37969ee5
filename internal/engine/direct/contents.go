// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// contentsDeadline is how long csi-snapshotter may take to let go of
// VolumeSnapshotContents, which is a matter of seconds while it runs.
const contentsDeadline = 2 * time.Minute

var errContentsDeadline = vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "VolumeSnapshotContents that are deleted are still there after %s: csi-snapshotter does not let go of them; nothing else was removed", contentsDeadline).
	WithHint("check that the csi-snapshotter of Longhorn runs, then run the same command again")

// removeContents deletes VolumeSnapshotContents and waits until they are gone. As
// long as one is there, csi-snapshotter may ask Longhorn once more for the
// snapshot and its backup, even when both have just been removed.
func (e *Engine) removeContents(ctx context.Context, names []string) error {
	client := e.clients.Snapshot.SnapshotV1().VolumeSnapshotContents()
	var left []string
	for _, name := range names {
		switch err := client.Delete(ctx, name, metav1.DeleteOptions{}); {
		case err == nil:
			left = append(left, name)
		case !apierrors.IsNotFound(err):
			return kube.Error(err, "delete", "VolumeSnapshotContent "+name)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, contentsDeadline, errContentsDeadline)
	defer cancel()
	for _, name := range left {
		err := e.awaitContentGone(ctx, name)
		if errors.Is(context.Cause(ctx), errContentsDeadline) {
			return errContentsDeadline
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitContentGone waits until a content that is deleted is gone, and makes
// csi-snapshotter look at it again now and then.
func (e *Engine) awaitContentGone(ctx context.Context, name string) error {
	client := e.clients.Snapshot.SnapshotV1().VolumeSnapshotContents()
	for {
		waiting, stop := context.WithTimeout(ctx, nudgeAfter)
		err := kube.WaitGone[*snapshotv1.VolumeSnapshotContent](waiting, kube.One(client, name), "VolumeSnapshotContent "+name+" to be gone", "")
		over := waiting.Err() != nil && ctx.Err() == nil
		stop()
		if err == nil || !over {
			return err
		}
		// A content that is deleted in the moment in which its snapshot gets ready is
		// forgotten: the sidecar leaves out events of changes that it has made itself
		// (external-snapshotter, pkg/utils ShouldEnqueueContentChange).
		_, err = client.Patch(ctx, name, types.MergePatchType, e.nudge(), metav1.PatchOptions{FieldManager: kube.FieldManager})
		if err := nudged(err); err != nil {
			return kube.Error(err, "patch", "VolumeSnapshotContent "+name)
		}
	}
}

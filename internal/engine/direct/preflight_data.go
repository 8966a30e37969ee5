// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findLost looks where the data of every volume should be, and says of which it is
// not there. What could not be asked is an error: it says nothing about the data.
func (e *Engine) findLost(ctx context.Context, record *metadata.Record) (map[string]error, error) {
	backup := &record.Backup
	look := e.lookForSnapshot
	switch {
	case e.delegate != nil && backup.Spec.Type == vmbackup.TypeSnapshot:
		return nil, nil // he keeps them, and says himself what he has
	case backup.Spec.Type != vmbackup.TypeSnapshot:
		store, err := e.openTarget(ctx, backup.Spec.Target)
		if e.delegate != nil && vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
			return nil, nil // the delegate looks at the target with his own rights
		}
		if err != nil {
			return nil, err
		}
		look = func(ctx context.Context, b *vmbackup.Backup, v *vmbackup.BackupVolume) (error, error) {
			return lookOnTarget(ctx, store, b, v)
		}
	}
	var mu sync.Mutex
	lost := map[string]error{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range backup.Status.Volumes {
		v := &backup.Status.Volumes[i]
		group.Go(func() error {
			_, missing := claimOf(record, v.PVC)
			if missing == nil {
				missing = unfinished(backup, v)
			}
			if missing == nil {
				var err error
				if missing, err = look(ctx, backup, v); err != nil {
					return err
				}
			}
			if missing != nil {
				mu.Lock()
				defer mu.Unlock()
				lost[v.Name] = missing
			}
			return nil
		})
	}
	return lost, group.Wait()
}

// unfinished tells of a volume whose data was never said to be complete: the file of
// a Longhorn backup lies on the target before all of its blocks do.
func unfinished(backup *vmbackup.Backup, v *vmbackup.BackupVolume) error {
	if backup.Status.Ready {
		return nil
	}
	switch v.State {
	case vmbackup.StatePending, vmbackup.StateRunning, vmbackup.StateFailed:
		what := fmt.Sprintf("the data of volume %s in backup %s was never complete", v.Name, backup.Ref())
		if v.Message != "" {
			what += ": " + v.Message
		}
		return vmbackup.Errorf(vmbackup.ReasonDataLost, "%s", what).
			WithHint("choose another backup with: kubectl vmbackup list -n %s --from all", backup.Metadata.Namespace)
	}
	return nil
}

// lookOnTarget looks for a volume's Longhorn backup on the target.
func lookOnTarget(ctx context.Context, store target.Store, backup *vmbackup.Backup, v *vmbackup.BackupVolume) (missing, err error) {
	kind, volume, name, ok := handleParts(v.SnapshotHandle)
	if !ok || kind != "bak" {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "volume %s of backup %s has no handle of a Longhorn backup (%q)", v.Name, backup.Ref(), v.SnapshotHandle).
			WithHint("choose another backup with: kubectl vmbackup list -n %s --from all", backup.Metadata.Namespace), nil
	}
	_, err = store.Stat(ctx, target.BackupConfigKey(volume, name))
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		err := target.MissingData(ctx, store, fmt.Sprintf("the data of volume %s is not on %s: backup %s of Longhorn volume %s is missing there", v.Name, store, name, volume),
			"check that the backup target is the one that the backup was made on; choose another backup with: kubectl vmbackup list --from target")
		if vmbackup.ReasonOf(err) == vmbackup.ReasonDataLost {
			return err, nil
		}
		return nil, err // the target itself is in doubt, not this volume
	}
	return nil, err
}

// lookForSnapshot looks for a volume's Longhorn snapshot. It is of use only as long
// as the volume that it was taken of is there too, and a snapshot of that name of
// another volume is another snapshot.
func (e *Engine) lookForSnapshot(ctx context.Context, backup *vmbackup.Backup, v *vmbackup.BackupVolume) (missing, err error) {
	kind, volume, name, ok := handleParts(v.SnapshotHandle)
	if !ok || kind != "snap" {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "volume %s of backup %s has no handle of a Longhorn snapshot (%q)", v.Name, backup.Ref(), v.SnapshotHandle).
			WithHint("choose another backup with: kubectl vmbackup list -n %s", backup.Metadata.Namespace), nil
	}
	s, err := e.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && (s.DeletionTimestamp != nil || s.Spec.Volume != volume) {
		return vmbackup.Errorf(vmbackup.ReasonDataLost, "snapshot %s of Longhorn volume %s is gone, and with it the data of volume %s in backup %s", name, volume, v.Name, backup.Ref()).
			WithHint("a backup of type snapshot lives only as long as its source volume; choose another one with: kubectl vmbackup list -n %s", backup.Metadata.Namespace), nil
	}
	return nil, kube.Error(err, "read", "Longhorn Snapshot "+name)
}

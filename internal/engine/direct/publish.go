// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// verifyTarget sees every volume's backup on the target itself: Longhorn's word
// for it is not enough for Ready.
func (r *backupRun) verifyTarget(ctx context.Context) error {
	if err := r.removeSurplus(ctx); err != nil {
		return err
	}
	return r.reach(r.seeAll(ctx))
}

func (r *backupRun) seeAll(ctx context.Context) error {
	store, err := r.engine.target(ctx, r.backup().Spec.Target)
	if err != nil {
		return err
	}
	volumes := r.backup().Status.Volumes
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, v := range volumes {
		group.Go(func() error {
			return target.See(ctx, store, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup),
				fmt.Sprintf("backup %s of volume %s", v.LonghornBackup, v.Name))
		})
	}
	for _, image := range r.backup().Status.Images {
		group.Go(func() error {
			return target.See(ctx, store, target.BackingImageConfigKey(image.Name), "the backup of backing image "+image.Name)
		})
	}
	return group.Wait()
}

// publish writes the machine's description beside the data, in Harvester's format
// and in the tool's own, and reads both back.
func (r *backupRun) publish(ctx context.Context) error {
	store, err := r.engine.target(ctx, r.backup().Spec.Target)
	if err != nil {
		return r.reach(err)
	}
	published := *r.record
	published.State = nil
	// The file says how the backup ended: it is written after everything else was seen.
	now := r.engine.clock().UTC()
	status := &published.Backup.Status
	status.Phase, status.Ready, status.CompletedAt = vmbackup.PhaseReady, true, &now
	status.Metadata = vmbackup.MetadataStatus{Path: metadata.RecordKey(r.backup().Ref()), State: vmbackup.StateReady}

	files := map[string][]byte{}
	if files[metadata.RecordKey(r.backup().Ref())], err = metadata.EncodeRecord(&published); err != nil {
		return err
	}
	if !r.state.NotForHarvester {
		if files[metadata.HarvesterBackupKey(r.backup().Ref())], err = metadata.EncodeHarvester(&published); err != nil {
			return err
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	for key, content := range files {
		group.Go(func() error { return target.PutChecked(gctx, store, key, content) })
	}
	if err := group.Wait(); err != nil {
		if vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged {
			return r.reach(err)
		}
		// Another run of this backup may have written its own in between; the record tells.
		if saveErr := r.save(ctx); saveErr != nil {
			return saveErr
		}
		return err
	}
	r.backup().Status.Metadata = status.Metadata
	return nil
}

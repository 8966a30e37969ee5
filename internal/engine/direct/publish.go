// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
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
	if err := r.removeLeftovers(ctx); err != nil {
		return err
	}
	r.state.Leftovers = nil
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
			return seen(ctx, store, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup),
				fmt.Sprintf("backup %s of volume %s", v.LonghornBackup, v.Name))
		})
	}
	for _, image := range r.backup().Status.Images {
		group.Go(func() error {
			return seen(ctx, store, target.BackingImageConfigKey(image.Name), "the backup of backing image "+image.Name)
		})
	}
	return group.Wait()
}

// seen fails when a file that Longhorn reported is not on the target.
func seen(ctx context.Context, store target.Store, key, what string) error {
	_, err := store.Stat(ctx, key)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return missingData(ctx, store, fmt.Sprintf("Longhorn calls %s complete, but %s does not hold it (%s)", what, store, key),
			"check that Longhorn and this command see the same backup target, then create a new backup")
	}
	return err
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
		group.Go(func() error { return writeChecked(gctx, store, key, content) })
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

// writeChecked writes a file and compares what the target returns.
func writeChecked(ctx context.Context, store target.Store, key string, content []byte) error {
	if err := store.Put(ctx, key, content); err != nil {
		return err
	}
	back, err := store.Get(ctx, key, int64(len(content))+1)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, content) {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%s on %s does not read back as it was written", key, store).
			WithHint("the target does not keep what is written to it; check it before you rely on any backup there")
	}
	return nil
}

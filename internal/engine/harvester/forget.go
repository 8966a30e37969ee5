// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var _ direct.Discoverer = (*Engine)(nil)

// Discovered implements direct.Discoverer. An object of the same name that tells of
// other data is another backup's.
func (e *Engine) Discovered(ctx context.Context, b *vmbackup.Backup) (*vmbackup.PlannedObject, error) {
	object, err := e.discovered(ctx, b)
	if err != nil || object == nil {
		return nil, err
	}
	return &vmbackup.PlannedObject{
		APIVersion: hv.GroupVersion().String(), Kind: "VirtualMachineBackup", Namespace: object.Namespace, Name: object.Name,
		Note: "Harvester has found the backup on the target",
	}, nil
}

// Forget implements direct.Discoverer.
func (e *Engine) Forget(ctx context.Context, b *vmbackup.Backup, events *flow.Events) error {
	object, err := e.discovered(ctx, b)
	if err != nil || object == nil {
		return err
	}
	d := &deletion{engine: e, ref: b.Ref(), own: &deletePlan{object: object, record: &metadata.Record{Backup: *b}}, events: events}
	return d.object(ctx)
}

func (e *Engine) discovered(ctx context.Context, b *vmbackup.Backup) (*hv.VirtualMachineBackup, error) {
	object, err := e.clients.Harvester.Backups(b.Metadata.Namespace).Get(ctx, b.Metadata.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil, nil //nolint:nilnil // there is none, no Harvester, or none that this user has to do with
	}
	if err != nil {
		return nil, kube.Error(err, "read", what(b.Ref()))
	}
	for _, theirs := range object.Status.VolumeBackups {
		if theirs.LonghornBackupName != nil && slices.ContainsFunc(b.Status.Volumes, func(v vmbackup.BackupVolume) bool { return v.LonghornBackup == *theirs.LonghornBackupName }) {
			return object, nil
		}
	}
	return nil, nil //nolint:nilnil // it is another backup's
}

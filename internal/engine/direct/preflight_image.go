// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"sync"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findImages looks up the backing images that the volumes of a backup rest on.
func (e *Engine) findImages(ctx context.Context, backup *vmbackup.Backup) (map[string]*longhornv1.BackingImage, error) {
	images := map[string]*longhornv1.BackingImage{}
	for _, v := range backup.Status.Volumes {
		if v.Image != "" {
			images[v.Image] = nil
		}
	}
	names := make([]string, 0, len(images))
	for name := range images {
		names = append(names, name)
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, name := range names {
		group.Go(func() error {
			image, err := e.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				images[name] = image
			case apierrors.IsForbidden(err):
				delete(images, name)
			case !apierrors.IsNotFound(err):
				return kube.Error(err, "read", "Longhorn BackingImage "+name)
			}
			return nil
		})
	}
	return images, group.Wait()
}

// checkImage refuses a volume whose blocks lie above a backing image that this
// cluster does not have: Longhorn would refuse to make it.
func (d *destination) checkImage(backup *vmbackup.Backup, v *vmbackup.BackupVolume) error {
	if v.Image == "" {
		return nil
	}
	image, known := d.images[v.Image]
	why, looked := d.recalled[v.Image]
	switch {
	case !known:
		return nil
	case image == nil && looked && why == nil:
		return nil // it is brought back first
	case image == nil && looked:
		return vmbackup.Errorf(vmbackup.ReasonImageMissing, "volume %s of backup %s rests on backing image %q, which does not exist in this cluster and cannot be brought back: %w", v.Name, backup.Ref(), v.Image, why).
			WithHint("bring the image back under this name from wherever it is, e.g. with: kubectl vmbackup image restore; see those there are with: kubectl vmbackup image list -A")
	case image == nil:
		return vmbackup.Errorf(vmbackup.ReasonImageMissing, "volume %s of backup %s rests on backing image %q, which does not exist in this cluster", v.Name, backup.Ref(), v.Image).
			WithHint("bring the image back first, under this name: kubectl vmbackup image restore %s", v.Image)
	case image.DeletionTimestamp != nil || !hasCopy(image):
		return vmbackup.Errorf(vmbackup.ReasonImageMissing, "backing image %q, which volume %s of backup %s rests on, has no copy that is ready", v.Image, v.Name, backup.Ref()).
			WithHint("see why with: kubectl get backingimages.longhorn.io %s -n %s -o yaml", v.Image, kube.LonghornNamespace)
	}
	return nil
}

// hasCopy reports whether a disk has a whole copy of an image. An image that no
// disk has been asked for yet is fetched when a volume needs it.
func hasCopy(image *longhornv1.BackingImage) bool {
	if len(image.Status.DiskFileStatusMap) == 0 {
		return true
	}
	for _, s := range image.Status.DiskFileStatusMap {
		if s != nil && (s.State == longhornv1.BackingImageStateReady || s.State == longhornv1.BackingImageStateReadyForTransfer) {
			return true
		}
	}
	return false
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
)

// storageClasses reads the StorageClasses of the volumes, which another cluster may
// lack. One that is gone, or that the user may not read, is left out: the cluster
// of the backup has no need of it.
func (e reader) storageClasses(ctx context.Context, c *Machine) error {
	read := map[string]bool{"": true}
	for _, v := range c.Volumes {
		if read[v.StorageClass] {
			continue
		}
		read[v.StorageClass] = true
		class, err := e.clients.Core.StorageV1().StorageClasses().Get(ctx, v.StorageClass, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			continue
		}
		if err != nil {
			return kube.Error(err, "read", "StorageClass "+v.StorageClass)
		}
		class.APIVersion, class.Kind = "storage.k8s.io/v1", "StorageClass"
		manifest, err := Sanitized(class)
		if err != nil {
			return fmt.Errorf("manifest of StorageClass %s: %w", v.StorageClass, err)
		}
		c.StorageClasses = append(c.StorageClasses, manifest)
	}
	return nil
}

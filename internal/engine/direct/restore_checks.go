// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// sourceExists reports whether the backed-up machine itself is still in this cluster.
func (e *Engine) sourceExists(ctx context.Context, ref vmbackup.Ref, uid string) (bool, error) {
	raw, err := e.clients.VMs.Get(ctx, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if apierrors.IsForbidden(err) {
		return true, nil // not known to be gone: two machines must not share a MAC address
	}
	if err != nil {
		return false, kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	var vm metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &vm); err != nil {
		return false, fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	return uid == "" || string(vm.UID) == uid, nil
}

// restoreRights are the rights that a restore needs and that reading and the dry
// run did not prove.
func restoreRights(restore *restoreRecord) []right {
	namespace := restore.Restore.Spec.TargetNamespace
	rights := []right{
		{"create", "", "secrets", namespace},
		{"update", "", "secrets", namespace},
		{"create", "", "configmaps", namespace},
		{"watch", "", "persistentvolumeclaims", namespace},
		{"get", "", "persistentvolumes", ""},
		{"create", "snapshot.storage.k8s.io", "volumesnapshots", namespace},
		{"list", "snapshot.storage.k8s.io", "volumesnapshots", namespace},
		{"watch", "snapshot.storage.k8s.io", "volumesnapshots", namespace},
		{"delete", "snapshot.storage.k8s.io", "volumesnapshots", namespace},
		{"create", "snapshot.storage.k8s.io", "volumesnapshotcontents", ""},
		{"list", "snapshot.storage.k8s.io", "volumesnapshotcontents", ""},
		{"watch", "snapshot.storage.k8s.io", "volumesnapshotcontents", ""},
		{"delete", "snapshot.storage.k8s.io", "volumesnapshotcontents", ""},
		{"patch", "kubevirt.io", "virtualmachines", namespace},
		{"list", "kubevirt.io", "virtualmachines", namespace},
		{"watch", "kubevirt.io", "virtualmachines", namespace},
		{"list", "longhorn.io", "volumes", kube.LonghornNamespace},
		{"watch", "longhorn.io", "volumes", kube.LonghornNamespace},
		{"watch", "longhorn.io", "engines", kube.LonghornNamespace},
		{"list", "longhorn.io", "backups", kube.LonghornNamespace},
		{"watch", "longhorn.io", "backups", kube.LonghornNamespace},
	}
	if restore.StartByHand {
		rights = append(rights, right{"update", "subresources.kubevirt.io", "virtualmachines/start", namespace})
	}
	if restore.createNamespace {
		rights = append(rights, right{"create", "", "namespaces", ""},
			right{"create", "", "persistentvolumeclaims", namespace}, right{"create", "kubevirt.io", "virtualmachines", namespace})
	}
	if len(restore.StorageClasses) > 0 {
		rights = append(rights, right{"create", "storage.k8s.io", "storageclasses", ""})
	}
	if len(restore.Revisions) > 0 {
		rights = append(rights, right{"create", "apps", "controllerrevisions", namespace})
	}
	if restore.StateClaim != "" {
		rights = append(rights, right{"patch", "", "persistentvolumeclaims", namespace})
	}
	if restore.InPlace != nil {
		rights = append(rights, inPlaceRights(restore)...)
	}
	return rights
}

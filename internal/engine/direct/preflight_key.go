// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// keysOfClaim are the Secrets with the key of an encrypted claim, as its class
// names them: the CSI sidecars put the claim's own name and namespace in. A name
// that is made of something else is not known before the volume is there.
func keysOfClaim(class *storagev1.StorageClass, claim *corev1.PersistentVolumeClaim) []vmbackup.Ref {
	if !encrypts(class) {
		return nil
	}
	fill := strings.NewReplacer("${pvc.name}", claim.Name, "${pvc.namespace}", claim.Namespace)
	var refs []vmbackup.Ref
	for _, use := range []string{"provisioner", "node-stage", "node-publish"} {
		prefix := "csi.storage.k8s.io/" + use + "-secret-"
		ref := vmbackup.Ref{Namespace: fill.Replace(class.Parameters[prefix+"namespace"]), Name: fill.Replace(class.Parameters[prefix+"name"])}
		if ref.Name != "" && ref.Namespace != "" && !strings.Contains(ref.String(), "${") && !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// checkKeys refuses encrypted volumes whose key is not there: they would be
// restored and then could not be opened.
func (e *Engine) checkKeys(ctx context.Context, d *destination, claims []corev1.PersistentVolumeClaim) (warnings []string, err error) {
	var seen []vmbackup.Ref
	for i := range claims {
		claim := &claims[i]
		class := d.classes[*claim.Spec.StorageClassName]
		for _, ref := range keysOfClaim(class, claim) {
			if slices.Contains(seen, ref) {
				continue
			}
			seen = append(seen, ref)
			_, err := e.clients.Core.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			switch {
			case err == nil:
			case apierrors.IsNotFound(err):
				return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "StorageClass %q takes the key of PersistentVolumeClaim %s from Secret %s, which does not exist: the encrypted disk could not be opened", class.Name, claim.Name, ref).
					WithHint("make the Secret with the key that the volume had when it was backed up (its CRYPTO_KEY_VALUE), then run the same command again")
			case apierrors.IsForbidden(err):
				warnings = append(warnings, fmt.Sprintf("whether Secret %s exists, from which StorageClass %q takes the key of PersistentVolumeClaim %s, could not be seen: this user may not look", ref, class.Name, claim.Name))
			default:
				return nil, kube.Error(err, "read", "Secret "+ref.String())
			}
		}
	}
	return warnings, nil
}

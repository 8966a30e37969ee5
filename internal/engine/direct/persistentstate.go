// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// labelPersistentState is KubeVirt's label of the claim with a machine's TPM and EFI variables.
const labelPersistentState = capture.LabelPersistentState

// checkState refuses a machine whose name has persistent state already, which
// KubeVirt could take instead of the restored one. State of a machine that is gone
// goes by itself, as its owner does.
func (e *Engine) checkState(ctx context.Context, n *renaming) error {
	claims, err := e.clients.Core.CoreV1().PersistentVolumeClaims(n.to.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelPersistentState + "=" + n.to.Name})
	if err != nil {
		return kube.Error(err, "list", "PersistentVolumeClaims in namespace "+n.to.Namespace)
	}
	for _, claim := range claims.Items {
		if claim.DeletionTimestamp != nil || metav1.GetControllerOf(&claim) != nil {
			continue
		}
		return vmbackup.Errorf(vmbackup.ReasonConflict, "PersistentVolumeClaim %s/%s holds the persistent state (TPM, EFI) of a machine called %s, and KubeVirt could take it for the restored one's", claim.Namespace, claim.Name, n.to.Name).
			WithHint("if nothing needs it, take its label away: kubectl label pvc %s -n %s %s-; or restore under another name with --to-name", claim.Name, claim.Namespace, labelPersistentState)
	}
	return nil
}

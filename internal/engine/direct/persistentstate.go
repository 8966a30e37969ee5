// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// labelPersistentState is KubeVirt's label of the claim on which a machine's TPM and
// EFI variables lie; its value is the machine's name. The claim is not among the
// machine's volumes: KubeVirt finds it by the label, or, where an older version has
// made it, by the name persistent-state-for-<machine>.
const labelPersistentState = "persistent-state-for"

// stateVolume is the name of the persistent state among a backup's volumes.
func stateVolume(vm string) string { return labelPersistentState + "-" + vm }

// isState reports whether a claim is the persistent state of a machine.
func isState(claim *corev1.PersistentVolumeClaim, vm string) bool {
	if of, found := claim.Labels[labelPersistentState]; found {
		return of == vm
	}
	return claim.Name == stateVolume(vm)
}

// stateClaim finds the claim with the machine's persistent state, if it has one that
// outlives the machine's runs.
func (e *Engine) stateClaim(ctx context.Context, vm *kubevirtv1.VirtualMachine) (*claimRef, error) {
	client := e.clients.Core.CoreV1().PersistentVolumeClaims(vm.Namespace)
	labelled, err := client.List(ctx, metav1.ListOptions{LabelSelector: labelPersistentState + "=" + vm.Name})
	if err != nil {
		return nil, kube.Error(err, "list", "PersistentVolumeClaims in namespace "+vm.Namespace)
	}
	for _, claim := range labelled.Items {
		if claim.DeletionTimestamp == nil {
			return &claimRef{stateVolume(vm.Name), claim.Name}, nil
		}
	}
	if !keepsState(vm) {
		return nil, nil
	}
	claim, err := client.Get(ctx, stateVolume(vm.Name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil // it has never run
	}
	if err != nil {
		return nil, kube.Error(err, "read", "PersistentVolumeClaim "+vm.Namespace+"/"+stateVolume(vm.Name))
	}
	return &claimRef{stateVolume(vm.Name), claim.Name}, nil
}

// keepsState reports whether the machine's own specification asks for persistent state.
func keepsState(vm *kubevirtv1.VirtualMachine) bool {
	domain := vm.Spec.Template.Spec.Domain
	if tpm := domain.Devices.TPM; tpm != nil && tpm.Persistent != nil && *tpm.Persistent {
		return true
	}
	if f := domain.Firmware; f == nil || f.Bootloader == nil || f.Bootloader.EFI == nil || f.Bootloader.EFI.Persistent == nil {
		return false
	}
	return *domain.Firmware.Bootloader.EFI.Persistent
}

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

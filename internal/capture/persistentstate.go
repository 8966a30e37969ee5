// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
)

// LabelPersistentState is KubeVirt's label of the claim on which a machine's TPM and
// EFI variables lie; its value is the machine's name. The claim is not among the
// machine's volumes: KubeVirt finds it by the label, or, where an older version has
// made it, by the name persistent-state-for-<machine>.
const LabelPersistentState = "persistent-state-for"

// StateVolume is the name of the persistent state among a backup's volumes.
func StateVolume(vm string) string { return LabelPersistentState + "-" + vm }

// IsState reports whether a claim is the persistent state of a machine.
func IsState(claim *corev1.PersistentVolumeClaim, vm string) bool {
	if of, found := claim.Labels[LabelPersistentState]; found {
		return of == vm
	}
	return claim.Name == StateVolume(vm)
}

// StateClaim finds the claim with the machine's persistent state, if it has one that
// outlives the machine's runs.
func StateClaim(ctx context.Context, clients *kube.Clients, vm *kubevirtv1.VirtualMachine) (*ClaimRef, error) {
	client := clients.Core.CoreV1().PersistentVolumeClaims(vm.Namespace)
	labelled, err := client.List(ctx, metav1.ListOptions{LabelSelector: LabelPersistentState + "=" + vm.Name})
	if err != nil {
		return nil, kube.Error(err, "list", "PersistentVolumeClaims in namespace "+vm.Namespace)
	}
	for _, claim := range labelled.Items {
		if claim.DeletionTimestamp == nil {
			return &ClaimRef{StateVolume(vm.Name), claim.Name}, nil
		}
	}
	if !keepsState(vm) {
		return nil, nil
	}
	claim, err := client.Get(ctx, StateVolume(vm.Name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil // it has never run
	}
	if err != nil {
		return nil, kube.Error(err, "read", "PersistentVolumeClaim "+vm.Namespace+"/"+StateVolume(vm.Name))
	}
	return &ClaimRef{StateVolume(vm.Name), claim.Name}, nil
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

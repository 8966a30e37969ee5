// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// heartbeat is KubeVirt's interval; virt-controller gives a node up after five minutes.
const heartbeat = time.Minute

// beat tells virt-controller that the node's agent is alive, or that it leaves.
func (h *Handler) beat(ctx context.Context, schedulable bool) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"labels": map[string]string{
			virtv1.NodeSchedulable: fmt.Sprint(schedulable),
			virtv1.CPUManager:      "false",
		},
		"annotations": map[string]string{
			virtv1.VirtHandlerHeartbeat: metav1.Now().UTC().Format(time.RFC3339),
		},
	}})
	if err != nil {
		return err
	}
	_, err = h.core.CoreV1().Nodes().Patch(ctx, component.NodeName, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// registerPod creates the pod by which virt-api finds the agent of a node. The
// kubelet stand-in reports it as running on the loopback address.
func (h *Handler) registerPod(ctx context.Context) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:      "virt-handler-stand-in",
			Namespace: kubevirtNamespace,
			Labels:    map[string]string{virtv1.AppLabel: "virt-handler"},
		},
		Spec: corev1.PodSpec{
			NodeName:           component.NodeName,
			ServiceAccountName: "kubevirt-handler",
			HostNetwork:        true,
			Containers:         []corev1.Container{{Name: "virt-handler", Image: "sandbox.vmbackup.io/virt-handler-stand-in"}},
		},
	}
	_, err := h.core.CoreV1().Pods(kubevirtNamespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

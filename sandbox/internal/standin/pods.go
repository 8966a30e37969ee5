// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// syncPod brings one pod forward. It is called at every change of the pod or of its process.
func (k *Kubelet) syncPod(ctx context.Context, key string) error {
	object, exists, err := k.pods.GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		k.runner.stop(key, time.Second)
		return nil
	}
	pod := object.(*corev1.Pod).DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil:
		return k.finish(ctx, key, pod)
	case pod.Spec.NodeName == "":
		return k.bind(ctx, pod)
	case pod.Spec.NodeName != component.NodeName,
		pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return nil
	case !needsProcess(pod):
		if pod.Status.Phase == corev1.PodRunning {
			return nil
		}
		return k.reportRunning(ctx, pod, addressOf(pod))
	default:
		return k.syncProcess(ctx, key, pod)
	}
}

// syncProcess keeps a pod and its process in step: a pending pod gets one, a
// running pod whose process is gone has failed.
func (k *Kubelet) syncProcess(ctx context.Context, key string, pod *corev1.Pod) error {
	p := k.runner.get(key, pod.UID)
	if p == nil && pod.Status.Phase == corev1.PodRunning {
		return k.reportFailed(ctx, pod, "its process is gone")
	}
	if p == nil {
		var err error
		if p, err = k.runner.start(key, pod); err != nil {
			return k.reportFailed(ctx, pod, err.Error())
		}
	}
	if ended, message := p.ended(); ended {
		return k.reportFailed(ctx, pod, message)
	}
	if pod.Status.Phase == corev1.PodRunning {
		return nil
	}
	if err := p.probe(ctx); err != nil {
		k.queue.AddAfter(key, 200*time.Millisecond)
		return nil //nolint:nilerr // no error of the pod: it is still starting
	}
	return k.reportRunning(ctx, pod, p.IP)
}

// bind does what the scheduler does: there is one node, and everything fits.
func (k *Kubelet) bind(ctx context.Context, pod *corev1.Pod) error {
	if len(pod.Spec.SchedulingGates) > 0 {
		return nil
	}
	err := k.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: component.NodeName},
	}, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// finish ends the process and lets the object go, as a kubelet does once all containers are down.
func (k *Kubelet) finish(ctx context.Context, key string, pod *corev1.Pod) error {
	// The guest of a launcher is ended by the stand-in of virt-handler, within
	// the grace period that the deletion time includes.
	if pod.Labels["kubevirt.io"] == "virt-launcher" && pod.Status.Phase == corev1.PodRunning {
		if left := time.Until(pod.DeletionTimestamp.Time); left > 0 {
			k.queue.AddAfter(key, left)
			return nil
		}
	}
	grace := time.Duration(0)
	if pod.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	k.runner.stop(key, grace)
	now := int64(0)
	err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now,
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (k *Kubelet) reportRunning(ctx context.Context, pod *corev1.Pod, ip string) error {
	now := metav1.Now()
	status := &pod.Status
	status.Phase, status.Reason, status.Message = corev1.PodRunning, "", ""
	status.HostIP, status.HostIPs = hostIP, []corev1.HostIP{{IP: hostIP}}
	status.PodIP, status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	if status.StartTime == nil {
		status.StartTime = &now
	}
	for _, kind := range []corev1.PodConditionType{
		corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady,
	} {
		setPodCondition(status, kind, corev1.ConditionTrue, now)
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	done := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: now, FinishedAt: now}}
	status.ContainerStatuses, status.InitContainerStatuses = nil, nil
	for _, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, containerStatus(pod, c, running, true))
	}
	for _, c := range pod.Spec.InitContainers {
		state := done
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			state = running // a sidecar
		}
		status.InitContainerStatuses = append(status.InitContainerStatuses, containerStatus(pod, c, state, true))
	}
	return k.updateStatus(ctx, pod)
}

func (k *Kubelet) reportFailed(ctx context.Context, pod *corev1.Pod, message string) error {
	now := metav1.Now()
	status := &pod.Status
	status.Phase, status.Reason, status.Message = corev1.PodFailed, "Error", message
	setPodCondition(status, corev1.ContainersReady, corev1.ConditionFalse, now)
	setPodCondition(status, corev1.PodReady, corev1.ConditionFalse, now)
	status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, containerStatus(pod, c, corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: message, FinishedAt: now},
		}, false))
	}
	return k.updateStatus(ctx, pod)
}

func (k *Kubelet) updateStatus(ctx context.Context, pod *corev1.Pod) error {
	_, err := k.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the change that this update missed brings the pod back
	}
	if err != nil {
		return fmt.Errorf("report its status: %w", err)
	}
	return nil
}

func containerStatus(pod *corev1.Pod, c corev1.Container, state corev1.ContainerState, ready bool) corev1.ContainerStatus {
	started := state.Running != nil
	return corev1.ContainerStatus{
		Name: c.Name, Image: c.Image, ImageID: "stand-in://" + c.Image,
		ContainerID: "stand-in://" + string(pod.UID) + "/" + c.Name,
		State:       state, Ready: ready, Started: &started,
	}
}

func setPodCondition(status *corev1.PodStatus, kind corev1.PodConditionType, value corev1.ConditionStatus, now metav1.Time) {
	for i := range status.Conditions {
		c := &status.Conditions[i]
		if c.Type != kind {
			continue
		}
		if c.Status != value {
			c.Status, c.LastTransitionTime, c.Reason, c.Message = value, now, "", ""
		}
		return
	}
	status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: value, LastTransitionTime: now})
}

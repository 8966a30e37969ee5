// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	virtv1 "kubevirt.io/api/core/v1"
)

// byVMI indexes launcher pods by namespace/name of their VMI.
const byVMI = "vmi"

// watchLaunchers prepares the watch of launcher pods: what happens to one concerns its VMI.
func (h *Handler) watchLaunchers() (informers.SharedInformerFactory, cache.SharedIndexInformer, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(h.core, 0,
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = virtv1.AppLabel + "=virt-launcher"
		}))
	informer := factory.Core().V1().Pods().Informer()
	if err := informer.AddIndexers(cache.Indexers{byVMI: func(object any) ([]string, error) {
		return []string{vmiOf(object)}, nil
	}}); err != nil {
		return nil, nil, err
	}
	enqueue := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		h.queue.Add(vmiOf(object))
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, object any) { enqueue(object) },
		DeleteFunc: enqueue,
	})
	h.pods = informer.GetIndexer()
	return factory, informer, err
}

// vmiOf is the namespace/name of the VMI that a launcher pod was made for.
func vmiOf(object any) string {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return ""
	}
	return pod.Namespace + "/" + pod.Annotations[virtv1.DomainAnnotation]
}

// launchers returns the launcher pods of a VMI name that are, or are not, of the instance uid.
func (h *Handler) launchers(key, uid string, same bool) ([]*corev1.Pod, error) {
	objects, err := h.pods.ByIndex(byVMI, key)
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for _, object := range objects {
		pod, ok := object.(*corev1.Pod)
		if ok && (pod.Labels[virtv1.CreatedByLabel] == uid) == same {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// launcherPod returns the pod that a VMI runs in, or nil.
func (h *Handler) launcherPod(vmi *virtv1.VirtualMachineInstance) (*corev1.Pod, error) {
	pods, err := h.launchers(vmi.Namespace+"/"+vmi.Name, string(vmi.UID), true)
	if err != nil || len(pods) == 0 {
		return nil, err
	}
	return pods[0], nil
}

// endLaunchers reports launcher pods as ended, which the end of their guest makes them.
func (h *Handler) endLaunchers(ctx context.Context, pods []*corev1.Pod, phase corev1.PodPhase) error {
	var errs []error
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		pod = pod.DeepCopy()
		endPod(pod, phase)
		_, err := h.core.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("end the launcher pod %s: %w", pod.Name, err))
		}
	}
	return errors.Join(errs...)
}

// endPod writes what a kubelet reports of a pod whose containers ended.
func endPod(pod *corev1.Pod, phase corev1.PodPhase) {
	now := metav1.Now()
	ended := corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: now}
	if phase == corev1.PodFailed {
		ended.ExitCode, ended.Reason = 1, "Error"
	}
	pod.Status.Phase = phase
	for i := range pod.Status.ContainerStatuses {
		status := &pod.Status.ContainerStatuses[i]
		state := ended
		if status.State.Running != nil {
			state.StartedAt = status.State.Running.StartedAt
		}
		started := false
		status.State, status.Ready, status.Started = corev1.ContainerState{Terminated: &state}, false, &started
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && c.Status != corev1.ConditionFalse {
			c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionFalse, "PodCompleted", now
		}
	}
}

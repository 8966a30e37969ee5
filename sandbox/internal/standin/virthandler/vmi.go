// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

// defaultGracePeriod is KubeVirt's terminationGracePeriodSeconds where the spec has none.
const defaultGracePeriod = 30 * time.Second

// sync brings one VMI forward; it is called at every change of the VMI or of
// its guest. again, when positive, is when to look at it again without a change.
func (h *Handler) sync(ctx context.Context, key string) (again time.Duration, err error) {
	raw, vmi, err := h.lookup(key)
	if err != nil {
		return 0, err
	}
	g := h.guest(key)
	if g != nil && (vmi == nil || string(vmi.UID) != g.Key().UID) {
		// The instance is gone with its finalizers removed by force, or replaced.
		if err := h.bury(ctx, g.Key(), corev1.PodFailed); err != nil {
			return 0, err
		}
	}
	uid := ""
	if vmi != nil {
		uid = string(vmi.UID)
	}
	// Launchers on their way out whose VMI is gone: nothing runs in them any
	// more. Others may be ahead of their VMI's arrival here.
	orphans, err := h.launchers(key, uid, false)
	if err != nil {
		return 0, err
	}
	orphans = slices.DeleteFunc(orphans, func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil })
	if err := h.endLaunchers(ctx, orphans, corev1.PodFailed); err != nil {
		return 0, err
	}
	switch {
	case vmi == nil, vmi.Status.NodeName != component.NodeName:
		return 0, nil
	case vmi.IsFinal():
		phase := corev1.PodSucceeded
		if vmi.Status.Phase == virtv1.Failed {
			phase = corev1.PodFailed
		}
		return 0, h.bury(ctx, guestKey(vmi), phase)
	case vmi.DeletionTimestamp != nil && (vmi.IsScheduled() || vmi.IsRunning()):
		return h.shutDown(ctx, raw, vmi)
	case vmi.IsScheduled(), vmi.IsRunning():
		return 0, h.keepRunning(ctx, raw, vmi)
	}
	return 0, nil
}

func guestKey(vmi *virtv1.VirtualMachineInstance) guest.Key {
	return guest.Key{Namespace: vmi.Namespace, Name: vmi.Name, UID: string(vmi.UID)}
}

// keepRunning starts the guest of a scheduled VMI once its volumes are
// attached, and keeps the status of a running one.
func (h *Handler) keepRunning(ctx context.Context, raw *unstructured.Unstructured, vmi *virtv1.VirtualMachineInstance) error {
	pod, err := h.launcherPod(vmi)
	if err != nil {
		return err
	}
	if pod == nil {
		return nil // virt-controller notices, and fails the VMI
	}
	if phase, ended := h.powerState(vmi); ended {
		return h.end(ctx, raw, vmi, phase)
	}
	if pod.DeletionTimestamp != nil {
		// The launcher was told to end, e.g. by an eviction: it shuts its guest down.
		return h.end(ctx, raw, vmi, virtv1.Succeeded)
	}
	attached, err := h.attachVolumes(ctx, vmi)
	if err != nil {
		h.recorder.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", err.Error())
		return err
	}
	g, err := h.startGuest(vmi)
	if err != nil {
		return err
	}
	status := runningStatus(vmi, observation{
		now:      metav1.NewTime(h.clock.Now()),
		podIP:    pod.Status.PodIP,
		frozen:   g.Frozen() != nil,
		paused:   g.Paused(),
		attached: attached,
	})
	if vmi.IsScheduled() {
		h.recorder.Event(vmi, corev1.EventTypeNormal, "Started", "VirtualMachineInstance started.")
	}
	return h.writeStatus(ctx, raw, vmi, status)
}

// shutDown presses the power button of a VMI that is being deleted. A guest
// that ignores it is destroyed at the end of its grace period.
func (h *Handler) shutDown(ctx context.Context, raw *unstructured.Unstructured, vmi *virtv1.VirtualMachineInstance) (again time.Duration, err error) {
	grace := defaultGracePeriod
	if seconds := vmi.Spec.TerminationGracePeriodSeconds; seconds != nil {
		grace = time.Duration(*seconds) * time.Second
	}
	phase, left := shutdownOutcome(vmi.Annotations, grace, h.clock.Since(vmi.DeletionTimestamp.Time))
	if left > 0 {
		return left, nil
	}
	return 0, h.end(ctx, raw, vmi, phase)
}

// shutdownOutcome says in which phase a guest ends that was asked to shut down
// a while (since) ago, or how long it stays up at least.
func shutdownOutcome(annotations map[string]string, grace, since time.Duration) (phase virtv1.VirtualMachineInstancePhase, left time.Duration) {
	switch {
	case annotations[guest.ShutdownAnnotation] != guest.Ignore, grace == 0:
		return virtv1.Succeeded, 0
	case since < grace:
		return "", grace - since
	default:
		return virtv1.Failed, 0
	}
}

// end turns the guest off and reports the VMI's final phase; what it held is
// released when that comes back.
func (h *Handler) end(ctx context.Context, raw *unstructured.Unstructured, vmi *virtv1.VirtualMachineInstance, phase virtv1.VirtualMachineInstancePhase) error {
	if err := h.stopGuest(vmi.Namespace + "/" + vmi.Name); err != nil {
		return err
	}
	status := vmi.Status.DeepCopy()
	setPhase(status, phase, metav1.NewTime(h.clock.Now()))
	status.FSFreezeStatus = ""
	removeCondition(status, virtv1.VirtualMachineInstanceAgentConnected)
	if err := h.writeStatus(ctx, raw, vmi, *status); err != nil {
		return err
	}
	kind, message := corev1.EventTypeNormal, "The VirtualMachineInstance was shut down."
	if phase == virtv1.Failed {
		kind, message = corev1.EventTypeWarning, "The VirtualMachineInstance crashed."
	}
	h.recorder.Event(vmi, kind, "Stopped", message)
	return nil
}

// bury releases everything that an ended guest held.
func (h *Handler) bury(ctx context.Context, key guest.Key, phase corev1.PodPhase) error {
	name := key.Namespace + "/" + key.Name
	if g := h.guest(name); g != nil && g.Key() == key {
		if err := h.stopGuest(name); err != nil {
			return err
		}
	}
	h.forgetPowerState(key.UID)
	if err := h.releaseVolumes(ctx, key.UID); err != nil {
		return err
	}
	pods, err := h.launchers(name, key.UID, true)
	if err != nil {
		return err
	}
	return h.endLaunchers(ctx, pods, phase)
}

// writeStatus stores a changed status. A conflict is no error: the newer
// version of the VMI is on its way here.
func (h *Handler) writeStatus(ctx context.Context, raw *unstructured.Unstructured, vmi *virtv1.VirtualMachineInstance, status virtv1.VirtualMachineInstanceStatus) error {
	if equality.Semantic.DeepEqual(vmi.Status, status) {
		return nil
	}
	content, err := asJSON(status)
	if err != nil {
		return fmt.Errorf("encode the status: %w", err)
	}
	updated := raw.DeepCopy()
	updated.Object["status"] = content
	_, err = h.vmis.Resource(vmiResource).Namespace(vmi.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update the status: %w", err)
	}
	return nil
}

// asJSON turns a typed value into the maps, slices and numbers of an unstructured object.
func asJSON(value any) (map[string]any, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	content := map[string]any{}
	err = json.Unmarshal(data, &content)
	return content, err
}

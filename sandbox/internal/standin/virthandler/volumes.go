// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	virtv1 "kubevirt.io/api/core/v1"
)

// holderPrefix begins the attachment tickets of guests at Longhorn; the VMI's UID follows.
const holderPrefix = "sandbox-guest-"

// attachTimeout bounds one try to attach a volume; the VMI comes back for the next.
const attachTimeout = 20 * time.Second

func longhornResource(plural string) (resource schema.GroupVersionResource, namespace string) {
	return schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: plural}, "longhorn-system"
}

// attachVolumes attaches the Longhorn volumes behind a VMI's claims, as the
// attacher does for the pod that uses them, and takes back those that were
// unplugged. It returns the names of the VMI's volumes that the guest has.
func (h *Handler) attachVolumes(ctx context.Context, vmi *virtv1.VirtualMachineInstance) (map[string]bool, error) {
	plugged := map[string]bool{}
	for _, status := range vmi.Status.VolumeStatus {
		if status.HotplugVolume != nil {
			plugged[status.Name] = status.HotplugVolume.AttachPodUID != ""
		}
	}
	attached, held := map[string]bool{}, map[string]bool{}
	for _, volume := range vmi.Spec.Volumes {
		claim := claimName(volume)
		if claim == "" {
			attached[volume.Name] = true
			continue
		}
		if ready, hotplugged := plugged[volume.Name]; hotplugged && !ready {
			continue // its attachment pod is not there yet
		}
		longhornVolume, err := h.attach(ctx, vmi, claim)
		if err != nil {
			return nil, fmt.Errorf("volume %s, PVC %s/%s: %w", volume.Name, vmi.Namespace, claim, err)
		}
		attached[volume.Name], held[longhornVolume] = true, true
	}
	return attached, h.release(ctx, holderPrefix+string(vmi.UID), held)
}

// claimName is the PVC behind a volume; empty for volumes without one.
func claimName(volume virtv1.Volume) string {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName
	case volume.DataVolume != nil:
		return volume.DataVolume.Name
	}
	return ""
}

func (h *Handler) attach(ctx context.Context, vmi *virtv1.VirtualMachineInstance, claim string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	volume, err := h.disks.Volume(ctx, vmi.Namespace, claim)
	if err != nil {
		return "", err
	}
	holder := holderPrefix + string(vmi.UID)
	if vmi.IsRunning() {
		holds, err := h.holds(ctx, volume, holder)
		if err != nil || holds {
			return volume, err
		}
	}
	resource, namespace := longhornResource("volumes")
	object, err := h.cluster.Resource(resource).Namespace(namespace).Get(ctx, volume, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	// Longhorn's own attach call refuses these for the same reason: the content is not there yet.
	if restoring(object) {
		return "", errors.New("the volume is being restored")
	}
	return volume, h.disks.Attach(ctx, volume, holder)
}

func restoring(volume *unstructured.Unstructured) bool {
	if required, _, _ := unstructured.NestedBool(volume.Object, "status", "restoreRequired"); required {
		return true
	}
	source, _, _ := unstructured.NestedString(volume.Object, "spec", "dataSource")
	if state, _, _ := unstructured.NestedString(volume.Object, "status", "cloneStatus", "state"); source != "" && state != "completed" {
		return true
	}
	conditions, _, _ := unstructured.NestedSlice(volume.Object, "status", "conditions")
	for _, c := range conditions {
		if condition, _ := c.(map[string]any); condition["type"] == "Restore" && condition["status"] == "True" {
			return true
		}
	}
	return false
}

func (h *Handler) holds(ctx context.Context, volume, holder string) (bool, error) {
	resource, namespace := longhornResource("volumeattachments")
	attachment, err := h.cluster.Resource(resource).Namespace(namespace).Get(ctx, volume, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	_, found, err := unstructured.NestedMap(attachment.Object, "spec", "attachmentTickets", holder)
	return found, err
}

// releaseVolumes detaches everything that a guest held.
func (h *Handler) releaseVolumes(ctx context.Context, uid string) error {
	return h.release(ctx, holderPrefix+uid, nil)
}

// release takes back the tickets of holder on all volumes but those in keep.
func (h *Handler) release(ctx context.Context, holder string, keep map[string]bool) error {
	return h.releaseMatching(ctx, func(volume, ticket string) bool { return ticket == holder && !keep[volume] })
}

// releaseOrphans takes back the tickets of guests whose VMI went away or ended
// while the stand-in was down.
func (h *Handler) releaseOrphans(ctx context.Context) error {
	live := map[string]bool{}
	for _, object := range h.store.List() {
		if vmi, ok := object.(*unstructured.Unstructured); ok {
			live[holderPrefix+string(vmi.GetUID())] = true
		}
	}
	return h.releaseMatching(ctx, func(_, ticket string) bool {
		return strings.HasPrefix(ticket, holderPrefix) && !live[ticket]
	})
}

func (h *Handler) releaseMatching(ctx context.Context, match func(volume, ticket string) bool) error {
	resource, namespace := longhornResource("volumeattachments")
	list, err := h.cluster.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil // no Longhorn, no volumes
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, attachment := range list.Items {
		tickets, _, err := unstructured.NestedMap(attachment.Object, "spec", "attachmentTickets")
		errs = append(errs, err)
		for ticket := range tickets {
			if !match(attachment.GetName(), ticket) {
				continue
			}
			err := h.disks.Detach(ctx, attachment.GetName(), ticket)
			if !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// volumeClaim finds the PVC behind the disk of a VMI by the disk's name.
func volumeClaim(vmi *virtv1.VirtualMachineInstance, disk string) (types.NamespacedName, error) {
	var names []string
	for _, volume := range vmi.Spec.Volumes {
		claim := claimName(volume)
		if claim == "" {
			continue
		}
		if volume.Name == disk {
			return types.NamespacedName{Namespace: vmi.Namespace, Name: claim}, nil
		}
		names = append(names, volume.Name)
	}
	return types.NamespacedName{}, fmt.Errorf("VMI %s/%s has no disk %q on a PVC (it has %s)",
		vmi.Namespace, vmi.Name, disk, strings.Join(names, ", "))
}

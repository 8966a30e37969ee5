// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"fmt"
	"net/url"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// step is the step in which an image is followed.
const stepImport = "import"

// follow tells how an image comes in until a replica of it is ready, and fails when
// its import has.
func (i *Images) follow(ctx context.Context, c *creation, events *flow.Events) error {
	if c.byHarvester {
		return i.followVMImage(ctx, c, stepImport, events)
	}
	return i.FollowBacking(ctx, c.backing, stepImport, events)
}

// FollowBacking waits until a replica of a backing image is ready. Each disk's copy
// is told as a volume of the step.
func (i *Images) FollowBacking(ctx context.Context, name, step string, events *flow.Events) error {
	inv := &inventory{}
	if nodes, err := i.clients.Longhorn.LonghornV1beta2().Nodes(kube.LonghornNamespace).List(ctx, metav1.ListOptions{}); err == nil {
		inv.nodes = nodes.Items // they only say where a disk is
	}
	told := map[string]vmbackup.ImageReplica{}
	images := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace)
	return kube.WaitFor(ctx, kube.One(images, name), "backing image "+name, func(bi *longhornv1.BackingImage) (bool, error) {
		view := inv.backingView(bi)
		tell(view, step, events, told)
		switch view.Status.Phase {
		case vmbackup.ImageImported:
			return true, nil
		case vmbackup.ImageFailed:
			return false, view.Status.Error
		case vmbackup.ImageDeleting:
			return false, vmbackup.Errorf(vmbackup.ReasonConflict, "image %s is being deleted by somebody", view.Ref())
		}
		return false, nil
	})
}

// tell tells of the replicas that have moved.
func tell(view *vmbackup.Image, step string, events *flow.Events, told map[string]vmbackup.ImageReplica) {
	moved := false
	for _, r := range view.Status.Replicas {
		if told[r.Disk] == r {
			continue
		}
		told[r.Disk], moved = r, true
		total := view.Status.SizeBytes
		events.Volume(step, cmp.Or(r.Node, r.Disk), r.State, r.Progress, total*int64(r.Progress)/100, total, r.Message)
	}
	if moved && !view.Status.Ready {
		events.Step(step, vmbackup.StateRunning, fmt.Sprintf("%d %%, %d of %d replicas ready", view.Status.Progress, view.Status.ReadyReplicas, view.Status.TotalReplicas))
	}
}

// followVMImage waits until Harvester says that its image is imported and a replica
// of its backing image is ready, or that it has given up.
func (i *Images) followVMImage(ctx context.Context, c *creation, step string, events *flow.Events) error {
	told := map[string]vmbackup.ImageReplica{}
	progress := -1
	images := i.clients.Harvester.Images(c.req.Namespace)
	return kube.WaitFor(ctx, kube.One(images, c.req.Name), "VirtualMachineImage "+c.req.Ref().String(), func(vmi *harvester.VirtualMachineImage) (bool, error) {
		inv := &inventory{}
		bi, err := i.backingOfVM(ctx, vmi)
		if err != nil {
			return false, err
		}
		if bi == nil {
			inv.unseen = []string{kindBackingImages}
		}
		view := inv.harvesterView(vmi, bi)
		tell(view, step, events, told)
		imported, _ := harvester.FindCondition(vmi.Status.Conditions, harvester.ConditionImported)
		switch {
		case imported.Status == "True" && (view.Status.Ready || bi == nil):
			return true, nil
		case view.Status.Phase == vmbackup.ImageFailed:
			return false, view.Status.Error
		case view.Status.Phase == vmbackup.ImageDeleting:
			return false, vmbackup.Errorf(vmbackup.ReasonConflict, "image %s is being deleted by somebody", view.Ref())
		}
		if vmi.Status.Progress != progress {
			progress = vmi.Status.Progress
			events.Step(step, vmbackup.StateRunning, fmt.Sprintf("%d %%", min(progress, 99)))
		}
		return false, nil
	})
}

// backingOfVM reads the backing image of Harvester's image; nil when there is none,
// or it may not be seen.
func (i *Images) backingOfVM(ctx context.Context, vmi *harvester.VirtualMachineImage) (*longhornv1.BackingImage, error) {
	name := "vmi-" + string(vmi.UID)
	if u, err := url.Parse(vmi.Spec.URL); err == nil && vmi.Spec.SourceType == string(vmbackup.ImageRestore) {
		name = cmp.Or(u.Query().Get("backingImage"), name) // Harvester keeps the name that it had
	}
	bi, err := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return bi, nil
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		return nil, nil //nolint:nilnil // an image without one that is seen is told by Harvester's word
	}
	return nil, kube.Error(err, "read", "the backing image of VirtualMachineImage "+vmi.Namespace+"/"+vmi.Name)
}

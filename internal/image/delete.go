// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// deletion is what is removed of an image.
type deletion struct{ image *vmbackup.Image }

// PlanDelete implements vmbackup.Images.
func (i *Images) PlanDelete(ctx context.Context, ref vmbackup.Ref) (*vmbackup.ImagePlan, error) {
	return preflight(i.planDelete(ctx, ref))
}

func (i *Images) planDelete(ctx context.Context, ref vmbackup.Ref) (*vmbackup.ImagePlan, error) {
	image, err := i.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := unused(image); err != nil {
		return nil, err
	}
	if err := i.notUploaded(ctx, image); err != nil {
		return nil, err
	}
	d := &deletion{image: image}
	p := &vmbackup.ImagePlan{Image: image, State: d}
	gone := func(api, kind, namespace, name, note string) {
		if name != "" {
			p.Objects = append(p.Objects, vmbackup.PlannedObject{Action: vmbackup.ActionDelete, APIVersion: api, Kind: kind, Namespace: namespace, Name: name, Note: note})
		}
	}
	var wanted []kube.Right
	s := &image.Status
	if s.Engine == vmbackup.EngineHarvester {
		gone(harvester.GroupVersion().String(), "VirtualMachineImage", image.Metadata.Namespace, image.Metadata.Name, "")
		gone("storage.k8s.io/v1", "StorageClass", "", s.StorageClass, "by Harvester")
		gone("longhorn.io/v1beta2", "BackingImage", kube.LonghornNamespace, s.BackingImage, "by Harvester")
		p.Warnings = append(p.Warnings, "Harvester removes the image's description from the backup target too; its backup there can then be restored by the name of the backing image")
		wanted = []kube.Right{{Verb: "delete", Group: harvester.Group, Resource: harvester.ImageResource, Namespace: image.Metadata.Namespace}}
	} else {
		gone("storage.k8s.io/v1", "StorageClass", "", s.StorageClass, "")
		gone("longhorn.io/v1beta2", "BackingImage", kube.LonghornNamespace, s.BackingImage, "")
		wanted = []kube.Right{{Verb: "delete", Group: "longhorn.io", Resource: "backingimages", Namespace: kube.LonghornNamespace}}
		if s.StorageClass != "" {
			wanted = append(wanted, kube.Right{Verb: "delete", Group: "storage.k8s.io", Resource: "storageclasses"})
		}
	}
	switch s.Backup.State {
	case vmbackup.StateReady:
		p.Warnings = append(p.Warnings, "its backup on target "+s.Backup.Target+" stays; the image comes back from there with: "+restoreCommand(image))
	case vmbackup.StateUnknown:
		p.Warnings = append(p.Warnings, "whether it is on a backup target is not known")
	default:
		p.Warnings = append(p.Warnings, "it has no complete backup: it is gone for good then, and with it what backups of volumes need that rest on it")
	}
	p.Warnings = append(p.Warnings, s.Warnings...)
	missing, err := i.clients.MissingRights(ctx, image.Metadata.Namespace, wanted)
	if err != nil {
		return nil, err
	}
	if err := kube.ForbiddenWithout(missing, image.Metadata.Namespace); err != nil {
		return nil, err
	}
	p.Steps = flow.Statuses(d.steps(i, nil))
	return p, nil
}

// restoreCommand is the command that brings an image back from its backup. Harvester
// takes the description from the target with the image.
func restoreCommand(image *vmbackup.Image) string {
	if image.Metadata.Namespace == "" || image.Status.Engine == vmbackup.EngineHarvester {
		return "kubectl vmbackup image restore " + image.Status.BackingImage + " --to NAME"
	}
	return "kubectl vmbackup image restore " + image.Metadata.Name + " -n " + image.Metadata.Namespace
}

// unused refuses the deletion of an image that something rests on, or that may be
// rested on: what the user may not see is taken for a user.
func unused(image *vmbackup.Image) error {
	u := &image.Status.Users
	if !u.None() {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "image %s is in use and is not deleted: %s", image.Ref(), users(u)).
			WithHint("remove these first; see all of them with: kubectl vmbackup image describe %s", image.Status.BackingImage)
	}
	for _, kind := range u.Unseen {
		if kind == kindVolumes || kind == kindClaims {
			return vmbackup.Errorf(vmbackup.ReasonForbidden, "whether image %s is in use is not known: you may not see %s", image.Ref(), kind).
				WithHint("ask for the role vmbackup-images of docs/rbac.yaml, and look again")
		}
	}
	return nil
}

// notUploaded refuses the deletion of an image whose content arrives just now, or has
// arrived and is not in its place yet: Longhorn never comes to the end of that. An
// upload that nobody sends any more has failed.
func (i *Images) notUploaded(ctx context.Context, image *vmbackup.Image) error {
	if image.Spec.Source.Type != vmbackup.ImageUpload || image.Status.Phase != vmbackup.ImageInProgress {
		return nil
	}
	source, err := i.clients.Longhorn.LonghornV1beta2().BackingImageDataSources(kube.LonghornNamespace).Get(ctx, image.Status.BackingImage, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		return nil
	case err != nil:
		return kube.Error(err, "read", "Longhorn BackingImageDataSource "+image.Status.BackingImage)
	}
	switch source.Status.CurrentState {
	case longhornv1.BackingImageStateInProgress, longhornv1.BackingImageStateReadyForTransfer, longhornv1.BackingImageStateReady:
	default:
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "image %s is being uploaded and is not deleted: Longhorn would never come to the end of the deletion", image.Ref()).
		WithHint("end the upload, with Ctrl-C where it runs, or wait for its end; then run the same command again")
}

// steps implements operation. The class goes first, so that nobody makes a volume of
// an image that is about to go.
func (d *deletion) steps(i *Images, _ *flow.Events) []flow.Step {
	s := &d.image.Status
	if s.Engine == vmbackup.EngineHarvester {
		return []flow.Step{{ID: "image", Title: "Have Harvester delete the image", Ensure: func(ctx context.Context) error {
			return i.removeVMImage(ctx, d.image.Ref())
		}}}
	}
	var steps []flow.Step
	if s.StorageClass != "" {
		steps = append(steps, flow.Step{ID: "class", Title: "Delete the StorageClass", Ensure: func(ctx context.Context) error { return i.removeClass(ctx, s.StorageClass) }})
	}
	return append(steps, flow.Step{ID: "image", Title: "Delete the backing image", Ensure: func(ctx context.Context) error {
		now, err := i.Get(ctx, d.image.Ref())
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unused(now); err != nil { // since it was looked at
			return err
		}
		return i.removeBacking(ctx, s.BackingImage)
	}})
}

// removeClass deletes a StorageClass.
func (i *Images) removeClass(ctx context.Context, name string) error {
	classes := i.clients.Core.StorageV1().StorageClasses()
	there, err := classes.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return kube.Error(err, "read", "StorageClass "+name)
	}
	return kube.Error(remove(ctx, there.UID, classes.Delete, name), "delete", "StorageClass "+name)
}

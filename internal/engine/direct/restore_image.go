// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"slices"

	storagev1 "k8s.io/api/storage/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/image"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// images are those of the cluster. Where Harvester's controllers work an image is left
// to them whoever restores the machine: they replace what they have not made.
func (e *Engine) images() *image.Images {
	return image.New(e.clients, image.OpenTarget(e.target), "", e.clock)
}

// recallImages plans to bring back from the target the backing images that the volumes
// rest on and the cluster lacks: Longhorn's driver makes no volume without them. Those
// that the target does not have are refused with the volume (checkImage).
func (e *Engine) recallImages(ctx context.Context, d *destination, backup *vmbackup.Backup) error {
	if backup.Spec.Type != vmbackup.TypeBackup {
		return nil
	}
	d.recalled = map[string]error{}
	for _, v := range backup.Status.Volumes {
		found, known := d.images[v.Image]
		if _, seen := d.recalled[v.Image]; v.Image == "" || !known || found != nil || seen {
			continue
		}
		r, err := e.images().PlanRecall(ctx, v.Image, backup.Spec.Target)
		switch vmbackup.ReasonOf(err) {
		case "":
			d.newImages = append(d.newImages, *r)
		case vmbackup.ReasonCanceled, vmbackup.ReasonTimeout, vmbackup.ReasonEngineUnavailable:
			return err
		}
		d.recalled[v.Image] = err
	}
	// A class that comes back with its image is not this engine's to make.
	d.newClasses = slices.DeleteFunc(d.newClasses, func(c storagev1.StorageClass) bool {
		return slices.ContainsFunc(d.newImages, func(r image.Recall) bool { return r.StorageClass() == c.Name })
	})
	return nil
}

// recalledImages are the planned objects of the images.
func (d *destination) recalledImages() (objects []vmbackup.PlannedObject) {
	for i := range d.newImages {
		r := &d.newImages[i]
		note := "restored from the target, since volumes rest on it"
		if r.ByHarvester {
			note += "; by Harvester, with its StorageClass, as image " + r.Image.String()
		}
		objects = append(objects, vmbackup.PlannedObject{Action: vmbackup.ActionCreate, APIVersion: longhornAPI, Kind: "BackingImage", Namespace: kube.LonghornNamespace, Name: r.Name, Note: note})
	}
	return objects
}

// recallsImages adds the step that brings back images, where there are any to bring back.
func (r *restoreRun) recallsImages(steps []flow.Step) []flow.Step {
	if len(r.record.Images) == 0 {
		return steps
	}
	return append(steps, flow.Step{ID: "images", Title: "Bring back the images below the volumes", Ensure: r.ensureImages})
}

func (r *restoreRun) ensureImages(ctx context.Context) error {
	if r.record.DataRestored {
		return nil
	}
	for i := range r.record.Images {
		if err := r.engine.images().Recall(ctx, &r.record.Images[i], "images", r.events); err != nil {
			return err
		}
	}
	return nil
}

// checkImages refuses images in a record that no restore would have written there.
func (r *restoreRecord) checkImages() error {
	for i := range r.Images {
		named := r.Images[i].Name
		if !metadata.IsStoreName(named) || !slices.ContainsFunc(r.Backup.Status.Volumes, func(v vmbackup.BackupVolume) bool { return v.Image == named }) {
			return fmt.Errorf("images[%d]: no volume rests on backing image %q", i, named)
		}
		if ref := r.Images[i].Image; ref.Name != "" && (!isName(ref.Name) || !isName(ref.Namespace)) {
			return fmt.Errorf("images[%d]: %q is no name of an image", i, ref)
		}
	}
	return nil
}

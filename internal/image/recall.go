// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Recall is a backing image that comes back under its own name, because volumes'
// backups rest on it. It says all that a run needs to know.
type Recall struct {
	// Name is the backing image's, in Longhorn and on the target.
	Name   string `json:"name"`
	Target string `json:"target"`
	// URL names its backup on the target, Checksum is the SHA-512 of the content, if
	// anybody tells.
	URL      string `json:"url"`
	Checksum string `json:"checksum,omitempty"`
	// Image is the image that it was, without a name where no description of it is on
	// the target.
	Image       vmbackup.Ref `json:"image,omitzero"`
	DisplayName string       `json:"displayName,omitempty"`
	// ByHarvester leaves it to Harvester, which replaces what it has not made itself.
	ByHarvester bool `json:"byHarvester,omitempty"`
	// Parameters are those of the StorageClass that the image had.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// StorageClass is the class that comes back with the image; empty when that is left
// to somebody else.
func (r *Recall) StorageClass() string {
	if !r.ByHarvester {
		return ""
	}
	return "lh-" + strings.TrimPrefix(r.Name, "vmi-")
}

// PlanRecall looks on the target for the backup of a backing image that the cluster
// does not have, and for the user's rights to bring it back. It changes nothing.
func (i *Images) PlanRecall(ctx context.Context, name, targetName string) (*Recall, error) {
	found, err := i.onTarget(ctx, vmbackup.Ref{Name: name}, targetName)
	if err != nil {
		return nil, err
	}
	r := &Recall{Name: name, Target: targetName, URL: found.url, Checksum: found.checksum}
	d, err := i.descriptionBy(ctx, name, targetName)
	if err != nil {
		return nil, err
	}
	if d != nil {
		r.Image, r.DisplayName, r.Parameters = d.Ref(), d.DisplayName, d.StorageClassParameters
		if r.Checksum == "" {
			r.Checksum = d.Checksum
		}
		if r.ByHarvester, err = i.byHarvester(ctx); err != nil {
			return nil, err
		}
	}
	wanted := []kube.Right{{Verb: "create", Group: "longhorn.io", Resource: "backingimages", Namespace: kube.LonghornNamespace}}
	if r.ByHarvester {
		if err := i.namespaceExists(ctx, r.Image.Namespace); err != nil {
			return nil, err
		}
		wanted = []kube.Right{{Verb: "create", Group: harvester.Group, Resource: harvester.ImageResource, Namespace: r.Image.Namespace}}
		taken, err := i.clients.Harvester.Images(r.Image.Namespace).Get(ctx, r.Image.Name, metav1.GetOptions{})
		if err == nil && taken.Spec.URL != r.URL {
			return nil, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "Harvester has another image %s than the one on target %s", r.Image, targetName)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, kube.Error(err, "read", "VirtualMachineImage "+r.Image.String())
		}
	}
	missing, err := i.clients.MissingRights(ctx, kube.LonghornNamespace, wanted)
	if err != nil {
		return nil, err
	}
	return r, kube.ForbiddenWithout(missing, kube.LonghornNamespace)
}

// descriptionBy finds the description of the image whose backing image has the name;
// nil for none. What cannot be read is somebody else's trouble.
func (i *Images) descriptionBy(ctx context.Context, name, targetName string) (*metadata.HarvesterImage, error) {
	store, err := i.open(ctx, targetName)
	if err != nil {
		return nil, err
	}
	keys, err := i.descriptionKeys(ctx, store)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		content, err := store.Get(ctx, key, descriptionLimit)
		if err != nil {
			if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound || vmbackup.ReasonOf(err) == vmbackup.ReasonInvalidRequest {
				continue
			}
			return nil, err
		}
		d, err := metadata.DecodeHarvesterImage(key, content)
		if err != nil {
			continue // a damaged file of another image hides nothing
		}
		if backing, err := d.BackingImage(); err == nil && backing == name {
			return d, nil
		}
	}
	return nil, nil
}

// Recall brings a backing image back and waits until a replica of it is ready. One
// that is there by now is only waited for.
func (i *Images) Recall(ctx context.Context, r *Recall, step string, events *flow.Events) error {
	c := &creation{
		restored: &onTarget{backing: r.Name, url: r.URL, checksum: r.Checksum, description: &metadata.HarvesterImage{StorageClassParameters: r.Parameters}},
		target:   r.Target, backing: r.Name, byHarvester: r.ByHarvester,
		req: vmbackup.ImageRequest{
			Namespace: r.Image.Namespace, Name: r.Image.Name, DisplayName: r.DisplayName, Checksum: r.Checksum,
			Source: vmbackup.ImageSource{Type: vmbackup.ImageRestore, Backup: r.URL},
		},
	}
	_, err := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace).Get(ctx, r.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		return i.FollowBacking(ctx, r.Name, step, events)
	case !apierrors.IsNotFound(err):
		return kube.Error(err, "read", "Longhorn BackingImage "+r.Name)
	case r.ByHarvester:
		if err := i.ensureVMImage(ctx, c); err != nil {
			return err
		}
		return i.followVMImage(ctx, c, step, events)
	}
	classes, err := i.clients.Core.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return kube.Error(err, "list", "StorageClasses")
	}
	c.settle(classes.Items)
	if err := i.ensureBacking(ctx, c); err != nil {
		return err
	}
	return i.FollowBacking(ctx, r.Name, step, events)
}

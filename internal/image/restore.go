// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// onTarget is the backup of an image as it lies on a target.
type onTarget struct {
	description *metadata.HarvesterImage
	// backing is the name of the backing image whose backup it is.
	backing string
	// url names the backup on the target as this cluster's Longhorn knows it.
	url string
	// checksum is the SHA-512 of the content; empty when nobody tells.
	checksum string
}

// PlanRestore implements vmbackup.Images.
func (i *Images) PlanRestore(ctx context.Context, req vmbackup.ImageRestoreRequest) (*vmbackup.ImagePlan, error) {
	return preflight(i.planRestore(ctx, req))
}

func (i *Images) planRestore(ctx context.Context, req vmbackup.ImageRestoreRequest) (*vmbackup.ImagePlan, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	found, err := i.onTarget(ctx, req.Image, req.Target)
	if err != nil {
		return nil, err
	}
	to := req.To
	if to.Name == "" {
		to = req.Image
	}
	c := &creation{restored: found, target: req.Target, req: vmbackup.ImageRequest{
		Namespace: to.Namespace, Name: to.Name, DisplayName: to.Name, StorageClass: req.StorageClass, Checksum: found.checksum,
		Source: vmbackup.ImageSource{Type: vmbackup.ImageRestore, Backup: found.url},
	}}
	if found.description != nil && found.description.DisplayName != "" {
		c.req.DisplayName = found.description.DisplayName
	}
	return i.planMaking(ctx, c)
}

// onTarget finds the backup of an image on a target: by the image's description there,
// else by the name of its backing image.
func (i *Images) onTarget(ctx context.Context, ref vmbackup.Ref, targetName string) (*onTarget, error) {
	store, err := i.open(ctx, targetName)
	if err != nil {
		return nil, err
	}
	bt, err := i.clients.ReadBackupTarget(ctx, targetName)
	if err != nil {
		return nil, err
	}
	found := &onTarget{backing: ref.Name}
	key := metadata.HarvesterImageKey(ref)
	var content []byte
	if ref.Namespace != "" { // else it is the name of a backing image
		content, err = store.Get(ctx, key, descriptionLimit)
	}
	switch {
	case ref.Namespace == "":
	case err == nil:
		if found.description, err = metadata.DecodeHarvesterImage(key, content); err != nil {
			return nil, err
		}
		if found.backing, err = found.description.BackingImage(); err != nil {
			return nil, err
		}
		found.checksum = found.description.Checksum
	case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
		return nil, err
	}
	if found.url, err = backupURL(bt.URL, found.backing); err != nil {
		return nil, err
	}
	if _, err := store.Stat(ctx, target.BackingImageConfigKey(found.backing)); err != nil {
		if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return nil, err
		}
		if found.description != nil {
			return nil, target.MissingData(ctx, store, "the description of image "+ref.String()+" is on "+store.String()+", the backup of its backing image "+found.backing+" is not",
				"look for the image on another target, or import it again with: kubectl vmbackup image create")
		}
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "target %s holds neither an image %s nor a backing image of that name", targetName, ref).
			WithHint("see what Longhorn finds there with: kubectl get backupbackingimages.longhorn.io -n longhorn-system")
	}
	if b, err := i.backupOn(ctx, found.backing, targetName); err == nil && b != nil && b.Status.State == longhornv1.BackupStateCompleted {
		if b.Status.Checksum != "" {
			found.checksum = b.Status.Checksum
		}
	}
	return found, nil
}

// nameRestored chooses the names of an image that comes back: those that it had, where
// they are free or its own, others else.
func (c *creation) nameRestored(inv *inventory) error {
	c.backing = c.restored.backing
	if taken := inv.backing(c.backing); taken != nil && c.there == nil {
		c.backing = "vmi-" + string(uuid.NewUUID())
		c.warn("backing image %s exists already, so that this one is called %s: volumes' backups that rest on it are restored on the one that exists", c.restored.backing, c.backing)
	}
	if c.there != nil {
		c.backing = c.there.Status.BackingImage
	}
	wanted := c.req.StorageClass
	if wanted == "" && c.there != nil {
		wanted = c.there.Status.StorageClass
	}
	usual := ClassName(c.req.Name)
	names := []string{usual, usual + "-" + short(c.backing)}
	if wanted != "" {
		names = []string{wanted}
	}
	for _, name := range names {
		at := slices.IndexFunc(inv.classes, func(s storagev1.StorageClass) bool { return s.Name == name })
		if at < 0 {
			c.class = name
			break
		}
		if s := &inv.classes[at]; c.isOwn(s) {
			c.class, c.classThere, c.backing = name, true, s.Parameters[parameterImage]
			break
		}
	}
	if c.class == "" {
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "StorageClass %s exists and is not of image %s", names[len(names)-1], c.req.Ref()).
			WithHint("give the image's StorageClass another name: --storage-class NAME")
	}
	if wanted == "" && c.class != usual {
		c.warn("StorageClass %s is of something else, so that this one is called %s", usual, c.class)
	}
	c.settle(inv.classes)
	return nil
}

// isOwn reports whether a StorageClass is of this image.
func (c *creation) isOwn(s *storagev1.StorageClass) bool {
	return s.Provisioner == Driver && s.Parameters[parameterImage] != "" &&
		(s.Annotations[AnnotationImage] == c.req.Ref().String() || c.there != nil && s.Parameters[parameterImage] == c.there.Status.BackingImage)
}

// short is the end of a backing image's name, enough to tell classes apart.
func short(name string) string {
	const n = 8
	return strings.Trim(name[max(0, len(name)-n):], "-.")
}

// backing is a backing image by its name; nil for none.
func (inv *inventory) backing(name string) *longhornv1.BackingImage {
	for n := range inv.images {
		if inv.images[n].Name == name {
			return &inv.images[n]
		}
	}
	return nil
}

// describedParameters are the parameters that the class of the image had.
func (c *creation) describedParameters() map[string]string {
	if c.restored == nil || c.restored.description == nil || len(c.restored.description.StorageClassParameters) == 0 {
		return nil
	}
	p := maps.Clone(c.restored.description.StorageClassParameters)
	for key := range p {
		if strings.HasPrefix(key, "backingImage") || strings.HasPrefix(key, "csi.storage.k8s.io/") || key == "encrypted" {
			delete(p, key)
		}
	}
	if n, err := strconv.Atoi(p[parameterReplicas]); err != nil || n < 1 || n > vmbackup.MaxImageReplicas {
		p[parameterReplicas] = "3"
	}
	return p
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// descriptionLimit is the largest description of an image that is read, in bytes.
const descriptionLimit = 1 << 20

// harvesterPatience is how long Harvester is given to write a description itself.
const harvesterPatience = 20 * time.Second

func metadataKey(ref vmbackup.Ref) string { return metadata.HarvesterImageKey(ref) }

// describe writes the image's description beside its backup, in Harvester's format,
// reads it back and compares. Harvester writes those of its own images, and notes
// that it has: it is left to it where it does.
func (i *Images) describe(ctx context.Context, image *vmbackup.Image, targetName string) error {
	store, err := i.open(ctx, targetName)
	if err != nil {
		return describeFailed(image, err)
	}
	if image.Status.Engine == vmbackup.EngineHarvester {
		if err := i.awaitHarvester(ctx, image); err != nil {
			return err
		}
	}
	wanted, err := i.descriptionOf(ctx, image, targetName)
	if err != nil {
		return describeFailed(image, err)
	}
	content, err := metadata.EncodeHarvesterImage(wanted)
	if err != nil {
		return describeFailed(image, err)
	}
	have, err := store.Get(ctx, keyOf(image), descriptionLimit)
	if err == nil && bytes.Equal(have, content) {
		return nil
	}
	if err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		return describeFailed(image, err)
	}
	if err := target.PutChecked(ctx, store, keyOf(image), content); err != nil {
		return describeFailed(image, err)
	}
	return nil
}

// awaitHarvester waits until Harvester says that it has written the description, for a
// while: it does so only for the target of its own setting.
func (i *Images) awaitHarvester(ctx context.Context, image *vmbackup.Image) error {
	setting, err := i.clients.Harvester.Settings().Get(ctx, harvester.BackupTargetSetting, metav1.GetOptions{})
	if err != nil {
		return nil // what it would do is not known; what is missing is written here
	}
	if t, err := harvester.DecodeTarget(setting); err != nil || t.URL() == "" {
		return nil // it has no target
	}
	patient, cancel := context.WithTimeout(ctx, harvesterPatience)
	defer cancel()
	images := i.clients.Harvester.Images(image.Metadata.Namespace)
	err = kube.WaitFor(patient, kube.One(images, image.Metadata.Name), "Harvester's description of image "+image.Ref().String(), func(vmi *harvester.VirtualMachineImage) (bool, error) {
		c, _ := harvester.FindCondition(vmi.Status.Conditions, harvester.ConditionMetadataReady)
		return c.Status == metav1.StatusSuccess || c.Status == "True", nil
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

// descriptionOf is what the description says, as Harvester would write it.
func (i *Images) descriptionOf(ctx context.Context, image *vmbackup.Image, targetName string) (*metadata.HarvesterImage, error) {
	b, err := i.backupOn(ctx, image.Status.BackingImage, targetName)
	if err != nil {
		return nil, err
	}
	d := &metadata.HarvesterImage{
		Name: image.Metadata.Name, Namespace: image.Metadata.Namespace, DisplayName: image.Spec.DisplayName, Checksum: image.Status.Checksum,
	}
	if b != nil {
		d.URL, d.Checksum = b.Status.URL, b.Status.Checksum
	}
	if d.DisplayName == "" {
		d.DisplayName = d.Name
	}
	if image.Status.Engine == vmbackup.EngineHarvester {
		vmi, err := i.clients.Harvester.Images(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return nil, kube.Error(err, "read", "VirtualMachineImage "+image.Ref().String())
		}
		d.Description, d.StorageClassParameters = vmi.Spec.Description, vmi.Spec.StorageClassParameters
		return d, nil
	}
	if image.Status.StorageClass != "" {
		class, err := i.clients.Core.StorageV1().StorageClasses().Get(ctx, image.Status.StorageClass, metav1.GetOptions{})
		if err != nil {
			return nil, kube.Error(err, "read", "StorageClass "+image.Status.StorageClass)
		}
		d.StorageClassParameters = map[string]string{}
		for key, value := range class.Parameters {
			// Harvester adds the backing image's name itself.
			if !strings.HasPrefix(key, "backingImage") {
				d.StorageClassParameters[key] = value
			}
		}
	}
	return d, nil
}

// Describe writes the description of the image that a backing image holds, which is on
// the target, unless Harvester does. One that belongs to no namespace has none.
func (i *Images) Describe(ctx context.Context, backing, targetName string) error {
	bi, err := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace).Get(ctx, backing, metav1.GetOptions{})
	if err != nil {
		return kube.Error(err, "read", "Longhorn BackingImage "+backing)
	}
	ref := refOf(bi)
	if ref.Namespace == "" {
		return nil
	}
	_, err = i.clients.Harvester.Images(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err == nil || apierrors.IsForbidden(err) {
		return nil // Harvester's, as far as the user may know
	}
	if !apierrors.IsNotFound(err) {
		return kube.Error(err, "read", "VirtualMachineImage "+ref.String())
	}
	image := (&inventory{}).backingView(bi)
	class, err := i.clients.Core.StorageV1().StorageClasses().Get(ctx, ClassName(ref.Name), metav1.GetOptions{})
	if err == nil && class.Parameters[parameterImage] == backing {
		image.Status.StorageClass = class.Name
	}
	return i.describe(ctx, image, targetName)
}

// descriptionKeys are the keys of the descriptions of images on a target.
func (i *Images) descriptionKeys(ctx context.Context, store target.Store) (keys []string, err error) {
	err = store.List(ctx, metadata.HarvesterImagePrefix, func(o target.Object) error {
		if kind, _, ok := metadata.ParseKey(o.Key); ok && kind == metadata.FileHarvesterImage {
			keys = append(keys, o.Key)
		}
		return nil
	})
	return keys, err
}

// backupURL names the backup of a backing image on a target, as Longhorn writes it.
func backupURL(targetURL, name string) (string, error) {
	u, err := url.Parse(targetURL)
	if err != nil {
		return "", vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "the URL of the backup target is none: %w", err)
	}
	q := u.Query()
	q.Add("backingImage", name)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"strconv"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// resolve finds what an image is made of: the Longhorn volume of a claim, or the backing
// image of another image. It refuses what Longhorn cannot make an image of.
func (i *Images) resolve(ctx context.Context, c *creation, inv *inventory) error {
	switch c.req.Source.Type {
	case vmbackup.ImageExport:
		return i.resolveClaim(ctx, c)
	case vmbackup.ImageClone:
		return c.resolveImage(inv)
	case vmbackup.ImageUpload:
		if c.req.Content == nil || c.req.Checksum == "" {
			return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "an upload needs its content, and the checksum of that")
		}
	}
	return nil
}

func (i *Images) resolveClaim(ctx context.Context, c *creation) error {
	ref, err := vmbackup.ParseRef(c.req.Source.Claim, c.req.Namespace)
	if err != nil {
		return err
	}
	claim, err := i.clients.Core.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no PersistentVolumeClaim %s to make an image of", ref).
			WithHint("see those there are with: kubectl get persistentvolumeclaims -n %s", ref.Namespace)
	}
	if err != nil {
		return kube.Error(err, "read", "PersistentVolumeClaim "+ref.String())
	}
	if claim.Spec.VolumeName == "" {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "PersistentVolumeClaim %s has no volume yet", ref).
			WithHint("see what it waits for with: kubectl describe persistentvolumeclaim %s -n %s", ref.Name, ref.Namespace)
	}
	pv, err := i.clients.Core.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return kube.Error(err, "read", "PersistentVolume "+claim.Spec.VolumeName)
	}
	unsupported := func(why string) error {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "no image can be made of PersistentVolumeClaim %s: %s", ref, why).
			WithHint("copy its data to a volume of Longhorn's data engine v1 that is not encrypted, and make the image of that")
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Driver {
		return unsupported("its volume is not Longhorn's")
	}
	volume, err := i.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace).Get(ctx, pv.Spec.CSI.VolumeHandle, metav1.GetOptions{})
	if err != nil {
		return kube.Error(err, "read", "Longhorn volume "+pv.Spec.CSI.VolumeHandle)
	}
	switch {
	case volume.Spec.Encrypted:
		return unsupported("its volume is encrypted, and the image would hold what nobody could read")
	case volume.Spec.DataEngine != "" && volume.Spec.DataEngine != longhornv1.DataEngineTypeV1:
		return unsupported("its volume is of Longhorn's data engine " + string(volume.Spec.DataEngine))
	case volume.Status.Robustness == longhornv1.VolumeRobustnessFaulted:
		return unsupported("its volume is faulted")
	}
	if volume.Status.State == longhornv1.VolumeStateAttached {
		c.warn("PersistentVolumeClaim %s is in use: the image holds its disk as after a power cut", ref)
	}
	c.req.Source.Claim, c.req.Source.Volume = ref.String(), volume.Name
	return nil
}

func (c *creation) resolveImage(inv *inventory) error {
	ref, err := vmbackup.ParseImageRef(c.req.Source.Image, c.req.Namespace)
	if err != nil {
		return err
	}
	if c.byHarvester {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "Harvester copies images only to encrypt or to decrypt them").
			WithHint("copy it without Harvester's controllers: --engine %s", vmbackup.EngineDirect)
	}
	from := find(inv.views(), ref)
	switch {
	case from == nil:
		return missing(ref)
	case from.Ref() == c.req.Ref():
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "image %s cannot be a copy of itself", from.Ref())
	case !from.Status.Ready || from.Status.BackingImage == "" || from.Status.Checksum == "":
		return vmbackup.Errorf(vmbackup.ReasonImageMissing, "image %s cannot be copied: it is %s", from.Ref(), words(from.Status.Phase)).
			WithHint("see why with: kubectl vmbackup image describe %s", from.Status.BackingImage)
	}
	if bi := inv.backing(from.Status.BackingImage); bi == nil || bi.Spec.Secret != "" {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "image %s is encrypted; a copy would need its key", from.Ref()).
			WithHint("copy it with Longhorn or Harvester, which ask for the key")
	}
	c.req.Source.Image = from.Status.BackingImage
	return nil
}

// parameters are Longhorn's of the source of a backing image.
func (c *creation) sourceParameters() map[string]string {
	s := c.req.Source
	switch s.Type {
	case vmbackup.ImageDownload:
		return map[string]string{longhornv1.DataSourceTypeDownloadParameterURL: s.URL}
	case vmbackup.ImageExport:
		return map[string]string{
			longhornv1.DataSourceTypeExportFromVolumeParameterVolumeName: s.Volume,
			longhornv1.DataSourceTypeExportParameterExportType:           "raw",
		}
	case vmbackup.ImageClone:
		return map[string]string{
			longhornv1.DataSourceTypeCloneParameterBackingImage: s.Image,
			longhornv1.DataSourceTypeCloneParameterEncryption:   "ignore",
		}
	case vmbackup.ImageRestore:
		return map[string]string{
			longhornv1.DataSourceTypeRestoreParameterBackupURL:        s.Backup,
			longhornv1.DataSourceTypeRestoreParameterBackupTargetName: c.target,
		}
	}
	return map[string]string{}
}

// differs says in what the source of an image that is there is another one than is
// asked for; empty for the same.
func (c *creation) sourceDiffers(have vmbackup.ImageSource) (what, is, wanted string) {
	want := c.req.Source
	for _, f := range []struct{ what, is, wanted string }{
		{"source", string(have.Type), string(want.Type)},
		{"URL", have.URL, redacted(want.URL)},
		{"claim", have.Claim, want.Claim},
		{"image", have.Image, want.Image},
		{"backup", have.Backup, redacted(want.Backup)},
	} {
		if f.is != f.wanted {
			return f.what, strconv.Quote(f.is), strconv.Quote(f.wanted)
		}
	}
	return "", "", ""
}

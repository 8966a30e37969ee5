// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"slices"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func createOptions() metav1.CreateOptions {
	return metav1.CreateOptions{FieldManager: kube.FieldManager}
}

// ensureClass makes the StorageClass, or takes the backing image's name from one
// that another run has made for the image.
func (i *Images) ensureClass(ctx context.Context, c *creation) error {
	classes := i.clients.Core.StorageV1().StorageClasses()
	there, err := classes.Get(ctx, c.class, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if there, err = classes.Create(ctx, c.storageClass(), createOptions()); apierrors.IsAlreadyExists(err) {
			there, err = classes.Get(ctx, c.class, metav1.GetOptions{})
		}
	}
	if err == nil && c.there == nil && there.Annotations[AnnotationImage] == c.req.Ref().String() && there.Parameters[parameterChecksum] != c.parameters[parameterChecksum] {
		// A run that was given up has left it before there was an image: nothing can be
		// made of it, and what it asks of the content is not what is asked for now.
		if err = remove(ctx, there.UID, classes.Delete, c.class); err == nil {
			there, err = classes.Create(ctx, c.storageClass(), createOptions())
		}
	}
	if err != nil {
		return kube.Error(err, "make", "StorageClass "+c.class)
	}
	named := there.Parameters[parameterImage]
	if named != c.backing && (named == "" || there.Annotations[AnnotationImage] != c.req.Ref().String()) {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "StorageClass %s was made by somebody else a moment ago, for another image", c.class).
			WithHint("give the image's StorageClass another name: --storage-class NAME")
	}
	c.backing, c.parameters = named, there.Parameters
	return nil
}

// ensureBacking makes the backing image. One of that name is this image: the
// StorageClass has given the name to it alone.
func (i *Images) ensureBacking(ctx context.Context, c *creation) error {
	images := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace)
	_, err := images.Get(ctx, c.backing, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if err := i.sourceGone(ctx, c.backing); err != nil {
			return err
		}
		if _, err = images.Create(ctx, c.backingImage(), createOptions()); apierrors.IsAlreadyExists(err) {
			return nil
		}
	}
	return kube.Error(err, "make", "Longhorn BackingImage "+c.backing)
}

// sourceGone waits until nothing is left of the source of an earlier backing image of
// the name: Longhorn would take the end of that one for the new one's. It goes by
// itself, a moment after its image. A user who may not see it is not held up.
func (i *Images) sourceGone(ctx context.Context, name string) error {
	sources := i.clients.Longhorn.LonghornV1beta2().BackingImageDataSources(kube.LonghornNamespace)
	what := "Longhorn BackingImageDataSource " + name
	_, err := sources.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return kube.Error(err, "read", what)
	}
	return kube.WaitGone[*longhornv1.BackingImageDataSource](ctx, kube.One(sources, name), "the end of "+what, "")
}

func (i *Images) ensureVMImage(ctx context.Context, c *creation) error {
	images := i.clients.Harvester.Images(c.req.Namespace)
	_, err := images.Get(ctx, c.req.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if _, err = images.Create(ctx, c.vmImage(), createOptions()); apierrors.IsAlreadyExists(err) {
			return nil
		}
	}
	return kube.Error(err, "create", "VirtualMachineImage "+c.req.Ref().String())
}

// clear removes an image that has failed, in which nothing is, and on which nothing
// rests. It is looked at once more: another run may have made it anew.
func (i *Images) clear(ctx context.Context, c *creation) error {
	now, err := i.Get(ctx, c.req.Ref())
	switch {
	case vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound:
		return nil
	case err != nil:
		return err
	case now.Status.Phase != vmbackup.ImageFailed && now.Status.Phase != vmbackup.ImageDeleting:
		return nil
	}
	if c.byHarvester {
		return i.removeVMImage(ctx, c.req.Ref())
	}
	return i.removeBacking(ctx, c.backing)
}

// removeBacking deletes a backing image and waits until it is gone.
func (i *Images) removeBacking(ctx context.Context, name string) error {
	images := i.clients.Longhorn.LonghornV1beta2().BackingImages(kube.LonghornNamespace)
	what := "Longhorn BackingImage " + name
	there, err := images.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return kube.Error(err, "read", what)
	}
	if err := remove(ctx, there.UID, images.Delete, name); err != nil {
		return kube.Error(err, "delete", what)
	}
	return kube.WaitGone[*longhornv1.BackingImage](ctx, kube.One(images, name), "the end of "+what, there.UID)
}

// removeVMImage deletes Harvester's image, and Harvester what hangs on it, and waits until it is gone.
func (i *Images) removeVMImage(ctx context.Context, ref vmbackup.Ref) error {
	images := i.clients.Harvester.Images(ref.Namespace)
	what := "VirtualMachineImage " + ref.String()
	there, err := images.Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return kube.Error(err, "read", what)
	}
	if err := remove(ctx, there.UID, images.Delete, ref.Name); err != nil {
		return kube.Error(err, "delete", what)
	}
	return kube.WaitGone[*harvester.VirtualMachineImage](ctx, kube.One(images, ref.Name), "the end of "+what, there.UID)
}

// remove deletes what was looked at, and nothing that has taken its name since.
func remove(ctx context.Context, uid types.UID, del func(context.Context, string, metav1.DeleteOptions) error, name string) error {
	err := del(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(uid))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// users names what uses an image, a few of each kind.
func users(u *vmbackup.ImageUsers) string {
	var parts []string
	for _, group := range []struct {
		one   string
		names []string
	}{
		{"VirtualMachine", u.Machines}, {"claim", u.Claims}, {"Longhorn volume", u.Volumes}, {"StorageClass", u.StorageClasses},
	} {
		const most = 5
		names := slices.Clone(group.names)
		if len(names) > most {
			names = append(names[:most], "and more")
		}
		if len(names) > 0 {
			parts = append(parts, group.one+" "+strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package image keeps the images from which disks of machines are made: Longhorn's
// backing images with their StorageClasses, and Harvester's VirtualMachineImages.
package image

import (
	"cmp"
	"context"
	"slices"
	"sync"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Driver is the name of Longhorn's CSI driver.
const Driver = "driver.longhorn.io"

// Kinds that a user may not be allowed to see, as they are told.
const (
	kindBackingImages  = "backing images"
	kindClasses        = "StorageClasses"
	kindVolumes        = "Longhorn volumes"
	kindClaims         = "claims"
	kindMachines       = "virtual machines"
	kindImageBackups   = "backups of images"
	kindHarvesterImage = "VirtualMachineImages"
)

// inventory is all of a cluster that tells of its images.
type inventory struct {
	images   []longhornv1.BackingImage
	vmImages []harvester.VirtualMachineImage
	classes  []storagev1.StorageClass
	volumes  []longhornv1.Volume
	claims   []corev1.PersistentVolumeClaim
	machines []kubevirtv1.VirtualMachine
	backups  []longhornv1.BackupBackingImage
	nodes    []longhornv1.Node
	// unseen are the kinds that the user may not see.
	unseen []string
}

func (inv *inventory) sees(kind string) bool { return !slices.Contains(inv.unseen, kind) }

// look reads the cluster. What the user may not see is noted; a cluster of which
// neither backing images nor Harvester's images can be seen is an error.
func (i *Images) look(ctx context.Context) (*inventory, error) {
	inv := &inventory{}
	var mu sync.Mutex
	var refusal error // of the backing images
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	see := func(kind string, list func(ctx context.Context) error) {
		group.Go(func() error {
			err := list(ctx)
			switch {
			case err == nil || kind == "" && apierrors.IsForbidden(err):
				return nil
			case kind == kindHarvesterImage && apierrors.IsNotFound(err):
				return nil // not Harvester's cluster
			case apierrors.IsForbidden(err):
				mu.Lock()
				defer mu.Unlock()
				inv.unseen = append(inv.unseen, kind)
				if kind == kindBackingImages {
					refusal = kube.Error(err, "list", "Longhorn's backing images")
				}
				return nil
			}
			return kube.Error(err, "list", kind)
		})
	}
	longhorn := i.clients.Longhorn.LonghornV1beta2()
	see(kindBackingImages, func(ctx context.Context) error {
		list, err := longhorn.BackingImages(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.images = list.Items
		}
		return err
	})
	see(kindHarvesterImage, func(ctx context.Context) error {
		list, err := i.clients.Harvester.Images(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.vmImages = list.Items
		}
		return err
	})
	see(kindClasses, func(ctx context.Context) error {
		list, err := i.clients.Core.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.classes = list.Items
		}
		return err
	})
	see(kindVolumes, func(ctx context.Context) error {
		list, err := longhorn.Volumes(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.volumes = list.Items
		}
		return err
	})
	see(kindClaims, func(ctx context.Context) error {
		list, err := i.clients.Core.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.claims = list.Items
		}
		return err
	})
	see(kindMachines, func(ctx context.Context) error {
		list, err := i.clients.KubeVirt.KubevirtV1().VirtualMachines(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.machines = list.Items
		}
		return err
	})
	see(kindImageBackups, func(ctx context.Context) error {
		list, err := longhorn.BackupBackingImages(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.backups = list.Items
		}
		return err
	})
	see("", func(ctx context.Context) error { // they only say where a disk is
		list, err := longhorn.Nodes(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			inv.nodes = list.Items
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(inv.unseen)
	if refusal != nil && len(inv.vmImages) == 0 {
		return nil, refusal
	}
	return inv, nil
}

// Images implements vmbackup.Images on one cluster.
type Images struct {
	clients *kube.Clients
	open    OpenTarget
	clock   vmbackup.Clock
	engine  string
}

// OpenTarget opens a backup target of Longhorn by the name of its BackupTarget.
type OpenTarget func(ctx context.Context, name string) (target.Store, error)

var _ vmbackup.Images = (*Images)(nil)

// New makes the images of a cluster, seen and changed with the rights of clients.
// engine says who makes them: direct for this tool itself, harvester for Harvester's
// controllers, and anything else for Harvester's where they work.
func New(clients *kube.Clients, open OpenTarget, engine string, clock vmbackup.Clock) *Images {
	return &Images{clients: clients, open: open, engine: engine, clock: clock}
}

// byHarvester reports whether the work is left to Harvester's controllers.
func (i *Images) byHarvester(ctx context.Context) (bool, error) {
	if i.engine == vmbackup.EngineDirect {
		return false, nil
	}
	found, err := harvester.NewDetector(i.clients.Core.Discovery(), i.clients.Harvester.Settings()).Detect(ctx)
	if err != nil {
		return false, kube.Error(err, "look for", "Harvester")
	}
	if i.engine == vmbackup.EngineHarvester && !found.Usable() {
		return false, vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "Harvester's controllers do not work in this cluster: %s", cmp.Or(found.Why, "it does not serve their kinds")).
			WithHint("leave --engine out, or make the image with --engine %s", vmbackup.EngineDirect)
	}
	return found.Usable(), nil
}

// List implements vmbackup.Images.
func (i *Images) List(ctx context.Context, namespace string) ([]vmbackup.Image, []string, error) {
	inv, err := i.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	views := inv.views()
	if namespace != "" {
		views = slices.DeleteFunc(views, func(v vmbackup.Image) bool {
			return v.Metadata.Namespace != "" && v.Metadata.Namespace != namespace
		})
	}
	return views, inv.warnings(), nil
}

// Get implements vmbackup.Images.
func (i *Images) Get(ctx context.Context, ref vmbackup.Ref) (*vmbackup.Image, error) {
	inv, err := i.look(ctx)
	if err != nil {
		return nil, err
	}
	view := find(inv.views(), ref)
	if view == nil {
		return nil, missing(ref)
	}
	view.Status.Warnings = append(view.Status.Warnings, inv.warnings()...)
	return view, nil
}

// find looks an image up by its own name, else by that of its backing image.
func find(views []vmbackup.Image, ref vmbackup.Ref) *vmbackup.Image {
	for i := range views {
		if views[i].Ref() == ref {
			return &views[i]
		}
	}
	for i := range views {
		if views[i].Status.BackingImage == ref.Name {
			return &views[i]
		}
	}
	return nil
}

func missing(ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no image %s, and no backing image of that name", ref).
		WithHint("see those there are with: kubectl vmbackup image list -A")
}

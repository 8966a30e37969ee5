// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/image"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// destination is what a restore finds where it is to go. All of it is looked up at
// once, and judged afterwards: in one order, whichever answer came first.
type destination struct {
	// namespace is nil where it does not exist.
	namespace *corev1.Namespace
	// taken is true when the restored machine's name has an owner already.
	taken bool
	// source is true when the machine that the backup is of still exists.
	source bool
	// claims are the names of PersistentVolumeClaims that are taken.
	claims map[string]bool
	// quotas of the namespace; none where the user may not read them, since each
	// object is held against them again when it is made.
	quotas []corev1.ResourceQuota
	// classes are all StorageClasses of the cluster, by name.
	classes map[string]*storagev1.StorageClass
	// newClasses are those among them that the restore is still to make.
	newClasses []storagev1.StorageClass
	// newImages are the backing images that the restore is still to bring back, and
	// recalled says by the name of each missing one why it cannot; nil where it can.
	newImages []image.Recall
	recalled  map[string]error
	// snapshotClass is the VolumeSnapshotClass of the composed snapshots, which
	// newSnapshotClass says is still to be made.
	snapshotClass    *snapshotv1.VolumeSnapshotClass
	newSnapshotClass bool
	// lost says by the volume's name why its data cannot be had.
	lost map[string]error
	// images are the backing images below the volumes, by name; nil is one that
	// does not exist, and one that is not in the map is not known.
	images map[string]*longhornv1.BackingImage
	// networks are the definitions that the machine refers to.
	networks map[vmbackup.Ref]existence
	// nodes and settings are Longhorn's; nil where the user may not read them.
	nodes    []longhornv1.Node
	settings map[string]string
}

// lookAtDestination looks up everything that decides whether the restore can be done.
func (e *Engine) lookAtDestination(ctx context.Context, n *renaming, record *metadata.Record) (*destination, error) {
	d := &destination{}
	backup := &record.Backup
	group, ctx := errgroup.WithContext(ctx)
	for _, look := range []func() error{
		func() (err error) { d.namespace, err = e.findNamespace(ctx, n.to.Namespace); return err },
		func() (err error) {
			d.taken, d.source, err = e.findMachines(ctx, n, backup.Status.SourceUID)
			return err
		},
		func() (err error) { d.claims, err = e.takenClaims(ctx, n.to.Namespace); return err },
		func() (err error) { d.quotas, err = e.findQuotas(ctx, n.to.Namespace); return err },
		func() (err error) { d.classes, err = e.findStorageClasses(ctx); return err },
		func() (err error) {
			d.snapshotClass, d.newSnapshotClass, err = e.findClass(ctx, backup.Spec.Type)
			return err
		},
		func() (err error) { d.lost, err = e.findLost(ctx, record); return err },
		func() (err error) { d.images, err = e.findImages(ctx, backup); return err },
		func() (err error) { d.networks, err = e.findNetworks(ctx, record.VM, n); return err },
		func() (err error) { d.nodes, err = e.findNodes(ctx); return err },
		func() (err error) { d.settings, err = e.findSettings(ctx); return err },
	} {
		group.Go(look)
	}
	return d, group.Wait()
}

// unknown makes a lookup that the user has no right for, or whose API is not
// served, one that tells nothing.
func unknown(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// findMachines looks for the restored machine's namesake and for the source.
func (e *Engine) findMachines(ctx context.Context, n *renaming, sourceUID string) (taken, source bool, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		_, err := e.clients.VMs.Get(ctx, n.to.Namespace, n.to.Name)
		if taken = err == nil; taken || apierrors.IsNotFound(err) {
			return nil
		}
		return kube.Error(err, "read", "VirtualMachine "+n.to.String())
	})
	group.Go(func() (err error) { source, err = e.sourceExists(ctx, n.from, sourceUID); return err })
	return taken, source, group.Wait()
}

// takenClaims are the names of the claims of a namespace.
func (e *Engine) takenClaims(ctx context.Context, namespace string) (map[string]bool, error) {
	list, err := e.clients.Core.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "PersistentVolumeClaims in namespace "+namespace)
	}
	taken := make(map[string]bool, len(list.Items))
	for _, c := range list.Items {
		taken[c.Name] = true
	}
	return taken, nil
}

// check refuses a destination that cannot take the machine.
func (d *destination) check(n *renaming, req vmbackup.RestoreRequest) error {
	if err := d.checkNamespace(n.to.Namespace, req.CreateNamespace); err != nil {
		return err
	}
	if d.taken && !req.InPlace {
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a VirtualMachine %s already; a restore never overwrites a machine", n.to).
			WithHint("restore beside it with --to-name NAME or --to-namespace NAMESPACE")
	}
	return nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// page is how many of Harvester's backups are asked for at once: each holds a whole machine.
const page = 500

// harvesterBackups is Foreign over Harvester's VirtualMachineBackups.
type harvesterBackups struct {
	clients *kube.Clients
	// decode reads what the tool has recorded on a restore; nil where nobody has said how.
	decode DecodeRestore
}

// Harvester knows the backups of Harvester's controllers, where a cluster has them.
func Harvester(clients *kube.Clients) Foreign { return harvesterBackups{clients: clients} }

// Backups implements Foreign. Of each backup only what its view needs is kept in
// memory: an object holds a whole machine.
func (h harvesterBackups) Backups(ctx context.Context, namespace string) ([]vmbackup.Backup, error) {
	var objects []*harvester.VirtualMachineBackup
	evidence := harvester.Evidence{Now: time.Now(), TargetName: vmbackup.DefaultTarget}
	var g errgroup.Group
	asked := false
	opts := metav1.ListOptions{Limit: page}
	for {
		list, err := h.clients.Harvester.Backups(namespace).List(ctx, opts)
		if err != nil {
			_ = g.Wait() // never fails
			if h.absent(ctx, err) {
				return nil, nil
			}
			return nil, kube.Error(err, "list", "VirtualMachineBackups of Harvester")
		}
		for i := range list.Items {
			objects = append(objects, list.Items[i].Lean())
		}
		if !asked && needsEvidence(objects) {
			asked = true
			g.Go(func() error {
				evidence = h.evidence(ctx)
				return nil
			})
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			break
		}
	}
	_ = g.Wait() // never fails
	views := make([]vmbackup.Backup, 0, len(objects))
	for _, object := range objects {
		views = append(views, *object.View(evidence))
	}
	return views, ctx.Err()
}

// Record implements Foreign.
func (h harvesterBackups) Record(ctx context.Context, ref vmbackup.Ref) (*metadata.Record, error) {
	object, err := h.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err != nil && h.absent(ctx, err)) {
		return nil, missing(ref, vmbackup.SourceCluster)
	}
	if err != nil {
		return nil, kube.Error(err, "read", what(ref))
	}
	return object.Record(h.evidenceOf(ctx, object))
}

// absent reports whether the cluster is not Harvester's. The API server refuses a
// user without rights before it says that it does not know the kind.
func (h harvesterBackups) absent(ctx context.Context, err error) bool {
	if apierrors.IsNotFound(err) {
		return true
	}
	if !apierrors.IsForbidden(err) {
		return false
	}
	served, err := h.clients.Lookup.Serves(ctx, harvester.GroupVersion().WithResource(harvester.BackupResource))
	return err == nil && !served
}

// evidenceOf is the evidence for one backup, when it needs any.
func (h harvesterBackups) evidenceOf(ctx context.Context, object *harvester.VirtualMachineBackup) harvester.Evidence {
	if !needsEvidence([]*harvester.VirtualMachineBackup{object}) {
		return harvester.Evidence{Now: time.Now(), TargetName: vmbackup.DefaultTarget}
	}
	e := h.evidence(ctx)
	e.Snapshots = h.snapshots(ctx, object, nil)
	return e
}

// snapshots are the UIDs of the VolumeSnapshots whose Longhorn backups are not named.
// They are a help, and not being allowed to look is no error.
func (h harvesterBackups) snapshots(ctx context.Context, object *harvester.VirtualMachineBackup, known map[string]string) map[string]string {
	uids := map[string]string{}
	for _, v := range object.Status.VolumeBackups {
		if v.LonghornBackupName != nil || v.Name == nil {
			continue
		}
		if uid, found := known[*v.Name]; found {
			uids[*v.Name] = uid
			continue
		}
		if s, err := h.clients.Snapshot.SnapshotV1().VolumeSnapshots(object.Namespace).Get(ctx, *v.Name, metav1.GetOptions{}); err == nil {
			uids[*v.Name] = string(s.UID)
		}
	}
	return uids
}

// evidence looks at what the views of backups rest on. A user may not be allowed to:
// then the views say so.
func (h harvesterBackups) evidence(ctx context.Context) harvester.Evidence {
	e := harvester.Evidence{Now: time.Now(), TargetName: vmbackup.DefaultTarget}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		e.Target, err = h.targetNow(gctx)
		return err
	})
	g.Go(func() error {
		e.Backups = map[string]*longhornv1.Backup{}
		opts := metav1.ListOptions{Limit: page}
		for {
			list, err := h.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).List(gctx, opts)
			if err != nil {
				return kube.Error(err, "list", "Longhorn Backups")
			}
			for i := range list.Items {
				lean := longhorn.LeanBackup(&list.Items[i])
				e.Backups[lean.Name] = lean
			}
			if opts.Continue = list.Continue; opts.Continue == "" {
				return nil
			}
		}
	})
	g.Go(func() error {
		list, err := h.clients.Longhorn.LonghornV1beta2().BackupBackingImages(kube.LonghornNamespace).List(gctx, metav1.ListOptions{})
		if err != nil {
			return kube.Error(err, "list", "Longhorn BackupBackingImages")
		}
		images := make([]*longhornv1.BackupBackingImage, len(list.Items))
		for i := range list.Items {
			images[i] = &list.Items[i]
		}
		e.Images = byImage(images)
		return nil
	})
	if err := g.Wait(); err != nil {
		return harvester.Evidence{Now: e.Now, TargetName: e.TargetName, Unseen: err.Error()}
	}
	return e
}

// targetNow is the backup target that is set; nil when there is none.
func (h harvesterBackups) targetNow(ctx context.Context) (*harvester.Target, error) {
	setting, err := h.clients.Harvester.Settings().Get(ctx, harvester.BackupTargetSetting, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Error(err, "read", "Harvester's setting "+harvester.BackupTargetSetting)
	}
	return harvester.DecodeTarget(setting)
}

// byImage are the backups of backing images by the image. One of another target, or
// one that failed, does not hide a good one.
func byImage(list []*longhornv1.BackupBackingImage) map[string]*longhornv1.BackupBackingImage {
	images := make(map[string]*longhornv1.BackupBackingImage, len(list))
	for _, b := range list {
		if had := images[b.Status.BackingImage]; had == nil || had.Status.State != longhornv1.BackupStateCompleted {
			images[b.Status.BackingImage] = b
		}
	}
	return images
}

// needsEvidence says whether a backup has data on a target, of which Longhorn knows more.
func needsEvidence(backups []*harvester.VirtualMachineBackup) bool {
	return slices.ContainsFunc(backups, func(b *harvester.VirtualMachineBackup) bool {
		return b.Spec.Type != harvester.TypeSnapshot && len(b.Status.VolumeBackups) > 0
	})
}

// errSeen ends all watches of a backup when one of them has seen the end.
var errSeen = errors.New("seen")

// Watch implements Foreign. Longhorn's backups are watched too: Harvester says
// Ready before their uploads end.
func (h harvesterBackups) Watch(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Backup) bool) error {
	var last *vmbackup.Backup
	err := h.watchBackups(ctx, kube.One(h.clients.Harvester.Backups(ref.Namespace), ref.Name), true, func(list []vmbackup.Backup) error {
		switch {
		case len(list) == 0 && last != nil:
			return vmbackup.Errorf(vmbackup.ReasonNotFound, "waiting for %s: it was deleted", what(ref))
		case len(list) == 0 || reflect.DeepEqual(&list[0], last):
			return nil
		}
		if last = &list[0]; changed(last) {
			return errSeen
		}
		return nil
	})
	if errors.Is(err, errSeen) {
		return nil
	}
	return err
}

// withRights drops the error of a watch that the user has no right to: the object
// is followed then, and says of itself that it could not be checked.
func withRights(err error) error {
	if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
		return nil
	}
	return err
}

func what(ref vmbackup.Ref) string {
	return fmt.Sprintf("%s.%s %s", harvester.BackupResource, harvester.Group, ref)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"cmp"
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// objects are what the cluster knows of a target. What may not be listed is left out.
func (t *Targets) objects(ctx context.Context, name string, platform bool) (map[vmbackup.TargetObject]bool, error) {
	found := map[vmbackup.TargetObject]bool{}
	lh := t.clients.Longhorn.LonghornV1beta2()
	type lister struct {
		kind     string
		labelled bool // by Longhorn with the name of the target
		list     func(metav1.ListOptions) (runtime.Object, error)
	}
	listers := []lister{
		{"BackupVolume", true, func(o metav1.ListOptions) (runtime.Object, error) {
			return lh.BackupVolumes(kube.LonghornNamespace).List(ctx, o)
		}},
		{"Backup", true, func(o metav1.ListOptions) (runtime.Object, error) {
			return lh.Backups(kube.LonghornNamespace).List(ctx, o)
		}},
		{"BackupBackingImage", true, func(o metav1.ListOptions) (runtime.Object, error) {
			return lh.BackupBackingImages(kube.LonghornNamespace).List(ctx, o)
		}},
	}
	if platform {
		listers = append(listers,
			lister{"VirtualMachineBackup", false, func(o metav1.ListOptions) (runtime.Object, error) {
				return t.clients.Harvester.Backups(metav1.NamespaceAll).List(ctx, o)
			}},
			lister{"VirtualMachineImage", false, func(o metav1.ListOptions) (runtime.Object, error) {
				return t.clients.Harvester.Images(metav1.NamespaceAll).List(ctx, o)
			}})
	}
	for _, l := range listers {
		options := metav1.ListOptions{Limit: pageSize}
		if l.labelled {
			options.LabelSelector = targetLabel + "=" + name
		}
		for {
			list, err := l.list(options)
			if apierrors.IsForbidden(err) {
				break
			}
			if err != nil {
				return nil, kube.Error(err, "list", l.kind+"s")
			}
			err = meta.EachListItem(list, func(o runtime.Object) error {
				m, err := meta.Accessor(o)
				if err != nil || m.GetDeletionTimestamp() != nil {
					return err
				}
				object := vmbackup.TargetObject{Kind: l.kind, Name: m.GetName()}
				if !l.labelled {
					object.Namespace = m.GetNamespace()
				}
				found[object] = true
				return nil
			})
			if err != nil {
				return nil, err
			}
			page, err := meta.ListAccessor(list)
			if err != nil {
				return nil, err
			}
			if options.Continue = page.GetContinue(); options.Continue == "" {
				break
			}
		}
	}
	return found, nil
}

// missingIn are the objects of have that old has not, in a fixed order.
func missingIn(old, have map[vmbackup.TargetObject]bool) []vmbackup.TargetObject {
	var missing []vmbackup.TargetObject
	for o := range have {
		if !old[o] {
			missing = append(missing, o)
		}
	}
	slices.SortFunc(missing, func(a, b vmbackup.TargetObject) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return missing
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"strconv"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// pageSize is how many objects are asked for at once: a large target has tens of
// thousands of backups, of which only the count is kept.
const pageSize = 500

// targetLabel is Longhorn's label with the name of the target.
const targetLabel = "backup-target"

// holdings counts what Longhorn lists, by target; nil when that may not be looked at,
// which unseen then says. With a name, of that target alone.
func (t *Targets) holdings(ctx context.Context, name string) (holdings map[string]*vmbackup.TargetHoldings, unseen []string, err error) {
	holdings = map[string]*vmbackup.TargetHoldings{}
	of := func(target string) *vmbackup.TargetHoldings {
		if target == "" {
			target = vmbackup.DefaultTarget // before Longhorn had several
		}
		if holdings[target] == nil {
			holdings[target] = &vmbackup.TargetHoldings{}
		}
		return holdings[target]
	}
	lh := t.clients.Longhorn.LonghornV1beta2()
	for _, list := range []struct {
		what string
		page func(metav1.ListOptions) (metav1.ListInterface, error)
	}{
		{"BackupVolumes", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			l, err := lh.BackupVolumes(kube.LonghornNamespace).List(ctx, o)
			if err != nil {
				return nil, err
			}
			for i := range l.Items {
				h := of(l.Items[i].Spec.BackupTargetName)
				h.Volumes++
				h.Bytes += bytesOf(l.Items[i].Status.DataStored)
			}
			return l, nil
		}},
		{"Backups", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			l, err := lh.Backups(kube.LonghornNamespace).List(ctx, o)
			if err != nil {
				return nil, err
			}
			for i := range l.Items {
				b := &l.Items[i]
				target := b.Status.BackupTargetName
				if target == "" {
					target = b.Labels[targetLabel]
				}
				h := of(target)
				h.Backups++
				if b.Status.State == longhornv1.BackupStateError {
					h.FailedBackups++
				}
			}
			return l, nil
		}},
		{"BackupBackingImages", func(o metav1.ListOptions) (metav1.ListInterface, error) {
			l, err := lh.BackupBackingImages(kube.LonghornNamespace).List(ctx, o)
			if err != nil {
				return nil, err
			}
			for i := range l.Items {
				h := of(l.Items[i].Spec.BackupTargetName)
				h.Images++
				h.Bytes += l.Items[i].Status.Size
			}
			return l, nil
		}},
	} {
		options := metav1.ListOptions{Limit: pageSize}
		if name != "" {
			options.LabelSelector = targetLabel + "=" + name
		}
		for {
			got, err := list.page(options)
			if apierrors.IsForbidden(err) {
				return nil, []string{"what Longhorn lists of the target is not shown: its " + list.what + " may not be listed"}, nil
			}
			if err != nil {
				return nil, nil, kube.Error(err, "list", "Longhorn "+list.what)
			}
			if options.Continue = got.GetContinue(); options.Continue == "" {
				break
			}
		}
	}
	return holdings, nil, nil
}

// bytesOf is a number of bytes as Longhorn writes it; what is none counts nothing.
func bytesOf(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findQuotas reads the ResourceQuotas of a namespace.
func (e *Engine) findQuotas(ctx context.Context, namespace string) ([]corev1.ResourceQuota, error) {
	list, err := e.clients.Core.CoreV1().ResourceQuotas(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(unknown(err), "list", "ResourceQuotas in namespace "+namespace)
	}
	return list.Items, nil
}

// needs is what a restore adds to its namespace, in the words of a ResourceQuota.
func (r *restoreRecord) needs() corev1.ResourceList {
	needs := corev1.ResourceList{}
	add := func(amount resource.Quantity, names ...corev1.ResourceName) {
		for _, name := range names {
			sum := needs[name]
			sum.Add(amount)
			needs[name] = sum
		}
	}
	count := func(n int, names ...corev1.ResourceName) {
		if n > 0 {
			add(*resource.NewQuantity(int64(n), resource.DecimalSI), names...)
		}
	}
	for _, c := range r.Claims {
		size := c.Spec.Resources.Requests[corev1.ResourceStorage]
		add(size, corev1.ResourceRequestsStorage)
		count(1, corev1.ResourcePersistentVolumeClaims, "count/persistentvolumeclaims", "count/volumesnapshots.snapshot.storage.k8s.io")
		if class := c.Spec.StorageClassName; class != nil {
			of := corev1.ResourceName(*class + ".storageclass.storage.k8s.io/")
			add(size, of+corev1.ResourceRequestsStorage)
			count(1, of+corev1.ResourcePersistentVolumeClaims)
		}
	}
	records := 1 // the restore's own record is a Secret too
	if r.Delegate != "" {
		records = 0
	}
	count(len(r.Secrets)+records, corev1.ResourceSecrets, "count/secrets")
	count(len(r.ConfigMaps), corev1.ResourceConfigMaps, "count/configmaps")
	if r.Restore.Spec.Mode != vmbackup.ModeInPlace {
		count(1, "count/virtualmachines.kubevirt.io")
	}
	return needs
}

// quotaUses sets what a restore needs beside what the namespace's ResourceQuotas leave.
func (d *destination) quotaUses(needs corev1.ResourceList) []vmbackup.QuotaUse {
	var uses []vmbackup.QuotaUse
	for _, q := range d.quotas {
		if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
			continue // it counts pods of a kind, and none of these objects
		}
		hard := q.Status.Hard
		if len(hard) == 0 {
			hard = q.Spec.Hard // not counted yet
		}
		for _, name := range slices.Sorted(maps.Keys(hard)) {
			need, limited := needs[name]
			if !limited {
				continue
			}
			limit, used := hard[name], q.Status.Used[name]
			total := used.DeepCopy()
			total.Add(need)
			uses = append(uses, vmbackup.QuotaUse{
				Quota: q.Name, Resource: string(name), Needs: need.String(), Used: used.String(), Hard: limit.String(), Fits: total.Cmp(limit) <= 0,
			})
		}
	}
	return uses
}

// checkQuotas refuses a restore that the namespace's ResourceQuotas have no room
// for. The dry run cannot tell: it judges each object alone.
func checkQuotas(namespace string, uses []vmbackup.QuotaUse) error {
	var exceeded, quotas []string
	for _, u := range uses {
		if u.Fits {
			continue
		}
		exceeded = append(exceeded, fmt.Sprintf("%s (ResourceQuota %s): needs %s, used %s of %s", u.Resource, u.Quota, u.Needs, u.Used, u.Hard))
		if !slices.Contains(quotas, u.Quota) {
			quotas = append(quotas, u.Quota)
		}
	}
	if len(exceeded) == 0 {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonQuotaExceeded, "the restore does not fit into the quota of namespace %s: %s", namespace, strings.Join(exceeded, "; ")).
		WithHint("have it raised, free what it counts, or restore into another namespace with --to-namespace; look at it with: kubectl describe resourcequota %s -n %s", strings.Join(quotas, " "), namespace)
}

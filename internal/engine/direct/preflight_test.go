// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"slices"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// quota brings in a ResourceQuota of the namespace "other".
func (c *cluster) quota(name string, hard, used map[string]string) {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name}}
	list := func(m map[string]string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for key, value := range m {
			l[corev1.ResourceName(key)] = resource.MustParse(value)
		}
		return l
	}
	q.Spec.Hard, q.Status.Hard, q.Status.Used = list(hard), list(hard), list(used)
	c.put("resourcequotas", q)
}

// storageClass brings in a class of Longhorn with parameters.
func (c *cluster) storageClass(name string, parameters map[string]string) {
	c.put("storageclasses", &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: Driver, Parameters: parameters})
}

// longhornNode brings in a node of Longhorn with one disk.
func (c *cluster) longhornNode(name string, maximum, scheduled int64, tags ...string) {
	yes := func(kind string) []longhornv1.Condition {
		return []longhornv1.Condition{{Type: kind, Status: longhornv1.ConditionStatusTrue}}
	}
	n := &longhornv1.Node{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name}}
	n.Spec.AllowScheduling, n.Spec.Tags = true, tags
	n.Spec.Disks = map[string]longhornv1.DiskSpec{"d": {AllowScheduling: true, Type: longhornv1.DiskTypeFilesystem}}
	n.Status.Conditions = slices.Concat(yes(longhornv1.NodeConditionTypeReady), yes(longhornv1.NodeConditionTypeSchedulable))
	n.Status.DiskStatus = map[string]*longhornv1.DiskStatus{"d": {
		Conditions: yes(longhornv1.DiskConditionTypeSchedulable), StorageMaximum: maximum, StorageAvailable: maximum, StorageScheduled: scheduled,
	}}
	c.put("nodes", n)
}

func (c *cluster) setting(name, value string) {
	c.put("settings", &longhornv1.Setting{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name}, Value: value})
}

func TestPreflightOfARestore(t *testing.T) {
	mapped := func(to string) func(*vmbackup.RestoreRequest) {
		return func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"longhorn": to} }
	}
	for _, tc := range []struct {
		name   string
		set    func(*cluster)
		edit   func(*vmbackup.RestoreRequest)
		reason vmbackup.Reason // empty where the plan succeeds
		says   []string        // in the message and the hint, or in a warning
	}{
		{
			name: "claims beyond the quota", reason: vmbackup.ReasonQuotaExceeded,
			says: []string{"namespace other", "persistentvolumeclaims (ResourceQuota tight): needs 2, used 1 of 2", "kubectl describe resourcequota tight"},
			set: func(c *cluster) {
				c.quota("tight", map[string]string{"persistentvolumeclaims": "2"}, map[string]string{"persistentvolumeclaims": "1"})
			},
		},
		{
			name: "storage beyond the quota, by class", reason: vmbackup.ReasonQuotaExceeded,
			says: []string{"longhorn.storageclass.storage.k8s.io/requests.storage (ResourceQuota q): needs 30Gi, used 0 of 25Gi"},
			set: func(c *cluster) {
				c.quota("q", map[string]string{"longhorn.storageclass.storage.k8s.io/requests.storage": "25Gi", "requests.storage": "30Gi"}, nil)
			},
		},
		{
			name: "the record counts among the secrets", reason: vmbackup.ReasonQuotaExceeded,
			says: []string{"count/secrets (ResourceQuota q): needs 2, used 0 of 1"},
			set:  func(c *cluster) { c.quota("q", map[string]string{"count/secrets": "1"}, nil) },
		},
		{
			name: "machines beyond the quota", reason: vmbackup.ReasonQuotaExceeded, says: []string{"count/virtualmachines.kubevirt.io"},
			set: func(c *cluster) { c.quota("q", map[string]string{"count/virtualmachines.kubevirt.io": "0"}, nil) },
		},
		{
			name: "quota with just enough room",
			set: func(c *cluster) {
				c.quota("q", map[string]string{"requests.storage": "31Gi", "persistentvolumeclaims": "2", "secrets": "2", "configmaps": "1", "pods": "0"}, map[string]string{"requests.storage": "1Gi"})
			},
		},
		{
			name: "quota that nobody may read",
			set: func(c *cluster) {
				c.quota("q", map[string]string{"persistentvolumeclaims": "0"}, nil)
				c.fail("list", "resourcequotas", forbiddenList)
			},
		},
		{
			name: "no disk has room for a replica", reason: vmbackup.ReasonQuotaExceeded,
			says: []string{"no room for volume data: 0 of 1 replicas of 20Gi", "n1/d has 15Gi", "storage-over-provisioning-percentage"},
			set: func(c *cluster) {
				c.storageClass("longhorn", map[string]string{"numberOfReplicas": "1"})
				c.longhornNode("n1", 25*gib, 10*gib)
			},
		},
		{
			name: "room by over-provisioning",
			set: func(c *cluster) {
				c.storageClass("longhorn", map[string]string{"numberOfReplicas": "1"})
				c.longhornNode("n1", 25*gib, 10*gib)
				c.setting(settingOverProvisioning, "200")
			},
		},
		{
			name: "the volumes of one restore share the room", reason: vmbackup.ReasonQuotaExceeded,
			says: []string{"no room for volume root: 0 of 1 replicas of 10Gi", "n1/d has 5Gi"},
			set: func(c *cluster) {
				c.storageClass("longhorn", map[string]string{"numberOfReplicas": "1"})
				c.longhornNode("n1", 25*gib, 0)
			},
		},
		{
			name: "fewer nodes than replicas", says: []string{"room for 1 of the 3 replicas of volume root", "degraded"},
			set: func(c *cluster) { c.longhornNode("n1", 100*gib, 0) },
		},
		{
			name: "fewer nodes than replicas where Longhorn wants all", reason: vmbackup.ReasonQuotaExceeded, says: []string{"1 of 3 replicas"},
			set: func(c *cluster) {
				c.longhornNode("n1", 100*gib, 0)
				c.setting(settingDegraded, "false")
			},
		},
		{
			name: "replicas by default, in the newer form of the setting",
			set: func(c *cluster) {
				c.longhornNode("n1", 100*gib, 0)
				c.setting(settingReplicas, `{"v1":"1","v2":"2"}`)
			},
		},
		{
			name: "disks without the tag", reason: vmbackup.ReasonQuotaExceeded, says: []string{"no room"},
			set: func(c *cluster) {
				c.storageClass("longhorn", map[string]string{"numberOfReplicas": "1", "nodeSelector": "fast"})
				c.longhornNode("n1", 100*gib, 0, "slow")
			},
		},
		{
			name: "mapping of a class that the backup has not", reason: vmbackup.ReasonInvalidRequest,
			says: []string{`"longhron" is mapped to "fast"`, "are: longhorn"},
			edit: func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"longhron": "fast"} },
		},
		{
			name: "mapping to a class that is missing", reason: vmbackup.ReasonStorageClassMissing, edit: mapped("fast"),
			says: []string{`StorageClass "fast", to which "longhorn" is mapped`, "--map-storage-class longhorn=CLASS", "are: longhorn"},
		},
		{
			name: "mapping to a class that is there", edit: mapped("fast"),
			set: func(c *cluster) { c.storageClass("fast", nil) },
		},
		{
			name: "plain into encrypted", reason: vmbackup.ReasonStorageUnsupported, edit: mapped("secret"),
			says: []string{`"secret" makes volumes that are encrypted`, "is not encrypted"},
			set:  func(c *cluster) { c.storageClass("secret", map[string]string{"encrypted": "true"}) },
		},
		{
			name: "data engine v2", reason: vmbackup.ReasonStorageUnsupported, edit: mapped("spdk"),
			says: []string{"data engine v2", "made by v1"},
			set:  func(c *cluster) { c.storageClass("spdk", map[string]string{"dataEngine": "v2"}) },
		},
		{
			name: "a class on another image", reason: vmbackup.ReasonStorageUnsupported, edit: mapped("fedora"),
			says: []string{"backing image fedora-42", "rests on no backing image"},
			set:  func(c *cluster) { c.storageClass("fedora", map[string]string{"backingImage": "fedora-42"}) },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				if tc.set != nil {
					tc.set(c)
				}
				c.forget()
				req := restoreRequest()
				if tc.edit != nil {
					tc.edit(&req)
				}
				plan, err := c.engine.PlanRestore(t.Context(), req)
				wantSame(t, "writes", c.writes(), nil)
				var told string
				if tc.reason != "" {
					e := failure(t, err, tc.reason)
					if told = e.Message + "\n" + e.Hint; !e.Preflight {
						t.Errorf("not a preflight error: %s", told)
					}
				} else {
					if err != nil {
						t.Fatal(err)
					}
					told = strings.Join(plan.Warnings, "\n")
				}
				for _, words := range tc.says {
					if !strings.Contains(told, words) {
						t.Errorf("does not say %q: %s", words, told)
					}
				}
			})
		})
	}
}

// forbiddenList refuses a lookup as the API server's authorizer does.
func forbiddenList(name string) error {
	return apierrors.NewForbidden(schema.GroupResource{}, name, errors.New("no"))
}

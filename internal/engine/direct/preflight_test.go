// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
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

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
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

// edit changes the record of b1 as a backup of another machine would have it.
func (c *cluster) edit(f func(*vmbackup.Backup)) {
	c.editRecord(func(r *metadata.Record) { f(&r.Backup) })
}

func (c *cluster) editRecord(f func(*metadata.Record)) {
	c.t.Helper()
	entry, err := c.journal.Get(c.t.Context(), journal.KindBackup, b1)
	if err != nil {
		c.t.Fatal(err)
	}
	record, err := metadata.DecodeJournal(b1, entry.Data)
	if err != nil {
		c.t.Fatal(err)
	}
	f(record)
	if entry.Data, err = metadata.EncodeJournal(record); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.journal.Update(c.t.Context(), entry); err != nil {
		c.t.Fatal(err)
	}
}

// editMachine changes the machine in b1.
func (c *cluster) editMachine(f func(spec map[string]any)) {
	c.editRecord(func(r *metadata.Record) {
		var vm map[string]any
		if err := json.Unmarshal(r.VM, &vm); err != nil {
			c.t.Fatal(err)
		}
		f(vm["spec"].(map[string]any))
		var err error
		if r.VM, err = json.Marshal(vm); err != nil {
			c.t.Fatal(err)
		}
	})
}

// network brings in a NetworkAttachmentDefinition.
func (c *cluster) network(namespace, name string) {
	c.put(networkResource.Resource, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
}

// onNetwork puts the machine in b1 on the pod network and on another one.
func (c *cluster) onNetwork() {
	c.editMachine(func(spec map[string]any) {
		template := spec["template"].(map[string]any)["spec"].(map[string]any)
		template["networks"] = []any{
			map[string]any{"name": "default", "pod": map[string]any{}},
			map[string]any{"name": "lan", "multus": map[string]any{"networkName": "vlan10"}},
		}
		devices := template["domain"].(map[string]any)["devices"].(map[string]any)
		devices["interfaces"] = append(devices["interfaces"].([]any), map[string]any{"name": "lan", "bridge": map[string]any{}, "macAddress": "02:00:00:00:00:02"})
	})
}

// onBlock makes the claims of b1 ask for block devices; they are ReadWriteMany.
func (c *cluster) onBlock() {
	c.editRecord(func(r *metadata.Record) {
		for i, raw := range r.Claims {
			claim := &corev1.PersistentVolumeClaim{}
			if err := json.Unmarshal(raw, claim); err != nil {
				c.t.Fatal(err)
			}
			mode := corev1.PersistentVolumeBlock
			claim.Spec.VolumeMode = &mode
			var err error
			if r.Claims[i], err = json.Marshal(claim); err != nil {
				c.t.Fatal(err)
			}
		}
	})
}

// imageOnTarget puts the backup of a backing image on the target, which Longhorn can use.
func (c *cluster) imageOnTarget(name string) {
	bt := &longhornv1.BackupTarget{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: vmbackup.DefaultTarget}}
	bt.Spec.BackupTargetURL, bt.Status.Available = "s3://bucket@eu/", true
	c.put("backuptargets", bt)
	if err := c.store.Store.Put(c.t.Context(), target.BackingImageConfigKey(name), []byte("{}")); err != nil {
		c.t.Fatal(err)
	}
}

// onImage puts the first volume of b1 on a backing image, which has these copies.
func (c *cluster) onImage(name string, copies map[string]longhornv1.BackingImageState) {
	c.edit(func(b *vmbackup.Backup) { b.Status.Volumes[0].Image = name })
	if copies == nil {
		return
	}
	image := &longhornv1.BackingImage{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name}}
	image.Status.DiskFileStatusMap = map[string]*longhornv1.BackingImageDiskFileStatus{}
	for disk, state := range copies {
		image.Status.DiskFileStatusMap[disk] = &longhornv1.BackingImageDiskFileStatus{State: state}
	}
	c.put("backingimages", image)
}

// encrypted makes the volumes of b1 encrypted, with a key for each claim.
func (c *cluster) encrypted() {
	c.storageClass("longhorn", map[string]string{
		"encrypted": "true",
		"csi.storage.k8s.io/node-stage-secret-name": "${pvc.namespace}-${pvc.name}", "csi.storage.k8s.io/node-stage-secret-namespace": "keys",
		"csi.storage.k8s.io/node-publish-secret-name": "${pvc.namespace}-${pvc.name}", "csi.storage.k8s.io/node-publish-secret-namespace": "keys",
		"csi.storage.k8s.io/provisioner-secret-name": "${pv.name}", "csi.storage.k8s.io/provisioner-secret-namespace": "keys",
	})
	yes := true
	c.edit(func(b *vmbackup.Backup) { b.Status.Volumes[0].Encrypted, b.Status.Volumes[1].Encrypted = &yes, &yes })
}

func TestPreflightOfARestore(t *testing.T) {
	mapped := func(to string) func(*vmbackup.RestoreRequest) {
		return func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"longhorn": to} }
	}
	networks := func(from, to string) func(*vmbackup.RestoreRequest) {
		return func(r *vmbackup.RestoreRequest) { r.Networks = map[string]string{from: to} }
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
			name: "block devices for two nodes", reason: vmbackup.ReasonStorageUnsupported,
			says: []string{`"longhorn" makes no volumes`, "ReadWriteMany, volumeMode Block", "migratable"}, set: func(c *cluster) { c.onBlock() },
		},
		{
			name: "block devices for two nodes in a class that has them", edit: mapped("live"),
			set: func(c *cluster) {
				c.onBlock()
				c.storageClass("live", map[string]string{"migratable": "true"})
			},
		},
		{
			name: "a class on another image", reason: vmbackup.ReasonStorageUnsupported, edit: mapped("fedora"),
			says: []string{"backing image fedora-42", "rests on no backing image"},
			set:  func(c *cluster) { c.storageClass("fedora", map[string]string{"backingImage": "fedora-42"}) },
		},
		{
			name: "network that is missing", reason: vmbackup.ReasonNetworkMissing,
			says: []string{"NetworkAttachmentDefinition other/vlan10", "network lan of the machine", "--map-network vlan10=pod", "in namespace other there are: other/a, other/b"},
			set: func(c *cluster) {
				c.network("demo", "vlan10") // beside the source, which is another namespace
				c.network("other", "a")
				c.network("other", "b")
			},
		},
		{
			name: "network that is mapped", edit: networks("demo/vlan10", "demo/vlan10"),
			set: func(c *cluster) { c.network("demo", "vlan10") },
		},
		{name: "network that is mapped to the cluster's own, of which there is one", edit: networks("vlan10", "pod"), reason: vmbackup.ReasonInvalidRequest, says: []string{"on the pod network twice"}},
		{
			name: "mapping to a network that is missing", reason: vmbackup.ReasonNetworkMissing, edit: networks("vlan10", "lab/vlan20"),
			says: []string{"NetworkAttachmentDefinition lab/vlan20, to which network lan (vlan10) is mapped", "in namespace lab there are: none"},
		},
		{
			name: "mapping of a network that the machine is not on", reason: vmbackup.ReasonInvalidRequest, edit: networks("vlan11", "pod"),
			says: []string{`network "vlan11" is mapped to "pod"`, "are: pod, vlan10"},
		},
		{
			name: "network that nobody may look for", says: []string{"other/vlan10", "this user may not look"},
			set: func(c *cluster) { c.fail("get", "network-attachment-definitions", forbiddenList) },
		},
		{
			name: "backing image that is missing", reason: vmbackup.ReasonImageMissing, says: []string{"volume root", `backing image "fedora"`},
			set: func(c *cluster) { c.onImage("fedora", nil) },
		},
		{
			name: "backing image without a copy", reason: vmbackup.ReasonImageMissing, says: []string{"no copy that is ready"},
			set: func(c *cluster) {
				c.onImage("fedora", map[string]longhornv1.BackingImageState{"a": longhornv1.BackingImageStateFailed})
			},
		},
		{
			name: "backing image with a copy",
			set: func(c *cluster) {
				c.onImage("fedora", map[string]longhornv1.BackingImageState{"a": longhornv1.BackingImageStateFailed, "b": longhornv1.BackingImageStateReady})
			},
		},
		{
			name: "backing image that comes back from the target",
			set: func(c *cluster) {
				c.onImage("fedora", nil)
				c.storageClass("image", map[string]string{"backingImage": "fedora"})
				c.edit(func(b *vmbackup.Backup) { b.Status.Volumes[0].StorageClass = "image" })
				c.imageOnTarget("fedora")
			},
		},
		{
			name: "encrypted into plain", reason: vmbackup.ReasonStorageUnsupported, says: []string{"makes volumes that are not encrypted", "volume root of backup demo/b1 is encrypted"},
			set: func(c *cluster) {
				yes := true
				c.edit(func(b *vmbackup.Backup) { b.Status.Volumes[0].Encrypted = &yes })
			},
		},
		{
			name: "encryption that only the class tells of", reason: vmbackup.ReasonStorageUnsupported, edit: mapped("plain"), says: []string{"is encrypted"},
			set: func(c *cluster) {
				c.storageClass("longhorn", map[string]string{"encrypted": "true"})
				c.storageClass("plain", nil)
				c.edit(func(b *vmbackup.Backup) { b.Status.Volumes[0].Encrypted, b.Status.Volumes[1].Encrypted = nil, nil })
			},
		},
		{
			name: "key that is missing", reason: vmbackup.ReasonNotFound, says: []string{"key of PersistentVolumeClaim web-root from Secret keys/other-web-root", "CRYPTO_KEY_VALUE"},
			set: func(c *cluster) { c.encrypted() },
		},
		{
			name: "keys that are there",
			set: func(c *cluster) {
				c.encrypted()
				for _, name := range []string{"other-web-root", "other-web-data"} {
					c.put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "keys", Name: name}})
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				if strings.Contains(tc.name, "network") {
					c.onNetwork()
				}
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

// Longhorn's scheduler passes over nodes and disks that take nothing.
func TestRoomsThatTakeNothing(t *testing.T) {
	for name, spoil := range map[string]func(*longhornv1.Node){
		"node not ready":       func(n *longhornv1.Node) { n.Status.Conditions[0].Status = longhornv1.ConditionStatusFalse },
		"node not schedulable": func(n *longhornv1.Node) { n.Status.Conditions[1].Status = longhornv1.ConditionStatusFalse },
		"node switched off":    func(n *longhornv1.Node) { n.Spec.AllowScheduling = false },
		"node going":           func(n *longhornv1.Node) { n.DeletionTimestamp = &metav1.Time{} },
		"disk switched off":    func(n *longhornv1.Node) { d := n.Spec.Disks["d"]; d.AllowScheduling = false; n.Spec.Disks["d"] = d },
		"disk being emptied":   func(n *longhornv1.Node) { d := n.Spec.Disks["d"]; d.EvictionRequested = true; n.Spec.Disks["d"] = d },
		"disk of another engine": func(n *longhornv1.Node) {
			d := n.Spec.Disks["d"]
			d.Type = longhornv1.DiskTypeBlock
			n.Spec.Disks["d"] = d
		},
		"disk not schedulable": func(n *longhornv1.Node) {
			n.Status.DiskStatus["d"].Conditions[0].Status = longhornv1.ConditionStatusFalse
		},
		"disk not seen yet": func(n *longhornv1.Node) { n.Status.DiskStatus = nil },
		"disk nearly full":  func(n *longhornv1.Node) { n.Status.DiskStatus["d"].StorageAvailable = 25 * gib },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.longhornNode("n1", 100*gib, 0)
				nodes, err := c.engine.findNodes(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				d := &destination{nodes: nodes, settings: map[string]string{}}
				if got := d.rooms(); len(got) != 1 || got[0].schedulable != 100*gib {
					t.Fatalf("rooms %+v", got)
				}
				spoil(&d.nodes[0])
				if got := d.rooms(); len(got) != 0 {
					t.Errorf("rooms %+v", got)
				}
			})
		})
	}
}

// A plan says what it takes from quotas, which networks the machine is on, and its
// fixed MAC addresses.
func TestPlanSaysWhatItTakes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.onNetwork()
		c.network("demo", "vlan10")
		c.quota("q", map[string]string{"requests.storage": "100Gi", "pods": "1"}, map[string]string{"requests.storage": "10Gi"})
		plan, err := c.engine.PlanRestore(t.Context(), vmbackup.RestoreRequest{
			Backup: b1, ToNamespace: "other", MAC: vmbackup.MACKeep, Networks: map[string]string{"vlan10": "demo/vlan10"},
		})
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "quotas", plan.Quotas, []vmbackup.QuotaUse{{Quota: "q", Resource: "requests.storage", Needs: "30Gi", Used: "10Gi", Hard: "100Gi", Fits: true}})
		wantSame(t, "networks", plan.Networks, []vmbackup.NetworkUse{{Source: "demo/vlan10", Destination: "demo/vlan10", Known: true}})
		if !slices.Contains(plan.MACs, "02:00:00:00:00:02") {
			t.Errorf("MAC addresses %q", plan.MACs)
		}
	})
}

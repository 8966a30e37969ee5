// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestRestoreIsRefusedBeforeAnyChange(t *testing.T) {
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	class := func(f func(*storagev1.StorageClass)) func(*cluster) {
		return func(c *cluster) { edit(c.apiServer, "storageclasses", "", "longhorn", f) }
	}
	for _, tc := range []struct {
		name   string
		set    func(*cluster)
		edit   func(*vmbackup.RestoreRequest)
		reason vmbackup.Reason
		says   string
	}{
		{
			name: "no namespace", reason: vmbackup.ReasonNotFound, says: `no namespace "nowhere"`,
			edit: func(r *vmbackup.RestoreRequest) { r.ToNamespace = "nowhere" },
		},
		{
			name: "namespace that goes", reason: vmbackup.ReasonConflict, says: "being deleted",
			set: func(c *cluster) {
				edit(c.apiServer, "namespaces", "", "other", func(n *corev1.Namespace) {
					now := metav1.NewTime(time.Now())
					n.DeletionTimestamp = &now
				})
			},
		},
		{
			name: "name taken", reason: vmbackup.ReasonAlreadyExists, says: "never overwrites",
			edit: func(r *vmbackup.RestoreRequest) { r.ToNamespace = "" },
		},
		{
			name: "no StorageClass", reason: vmbackup.ReasonStorageClassMissing, says: `StorageClass "longhorn"`,
			set: func(c *cluster) {
				c.vanish("storageclasses", "", "longhorn")
				c.editRecord(func(r *metadata.Record) { r.Others = nil })
			},
		},
		{
			name: "foreign StorageClass", reason: vmbackup.ReasonStorageUnsupported, says: "rbd.csi.ceph.com",
			set: class(func(s *storagev1.StorageClass) { s.Provisioner = "rbd.csi.ceph.com" }),
		},
		{
			name: "StorageClass that waits", reason: vmbackup.ReasonStorageUnsupported, says: "WaitForFirstConsumer",
			set: class(func(s *storagev1.StorageClass) { s.VolumeBindingMode = &wait }),
		},
		{
			name: "no backup", reason: vmbackup.ReasonNotFound, says: "b9",
			edit: func(r *vmbackup.RestoreRequest) { r.Backup.Name = "b9" },
		},
		{
			name: "backup that runs", reason: vmbackup.ReasonConflict, says: "is Running, not Ready",
			set: func(c *cluster) {
				req := request()
				req.Name = "b2"
				c.start(req)
			},
			edit: func(r *vmbackup.RestoreRequest) { r.Backup.Name = "b2" },
		},
		{
			name: "data that is gone", reason: vmbackup.ReasonDataLost, says: "volume root is not on",
			set: func(c *cluster) {
				v := c.record(b1).Backup.Status.Volumes[0]
				if err := c.store.Store.Delete(c.t.Context(), target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)); err != nil {
					c.t.Error(err)
				}
			},
			edit: func(r *vmbackup.RestoreRequest) { r.From = vmbackup.SourceCluster },
		},
		{
			name: "target that does not answer", reason: vmbackup.ReasonTargetUnavailable, says: "no route",
			set: func(c *cluster) {
				c.openErr = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "no route")
			},
			edit: func(r *vmbackup.RestoreRequest) { r.From = vmbackup.SourceCluster },
		},
		{
			name: "no right to compose snapshots", reason: vmbackup.ReasonForbidden, says: "create volumesnapshotcontents.snapshot.storage.k8s.io",
			set: func(c *cluster) {
				c.allow("other", authv1.ResourceRule{Verbs: []string{"*"}, APIGroups: []string{"", "kubevirt.io"}, Resources: []string{"*"}})
			},
		},
		{
			name: "quota", reason: vmbackup.ReasonQuotaExceeded, says: "PersistentVolumeClaim other/web-",
			set: func(c *cluster) {
				c.fail("create", "persistentvolumeclaims", func(name string) error {
					return apierrors.NewForbidden(schema.GroupResource{Resource: "persistentvolumeclaims"}, name, errors.New("exceeded quota: storage, requested: 10Gi, used: 0, limited: 1Gi"))
				})
			},
		},
		{
			name: "machine that admission refuses", reason: vmbackup.ReasonInvalidRequest, says: "VirtualMachine other/web",
			set: func(c *cluster) {
				c.fail("create", "virtualmachines", func(string) error { return apierrors.NewBadRequest("no such network") })
			},
		},
		{
			name: "malformed", reason: vmbackup.ReasonInvalidRequest, says: "target name",
			edit: func(r *vmbackup.RestoreRequest) { r.ToName = "Web" },
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
				e := failure(t, err, tc.reason)
				if !strings.Contains(e.Message, tc.says) || !e.Preflight || plan != nil {
					t.Errorf("preflight %t, plan %v: %s", e.Preflight, plan, e.Message)
				}
				wantSame(t, "writes", c.writes(), nil)
			})
		})
	}
}

func TestRestorePlan(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		req := restoreRequest()
		req.ToNamespace, req.ToName = "", "web-copy"
		plan, err := c.engine.PlanRestore(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "writes", c.writes(), nil)
		var objects []string
		for _, o := range plan.Objects {
			if !strings.HasPrefix(o.Name, "vmbackup-"+plan.State.(*restoreRecord).Operation) {
				objects = append(objects, string(o.Action)+" "+o.Kind+" "+o.Namespace+"/"+o.Name)
			}
		}
		wantSame(t, "objects", objects, []string{
			"update BackupTarget longhorn-system/default",
			"create Secret demo/vmbackup-restore-r1",
			"use Secret demo/web-init",
			"use ConfigMap demo/web-conf",
			"create PersistentVolumeClaim demo/web-copy-root",
			"create PersistentVolumeClaim demo/web-copy-data",
			"create VirtualMachine demo/web-copy",
		})
		if len(plan.Objects) != len(objects)+4 {
			t.Errorf("%d objects", len(plan.Objects))
		}
		// The source lives: two machines with one MAC address do not go together.
		if !slices.ContainsFunc(plan.Warnings, func(w string) bool { return strings.Contains(w, "MAC") }) {
			t.Errorf("warnings %q", plan.Warnings)
		}
	})
}

func TestRestoreOfAMachineThatIsGoneKeepsItsMACs(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.vms.remove(web)
		plan, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if err != nil {
			t.Fatal(err)
		}
		if vm := string(plan.State.(*restoreRecord).VM); !strings.Contains(vm, "02:00:00:00:00:01") || len(plan.Warnings) != 0 {
			t.Errorf("warnings %q, machine %s", plan.Warnings, vm)
		}
	})
}

func TestSourceExists(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*cluster)
		uid  func(uid string) string
		want bool
	}{
		{"the same", nil, func(uid string) string { return uid }, true},
		{"another one of the name", nil, func(string) string { return "uid-of-old" }, false},
		{"not known which", nil, func(string) string { return "" }, true},
		{"gone", func(c *cluster) { c.vms.remove(web) }, func(uid string) string { return uid }, false},
		{"forbidden", func(c *cluster) {
			c.fail("get", "virtualmachines", func(name string) error { return apierrors.NewForbidden(virtualMachines, name, errors.New("no")) })
		}, func(uid string) string { return uid }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				uid := c.machine(web)["metadata"].(map[string]any)["uid"].(string)
				if tc.set != nil {
					tc.set(c)
				}
				got, err := c.engine.sourceExists(t.Context(), web, tc.uid(uid))
				if err != nil || got != tc.want {
					t.Errorf("%t, %v", got, err)
				}
			})
		})
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestInPlacePlanChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.changed()
		c.forget()
		req := inPlaceRequest()
		req.DeleteOldVolumes = true
		plan, err := c.engine.PlanRestore(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "writes", c.writes(), nil)
		position(t, c.log(), "update virtualmachines demo/web (dry run)")
		got := map[string]string{}
		for _, o := range plan.Objects {
			got[string(o.Action)+" "+o.Kind] += o.Name + " " + o.Note + "\n"
		}
		for what, words := range map[string][]string{
			"update VirtualMachine":        {"web stopped, disks and specification of then, started with run strategy Always"},
			"delete PersistentVolumeClaim": {"web-root replaced by web-root-", "web-data replaced by web-data-", "seen running"},
			"use PersistentVolumeClaim":    {"web-extra not in the backup"},
			"create PersistentVolumeClaim": {"web-root-", "web-data-"},
			"create ConfigMap":             {"web-conf-", "its content of then; web-conf has another one now and stays as it is"},
			"use Secret":                   {"web-init"},
		} {
			for _, word := range words {
				if !strings.Contains(got[what], word) {
					t.Errorf("%s: %q lacks %q", what, got[what], word)
				}
			}
		}
		if got["create VirtualMachine"] != "" {
			t.Errorf("creates %s", got["create VirtualMachine"])
		}
	})
}

func TestInPlaceIsRefusedBeforeAnyChange(t *testing.T) {
	for name, tc := range map[string]struct {
		set     func(*cluster)
		request func(*vmbackup.RestoreRequest)
		reason  vmbackup.Reason
		words   []string
	}{
		"running": {
			request: func(r *vmbackup.RestoreRequest) { r.Stop = false },
			reason:  vmbackup.ReasonVMRunning, words: []string{"demo/web runs", "--stop"},
		},
		"about to run": {
			set:     func(c *cluster) { c.vanish("virtualmachineinstances", "demo", "web") },
			request: func(r *vmbackup.RestoreRequest) { r.Stop = false },
			reason:  vmbackup.ReasonVMRunning,
		},
		"another machine of the name": {
			set: func(c *cluster) {
				c.vms.remove(web)
				c.addMachine(webManifest)
			},
			reason: vmbackup.ReasonSourceMismatch, words: []string{"another one of the same name", "--to-name", "delete it"},
		},
		"gone": {
			set:    func(c *cluster) { c.vms.remove(web) },
			reason: vmbackup.ReasonNotFound, words: []string{"without --in-place: kubectl vmbackup restore b1 -n demo"},
		},
		"migrating": {
			set: func(c *cluster) {
				edit(c.apiServer, "virtualmachineinstances", "demo", "web", func(v *kubevirtv1.VirtualMachineInstance) {
					v.Status.MigrationState = &kubevirtv1.VirtualMachineInstanceMigrationState{}
				})
			},
			reason: vmbackup.ReasonConflict, words: []string{"moving to another node"},
		},
		"shared disk": {
			set: func(c *cluster) {
				c.addMachine(strings.ReplaceAll(webManifest, `"name": "web", "namespace"`, `"name": "db", "namespace"`))
			},
			reason: vmbackup.ReasonConflict, words: []string{"VirtualMachine db uses PersistentVolumeClaim web-root"},
		},
		"used by a pod": {
			set: func(c *cluster) {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: "reader"}}
				pod.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "web-data"}}}}
				c.put("pods", pod)
				own := pod.DeepCopy()
				own.Name, own.UID, own.Labels = "virt-launcher-web", "", map[string]string{kubevirtv1.AppLabel: "virt-launcher"}
				c.put("pods", own)
			},
			reason: vmbackup.ReasonConflict, words: []string{"Pod reader uses PersistentVolumeClaim web-data"},
		},
		"a backup is under way": {
			set: func(c *cluster) {
				c.uploadTakes = time.Hour
				req := request()
				req.Name = "b2"
				c.start(req)
			},
			reason: vmbackup.ReasonConflict, words: []string{"backup demo/b2 of VirtualMachine demo/web is under way", "watch b2"},
		},
		"invalid for KubeVirt": {
			set: func(c *cluster) {
				c.fail("update", "virtualmachines", func(string) error {
					return apierrors.NewInvalid(schema.GroupKind{Group: "kubevirt.io", Kind: "VirtualMachine"}, "web", nil)
				})
			},
			reason: vmbackup.ReasonInvalidRequest,
		},
		"snapshots in the old volumes": {
			set: func(c *cluster) {
				for _, o := range c.all("volumesnapshotcontents") {
					content := o.(*snapshotv1.VolumeSnapshotContent)
					handle := "snap://pvc-web-root/s1"
					content.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle}
					c.put("volumesnapshotcontents", content)
				}
			},
			request: func(r *vmbackup.RestoreRequest) { r.DeleteOldVolumes = true },
			reason:  vmbackup.ReasonConflict, words: []string{"backup b1", "would be lost", "without --delete-old-volumes"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				if tc.set != nil {
					tc.set(c)
				}
				req := inPlaceRequest()
				if tc.request != nil {
					tc.request(&req)
				}
				c.forget()
				_, err := c.engine.PlanRestore(t.Context(), req)
				e := failure(t, err, tc.reason)
				if !e.Preflight {
					t.Error("not a preflight error")
				}
				for _, word := range tc.words {
					if !strings.Contains(e.Message+" "+e.Hint, word) {
						t.Errorf("lacks %q: %s (%s)", word, e.Message, e.Hint)
					}
				}
				wantSame(t, "writes", c.writes(), nil)
			})
		})
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"slices"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// allow gives the user these rights and no others in a namespace.
func (c *cluster) allow(namespace string, rules ...authv1.ResourceRule) {
	c.rules[namespace] = authv1.SubjectRulesReviewStatus{ResourceRules: rules}
}

func TestBackupIsRefusedBeforeAnyChange(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    func(*cluster)
		edit   func(*vmbackup.BackupRequest)
		reason vmbackup.Reason
		says   string
	}{
		{
			name: "no machine", reason: vmbackup.ReasonNotFound, says: `no VirtualMachine "web"`,
			set: func(c *cluster) { c.vms.remove(web) },
		},
		{
			name: "no volumes", reason: vmbackup.ReasonStorageUnsupported, says: "no data to back up",
			set: func(c *cluster) {
				c.vms.remove(web)
				c.addMachine(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"demo"},"spec":{"template":{"spec":{"domain":{"devices":{}},"volumes":[{"name":"root","containerDisk":{"image":"fedora"}}]}}}}`)
			},
		},
		{
			name: "no template", reason: vmbackup.ReasonStorageUnsupported, says: "no template",
			set: func(c *cluster) {
				c.vms.remove(web)
				c.addMachine(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"demo"},"spec":{}}`)
			},
		},
		{
			name: "no claim", reason: vmbackup.ReasonNotFound, says: "PersistentVolumeClaim demo/web-data",
			set: func(c *cluster) { c.vanish("persistentvolumeclaims", "demo", "web-data") },
		},
		{
			name: "claim not bound", reason: vmbackup.ReasonStorageUnsupported, says: "demo/web-data is Pending",
			set: func(c *cluster) {
				edit(c.apiServer, "persistentvolumeclaims", "demo", "web-data", func(p *corev1.PersistentVolumeClaim) {
					p.Spec.VolumeName, p.Status.Phase = "", corev1.ClaimPending
				})
			},
		},
		{
			name: "other driver", reason: vmbackup.ReasonStorageUnsupported, says: "lies on rbd.csi.ceph.com",
			set: func(c *cluster) {
				edit(c.apiServer, "persistentvolumes", "", "pvc-web-data", func(p *corev1.PersistentVolume) { p.Spec.CSI.Driver = "rbd.csi.ceph.com" })
			},
		},
		{
			name: "data engine v2", reason: vmbackup.ReasonStorageUnsupported, says: "data engine v2",
			set: func(c *cluster) {
				edit(c.apiServer, "volumes", kube.LonghornNamespace, "pvc-web-data", func(v *longhornv1.Volume) { v.Spec.DataEngine = longhornv1.DataEngineTypeV2 })
			},
		},
		{
			name: "no driver", reason: vmbackup.ReasonStorageUnsupported, says: "lies on no CSI driver",
			set: func(c *cluster) {
				edit(c.apiServer, "persistentvolumes", "", "pvc-web-data", func(p *corev1.PersistentVolume) { p.Spec.CSI = nil })
			},
		},
		{
			name: "target cannot be used", reason: vmbackup.ReasonTargetUnavailable, says: "no route to s3",
			set: func(c *cluster) {
				c.openErr = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "no route to s3")
			},
		},
		{
			name: "target does not answer", reason: vmbackup.ReasonTargetUnavailable, says: "time-out",
			set: func(c *cluster) {
				c.fail("stat", "file", func(string) error { return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "time-out") })
			},
		},
		{
			name: "no such target", reason: vmbackup.ReasonTargetUnavailable, says: `no backup target "gone"`,
			set: func(c *cluster) {
				for _, name := range []string{"pvc-web-root", "pvc-web-data"} {
					edit(c.apiServer, "volumes", kube.LonghornNamespace, name, func(v *longhornv1.Volume) { v.Spec.BackupTargetName = "gone" })
				}
			},
		},
		{
			name: "two targets", reason: vmbackup.ReasonStorageUnsupported, says: "different targets",
			set: func(c *cluster) {
				edit(c.apiServer, "volumes", kube.LonghornNamespace, "pvc-web-data", func(v *longhornv1.Volume) { v.Spec.BackupTargetName = "second" })
			},
		},
		{
			name: "another target", reason: vmbackup.ReasonInvalidRequest, says: `not to "second"`,
			edit: func(r *vmbackup.BackupRequest) { r.Target = "second" },
		},
		{
			name: "name taken in the journal", reason: vmbackup.ReasonAlreadyExists, says: "demo/b1 already",
			set: func(c *cluster) { c.complete() },
		},
		{
			name: "name taken by a running backup of another machine", reason: vmbackup.ReasonAlreadyExists, says: "of VirtualMachine web, Running",
			set:  func(c *cluster) { c.start(request()) },
			edit: func(r *vmbackup.BackupRequest) { r.VM = "db" },
		},
		{
			name: "name taken on the target", reason: vmbackup.ReasonAlreadyExists, says: "on backup target default",
			set: func(c *cluster) { c.write(metadata.HarvesterBackupKey(b1)) },
		},
		{
			name: "name taken on the target by the tool", reason: vmbackup.ReasonAlreadyExists, says: "on backup target default",
			set: func(c *cluster) { c.write(metadata.RecordKey(b1)) },
		},
		{
			name: "no right to make snapshots", reason: vmbackup.ReasonForbidden, says: "create volumesnapshots.snapshot.storage.k8s.io in namespace demo",
			set: func(c *cluster) {
				c.allow("demo", authv1.ResourceRule{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"*"}})
			},
		},
		{
			name: "no right to make the class", reason: vmbackup.ReasonForbidden, says: "create volumesnapshotclasses.snapshot.storage.k8s.io (cluster-wide)",
			set: func(c *cluster) {
				for _, namespace := range []string{"demo", "default"} {
					c.allow(namespace, authv1.ResourceRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"secrets", "volumesnapshots"}})
				}
			},
		},
		{
			name: "a class of our name that deletes data", reason: vmbackup.ReasonConflict, says: "deletion policy Delete",
			set: func(c *cluster) {
				class := newClass(vmbackup.TypeBackup)
				class.DeletionPolicy = snapshotv1.VolumeSnapshotContentDelete
				c.put("volumesnapshotclasses", class)
			},
		},
		{
			name: "reading is forbidden", reason: vmbackup.ReasonForbidden, says: "Secret demo/web-init",
			set: func(c *cluster) {
				c.fail("get", "secrets", func(name string) error {
					return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, name, errors.New("no"))
				})
			},
		},
		{
			name: "no guest agent, freeze required", reason: vmbackup.ReasonFreezeFailed, says: "guest agent",
			set:  func(c *cluster) { c.vms.run(web, false) },
			edit: func(r *vmbackup.BackupRequest) { r.Quiesce = vmbackup.QuiesceRequire },
		},
		{
			name: "malformed", reason: vmbackup.ReasonInvalidRequest, says: "backup name",
			edit: func(r *vmbackup.BackupRequest) { r.Name = "B_1" },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				if tc.set != nil {
					tc.set(c)
				}
				c.forget()
				req := request()
				if tc.edit != nil {
					tc.edit(&req)
				}
				plan, err := c.engine.PlanBackup(t.Context(), req)
				e := failure(t, err, tc.reason)
				if !strings.Contains(e.Message, tc.says) || !e.Preflight {
					t.Errorf("preflight %t: %s", e.Preflight, e.Message)
				}
				if plan != nil {
					t.Error("a plan beside the error")
				}
				wantSame(t, "writes", c.writes(), nil)
			})
		})
	}
}

func TestBackupPlan(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		edit(c.apiServer, "volumes", kube.LonghornNamespace, "pvc-web-root", func(v *longhornv1.Volume) { v.Spec.BackingImage = "fedora" })
		plan, err := c.engine.PlanBackup(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "writes", c.writes(), nil)
		var objects []string
		for _, o := range plan.Objects {
			objects = append(objects, string(o.Action)+" "+o.Kind+" "+o.Name)
		}
		wantSame(t, "objects", objects, []string{
			"create VolumeSnapshotClass vmbackup-longhorn-bak",
			"create Secret vmbackup-backup-b1",
			"create VolumeSnapshot b1-volume-web-root",
			"create VolumeSnapshot b1-volume-web-data",
			"create Backup (named by Longhorn)",
			"create Backup (named by Longhorn)",
			"create file harvester/vmbackups/demo/b1.cfg",
			"create file vmbackup/demo/b1.json",
		})
		b := plan.Backup
		if b.Status.Phase != vmbackup.PhasePlanned || b.Spec.Target != "default" || b.Status.SourceUID == "" || b.Spec.Quiesce != vmbackup.QuiesceAuto {
			t.Errorf("backup %+v", b)
		}
		wantSame(t, "labels", b.Metadata.Labels, map[string]string{"app": "web"})
		wantSame(t, "images", b.Status.Images, []vmbackup.BackupImage{{Name: "fedora", State: vmbackup.StatePending}})
		wantSame(t, "secrets", b.Status.Secrets, []vmbackup.KeyedObject{{Name: "web-init", Keys: []string{"userdata"}}})
		wantSame(t, "config maps", b.Status.ConfigMaps, []vmbackup.KeyedObject{{Name: "web-conf", Keys: []string{"port"}}})
		for i := range b.Status.Volumes {
			v := &b.Status.Volumes[i]
			if v.Encrypted == nil || *v.Encrypted {
				t.Errorf("volume %s: encrypted %v", v.Name, v.Encrypted)
			}
			v.Encrypted = nil
		}
		wantSame(t, "volumes", b.Status.Volumes, []vmbackup.BackupVolume{
			{Name: "root", PVC: "web-root", StorageClass: "longhorn", SizeBytes: 10 * gib, LonghornVolume: "pvc-web-root", Image: "fedora", State: vmbackup.StatePending},
			{Name: "data", PVC: "web-data", StorageClass: "longhorn", SizeBytes: 20 * gib, LonghornVolume: "pvc-web-data", State: vmbackup.StatePending},
		})
		var steps []string
		for _, s := range plan.Steps {
			steps = append(steps, s.ID)
		}
		wantSame(t, "steps", steps, []string{"class", "snapshot", "upload", "images", "verify", "metadata"})
	})
}

func TestBackupPlanWarns(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.vms.run(web, false)
		c.vanish("secrets", "demo", "web-init")
		c.vanish("configmaps", "demo", "web-conf")
		plan, err := c.engine.PlanBackup(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`Secret "web-init"`, `ConfigMap "web-conf"`, "crash consistent"} {
			if !slices.ContainsFunc(plan.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
				t.Errorf("no warning of %s in %q", want, plan.Warnings)
			}
		}
	})
}

// A machine whose secret is missing is backed up all the same.
func TestBackupWithoutItsSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.vanish("secrets", "demo", "web-init")
		c.start(request())
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		if !slices.Contains(c.files(), metadata.RecordKey(b1)) || len(b.Status.Warnings) == 0 {
			t.Errorf("files %q, warnings %q", c.files(), b.Status.Warnings)
		}
	})
}

func TestPlanOfAStartedBackupGoesOnWithIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.forget()
		plan, err := c.engine.PlanBackup(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		if plan.Backup.Status.Phase != vmbackup.PhaseRunning {
			t.Errorf("phase %s", plan.Backup.Status.Phase)
		}
		if _, err := c.engine.StartBackup(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "writes", c.writes(), nil)
		if b, err := c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Errorf("%s: %v", b.Status.Phase, err)
		}
	})
}

func TestStartRefusesThePlanOfAnotherEngine(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		_, err := c.engine.StartBackup(t.Context(), &vmbackup.BackupPlan{Request: request()})
		wantReason(t, err, vmbackup.ReasonInternal)
		_, err = c.engine.StartRestore(t.Context(), &vmbackup.RestorePlan{Restore: vmbackup.NewRestore(b1)})
		wantReason(t, err, vmbackup.ReasonInternal)
		err = c.engine.Delete(t.Context(), &vmbackup.DeletePlan{}, vmbackup.RunOptions{})
		wantReason(t, err, vmbackup.ReasonInternal)
		wantSame(t, "writes", c.writes(), nil)
	})
}

func TestFindClass(t *testing.T) {
	class := func(name, driver string, policy snapshotv1.DeletionPolicy, kind string) *snapshotv1.VolumeSnapshotClass {
		c := &snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Driver: driver, DeletionPolicy: policy}
		if kind != "" {
			c.Parameters = map[string]string{"type": kind}
		}
		return c
	}
	const retain, remove = snapshotv1.VolumeSnapshotContentRetain, snapshotv1.VolumeSnapshotContentDelete
	for _, tc := range []struct {
		name  string
		have  []*snapshotv1.VolumeSnapshotClass
		kind  vmbackup.BackupType
		want  string
		isNew bool
	}{
		{name: "none", kind: vmbackup.TypeBackup, want: "vmbackup-longhorn-bak", isNew: true},
		{name: "none for snapshots", kind: vmbackup.TypeSnapshot, want: "vmbackup-longhorn-snap", isNew: true},
		{name: "a policy that deletes data", have: []*snapshotv1.VolumeSnapshotClass{class("a", Driver, remove, "bak")}, kind: vmbackup.TypeBackup, want: "vmbackup-longhorn-bak", isNew: true},
		{name: "another driver", have: []*snapshotv1.VolumeSnapshotClass{class("a", "rbd.csi.ceph.com", retain, "bak")}, kind: vmbackup.TypeBackup, want: "vmbackup-longhorn-bak", isNew: true},
		{name: "another type", have: []*snapshotv1.VolumeSnapshotClass{class("a", Driver, retain, "snap"), class("b", Driver, retain, "bi")}, kind: vmbackup.TypeBackup, want: "vmbackup-longhorn-bak", isNew: true},
		{name: "no type is bak", have: []*snapshotv1.VolumeSnapshotClass{class("a", Driver, retain, "")}, kind: vmbackup.TypeBackup, want: "a"},
		{name: "no type is not snap", have: []*snapshotv1.VolumeSnapshotClass{class("a", Driver, retain, "")}, kind: vmbackup.TypeSnapshot, want: "vmbackup-longhorn-snap", isNew: true},
		{name: "first by name", have: []*snapshotv1.VolumeSnapshotClass{class("b", Driver, retain, "bak"), class("a", Driver, retain, "bak")}, kind: vmbackup.TypeBackup, want: "a"},
		{name: "our own first", have: []*snapshotv1.VolumeSnapshotClass{class("a", Driver, retain, "bak"), class("vmbackup-longhorn-bak", Driver, retain, "bak"), class("z", Driver, retain, "bak")}, kind: vmbackup.TypeBackup, want: "vmbackup-longhorn-bak"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				for _, have := range tc.have {
					c.put("volumesnapshotclasses", have)
				}
				got, isNew, err := c.engine.findClass(t.Context(), tc.kind)
				if err != nil || got.Name != tc.want || isNew != tc.isNew {
					t.Errorf("class %s, new %t: %v", got.Name, isNew, err)
				}
				if got.DeletionPolicy != retain {
					t.Errorf("policy %s would delete data with an object", got.DeletionPolicy)
				}
			})
		})
	}
}

// A class that somebody else makes at the same moment will do, unless it deletes data.
func TestClassThatAppearsMeanwhile(t *testing.T) {
	for name, tc := range map[string]struct {
		policy snapshotv1.DeletionPolicy
		reason vmbackup.Reason
	}{
		"the same":   {snapshotv1.VolumeSnapshotContentRetain, ""},
		"other rule": {snapshotv1.VolumeSnapshotContentDelete, vmbackup.ReasonConflict},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.fail("create", "volumesnapshotclasses", func(string) error {
					class := newClass(vmbackup.TypeBackup)
					class.DeletionPolicy = tc.policy
					c.put("volumesnapshotclasses", class)
					return nil
				})
				_, err := c.engine.ensureClass(t.Context(), vmbackup.TypeBackup)
				if got := vmbackup.ReasonOf(err); got != tc.reason {
					t.Errorf("reason %q: %v", got, err)
				}
			})
		})
	}
}

func TestBackingImages(t *testing.T) {
	for name, tc := range map[string]struct {
		state  longhornv1.BackupState
		reason vmbackup.Reason
	}{
		"complete": {longhornv1.BackupStateCompleted, ""},
		"failed":   {longhornv1.BackupStateError, vmbackup.ReasonBackupFailed},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				edit(c.apiServer, "volumes", kube.LonghornNamespace, "pvc-web-root", func(v *longhornv1.Volume) { v.Spec.BackingImage = "fedora" })
				put := func(name, image, to string, state longhornv1.BackupState) {
					b := &longhornv1.BackupBackingImage{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name}}
					b.Spec.BackingImage, b.Spec.BackupTargetName, b.Status.State, b.Status.Error = image, to, state, "checksum"
					c.put("backupbackingimages", b)
				}
				// Other images and other targets say nothing about this one.
				put("debian", "debian", "default", longhornv1.BackupStateError)
				put("fedora-2", "fedora", "second", longhornv1.BackupStateCompleted)
				put("fedora-x", "fedora", "default", tc.state)
				if tc.reason == "" {
					c.write("backupstore/backing-images/backing-images/fedora/backing-image.cfg")
				}
				c.start(request())
				b, err := c.run(t.Context())
				if got := vmbackup.ReasonOf(err); got != tc.reason {
					t.Fatalf("reason %q, want %q: %v", got, tc.reason, err)
				}
				if b.Status.Ready != (tc.reason == "") {
					t.Errorf("ready %t", b.Status.Ready)
				}
			})
		})
	}
}

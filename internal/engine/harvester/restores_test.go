// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/enginetest"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// tick is how often a controller looks again.
const tick = 20 * time.Millisecond

// restores is a cluster with what Harvester's controllers, KubeVirt and Longhorn do
// about a VirtualMachineRestore of a new machine.
type restores struct {
	*cluster
	// held keeps data from coming. Guarded by the cluster's mu.
	held bool
	// hasty has the machine run, and Harvester call the restore complete, without data.
	hasty bool
}

// newRestores is a cluster whose machine has nothing that Harvester does not bring back.
func newRestores(t *testing.T) *restores {
	t.Helper()
	r := &restores{cluster: newCluster(t)}
	r.Delete("configmaps", "demo", "web-conf")
	r.Edit("virtualmachines", "demo", "web", func(vm *unstructured.Unstructured) {
		volumes, _, _ := unstructured.NestedSlice(vm.Object, "spec", "template", "spec", "volumes")
		_ = unstructured.SetNestedSlice(vm.Object, volumes[:3], "spec", "template", "spec", "volumes")
		_ = unstructured.SetNestedSlice(vm.Object, []any{map[string]any{"name": "default", "macAddress": "02:00:00:00:00:01"}}, "spec", "template", "spec", "domain", "devices", "interfaces")
		vm.SetAnnotations(map[string]string{"note": "keep"})
	})
	for _, name := range []string{"demo", "other"} {
		r.Put("namespaces", decoded(t, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, name))
	}
	r.Put("storageclasses", decoded(t, `{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"longhorn"},"provisioner":"driver.longhorn.io"}`))
	r.OnChange(r.carryOut)
	return r
}

// carryOut is what the controllers do about a change.
func (r *restores) carryOut(resource string, o *unstructured.Unstructured) {
	gone := o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0
	namespace, name := o.GetNamespace(), o.GetName()
	switch resource {
	case hv.RestoreResource:
		if status, _, _ := unstructured.NestedMap(o.Object, "status"); !gone && len(status) == 0 && r.Get(resource, namespace, name) != nil {
			r.make(o)
			r.drive(namespace, name)
		}
	case "persistentvolumeclaims":
		if gone {
			r.Delete("volumes", kube.LonghornNamespace, "pvc-"+string(o.GetUID()))
		}
	case "virtualmachines", "virtualmachineinstances":
		if (vmbackup.Ref{Namespace: namespace, Name: name}) != web {
			r.runMachine(namespace, name)
		}
	}
}

// owner is a reference to an owner.
func owner(o *unstructured.Unstructured) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: o.GetAPIVersion(), Kind: o.GetKind(), Name: o.GetName(), UID: o.GetUID()}}
}

// make makes claims, machine and secrets, the machine without most of what it is.
func (r *restores) make(o *unstructured.Unstructured) {
	namespace, name, uid := o.GetNamespace(), o.GetName(), string(o.GetUID())
	of, _, _ := unstructured.NestedString(o.Object, "spec", "virtualMachineBackupName")
	target, _, _ := unstructured.NestedString(o.Object, "spec", "target", "name")
	from, _, _ := unstructured.NestedString(o.Object, "spec", "virtualMachineBackupNamespace")
	backup := r.Get(hv.BackupResource, from, of)
	if backup == nil {
		r.t.Errorf("a restore of backup %s, which is not there", of)
		return
	}
	spec, _, _ := unstructured.NestedMap(backup.Object, "status", "source", "spec")
	spec = runtime.DeepCopyJSON(spec)
	spec["runStrategy"] = "Halted"
	volumes, _, _ := unstructured.NestedSlice(spec, "template", "spec", "volumes")
	var made []any
	backups, _, _ := unstructured.NestedSlice(backup.Object, "status", "volumeBackups")
	for _, b := range backups {
		volume, _, _ := unstructured.NestedString(b.(map[string]any), "volumeName")
		of, _, _ := unstructured.NestedString(b.(map[string]any), "name")
		claim := decoded(r.t, `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"restore-%s-%s-%s","namespace":%q,"annotations":{%q:%q}},
			"spec":{"accessModes":["ReadWriteMany"],"storageClassName":"longhorn","resources":{"requests":{"storage":"1Gi"}},
			"dataSource":{"apiGroup":"snapshot.storage.k8s.io","kind":"VolumeSnapshot","name":%q}},"status":{"phase":"Pending"}}`,
			backup.GetName(), uid, volume, namespace, hv.RestoreNameAnnotation, name, of)
		claim.SetOwnerReferences(owner(o))
		claim = r.Put("persistentvolumeclaims", claim)
		r.Put("volumes", decoded(r.t, `{"apiVersion":"longhorn.io/v1beta2","kind":"Volume","metadata":{"name":"pvc-%s","namespace":"longhorn-system"},
			"spec":{"size":"1073741824"},"status":{"restoreRequired":true,"restoreInitiated":true}}`, claim.GetUID()))
		made = append(made, map[string]any{
			"volumeName": volume, "volumeBackupName": of, "volumeSize": int64(1 << 30),
			"persistentVolumeClaimSpec": map[string]any{"metadata": map[string]any{"name": claim.GetName(), "namespace": namespace}},
		})
		for _, v := range volumes {
			if v := v.(map[string]any); v["name"] == volume {
				v["persistentVolumeClaim"] = map[string]any{"claimName": claim.GetName()}
			}
		}
	}
	secret := secretName(target, "web-init")
	for _, v := range volumes {
		if _, found, _ := unstructured.NestedMap(v.(map[string]any), "cloudInitNoCloud"); found {
			_ = unstructured.SetNestedField(v.(map[string]any), secret, "cloudInitNoCloud", "secretRef", "name")
		}
	}
	_ = unstructured.SetNestedSlice(spec, volumes, "template", "spec", "volumes")
	_ = unstructured.SetNestedSlice(spec, []any{map[string]any{"name": "default", "macAddress": "02:00:00:00:00:99"}}, "template", "spec", "domain", "devices", "interfaces")
	vm := decoded(r.t, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":%q,"namespace":%q,"annotations":{%q:%q,%q:"%s-%s"}}}`,
		target, namespace, hv.RestoreNameAnnotation, name, hv.LastRestoreAnnotation, name, uid)
	vm.Object["spec"] = spec
	vm = r.Put("virtualmachines", vm)
	init := decoded(r.t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q,"namespace":%q},"data":{"userdata":"eA=="}}`, secret, namespace)
	init.SetOwnerReferences(owner(vm))
	r.Put("secrets", init)
	r.Edit(hv.RestoreResource, namespace, name, func(o *unstructured.Unstructured) {
		o.SetOwnerReferences(owner(vm))
		o.Object["status"] = map[string]any{"complete": false, "restores": made, "targetUID": string(vm.GetUID()), "progress": int64(10), "conditions": conditions("InProgress", "True")}
	})
}

// drive takes a restore on until it is complete or gone: claims are bound and get their
// data, the machine is started and seen ready.
func (r *restores) drive(namespace, name string) {
	r.Later(tick, func() {
		o := r.Get(hv.RestoreResource, namespace, name)
		if o == nil {
			return
		}
		if r.step(o) {
			r.Edit(hv.RestoreResource, namespace, name, func(o *unstructured.Unstructured) {
				_ = unstructured.SetNestedField(o.Object, true, "status", "complete")
				_ = unstructured.SetNestedField(o.Object, time.Now().UTC().Format(time.RFC3339), "status", "restoreTime")
				_ = unstructured.SetNestedSlice(o.Object, conditions("InProgress", "False", "Ready", "True"), "status", "conditions")
			})
			return
		}
		r.drive(namespace, name)
	})
}

// step takes a restore one step on, and reports whether it is complete.
func (r *restores) step(o *unstructured.Unstructured) (complete bool) {
	namespace := o.GetNamespace()
	bound := true
	for _, claim := range r.All("persistentvolumeclaims") {
		if phase, _, _ := unstructured.NestedString(claim.Object, "status", "phase"); claim.GetAnnotations()[hv.RestoreNameAnnotation] == o.GetName() && phase != "Bound" {
			bound = false
			r.Edit("persistentvolumeclaims", namespace, claim.GetName(), func(c *unstructured.Unstructured) {
				_ = unstructured.SetNestedField(c.Object, "pvc-"+string(c.GetUID()), "spec", "volumeName")
				_ = unstructured.SetNestedField(c.Object, "Bound", "status", "phase")
			})
		}
	}
	if !bound || r.is(&r.held) && !r.is(&r.hasty) {
		return false
	}
	if !r.is(&r.held) {
		r.data()
	}
	target, _, _ := unstructured.NestedString(o.Object, "spec", "target", "name")
	vm := r.Get("virtualmachines", namespace, target)
	if vm == nil {
		return false
	}
	if ready, _, _ := unstructured.NestedBool(vm.Object, "status", "ready"); ready {
		return true
	}
	strategy := vm.GetAnnotations()[hv.RunStrategyAnnotation]
	if strategy == "" {
		strategy = "RerunOnFailure"
	}
	r.Edit("virtualmachines", namespace, target, func(vm *unstructured.Unstructured) {
		_ = unstructured.SetNestedField(vm.Object, strategy, "spec", "runStrategy")
	})
	return false
}

// data has Longhorn put the data into all volumes.
func (r *restores) data() {
	for _, v := range r.All("volumes") {
		r.Edit("volumes", v.GetNamespace(), v.GetName(), func(v *unstructured.Unstructured) {
			unstructured.RemoveNestedField(v.Object, "status", "restoreRequired")
		})
	}
}

// runMachine is KubeVirt: a machine that is to run has an instance, and is ready with it.
func (r *restores) runMachine(namespace, name string) {
	vm := r.Get("virtualmachines", namespace, name)
	if vm == nil || vm.GetDeletionTimestamp() != nil {
		return
	}
	strategy, _, _ := unstructured.NestedString(vm.Object, "spec", "runStrategy")
	ready, _, _ := unstructured.NestedBool(vm.Object, "status", "ready")
	runs := r.Get("virtualmachineinstances", namespace, name) != nil
	switch {
	case strategy == "Halted" && runs:
		r.Delete("virtualmachineinstances", namespace, name)
	case strategy != "Halted" && !runs:
		vmi := decoded(r.t, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":%q,"namespace":%q},"spec":{"domain":{"devices":{}}},"status":{"phase":"Running"}}`, name, namespace)
		vmi.SetOwnerReferences(owner(vm))
		r.Put("virtualmachineinstances", vmi)
	case ready != runs:
		r.Edit("virtualmachines", namespace, name, func(vm *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(vm.Object, runs, "status", "ready")
		})
	}
}

// restoreContract is the cluster as the suite of all engines sees it.
type restoreContract struct {
	contract
	r *restores
}

func (k restoreContract) Other() string { return "other" }

func (k restoreContract) Machine(ref vmbackup.Ref) map[string]any {
	vm := k.r.Get("virtualmachines", ref.Namespace, ref.Name)
	if vm == nil {
		return nil
	}
	return vm.Object
}

func (k restoreContract) Objects() []string {
	var objects []string
	for _, resource := range strings.Fields("configmaps controllerrevisions persistentvolumeclaims secrets virtualmachinerestores virtualmachines volumesnapshotcontents volumesnapshots") {
		for _, o := range k.r.All(resource) {
			objects = append(objects, resource+" "+o.GetNamespace()+"/"+o.GetName())
		}
	}
	return objects
}

func (k restoreContract) Hold() (release func()) {
	set := func(held bool) {
		k.r.mu.Lock()
		defer k.r.mu.Unlock()
		k.r.held = held
	}
	set(true)
	return func() { set(false) }
}

// What the tool relies on, whoever does the work.
func TestRestoreContract(t *testing.T) {
	enginetest.Restores(t, func(t *testing.T, test func(*testing.T, enginetest.RestoreCluster)) {
		t.Parallel()
		r := newRestores(t)
		test(t, restoreContract{contract{r.cluster}, r})
	})
}

// Harvester calls a restore complete when claims are bound and the machine runs, or is
// off as it is to be. The data may be on its way then.
func TestCompleteWithoutData(t *testing.T) {
	t.Parallel()
	r := newRestores(t)
	r.held, r.hasty = true, true
	e := r.start(request())
	if _, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	restore := vmbackup.Ref{Namespace: "demo", Name: "r1"}
	plan, err := e.PlanRestore(t.Context(), vmbackup.RestoreRequest{Name: restore.Name, Backup: b1, ToNamespace: "demo", ToName: "copy"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.StartRestore(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	var there atomic.Bool
	var once sync.Once
	got, err := e.RunRestore(t.Context(), restore, vmbackup.RunOptions{Sink: vmbackup.SinkFunc(func(event vmbackup.Event) {
		if strings.Contains(event.Message, "Longhorn still puts the data there") {
			once.Do(func() {
				there.Store(true)
				r.data()
			})
		}
	})})
	if err != nil {
		t.Fatal(err)
	}
	if !there.Load() || got.Status.Phase != vmbackup.PhaseReady {
		t.Errorf("ready before its data: %+v", got.Status)
	}
}

// Without the machine the record goes, and the claims, which belong to it, stay.
func TestDeleteRestoreWithoutItsMachine(t *testing.T) {
	t.Parallel()
	r := newRestores(t)
	e := r.start(request())
	if _, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	restore := vmbackup.Ref{Namespace: "demo", Name: "r1"}
	plan, err := e.PlanRestore(t.Context(), vmbackup.RestoreRequest{Name: restore.Name, Backup: b1, ToNamespace: "demo", ToName: "copy"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.StartRestore(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if _, err := e.RunRestore(t.Context(), restore, vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	// Deleted as with --cascade=orphan.
	r.Edit(hv.RestoreResource, "demo", restore.Name, func(o *unstructured.Unstructured) { o.SetOwnerReferences(nil) })
	r.Delete("virtualmachines", "demo", "copy")
	if err := r.engine().DeleteRestore(t.Context(), restore); err != nil {
		t.Fatal(err)
	}
	if n := len(r.All("persistentvolumeclaims")); n != 4 || r.Get(hv.RestoreResource, "demo", restore.Name) != nil {
		t.Errorf("%d claims are left, and the record: %v", n, r.Get(hv.RestoreResource, "demo", restore.Name))
	}
	if err := r.engine().DeleteRestore(t.Context(), restore); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("deleted again: %v", err)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func request() vmbackup.BackupRequest {
	return vmbackup.BackupRequest{Name: b1.Name, Namespace: b1.Namespace, VM: web.Name}
}

// start plans and starts a backup.
func (c *cluster) start(req vmbackup.BackupRequest) *Engine {
	c.t.Helper()
	e := c.engine()
	plan, err := e.PlanBackup(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := e.StartBackup(c.t.Context(), plan); err != nil {
		c.t.Fatal(err)
	}
	return e
}

// What Harvester cannot do is refused before anything is made; unfit is what the
// direct engine can do in its place.
func TestRefusals(t *testing.T) {
	volume := func(name string, source map[string]any) func(*cluster) {
		return func(c *cluster) {
			c.Edit("virtualmachines", "demo", "web", func(o *unstructured.Unstructured) {
				list, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
				source["name"] = name
				_ = unstructured.SetNestedSlice(o.Object, append(list, source), "spec", "template", "spec", "volumes")
			})
		}
	}
	for name, test := range map[string]struct {
		request func(*vmbackup.BackupRequest)
		cluster func(*cluster)
		reason  vmbackup.Reason
		says    string
		unfit   bool
	}{
		"another target":          {request: func(r *vmbackup.BackupRequest) { r.Target = "second" }, reason: vmbackup.ReasonStorageUnsupported, says: `"default" alone`, unfit: true},
		"a freeze of its own":     {request: func(r *vmbackup.BackupRequest) { r.FreezeTimeout = 5 * time.Second }, reason: vmbackup.ReasonFreezeFailed, says: "5s", unfit: true},
		"a freeze that must hold": {request: func(r *vmbackup.BackupRequest) { r.Quiesce = vmbackup.QuiesceRequire }, reason: vmbackup.ReasonFreezeFailed, says: "cannot be promised", unfit: true},
		"no freeze":               {request: func(r *vmbackup.BackupRequest) { r.Quiesce = vmbackup.QuiesceSkip }, reason: vmbackup.ReasonFreezeFailed, says: "--quiesce=skip cannot be kept", unfit: true},
		"a disk of a DataVolume": {cluster: func(c *cluster) {
			c.Put("persistentvolumeclaims", decoded(c.t, `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"dv","namespace":"demo"},"spec":{"storageClassName":"longhorn","volumeName":"pvc-web-root"},"status":{"phase":"Bound"}}`))
			c.Put("persistentvolumes", decoded(c.t, `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"pvc-web-root"},"spec":{"csi":{"driver":"driver.longhorn.io","volumeHandle":"pvc-web-root"}}}`))
			volume("more", map[string]any{"dataVolume": map[string]any{"name": "dv"}})(c)
		}, reason: vmbackup.ReasonStorageUnsupported, says: "more (PersistentVolumeClaim dv)", unfit: true},
		"a Secret that is missing": {cluster: func(c *cluster) { c.Delete("secrets", "demo", "web-init") }, reason: vmbackup.ReasonNotFound, says: "web-init", unfit: true},
		"no target":                {cluster: func(c *cluster) { c.setting("backup-target", "") }, reason: vmbackup.ReasonTargetUnavailable, says: "backup-target is empty", unfit: true},
		"no snapshot class":        {cluster: func(c *cluster) { c.Delete("volumesnapshotclasses", "", "longhorn") }, reason: vmbackup.ReasonStorageUnsupported, says: "VolumeSnapshotClass longhorn", unfit: true},
		"Harvester's own refusal": {cluster: func(c *cluster) {
			c.Refuse = func(resource string, _ *unstructured.Unstructured) error {
				if resource != "virtualmachinebackups" {
					return nil
				}
				return apierrors.NewBadRequest(`admission webhook "validator.harvesterhci.io" denied the request: vm demo/web is in migration`)
			}
		}, reason: vmbackup.ReasonConflict, says: "is in migration"},
		"a name of the direct engine": {cluster: func(c *cluster) {
			if _, err := c.journal.Create(c.t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: b1, Data: []byte("x")}); err != nil {
				c.t.Fatal(err)
			}
		}, reason: vmbackup.ReasonAlreadyExists, says: "direct engine"},
		"a name on the target": {cluster: func(c *cluster) { c.write(metadata.HarvesterBackupKey(b1), "{}") }, reason: vmbackup.ReasonAlreadyExists, says: "on backup target"},
		"another backup under way": {cluster: func(c *cluster) {
			c.stuck = true
			r := request()
			r.Name = "other"
			c.start(r)
			c.Edit("virtualmachinebackups", "demo", "other", func(o *unstructured.Unstructured) {
				o.Object["status"] = map[string]any{"sourceUID": "u", "readyToUse": false}
			})
		}, reason: vmbackup.ReasonConflict, says: "demo/other of VirtualMachine web is under way"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			if test.cluster != nil {
				test.cluster(c)
			}
			before := len(contract{c}.Writes())
			r := request()
			if test.request != nil {
				test.request(&r)
			}
			_, err := c.engine().PlanBackup(t.Context(), r)
			e := vmbackup.AsError(err, "none")
			if e == nil || e.Reason != test.reason || !e.Preflight || !strings.Contains(e.Message, test.says) || (UnfitFor(err) != "") != test.unfit {
				t.Errorf("%+v, unfit %q", e, UnfitFor(err))
			}
			if w := (contract{c}).Writes()[before:]; len(w) > 0 {
				t.Errorf("written: %v", w)
			}
		})
	}
}

// A machine that is off needs no freeze, whatever is asked for.
func TestMachineThatIsOff(t *testing.T) {
	c := newCluster(t)
	c.Delete("virtualmachineinstances", "demo", "web")
	for _, q := range []vmbackup.Quiesce{vmbackup.QuiesceAuto, vmbackup.QuiesceRequire, vmbackup.QuiesceSkip} {
		r := request()
		r.Quiesce = q
		plan, err := c.engine().PlanBackup(t.Context(), r)
		if err != nil || plan.Backup.Status.Consistency != vmbackup.ConsistencyOffline || len(plan.Warnings) > 0 {
			t.Errorf("%s: %+v, %v", q, plan, err)
		}
	}
}

// The object is what Harvester's UI makes, and carries what it cannot say.
func TestObject(t *testing.T) {
	c := newCluster(t)
	c.start(request())
	o := c.Get("virtualmachinebackups", b1.Namespace, b1.Name)
	spec, _, _ := unstructured.NestedMap(o.Object, "spec")
	source, _, _ := unstructured.NestedStringMap(o.Object, "spec", "source")
	if len(spec) != 2 || spec["type"] != "backup" || source["apiGroup"] != "kubevirt.io" || source["kind"] != "VirtualMachine" || source["name"] != "web" {
		t.Errorf("%v", spec)
	}
	notes := o.GetAnnotations()
	if notes[AnnotationVersion] != "v1.2.3" || notes["vmbackup.io/quiesce"] != "auto" || notes["vmbackup.io/consistency"] != "crash" || len(notes[AnnotationOperation]) != 12 {
		t.Errorf("%v", notes)
	}
}

// The tool's own file holds what Harvester's lacks.
func TestDescription(t *testing.T) {
	c := newCluster(t)
	e := c.start(request())
	if _, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	content, err := c.store.Get(t.Context(), metadata.RecordKey(b1), metadata.FileLimit)
	if err != nil {
		t.Fatal(err)
	}
	record, err := metadata.DecodeRecord(metadata.RecordKey(b1), content)
	if err != nil {
		t.Fatal(err)
	}
	if len(record.Claims) != 2 || len(record.Secrets) != 1 || len(record.ConfigMaps) != 1 || !record.Backup.Status.Ready || record.Backup.Status.Engine != vmbackup.EngineHarvester ||
		record.Operation != c.Get("virtualmachinebackups", b1.Namespace, b1.Name).GetAnnotations()[AnnotationOperation] {
		t.Errorf("%+v", record.Backup)
	}
	// The Secret comes with the labels that Harvester does not note.
	if s := string(record.Secrets[0]); !strings.Contains(s, `"of":"web"`) {
		t.Errorf("secret %s", s)
	}
}

// A target that only Harvester reaches makes a whole backup, and a warning.
func TestTargetOutOfReach(t *testing.T) {
	c := newCluster(t)
	c.openErr = vmbackup.Errorf(vmbackup.ReasonForbidden, "the credentials may not be read")
	e := c.start(request())
	b, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{})
	if err != nil || !b.Status.Ready {
		t.Fatalf("%+v, %v", b, err)
	}
	told := slices.ContainsFunc(b.Status.Warnings, func(w string) bool {
		return strings.Contains(w, "cannot be reached from here (the credentials may not be read)")
	})
	if !told || slices.Contains(c.files(), metadata.RecordKey(b1)) {
		t.Errorf("warnings %q, files %v", b.Status.Warnings, c.files())
	}
}

// Harvester's Ready is not believed: a volume that failed, or that names no backup in
// Longhorn, makes it Incomplete, and data that is not on the target does.
func TestNotWhole(t *testing.T) {
	for name, test := range map[string]struct {
		cluster func(*cluster)
		says    string
	}{
		"a failed upload":  {func(c *cluster) { c.uploadFails = "no space left" }, "no space left"},
		"no name":          {func(c *cluster) { c.unnamed = true }, "does not name its Longhorn backup"},
		"nothing is there": {func(c *cluster) { c.loses = true }, "does not hold it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			test.cluster(c)
			e := c.start(request())
			b, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{})
			if err == nil || !strings.Contains(err.Error(), test.says) || b.Status.Phase != vmbackup.PhaseIncomplete || b.Status.Ready {
				t.Errorf("%+v, %v", b.Status, err)
			}
			if slices.Contains(c.files(), metadata.RecordKey(b1)) {
				t.Error("it is described as if it were whole")
			}
		})
	}
}

// A snapshot stays in the volumes and needs no target.
func TestSnapshot(t *testing.T) {
	c := newCluster(t)
	c.setting("backup-target", "")
	r := request()
	r.Type = vmbackup.TypeSnapshot
	e := c.start(r)
	b, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{})
	if err != nil || !b.Status.Ready || b.Spec.Type != vmbackup.TypeSnapshot || len(c.files()) > 0 {
		t.Fatalf("%+v, %v, files %v", b, err, c.files())
	}
}

// A creation whose answer was lost has made one backup, and goes on with it.
func TestLostAnswer(t *testing.T) {
	c := newCluster(t)
	e := c.engine()
	plan, err := e.PlanBackup(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	object := plan.State.(*backupPlan).object
	c.Put("virtualmachinebackups", object)
	if _, err := e.StartBackup(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if n := len(c.All("virtualmachinebackups")); n != 1 {
		t.Errorf("%d objects", n)
	}
}

// A run meets the deletion of its backup.
func TestDeletedUnderARun(t *testing.T) {
	c := newCluster(t)
	c.stuck = true
	e := c.start(request())
	b, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{Sink: vmbackup.SinkFunc(func(ev vmbackup.Event) {
		if ev.Type == vmbackup.EventStep {
			c.Delete("virtualmachinebackups", b1.Namespace, b1.Name)
		}
	})})
	if vmbackup.ReasonOf(err) != vmbackup.ReasonCanceled || b.Status.Phase != vmbackup.PhaseCanceled {
		t.Errorf("%+v, %v", b.Status, err)
	}
}

// What Harvester's deletion leaves, as with a class that retains, goes too.
func TestDeleteWhatIsRetained(t *testing.T) {
	c := newCluster(t)
	c.keeps = true
	e := c.start(request())
	if _, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	plan, err := e.PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: b1, From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Delete(t.Context(), plan, vmbackup.RunOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := c.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What a deletion cannot keep is refused, and so is one that would delete nothing.
func TestDeleteRules(t *testing.T) {
	elsewhere := func(c *cluster) { c.setting("backup-target", `{"type":"s3","endpoint":"another","bucketName":"b"}`) }
	empty := func(c *cluster) {
		for _, key := range c.files() {
			c.remove(key)
		}
	}
	for name, test := range map[string]struct {
		cluster func(*cluster)
		keep    bool
		reason  vmbackup.Reason
	}{
		"keep the data":                {keep: true, reason: vmbackup.ReasonConflict},
		"on another target":            {cluster: elsewhere, reason: vmbackup.ReasonTargetUnavailable},
		"forget it, on another target": {cluster: elsewhere, keep: true},
		"against an empty target":      {cluster: empty, reason: vmbackup.ReasonTargetEmpty},
		"while Harvester restores from it": {cluster: func(c *cluster) {
			c.Put("virtualmachinerestores", decoded(c.t, `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineRestore","metadata":{"name":"r","namespace":"other"},
				"spec":{"target":{"kind":"VirtualMachine","name":"x"},"virtualMachineBackupName":"b1","virtualMachineBackupNamespace":"demo"},"status":{"conditions":[{"type":"InProgress","status":"True"}]}}`))
		}, reason: vmbackup.ReasonConflict},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			e := c.start(request())
			if _, err := e.RunBackup(t.Context(), b1, vmbackup.RunOptions{}); err != nil {
				t.Fatal(err)
			}
			if test.cluster != nil {
				test.cluster(c)
			}
			before := len(contract{c}.Writes())
			plan, err := e.PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: b1, From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget, KeepData: test.keep})
			if vmbackup.ReasonOf(err) != test.reason || err != nil && !vmbackup.AsError(err, "").Preflight {
				t.Fatalf("%v", err)
			}
			if w := (contract{c}).Writes()[before:]; len(w) > 0 {
				t.Errorf("written: %v", w)
			}
			if err != nil {
				return
			}
			if err := e.Delete(t.Context(), plan, vmbackup.RunOptions{}); err != nil {
				t.Fatal(err)
			}
			if c.Get("virtualmachinebackups", b1.Namespace, b1.Name) != nil {
				t.Error("the object is there")
			}
		})
	}
}

func TestUnfitFor(t *testing.T) {
	if got := UnfitFor(preflight(unfit(vmbackup.ReasonInvalidRequest, "why"))); got != "why" {
		t.Errorf("%q", got)
	}
	if got := UnfitFor(errors.New("other")); got != "" {
		t.Errorf("%q", got)
	}
}

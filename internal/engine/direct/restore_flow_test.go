// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreRequest asks for the machine of b1 in the namespace "other".
func restoreRequest() vmbackup.RestoreRequest {
	return vmbackup.RestoreRequest{Name: "r1", Backup: b1, ToNamespace: "other"}
}

var (
	r1    = vmbackup.Ref{Namespace: "other", Name: "r1"}
	other = vmbackup.Ref{Namespace: "other", Name: "web"}
)

func (c *cluster) startRestore(req vmbackup.RestoreRequest) {
	c.t.Helper()
	plan, err := c.engine.PlanRestore(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.engine.StartRestore(c.t.Context(), plan); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) runRestore(ctx context.Context) (*vmbackup.Restore, error) {
	return c.engine.RunRestore(ctx, r1, vmbackup.RunOptions{Sink: c.events})
}

func (c *cluster) restoreEntry() *restoreRecord {
	c.t.Helper()
	entry, err := c.journal.Get(c.t.Context(), journal.KindRestore, r1)
	if err != nil {
		c.t.Fatal(err)
	}
	record, err := decodeRestore(r1, entry.Data)
	if err != nil {
		c.t.Fatal(err)
	}
	return record
}

// machine is a machine's manifest as the API server has it.
func (c *cluster) machine(ref vmbackup.Ref) map[string]any {
	c.t.Helper()
	raw, err := c.vms.Get(c.t.Context(), ref.Namespace, ref.Name)
	if err != nil {
		c.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		c.t.Fatal(err)
	}
	return m
}

func TestRestoreIntoAnotherNamespace(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		var contents []*snapshotv1.VolumeSnapshotContent
		c.events.on = func(e vmbackup.Event) {
			if e.Step == "snapshots" && e.State == vmbackup.StateReady {
				for _, o := range c.all("volumesnapshotcontents") {
					if content := o.(*snapshotv1.VolumeSnapshotContent); content.Spec.Source.SnapshotHandle != nil {
						contents = append(contents, content)
					}
				}
			}
		}
		files := c.files()
		c.startRestore(restoreRequest())
		r, err := c.runRestore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !r.Status.Ready || r.Status.Phase != vmbackup.PhaseReady || r.Status.VM != "other/web" {
			t.Errorf("restore %+v", r.Status)
		}
		for _, v := range r.Status.Volumes {
			if v.State != vmbackup.StateReady || v.Progress != 100 || v.LonghornVolume == "" {
				t.Errorf("volume %+v", v)
			}
		}
		for _, s := range r.Status.Steps {
			if s.State != vmbackup.StateReady && s.ID != "start" {
				t.Errorf("step %+v", s)
			}
		}
		// The composed snapshots point at the data, keep it, and are gone.
		if len(contents) != 2 {
			t.Fatalf("%d composed contents", len(contents))
		}
		for _, content := range contents {
			if content.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain || !strings.HasPrefix(*content.Spec.Source.SnapshotHandle, "bak://pvc-web-") || content.Spec.VolumeSnapshotRef.Namespace != "other" {
				t.Errorf("composed %+v", content.Spec)
			}
			if c.has("volumesnapshotcontents", "", content.Name) || c.has("volumesnapshots", "other", content.Name) {
				t.Errorf("%s is still there", content.Name)
			}
		}
		wantSame(t, "files", c.files(), files)
		wantSame(t, "Longhorn backups", len(c.names("backups")), 2)

		// The machine runs, on its own disks, with its own secret and config map.
		m := c.machine(other)
		spec := m["spec"].(map[string]any)
		if spec["runStrategy"] != "Always" || spec["fieldOfTheFuture"].(map[string]any)["answer"] != 42.0 {
			t.Errorf("spec %v", spec)
		}
		for _, name := range []string{"web-root", "web-data"} {
			claim, err := c.get(objectKey{"persistentvolumeclaims", "other", name}, schema.GroupResource{})
			if err != nil {
				t.Fatal(err)
			}
			if p := claim.(*corev1.PersistentVolumeClaim); p.Labels["tier"] != "gold" || p.Annotations[AnnotationRestoredFrom] != "demo/b1" || p.Annotations["pv.kubernetes.io/bind-completed"] != "" {
				t.Errorf("claim %s: labels %v, annotations %v", name, p.Labels, p.Annotations)
			}
		}
		if !c.has("secrets", "other", "web-init") || !c.has("configmaps", "other", "web-conf") {
			t.Error("secret or config map are missing")
		}
		if !c.has("virtualmachines", "demo", "web") {
			t.Error("the source machine is gone")
		}
	})
}

func TestRestoreTellsItsSteps(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, id := range []string{"sync", "snapshots", "objects", "volumes", "machine", "data", "cleanup", "start"} {
			want = append(want, "step "+id+" Running", "step "+id+" Ready")
		}
		wantSame(t, "steps", slices.Compact(c.events.told(vmbackup.EventPlan, vmbackup.EventStep, vmbackup.EventResult)), slices.Concat([]string{"plan"}, want, []string{"result Ready"}))
		progress := map[string][]int{}
		for _, e := range c.events.events {
			if e.Type == vmbackup.EventVolume {
				progress[e.Volume] = append(progress[e.Volume], e.Progress)
			}
		}
		// A volume is as far as its slowest replica.
		wantSame(t, "progress", progress, map[string][]int{"root": {0, 30, 100}, "data": {0, 30, 100}})
	})
}

func TestMachineIsNotStartedBeforeItsDataIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		halted := true
		c.events.on = func(e vmbackup.Event) {
			if e.Step == "data" && e.Type == vmbackup.EventStep {
				strategy := c.machine(other)["spec"].(map[string]any)["runStrategy"]
				halted = halted && strategy == "Halted"
			}
		}
		c.startRestore(restoreRequest())
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !halted {
			t.Error("the machine is started while its disks are restored")
		}
	})
}

func TestInterruptedRestoreGoesOn(t *testing.T) {
	for _, step := range []string{"sync", "snapshots", "objects", "volumes", "machine", "data", "cleanup", "start"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.startRestore(restoreRequest())
				ctx, cancel := context.WithCancel(t.Context())
				c.events.on = func(e vmbackup.Event) {
					if e.Step == step && e.State == vmbackup.StateReady || e.Step == step && step == "start" {
						cancel()
					}
				}
				_, err := c.runRestore(ctx)
				if step != "start" {
					wantReason(t, err, vmbackup.ReasonCanceled)
				}
				c.events.on = nil
				if got := c.restoreEntry().Restore.Status.Phase; got != vmbackup.PhaseRunning && err != nil {
					t.Errorf("recorded as %s", got)
				}
				r, err := c.runRestore(t.Context())
				if err != nil || !r.Status.Ready {
					t.Fatalf("%s: %v", r.Status.Phase, err)
				}
				wantSame(t, "claims", len(c.names("persistentvolumeclaims")), 4)
				wantSame(t, "machines", c.names("virtualmachines"), []string{"web", "web"})
				for _, name := range c.names("volumesnapshots") {
					if !strings.HasPrefix(name, "b1-") {
						t.Errorf("VolumeSnapshot %s is left", name)
					}
				}
			})
		})
	}
}

func TestRestoreAfterItsEndDoesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.forget()
		if r, err := c.runRestore(t.Context()); err != nil || !r.Status.Ready {
			t.Errorf("%v", err)
		}
		wantSame(t, "writes", c.writes(), nil)
	})
}

// Longhorn that has lost its list of the backups is asked to look again.
func TestRestoreWaitsForLonghornToListTheBackups(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.forgetBackups()
		c.startRestore(restoreRequest())
		r, err := c.runRestore(t.Context())
		if err != nil || !r.Status.Ready {
			t.Fatal(err)
		}
		position(t, c.log(), "patch backuptargets longhorn-system/default")
	})
}

func TestRestoreGivesUpOnLonghornInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.forgetBackups()
		clear(c.listed)
		c.startRestore(restoreRequest())
		began := time.Now()
		_, err := c.runRestore(t.Context())
		wantReason(t, err, vmbackup.ReasonTargetUnavailable)
		// It can be resumed once the target is mended.
		if took := time.Since(began); took != syncDeadline || c.restoreEntry().Restore.Status.Phase != vmbackup.PhaseRunning {
			t.Errorf("%s after %s", c.restoreEntry().Restore.Status.Phase, took)
		}
	})
}

func TestRestoreRefusesForeignObjectsInItsWay(t *testing.T) {
	for name, put := range map[string]func(*cluster){
		"Secret web-init": func(c *cluster) {
			c.put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web-init"}})
		},
		"ConfigMap web-conf": func(c *cluster) {
			c.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web-conf"}})
		},
		"PersistentVolumeClaim web-data": func(c *cluster) {
			c.put("persistentvolumeclaims", &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web-data"}})
		},
		"VirtualMachine web": func(c *cluster) { c.addMachine(strings.ReplaceAll(webManifest, "demo", "other")) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.startRestore(restoreRequest())
				put(c) // after the plan
				r, err := c.runRestore(t.Context())
				e := failure(t, err, vmbackup.ReasonAlreadyExists)
				if !strings.Contains(e.Message, name) || !strings.Contains(e.Message, "left as it is") || r.Status.Phase != vmbackup.PhaseFailed {
					t.Errorf("%s: %s", r.Status.Phase, e.Message)
				}
			})
		})
	}
}

func TestRestoreThatLonghornFails(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.restoreFails = "cannot read block 17"
		c.startRestore(restoreRequest())
		r, err := c.runRestore(t.Context())
		e := failure(t, err, vmbackup.ReasonBackupFailed)
		if !strings.Contains(e.Message, "cannot read block 17") || r.Status.Phase != vmbackup.PhaseFailed || r.Status.Ready {
			t.Errorf("%s: %s", r.Status.Phase, e.Message)
		}
		if got := c.machine(other)["spec"].(map[string]any)["runStrategy"]; got != "Halted" {
			t.Errorf("a machine on broken disks is %v", got)
		}
		if got := c.restoreEntry().Restore.Status; got.Error == nil || got.Error.Reason != vmbackup.ReasonBackupFailed {
			t.Errorf("recorded error %v", got.Error)
		}
	})
}

func TestRestoreWithoutWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		r, err := c.engine.RunRestore(t.Context(), r1, vmbackup.RunOptions{NoWait: true})
		if err != nil || r.Status.Phase != vmbackup.PhaseRunning || r.Status.VM == "" {
			t.Fatalf("%s: %v", r.Status.Phase, err)
		}
		if r, err = c.runRestore(t.Context()); err != nil || !r.Status.Ready {
			t.Errorf("%s: %v", r.Status.Phase, err)
		}
	})
}

// What is on the target alone, from another cluster, is all that a restore needs.
func TestRestoreFromTheTargetAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		if err := c.journal.Store.Delete(t.Context(), journal.KindBackup, b1); err != nil {
			t.Fatal(err)
		}
		req := restoreRequest()
		req.From = vmbackup.SourceTarget
		c.startRestore(req)
		if r, err := c.runRestore(t.Context()); err != nil || !r.Status.Ready {
			t.Errorf("%v", err)
		}
	})
}

// Harvester's own file holds enough for a restore, though not the config map.
func TestRestoreFromHarvestersFile(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		if err := errors.Join(c.journal.Store.Delete(t.Context(), journal.KindBackup, b1), c.store.Store.Delete(t.Context(), metadata.RecordKey(b1))); err != nil {
			t.Fatal(err)
		}
		c.startRestore(restoreRequest())
		if r, err := c.runRestore(t.Context()); err != nil || !r.Status.Ready {
			t.Errorf("%v", err)
		}
		if !c.has("secrets", "other", "web-init") {
			t.Error("the secret is missing")
		}
	})
}

func TestTwoRestoresOfOneName(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		plan, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if err != nil {
			t.Fatal(err)
		}
		c.startRestore(restoreRequest())
		_, err = c.engine.StartRestore(t.Context(), plan)
		wantReason(t, err, vmbackup.ReasonAlreadyExists)
	})
}

func TestRestoreOfASnapshotBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		req := request()
		req.Type = vmbackup.TypeSnapshot
		c.start(req)
		b, err := c.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _, name, _ := handleParts(b.Status.Volumes[0].SnapshotHandle)
		if _, err := c.engine.PlanRestore(t.Context(), restoreRequest()); err != nil {
			t.Fatal(err)
		}
		c.vanish("snapshots", "longhorn-system", name)
		_, err = c.engine.PlanRestore(t.Context(), restoreRequest())
		wantReason(t, err, vmbackup.ReasonDataLost)
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// stopTakes is how long a machine of the tests takes to shut down.
const stopTakes = 3 * time.Second

// turnOff is what KubeVirt does with a machine that is to be off.
func (c *cluster) turnOff(vm *kubevirtv1.VirtualMachine) {
	if vm.Spec.RunStrategy == nil || *vm.Spec.RunStrategy != kubevirtv1.RunStrategyHalted || !vm.Status.Ready && !c.has("virtualmachineinstances", vm.Namespace, vm.Name) {
		return
	}
	time.AfterFunc(stopTakes, func() {
		now, err := c.vms.typed(vm.Namespace, vm.Name)
		if err != nil || now.Spec.RunStrategy == nil || *now.Spec.RunStrategy != kubevirtv1.RunStrategyHalted {
			return
		}
		c.vanish("virtualmachineinstances", vm.Namespace, vm.Name)
		edit(c.apiServer, "virtualmachines", vm.Namespace, vm.Name, func(o *kubevirtv1.VirtualMachine) { o.Status.Ready, o.Status.Created = false, false })
	})
}

var p1 = vmbackup.Ref{Namespace: "demo", Name: "p1"}

// inPlaceRequest asks for the machine of b1 as it was, where it is.
func inPlaceRequest() vmbackup.RestoreRequest {
	return vmbackup.RestoreRequest{Name: "p1", Backup: b1, InPlace: true, Stop: true}
}

func (c *cluster) runInPlace(ctx context.Context) (*vmbackup.Restore, error) {
	return c.engine.RunRestore(ctx, p1, vmbackup.RunOptions{Sink: c.events})
}

// changed changes the machine after its backup: its specification, its config map,
// and a disk that the backup does not know.
func (c *cluster) changed() {
	c.t.Helper()
	c.disk("demo", "web-extra", gib)
	patch := `{"metadata":{"labels":{"added":"later"}},"spec":{"fieldOfTheFuture":{"answer":7},"template":{"spec":{"volumes":[
		{"name":"root","persistentVolumeClaim":{"claimName":"web-root"}},{"name":"data","dataVolume":{"name":"web-data"}},
		{"name":"extra","persistentVolumeClaim":{"claimName":"web-extra"}},
		{"name":"cloudinit","cloudInitNoCloud":{"secretRef":{"name":"web-init"}}},{"name":"conf","configMap":{"name":"web-conf"}}]}}}}`
	if err := c.vms.Patch(c.t.Context(), "demo", "web", []byte(patch)); err != nil {
		c.t.Fatal(err)
	}
	edit(c.apiServer, "configmaps", "demo", "web-conf", func(m *corev1.ConfigMap) { m.Data = map[string]string{"port": "9090"} })
}

// disksOf are the claims of a machine, by the volume.
func (c *cluster) disksOf(ref vmbackup.Ref) map[string]string {
	c.t.Helper()
	vm, err := c.vms.typed(ref.Namespace, ref.Name)
	if err != nil {
		c.t.Fatal(err)
	}
	disks := map[string]string{}
	for _, r := range capture.ReferencesOf(vm).Claims {
		disks[r.Volume] = r.Claim
	}
	return disks
}

func (c *cluster) runStrategy(ref vmbackup.Ref) string {
	spec, _ := c.machine(ref)["spec"].(map[string]any)
	strategy, _ := spec["runStrategy"].(string)
	return strategy
}

func TestInPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.changed()
		before := c.machine(web)["metadata"].(map[string]any)
		var offAt []string
		c.events.on = func(e vmbackup.Event) {
			if e.Type == vmbackup.EventStep && e.State == vmbackup.StateReady && c.runStrategy(web) == "Halted" {
				offAt = append(offAt, e.Step)
			}
		}
		c.startRestore(inPlaceRequest())
		r, err := c.runInPlace(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !r.Status.Ready || r.Spec.Mode != vmbackup.ModeInPlace || r.Status.VM != "demo/web" {
			t.Errorf("%+v", r)
		}
		// The machine is off for the exchange alone: its data was there before.
		wantSame(t, "off at the end of", offAt, []string{"stop", "machine"})
		m := c.machine(web)
		spec, metadata := m["spec"].(map[string]any), m["metadata"].(map[string]any)
		if metadata["uid"] != before["uid"] || metadata["labels"].(map[string]any)["added"] != "later" || metadata["annotations"].(map[string]any)[AnnotationRestoredFrom] != "demo/b1" {
			t.Errorf("metadata %v", metadata)
		}
		if spec["runStrategy"] != "Always" || spec["fieldOfTheFuture"].(map[string]any)["answer"] != 42.0 {
			t.Errorf("spec %v", spec)
		}
		if !strings.Contains(fmt.Sprint(spec), "02:00:00:00:00:01") {
			t.Error("the MAC address is lost")
		}
		// New claims under new names; the old ones are as they were, and named.
		disks := c.disksOf(web)
		if len(disks) != 2 || disks["root"] == "web-root" || !strings.HasPrefix(disks["root"], "web-root-") {
			t.Errorf("disks %v", disks)
		}
		wantSame(t, "old", r.Status.OldVolumes, []string{"web-root", "web-data"})
		for _, claim := range []string{"web-root", "web-data", "web-extra", disks["root"], disks["data"]} {
			if !c.has("persistentvolumeclaims", "demo", claim) {
				t.Errorf("claim %s is gone", claim)
			}
		}
		// What is there under the config map's name stays; the machine has its content of then.
		kept, _ := c.get(objectKey{"configmaps", "demo", "web-conf"}, schema.GroupResource{})
		if kept.(*corev1.ConfigMap).Data["port"] != "9090" {
			t.Error("the config map that is there was overwritten")
		}
		var names []string
		for _, v := range spec["template"].(map[string]any)["spec"].(map[string]any)["volumes"].([]any) {
			if conf, ok := v.(map[string]any)["configMap"].(map[string]any); ok {
				names = append(names, conf["name"].(string))
			}
		}
		if len(names) != 1 || names[0] == "web-conf" {
			t.Fatalf("config maps %v", names)
		}
		restored, err := c.get(objectKey{"configmaps", "demo", names[0]}, schema.GroupResource{})
		if err != nil || restored.(*corev1.ConfigMap).Data["port"] != "8080" {
			t.Errorf("%v, %v", restored, err)
		}
		if !strings.Contains(strings.Join(r.Status.Warnings, "\n"), "web-extra") {
			t.Errorf("warnings %v", r.Status.Warnings)
		}
		for _, name := range c.names("volumesnapshots") {
			if !strings.HasPrefix(name, "b1-") {
				t.Errorf("VolumeSnapshot %s is left", name)
			}
		}
	})
}

func TestInPlaceDeletesTheOldVolumes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.changed()
		edit(c.apiServer, "persistentvolumeclaims", "demo", "web-data", func(p *corev1.PersistentVolumeClaim) {
			controller := true
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "cdi.kubevirt.io/v1beta1", Kind: "DataVolume", Name: "web-data", UID: "dv-1", Controller: &controller}}
		})
		req := inPlaceRequest()
		req.DeleteOldVolumes = true
		c.startRestore(req)
		c.forget()
		var ready bool
		c.events.on = func(e vmbackup.Event) {
			if e.Step == "old-volumes" && e.State == vmbackup.StateRunning {
				vm, err := c.vms.typed("demo", "web")
				ready = err == nil && vm.Status.Ready
			}
		}
		r, err := c.runInPlace(t.Context())
		if err != nil || len(r.Status.OldVolumes) > 0 {
			t.Fatalf("%v, old %v", err, r.Status.OldVolumes)
		}
		if !ready {
			t.Error("the old volumes go before the machine was seen running")
		}
		disks := c.disksOf(web)
		wantSame(t, "claims", c.names("persistentvolumeclaims"), []string{disks["data"], "web-extra", disks["root"]})
		// The DataVolume goes before its claim, which would be made anew.
		if position(t, c.log(), "delete datavolumes demo/web-data") > position(t, c.log(), "delete persistentvolumeclaims demo/web-data") {
			t.Error("the claim goes before its DataVolume")
		}
	})
}

// How a machine ran decides how it runs afterwards.
func TestInPlaceRunsAsBefore(t *testing.T) {
	for name, tc := range map[string]struct {
		strategy string
		runs     bool
		start    vmbackup.StartPolicy
		want     string
		byHand   bool
	}{
		"always":                    {"Always", true, "", "Always", false},
		"off":                       {"Halted", false, "", "Halted", false},
		"off, and started":          {"Halted", false, vmbackup.StartYes, "Always", false},
		"running, and left off":     {"Always", true, vmbackup.StartNo, "Halted", false},
		"by hand, running":          {"Manual", true, "", "Manual", true},
		"by hand, off":              {"Manual", false, "", "Manual", false},
		"again on failure, running": {"RerunOnFailure", true, "", "RerunOnFailure", false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				if err := c.vms.Patch(t.Context(), "demo", "web", fmt.Appendf(nil, `{"spec":{"runStrategy":%q}}`, tc.strategy)); err != nil {
					t.Fatal(err)
				}
				if !tc.runs {
					c.vanish("virtualmachineinstances", "demo", "web")
				}
				req := inPlaceRequest()
				req.Start = tc.start
				req.Stop = tc.runs
				c.startRestore(req)
				c.forget()
				c.events.on = func(e vmbackup.Event) {
					if e.Step == "start" && tc.strategy == "RerunOnFailure" {
						edit(c.apiServer, "virtualmachines", "demo", "web", func(vm *kubevirtv1.VirtualMachine) { vm.Status.Ready = true })
					}
				}
				r, err := c.runInPlace(t.Context())
				if err != nil || !r.Status.Ready {
					t.Fatal(err)
				}
				if got := c.runStrategy(web); got != tc.want {
					t.Errorf("run strategy %s, want %s", got, tc.want)
				}
				if got := slices.Contains(c.log(), "start virtualmachines demo/web"); got != tc.byHand {
					t.Errorf("started by hand: %t", got)
				}
			})
		})
	}
}

// The deprecated spec.running is what a machine gets back when nothing comes of the restore.
func TestInPlaceThatFailsGivesTheMachineBack(t *testing.T) {
	for name, tc := range map[string]struct {
		set     func(*cluster)
		running bool // by spec.running
		reason  vmbackup.Reason
		stopped bool
	}{
		"the data": {
			set: func(c *cluster) { c.restoreFails = "cannot read block 17" }, reason: vmbackup.ReasonBackupFailed,
		},
		"the exchange": {
			set: func(c *cluster) {
				c.fail("update", "virtualmachines", func(string) error {
					return apierrors.NewInvalid(schema.GroupKind{Group: "kubevirt.io", Kind: "VirtualMachine"}, "web", nil)
				})
			},
			reason: vmbackup.ReasonInvalidRequest, stopped: true,
		},
		"the exchange is forbidden": {
			set: func(c *cluster) {
				c.fail("update", "virtualmachines", func(string) error {
					return apierrors.NewForbidden(virtualMachines, "web", errors.New("policy"))
				})
			},
			running: true, reason: vmbackup.ReasonForbidden, stopped: true,
		},
		"the quota": {
			set: func(c *cluster) {
				c.fail("create", "persistentvolumeclaims", func(string) error {
					return &apierrors.StatusError{ErrStatus: metav1.Status{Status: "Failure", Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden, Message: "exceeded quota: q, requested: 1"}}
				})
			},
			reason: vmbackup.ReasonQuotaExceeded,
		},
		"somebody changed the disks": {
			set: func(c *cluster) {
				c.events.on = func(e vmbackup.Event) {
					if e.Step == "stop" && e.State == vmbackup.StateReady {
						_ = c.vms.Patch(c.t.Context(), "demo", "web", []byte(`{"spec":{"template":{"spec":{"volumes":[]}}}}`))
					}
				}
			},
			reason: vmbackup.ReasonSourceMismatch, stopped: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.changed()
				if tc.running {
					if err := c.vms.Patch(t.Context(), "demo", "web", []byte(`{"spec":{"running":true,"runStrategy":null}}`)); err != nil {
						t.Fatal(err)
					}
				}
				before := c.machine(web)["spec"]
				claims, maps := c.names("persistentvolumeclaims"), c.names("configmaps")
				c.startRestore(inPlaceRequest())
				tc.set(c)
				c.forget()
				r, err := c.runInPlace(t.Context())
				e := failure(t, err, tc.reason)
				if r.Status.Phase != vmbackup.PhaseFailed || !strings.Contains(e.Message, "VirtualMachine demo/web is as it was before") {
					t.Errorf("%s: %s", r.Status.Phase, e.Message)
				}
				if tc.reason != vmbackup.ReasonSourceMismatch {
					wantSame(t, "spec", c.machine(web)["spec"], before)
				} else if c.runStrategy(web) != "Always" {
					t.Error("the machine is left off")
				}
				wantSame(t, "claims", c.names("persistentvolumeclaims"), claims)
				wantSame(t, "config maps", c.names("configmaps"), maps)
				wantSame(t, "VolumeSnapshots", len(c.names("volumesnapshots")), 2)
				if got := slices.Contains(c.log("patch"), "patch virtualmachines demo/web"); got != tc.stopped {
					t.Errorf("the machine was touched: %t", got)
				}
			})
		})
	}
}

// A machine that does not start keeps both its old volumes and the way back to them.
func TestInPlaceThatDoesNotStart(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		req := inPlaceRequest()
		req.DeleteOldVolumes = true
		c.startRestore(req)
		off := true
		c.after = append(c.after[:0:0], c.after[0]) // nobody starts machines any more
		c.after = append(c.after, func(verb, kind string, o runtime.Object) {
			if vm, ok := o.(*kubevirtv1.VirtualMachine); ok && off {
				c.turnOff(vm)
				return
			}
			c.react(verb, kind, o)
		})
		_, err := c.runInPlace(t.Context())
		e := failure(t, err, vmbackup.ReasonTimeout)
		if !strings.Contains(e.Hint, "go back to them") || !strings.Contains(e.Hint, `"claimName":"web-root"`) {
			t.Error(e.Hint)
		}
		if !c.has("persistentvolumeclaims", "demo", "web-root") {
			t.Error("the old volume is gone though the machine does not run")
		}
		entry, err := c.journal.Get(t.Context(), journal.KindRestore, p1)
		if err != nil {
			t.Fatal(err)
		}
		record, err := decodeRestore(p1, entry.Data)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "old", record.Restore.Status.OldVolumes, []string{"web-root", "web-data"})
		// The printed patch brings the old disks back.
		_, patch, _ := strings.Cut(record.goBack(), "-p '")
		var operations []struct{ Path string }
		if err := json.Unmarshal([]byte(strings.TrimSuffix(patch, "'")), &operations); err != nil || len(operations) != 2 {
			t.Errorf("%v in %s", err, record.goBack())
		}
		off = false
		edit(c.apiServer, "virtualmachines", "demo", "web", func(vm *kubevirtv1.VirtualMachine) { vm.Status.Ready = true })
		if r, err := c.runInPlace(t.Context()); err != nil || len(r.Status.OldVolumes) > 0 {
			t.Errorf("%v", err)
		}
	})
}

func TestInPlaceOfAMachineWhoseDiskIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.vanish("persistentvolumeclaims", "demo", "web-root")
		c.startRestore(inPlaceRequest())
		r, err := c.runInPlace(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "old", r.Status.OldVolumes, []string{"web-data"})
	})
}

// Restored again and again, also from backups of what was restored, names do not grow and the second one's old volumes are the first one's new ones.
func TestInPlaceAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(inPlaceRequest())
		if _, err := c.runInPlace(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := c.disksOf(web)
		c.completeAlso("b2") // of the machine as it was restored
		req := inPlaceRequest()
		req.Name, req.Backup.Name, req.Target = "p2", "b2", vmbackup.DefaultTarget
		c.startRestore(req)
		r, err := c.engine.RunRestore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "p2"}, vmbackup.RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		second := c.disksOf(web)
		if first["root"] == second["root"] || len(first["root"]) != len(second["root"]) {
			t.Errorf("%v, then %v", first, second)
		}
		wantSame(t, "old", r.Status.OldVolumes, []string{first["root"], first["data"]})
	})
}

func TestInPlaceWithoutWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(inPlaceRequest())
		r, err := c.engine.RunRestore(t.Context(), p1, vmbackup.RunOptions{NoWait: true})
		if err != nil || r.Status.Phase != vmbackup.PhaseRunning || c.runStrategy(web) != "Always" {
			t.Fatalf("%s, machine %s: %v", r.Status.Phase, c.runStrategy(web), err)
		}
		if r, err = c.runInPlace(t.Context()); err != nil || !r.Status.Ready {
			t.Errorf("%v", err)
		}
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// platform makes machines as Harvester does: without most of what they are.
type platform struct {
	c       *cluster
	begun   int
	undone  bool
	tooLate error
	refuses error
}

const platformMachine = `{
  "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
  "metadata": {"name": "web", "namespace": "other", "annotations": {"platform/uid": "u", "platform/claims": "live"}},
  "spec": {"runStrategy": "Halted", "template": {"metadata": {"labels": {"platform": "yes"}}, "spec": {
    "domain": {"devices": {"interfaces": [{"name": "default", "macAddress": "02:00:00:00:00:99", "masquerade": {}}]}},
    "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "made-root"}}]}}}
}`

func (p *platform) Name() string { return "platform" }

func (p *platform) Secrets(*metadata.Record, vmbackup.Ref, bool) map[string]string {
	return map[string]string{"web-init": "platform-init"}
}

func (p *platform) Plan(_ context.Context, d *Delegated, _ vmbackup.RestoreRequest) ([]vmbackup.PlannedObject, error) {
	d.SetState(json.RawMessage(`{"kept":true}`))
	return []vmbackup.PlannedObject{{Action: vmbackup.ActionCreate, Kind: "PlatformRestore", Name: d.Restore().Metadata.Name}}, p.refuses
}

func (p *platform) Begin(context.Context, *Delegated) (func(context.Context) error, error) {
	p.begun++
	return func(context.Context) error { p.begun--; return nil }, nil
}

func (p *platform) Steps(d *Delegated) []flow.Step {
	return []flow.Step{
		{ID: "make", Title: "Make", Ensure: func(ctx context.Context) error {
			if _, err := d.LiveMachine(ctx); err == nil {
				return nil
			}
			p.c.addMachine(platformMachine)
			return nil
		}},
		{ID: "machine", Title: "Put back", Ensure: func(ctx context.Context) error {
			if err := d.SetClaims(map[string]string{"root": "made-root", "data": "made-data"}); err != nil {
				return err
			}
			_, err := d.PutBack(ctx, []string{"platform/uid", "platform/claims"})
			d.NoteOldVolumes()
			return err
		}},
		{ID: "start", Title: "Start", Ensure: d.Settle},
	}
}

func (p *platform) Follow(context.Context, *Delegated) error { return nil }

func (p *platform) TooLate(context.Context, *Delegated) error { return p.tooLate }

func (p *platform) Undo(*Delegated) []flow.Step {
	return []flow.Step{{ID: "undo", Title: "Undo", Ensure: func(context.Context) error { p.undone = true; return nil }}}
}

// delegating is the cluster's engine with a platform.
func (c *cluster) delegating() *platform {
	p := &platform{c: c}
	c.engine = c.engine.Delegating(p, c.journal)
	return p
}

// Whoever makes the machine, it is in the end what the backup says, off until then.
func TestDelegatedRestore(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		p := c.delegating()
		plan, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range plan.Objects {
			if o.Kind == "VolumeSnapshot" || o.Kind == "VolumeSnapshotContent" || o.Kind == "PersistentVolumeClaim" || o.Kind == "Secret" {
				t.Errorf("planned: %+v", o)
			}
		}
		d, ok := DelegatedPlan(plan)
		if !ok || !slices.Equal(d.Unrestorable(), []string{"ConfigMap web-conf"}) || !d.EndsRunning() || d.Stops() {
			t.Errorf("%v, not restored by it: %q", ok, d.Unrestorable())
		}
		if _, err := c.engine.StartRestore(t.Context(), plan); err != nil || p.begun != 1 {
			t.Fatalf("%v, begun %d times", err, p.begun)
		}
		restore, err := c.runRestore(t.Context())
		if err != nil || restore.Status.Engine != "platform" || restore.Status.Phase != vmbackup.PhaseReady {
			t.Fatalf("%+v, %v", restore, err)
		}
		raw, err := json.Marshal(c.machine(other))
		if err != nil {
			t.Fatal(err)
		}
		vm := &kubevirtv1.VirtualMachine{}
		if err := json.Unmarshal(raw, vm); err != nil {
			t.Fatal(err)
		}
		claims := map[string]string{}
		for _, v := range vm.Spec.Template.Spec.Volumes {
			switch {
			case v.PersistentVolumeClaim != nil:
				claims[v.Name] = v.PersistentVolumeClaim.ClaimName
			case v.CloudInitNoCloud != nil:
				claims[v.Name] = v.CloudInitNoCloud.UserDataSecretRef.Name
			}
		}
		if vm.Labels["app"] != "web" || vm.Annotations["note"] != "keep" || vm.Annotations["platform/uid"] != "u" || vm.Annotations["platform/claims"] != "live" ||
			vm.Spec.Template.ObjectMeta.Labels["platform"] != "" || vm.Spec.Template.ObjectMeta.Labels["kubevirt.io/vm"] != "web" || *vm.Spec.RunStrategy != kubevirtv1.RunStrategyAlways ||
			vm.Annotations[harvester.RunStrategyAnnotation] != "Always" || claims["root"] != "made-root" || claims["data"] != "made-data" || claims["cloudinit"] != "platform-init" ||
			!strings.Contains(string(raw), `"fieldOfTheFuture"`) {
			t.Errorf("%s", raw)
		}
		// The source is there, so that the address is the one that it was given here.
		if mac := vm.Spec.Template.Spec.Domain.Devices.Interfaces[0].MacAddress; mac != "02:00:00:00:00:99" {
			t.Errorf("MAC address %s", mac)
		}
		for _, kind := range []string{"volumesnapshots", "persistentvolumeclaims", "secrets"} {
			for _, o := range c.all(kind) {
				if strings.Contains(string(mustJSON(o)), d.Operation()) {
					t.Errorf("the engine itself has made one of %s", kind)
				}
			}
		}
	})
}

// The platform starts the machine whatever it is to be: in the end it is as asked for.
func TestDelegatedRestoreEndsOff(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.delegating()
		req := restoreRequest()
		req.Start = vmbackup.StartNo
		c.startRestore(req)
		c.events.on = func(e vmbackup.Event) {
			if e.Step == "start" && e.State == vmbackup.StateRunning && e.Message == "" {
				edit(c.apiServer, "virtualmachines", "other", "web", func(vm *kubevirtv1.VirtualMachine) {
					always := kubevirtv1.RunStrategyAlways
					vm.Spec.RunStrategy = &always
				})
			}
		}
		if restore, err := c.runRestore(t.Context()); err != nil || restore.Status.Phase != vmbackup.PhaseReady {
			t.Fatalf("%+v, %v", restore, err)
		}
		if got := c.runStrategy(other); got != "Halted" {
			t.Errorf("run strategy %s", got)
		}
	})
}

func TestDelegatedRestoreIsCanceled(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		p := c.delegating()
		c.startRestore(restoreRequest())
		p.tooLate = vmbackup.Errorf(vmbackup.ReasonConflict, "too late")
		if _, err := c.cancelRestore(r1); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict || p.undone {
			t.Errorf("%v, undone %v", err, p.undone)
		}
		p.tooLate = nil
		restore, err := c.cancelRestore(r1)
		if err != nil || restore.Status.Phase != vmbackup.PhaseCanceled || !p.undone {
			t.Errorf("%+v, %v", restore, err)
		}
	})
}

// What the platform refuses is refused before anything is begun, and what was begun
// for a record that cannot be written is taken back.
func TestDelegatedRestoreIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		p := c.delegating()
		p.refuses = vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "it cannot")
		if _, err := c.engine.PlanRestore(t.Context(), restoreRequest()); vmbackup.ReasonOf(err) != vmbackup.ReasonEngineUnavailable || p.begun != 0 {
			t.Errorf("%v, begun %d times", err, p.begun)
		}
		p.refuses = nil
		first, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if err != nil {
			t.Fatal(err)
		}
		second, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.engine.StartRestore(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if _, err := c.engine.StartRestore(t.Context(), second); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists || p.begun != 1 {
			t.Errorf("%v, begun %d times", err, p.begun)
		}
	})
}

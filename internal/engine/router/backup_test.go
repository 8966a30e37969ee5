// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package router

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/enginetest"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var b1 = vmbackup.Ref{Namespace: "demo", Name: "b1"}

func request() vmbackup.BackupRequest {
	return vmbackup.BackupRequest{Name: b1.Name, Namespace: b1.Namespace, VM: "web"}
}

// slowFreeze is what Harvester cannot promise, and the direct engine can.
func slowFreeze(r *vmbackup.BackupRequest) { r.FreezeTimeout = 7 * time.Second }

func TestWhoPlansABackup(t *testing.T) {
	for name, test := range map[string]struct {
		choice   string
		presence hv.Presence
		change   func(*vmbackup.BackupRequest)
		engine   string
		warns    string
		reason   vmbackup.Reason
		says     string
	}{
		"auto, no Harvester":                  {Auto, absent, nil, vmbackup.EngineDirect, "", "", ""},
		"auto, Harvester is dead":             {Auto, dead, nil, vmbackup.EngineDirect, "its lease expired", "", ""},
		"auto, Harvester works":               {Auto, alive, nil, vmbackup.EngineHarvester, "", "", ""},
		"auto, nobody knows":                  {Auto, unclear, nil, vmbackup.EngineHarvester, "", "", ""},
		"auto, Harvester cannot":              {Auto, alive, slowFreeze, vmbackup.EngineDirect, "without Harvester's controllers", "", ""},
		"auto, neither can":                   {Auto, alive, func(r *vmbackup.BackupRequest) { r.VM = "nobody" }, "", "", vmbackup.ReasonNotFound, "nobody"},
		"harvester, no Harvester":             {vmbackup.EngineHarvester, absent, nil, "", "", vmbackup.ReasonEngineUnavailable, "does not have Harvester's kinds"},
		"harvester, Harvester is dead":        {vmbackup.EngineHarvester, dead, nil, "", "", vmbackup.ReasonEngineUnavailable, "its lease expired"},
		"harvester, Harvester works":          {vmbackup.EngineHarvester, alive, nil, vmbackup.EngineHarvester, "", "", ""},
		"harvester, nobody knows":             {vmbackup.EngineHarvester, unclear, nil, vmbackup.EngineHarvester, "", "", ""},
		"harvester, Harvester cannot":         {vmbackup.EngineHarvester, alive, slowFreeze, "", "", vmbackup.ReasonFreezeFailed, "cannot be kept"},
		"direct, no Harvester":                {vmbackup.EngineDirect, absent, nil, vmbackup.EngineDirect, "", "", ""},
		"direct, Harvester is dead":           {vmbackup.EngineDirect, dead, nil, vmbackup.EngineDirect, "", "", ""},
		"direct, Harvester works":             {vmbackup.EngineDirect, alive, nil, vmbackup.EngineDirect, "", "", ""},
		"direct, what Harvester could not do": {vmbackup.EngineDirect, alive, slowFreeze, vmbackup.EngineDirect, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, test.presence)
			r := c.router(test.choice)
			req := request()
			if test.change != nil {
				test.change(&req)
			}
			plan, err := r.PlanBackup(t.Context(), req)
			if w := c.Writes(); len(w) > 0 {
				t.Errorf("written: %v", w)
			}
			if test.reason != "" {
				wantError(t, err, test.reason, test.says)
				if plan != nil {
					t.Error("a plan with the error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if plan.Backup.Status.Engine != test.engine {
				t.Errorf("planned by %s, want %s", plan.Backup.Status.Engine, test.engine)
			}
			tells := func(w string) bool { return strings.Contains(w, "without") }
			if test.warns == "" && slices.ContainsFunc(plan.Warnings, tells) || !strings.Contains(strings.Join(plan.Warnings, "\n"), test.warns) || !slices.Equal(plan.Warnings, plan.Backup.Status.Warnings) {
				t.Errorf("warnings %q, in the backup %q, want %q", plan.Warnings, plan.Backup.Status.Warnings, test.warns)
			}
			// Whoever has planned it starts it, and keeps it.
			if _, err := r.StartBackup(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			if got := c.keeper(journal.KindBackup, hv.BackupResource, b1); got != test.engine {
				t.Errorf("kept by %q, want %s", got, test.engine)
			}
			if looks := c.looks; (test.choice == vmbackup.EngineDirect) != (looks == 0) || looks > 1 {
				t.Errorf("looked for Harvester %d times", looks)
			}
		})
	}
}

// Whether Harvester is there must be known where the choice depends on it, and nowhere else.
func TestHarvesterCannotBeLookedFor(t *testing.T) {
	c := newCluster(t, alive)
	c.lookErr = errors.New("no route to host")
	for _, choice := range []string{Auto, vmbackup.EngineHarvester} {
		if _, err := c.router(choice).PlanBackup(t.Context(), request()); vmbackup.AsError(err, "none") == nil || !vmbackup.AsError(err, "none").Preflight {
			t.Errorf("%s: %v", choice, err)
		}
	}
	if _, err := c.router(vmbackup.EngineDirect).PlanBackup(t.Context(), request()); err != nil {
		t.Error(err)
	}
}

// A name that Harvester keeps is taken for the direct engine too.
func TestNameThatHarvesterKeeps(t *testing.T) {
	c := newCluster(t, alive)
	c.theirBackup("b1")
	_, err := c.router(vmbackup.EngineDirect).PlanBackup(t.Context(), request())
	wantError(t, err, vmbackup.ReasonAlreadyExists, "kept by Harvester")
	req := request()
	slowFreeze(&req)
	_, err = c.router(Auto).PlanBackup(t.Context(), req)
	wantError(t, err, vmbackup.ReasonAlreadyExists, "kept by Harvester")
}

// start begins b1 with a choice, as a process that ends then.
func (c *cluster) start(choice string) {
	c.t.Helper()
	r := c.router(choice)
	plan, err := r.PlanBackup(c.t.Context(), request())
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := r.StartBackup(c.t.Context(), plan); err != nil {
		c.t.Fatal(err)
	}
}

// What was begun goes on where it was begun, whatever the choice is for what is new.
func TestBegunBackupGoesToItsKeeper(t *testing.T) {
	for _, keeper := range []string{vmbackup.EngineDirect, vmbackup.EngineHarvester} {
		for _, choice := range Choices() {
			t.Run(keeper+" by "+choice, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, alive)
				c.start(keeper)
				plan, err := c.router(keeper).PlanBackup(t.Context(), request())
				if err != nil {
					t.Fatal(err)
				}
				run := unbegun(t, func(ctx context.Context, opts vmbackup.RunOptions) error {
					b, err := c.router(choice).RunBackup(ctx, b1, opts)
					if b == nil || b.Status.Engine != keeper {
						t.Errorf("%+v, %v", b, err)
					}
					return err
				})
				if want := ids(plan.Steps); run != want {
					t.Errorf("run with the steps %q, want %q", run, want)
				}
				if choice == Auto {
					again, err := c.router(Auto).PlanBackup(t.Context(), request())
					if err != nil || again.Backup.Status.Engine != keeper {
						t.Errorf("planned again: %+v, %v", again, err)
					}
				}
				deletion, err := c.router(choice).PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: b1, From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget})
				if err != nil {
					t.Fatal(err)
				}
				if theirs := slices.ContainsFunc(deletion.Objects, isTheirs); theirs != (keeper == vmbackup.EngineHarvester) {
					t.Errorf("to be deleted: %+v", deletion.Objects)
				}
				b, err := c.router(choice).CancelBackup(t.Context(), b1, vmbackup.RunOptions{})
				if err != nil || b.Status.Phase != vmbackup.PhaseCanceled {
					t.Errorf("%+v, %v", b, err)
				}
				want := map[string]string{vmbackup.EngineDirect: vmbackup.EngineDirect, vmbackup.EngineHarvester: ""}[keeper] // whose object was the record
				if got := c.keeper(journal.KindBackup, hv.BackupResource, b1); got != want {
					t.Errorf("after it was canceled %q has it, want %q", got, want)
				}
			})
		}
	}
}

// A backup of the tool's that Harvester has found on the target is the tool's.
func TestOwnRecordGoesFirst(t *testing.T) {
	c := newCluster(t, alive)
	c.own(c.theirBackup("b1"))
	for _, choice := range Choices() {
		r := c.router(choice)
		b, err := r.RunBackup(t.Context(), b1, vmbackup.RunOptions{})
		if err != nil || b.Status.Engine != vmbackup.EngineDirect {
			t.Errorf("%s: %+v, %v", choice, b, err)
		}
	}
}

func isTheirs(o vmbackup.PlannedObject) bool { return o.Kind == "VirtualMachineBackup" }

func TestDeleteGoesToTheKeeper(t *testing.T) {
	for _, choice := range Choices() {
		t.Run(choice, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, alive)
			ref := c.theirBackup("b1")
			r := c.router(choice)
			plan, err := r.PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: ref, From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(plan.Objects, isTheirs) {
				t.Errorf("planned: %+v", plan.Objects)
			}
			// Nobody removes the data here, so that it is waited for, for ever.
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			err = r.Delete(ctx, plan, vmbackup.RunOptions{Sink: &enginetest.Events{On: func(vmbackup.Event) {
				if c.Get(hv.BackupResource, "demo", "b1") == nil {
					stop()
				}
			}}})
			if vmbackup.ReasonOf(err) != vmbackup.ReasonCanceled {
				t.Errorf("%v", err)
			}
		})
	}
}

// Harvester makes an object of a backup that it finds on the target. It goes with the
// backup, unless it tells of other data.
func TestDeleteTakesWhatHarvesterHasFound(t *testing.T) {
	for data, goes := range map[string]bool{"backup-b1": true, "backup-of-another": false} {
		t.Run(data, func(t *testing.T) {
			c := newCluster(t, alive)
			ref := c.theirBackup("b1")
			c.own(ref)
			object := c.Get(hv.BackupResource, "demo", "b1")
			volumes, _, err := unstructured.NestedSlice(object.Object, "status", "volumeBackups")
			if err != nil {
				t.Fatal(err)
			}
			volumes[0].(map[string]any)["longhornBackupName"] = data
			if err := unstructured.SetNestedSlice(object.Object, volumes, "status", "volumeBackups"); err != nil {
				t.Fatal(err)
			}
			c.Put(hv.BackupResource, object)
			r := c.router(Auto)
			plan, err := r.PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: ref, From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget})
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(plan.Objects, isTheirs) != goes {
				t.Errorf("planned: %+v", plan.Objects)
			}
			if err := c.store.Delete(t.Context(), target.BackupConfigKey("pvc-root", "backup-b1")); err != nil { // as Longhorn would
				t.Fatal(err)
			}
			gone := false // the description is, before the object
			events := &enginetest.Events{On: func(e vmbackup.Event) {
				if e.Step == "forget" && e.State == vmbackup.StateRunning {
					_, err := c.store.Stat(t.Context(), metadata.HarvesterBackupKey(ref))
					gone = vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound
				}
			}}
			if err := r.Delete(t.Context(), plan, vmbackup.RunOptions{Sink: events}); err != nil {
				t.Fatal(err)
			}
			if !gone {
				t.Error("the object went before the description, of which Harvester makes it anew")
			}
			if left := c.Get(hv.BackupResource, "demo", "b1") != nil; left == goes {
				t.Errorf("Harvester's object is left: %t", left)
			}
		})
	}
}

func TestBackupThatNobodyKeeps(t *testing.T) {
	for name, presence := range map[string]hv.Presence{"no Harvester": absent, "Harvester": alive} {
		c := newCluster(t, presence)
		for _, choice := range Choices() {
			r := c.router(choice)
			_, run := r.RunBackup(t.Context(), b1, vmbackup.RunOptions{})
			_, cancel := r.CancelBackup(t.Context(), b1, vmbackup.RunOptions{})
			for what, err := range map[string]error{"run": run, "cancel": cancel, "follow": r.FollowBackup(t.Context(), b1, vmbackup.NopSink{})} {
				if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
					t.Errorf("%s, %s by %s: %v", name, what, choice, err)
				}
			}
			if _, err := r.StartBackup(t.Context(), &vmbackup.BackupPlan{Request: request()}); vmbackup.ReasonOf(err) != vmbackup.ReasonInternal {
				t.Errorf("%s, a plan of somebody else by %s: %v", name, choice, err)
			}
		}
		if w := c.Writes(); len(w) > 0 || c.looks > 0 {
			t.Errorf("%s: looked for %d times, written: %v", name, c.looks, w)
		}
	}
}

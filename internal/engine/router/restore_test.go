// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package router

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var r1 = vmbackup.Ref{Namespace: "demo", Name: "r1"}

func restoreRequest() vmbackup.RestoreRequest {
	return vmbackup.RestoreRequest{Name: r1.Name, Backup: b1, ToNamespace: "demo", ToName: "copy"}
}

func mapsClasses(r *vmbackup.RestoreRequest) {
	r.StorageClasses = map[string]string{"longhorn": "longhorn"}
}

func staysOff(r *vmbackup.RestoreRequest) { r.Start = vmbackup.StartNo }

func TestWhoPlansARestore(t *testing.T) {
	for name, test := range map[string]struct {
		choice   string
		presence hv.Presence
		own      bool // the backup is the tool's as well
		change   func(*cluster, *vmbackup.RestoreRequest)
		engine   string
		note     string
		reason   vmbackup.Reason
		says     string
	}{
		"auto, Harvester works":        {Auto, alive, false, nil, vmbackup.EngineHarvester, "", "", ""},
		"auto, nobody knows":           {Auto, unclear, false, nil, vmbackup.EngineHarvester, "", "", ""},
		"auto, Harvester is dead":      {Auto, dead, false, nil, vmbackup.EngineDirect, "its lease expired", "", ""},
		"auto, the tool's own":         {Auto, alive, true, nil, vmbackup.EngineDirect, "", "", ""},
		"auto, Harvester has no means": {Auto, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { mapsClasses(r) }, vmbackup.EngineDirect, "--map-storage-class", "", ""},
		"auto, the direct engine does it better": {Auto, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) {
			staysOff(r)
		}, vmbackup.EngineDirect, "it starts every machine", "", ""},
		"auto, Harvester can leave it off": {Auto, alive, false, func(c *cluster, r *vmbackup.RestoreRequest) {
			c.halts = true
			staysOff(r)
		}, vmbackup.EngineHarvester, "", "", ""},
		"auto, a snapshot to wait for is gone": {Auto, alive, false, func(c *cluster, _ *vmbackup.RestoreRequest) {
			c.Delete("volumesnapshots", "demo", "b1-volume-web-root")
		}, vmbackup.EngineDirect, "is gone", "", ""},
		"auto, the machine's name is taken": {Auto, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { r.ToName = "web" }, "", "", vmbackup.ReasonAlreadyExists, "demo/web"},
		"auto, nobody has the backup":       {Auto, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { r.Backup.Name = "nobody" }, "", "", vmbackup.ReasonNotFound, "nobody"},
		"auto, a StorageClass is missing": {Auto, alive, false, func(c *cluster, _ *vmbackup.RestoreRequest) {
			c.Delete("storageclasses", "", "longhorn")
		}, "", "", vmbackup.ReasonStorageClassMissing, "longhorn"},
		"harvester, Harvester works":         {vmbackup.EngineHarvester, alive, false, nil, vmbackup.EngineHarvester, "", "", ""},
		"harvester, the tool's own too":      {vmbackup.EngineHarvester, alive, true, nil, vmbackup.EngineHarvester, "", "", ""},
		"harvester, Harvester is dead":       {vmbackup.EngineHarvester, dead, false, nil, "", "", vmbackup.ReasonEngineUnavailable, "its lease expired"},
		"harvester, no Harvester":            {vmbackup.EngineHarvester, absent, false, nil, "", "", vmbackup.ReasonEngineUnavailable, "does not have Harvester's kinds"},
		"harvester, Harvester has no means":  {vmbackup.EngineHarvester, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { mapsClasses(r) }, "", "", vmbackup.ReasonEngineUnavailable, "--map-storage-class"},
		"harvester, though not as well":      {vmbackup.EngineHarvester, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { staysOff(r) }, vmbackup.EngineHarvester, "", "", ""},
		"harvester, it has not the backup":   {vmbackup.EngineHarvester, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { r.Backup.Name = "nobody" }, "", "", vmbackup.ReasonEngineUnavailable, "nobody"},
		"direct, Harvester works":            {vmbackup.EngineDirect, alive, false, nil, vmbackup.EngineDirect, "", "", ""},
		"direct, Harvester is dead":          {vmbackup.EngineDirect, dead, false, nil, vmbackup.EngineDirect, "", "", ""},
		"direct, what it would do elsewhere": {vmbackup.EngineDirect, alive, false, func(_ *cluster, r *vmbackup.RestoreRequest) { mapsClasses(r) }, vmbackup.EngineDirect, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, test.presence)
			if test.presence.Served {
				ref := c.theirBackup("b1")
				if test.own {
					c.own(ref)
				}
			}
			req := restoreRequest()
			if test.change != nil {
				test.change(c, &req)
			}
			r := c.router(test.choice)
			plan, err := r.PlanRestore(t.Context(), req)
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
			if plan.Restore.Status.Engine != test.engine || (plan.Note == "") != (test.note == "") || !strings.Contains(plan.Note, test.note) {
				t.Errorf("planned by %s, note %q, want %s with %q", plan.Restore.Status.Engine, plan.Note, test.engine, test.note)
			}
			if _, delegated := direct.DelegatedPlan(plan); delegated != (test.engine == vmbackup.EngineHarvester) {
				t.Errorf("delegated: %t", delegated)
			}
			// Whoever has planned it starts it, and keeps it.
			if _, err := r.StartRestore(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			if got := c.keeper(journal.KindRestore, hv.RestoreResource, r1); got != test.engine {
				t.Errorf("kept by %q, want %s", got, test.engine)
			}
			if looks := c.looks; (test.choice == vmbackup.EngineDirect) != (looks == 0) || looks > 1 {
				t.Errorf("looked for Harvester %d times", looks)
			}
		})
	}
}

// What was begun goes on where it was begun, whatever the choice is for what is new.
func TestBegunRestoreGoesToItsKeeper(t *testing.T) {
	for _, keeper := range []string{vmbackup.EngineDirect, vmbackup.EngineHarvester} {
		for _, choice := range Choices() {
			t.Run(keeper+" by "+choice, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, alive)
				c.theirBackup("b1")
				begins := c.router(keeper)
				plan, err := begins.PlanRestore(t.Context(), restoreRequest())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := begins.StartRestore(t.Context(), plan); err != nil {
					t.Fatal(err)
				}
				run := unbegun(t, func(ctx context.Context, opts vmbackup.RunOptions) error {
					restore, err := c.router(choice).RunRestore(ctx, r1, opts)
					if restore == nil || restore.Status.Engine != keeper {
						t.Errorf("%+v, %v", restore, err)
					}
					return err
				})
				if want := ids(plan.Steps); run != want {
					t.Errorf("run with the steps %q, want %q", run, want)
				}
				before := len(c.Writes())
				err = c.router(choice).DeleteRestore(t.Context(), r1)
				wantError(t, err, vmbackup.ReasonConflict, "has not ended")
				if w := c.Writes()[before:]; len(w) > 0 {
					t.Errorf("written: %v", w)
				}
				restore, err := c.router(choice).CancelRestore(t.Context(), r1, vmbackup.RunOptions{})
				if err != nil || restore.Status.Phase != vmbackup.PhaseCanceled || restore.Status.Engine != keeper {
					t.Errorf("%+v, %v", restore, err)
				}
				// Harvester's object is gone, and its record is in the journal.
				if got := c.keeper(journal.KindRestore, hv.RestoreResource, r1); got != vmbackup.EngineDirect {
					t.Errorf("after it was canceled %q has it", got)
				}
				if err := c.router(choice).DeleteRestore(t.Context(), r1); err != nil {
					t.Error(err)
				}
				if got := c.keeper(journal.KindRestore, hv.RestoreResource, r1); got != "" {
					t.Errorf("after it was deleted %q has it", got)
				}
			})
		}
	}
}

// A restore that somebody has asked Harvester for by its UI is Harvester's alone.
func TestRestoreOfHarvesterAlone(t *testing.T) {
	c := newCluster(t, alive)
	theirs := vmbackup.Ref{Namespace: "elsewhere", Name: "old"}
	for _, choice := range Choices() {
		r := c.router(choice)
		before := len(c.Writes())
		_, err := r.RunRestore(t.Context(), theirs, vmbackup.RunOptions{})
		if vmbackup.ReasonOf(err) != vmbackup.ReasonConflict || !strings.Contains(err.Error(), "not made by this tool") {
			t.Errorf("run by %s: %v", choice, err)
		}
		_, err = r.CancelRestore(t.Context(), theirs, vmbackup.RunOptions{})
		wantError(t, err, vmbackup.ReasonConflict, "not made by this tool")
		wantError(t, r.DeleteRestore(t.Context(), theirs), vmbackup.ReasonConflict, "has not ended")
		if w := c.Writes()[before:]; len(w) > 0 {
			t.Errorf("written: %v", w)
		}
	}
}

func TestRestoreThatNobodyKeeps(t *testing.T) {
	for name, presence := range map[string]hv.Presence{"no Harvester": absent, "Harvester": alive} {
		c := newCluster(t, presence)
		for _, choice := range Choices() {
			r := c.router(choice)
			_, run := r.RunRestore(t.Context(), r1, vmbackup.RunOptions{})
			_, cancel := r.CancelRestore(t.Context(), r1, vmbackup.RunOptions{})
			for what, err := range map[string]error{"run": run, "cancel": cancel, "delete": r.DeleteRestore(t.Context(), r1), "follow": r.FollowRestore(t.Context(), r1, vmbackup.NopSink{})} {
				if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
					t.Errorf("%s, %s by %s: %v", name, what, choice, err)
				}
			}
			foreign := &vmbackup.RestorePlan{Request: restoreRequest(), Restore: vmbackup.NewRestore(r1)}
			if _, err := r.StartRestore(t.Context(), foreign); vmbackup.ReasonOf(err) != vmbackup.ReasonInternal {
				t.Errorf("%s, a plan of somebody else by %s: %v", name, choice, err)
			}
		}
		if w := c.Writes(); len(w) > 0 || c.looks > 0 {
			t.Errorf("%s: looked for %d times, written: %v", name, c.looks, w)
		}
	}
}

func TestChoices(t *testing.T) {
	c := newCluster(t, absent)
	for _, choice := range Choices() {
		if got := c.router(choice).Name(); got != choice {
			t.Errorf("%s calls itself %s", choice, got)
		}
	}
	if !slices.Contains(Choices(), Auto) {
		t.Error("nothing leaves the choice to the tool")
	}
}

// A name is one restore's, whoever keeps it: what comes after it would meet the other one.
func TestRestoreNameIsOneRestores(t *testing.T) {
	for _, first := range []string{vmbackup.EngineDirect, vmbackup.EngineHarvester} {
		for _, second := range []string{vmbackup.EngineDirect, vmbackup.EngineHarvester} {
			t.Run(first+" then "+second, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, alive)
				c.theirBackup("b1")
				r := c.router(first)
				plan, err := r.PlanRestore(t.Context(), restoreRequest())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.StartRestore(t.Context(), plan); err != nil {
					t.Fatal(err)
				}
				req := restoreRequest()
				req.ToName = "third"
				r = c.router(second)
				if plan, err = r.PlanRestore(t.Context(), req); err == nil {
					_, err = r.StartRestore(t.Context(), plan)
				}
				if vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
					t.Errorf("%v", err)
				}
				if got := c.keeper(journal.KindRestore, hv.RestoreResource, r1); got != first {
					t.Errorf("kept by %q", got)
				}
			})
		}
	}
}

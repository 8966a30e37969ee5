// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// request is a good one.
func request() vmbackup.ScheduleRequest {
	return vmbackup.ScheduleRequest{Namespace: "shop", VM: "web", Cron: "0 3 * * *"}.Default()
}

func TestPlanCreateRefuses(t *testing.T) {
	tests := []struct {
		name    string
		request func(*vmbackup.ScheduleRequest)
		cluster func(*cluster)
		reason  vmbackup.Reason
		says    string
	}{
		{"no cron", func(r *vmbackup.ScheduleRequest) { r.Cron = "" }, nil, vmbackup.ReasonInvalidRequest, "time of the backups is missing"},
		{"a bad cron", func(r *vmbackup.ScheduleRequest) { r.Cron = "soon" }, nil, vmbackup.ReasonInvalidRequest, `"soon" is no cron expression`},
		{"a time zone", func(r *vmbackup.ScheduleRequest) { r.Cron = "TZ=CET 0 3 * * *" }, nil, vmbackup.ReasonInvalidRequest, "a time zone is not allowed"},
		{"a bad type", func(r *vmbackup.ScheduleRequest) { r.Type = "copy" }, nil, vmbackup.ReasonInvalidRequest, `type "copy"`},
		{"too often", func(r *vmbackup.ScheduleRequest) { r.Cron = "*/20 * * * *" }, nil, vmbackup.ReasonForbidden, "due at 2026-03-01 12:20 and again at 12:40"},
		{"twice in an hour of the night", func(r *vmbackup.ScheduleRequest) { r.Cron = "0,30 3 * * *" }, nil, vmbackup.ReasonForbidden, "due at 2026-03-02 03:00 and again at 03:30"},
		{"never", func(r *vmbackup.ScheduleRequest) { r.Cron = "0 3 30 2 *" }, nil, vmbackup.ReasonForbidden, "never due"},
		{"few backups", func(r *vmbackup.ScheduleRequest) { r.Retain = 1 }, nil, vmbackup.ReasonForbidden, "2 to 250 backups"},
		{"many backups", func(r *vmbackup.ScheduleRequest) { r.Retain = 251 }, nil, vmbackup.ReasonForbidden, "2 to 250 backups"},
		{"few failures", func(r *vmbackup.ScheduleRequest) { r.MaxFailure = 1 }, nil, vmbackup.ReasonForbidden, "2 failures in a row at the earliest"},
		{"many failures", func(r *vmbackup.ScheduleRequest) { r.MaxFailure = 8 }, nil, vmbackup.ReasonForbidden, "no good one might be left"},
		{"no machine", func(r *vmbackup.ScheduleRequest) { r.VM = "gone" }, nil, vmbackup.ReasonNotFound, "VirtualMachine shop/gone does not exist"},
		{"no Harvester", nil, func(c *cluster) { c.absent = true }, vmbackup.ReasonEngineUnavailable, "this cluster has no schedules"},
		{"no controllers", nil, func(c *cluster) { c.controllers = harvester.Dead }, vmbackup.ReasonEngineUnavailable, "nobody holds the lease"},
		{"no target", nil, func(c *cluster) { c.target = "" }, vmbackup.ReasonTargetUnavailable, "no backup target"},
		{"the name is taken", nil, func(c *cluster) { c.objects["shop/web"] = other("shop", "web", "db", "0 9 * * *") }, vmbackup.ReasonAlreadyExists, "of VirtualMachine db"},
		{"the same under another time", nil, func(c *cluster) { c.objects["shop/web"] = other("shop", "web", "web", "0 9 * * *") }, vmbackup.ReasonAlreadyExists, `"0 9 * * *"`},
		{"the machine has one", nil, func(c *cluster) { c.objects["shop/a"] = other("shop", "a", "web", "0 9 * * *") }, vmbackup.ReasonConflict, "one schedule a machine"},
		{"one beside it", nil, func(c *cluster) { c.objects["lab/x"] = other("lab", "x", "web", "55 2 * * *") }, vmbackup.ReasonConflict, `lab/x is due at "55 2 * * *"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, r := newCluster(t), request()
			if tt.request != nil {
				tt.request(&r)
			}
			if tt.cluster != nil {
				tt.cluster(c)
			}
			_, err := c.scheduler().PlanCreate(t.Context(), r)
			e := vmbackup.AsError(err, vmbackup.ReasonInternal)
			if e == nil || e.Reason != tt.reason || !e.Preflight || !strings.Contains(e.Message, tt.says) {
				t.Fatalf("%+v", e)
			}
			if tt.name == "one beside it" && e.Hint != "a time that is free: --cron '5 3 * * *'" {
				t.Errorf("hint %q", e.Hint)
			}
			if len(c.writes) > 0 {
				t.Errorf("changed: %q", c.writes)
			}
		})
	}
}

func TestCreate(t *testing.T) {
	// A schedule of another rhythm may be as near as it likes.
	c := newCluster(t, other("lab", "x", "web", "0 3 * * 0"), other("shop", "db", "db", "10 3 * * *"))
	s := c.scheduler()
	p, err := s.PlanCreate(t.Context(), request())
	if err != nil || p.Action != vmbackup.ActionCreate || len(p.Warnings) > 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := s.Try(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	made, err := s.Apply(t.Context(), p)
	if err != nil || made.Spec != request().Spec() || made.Status.State != vmbackup.ScheduleActive {
		t.Fatalf("%+v, %v", made, err)
	}
	again, err := s.PlanCreate(t.Context(), request())
	if err != nil || again.Action != vmbackup.ActionUse {
		t.Fatalf("%+v, %v", again, err)
	}
	if _, err := s.Apply(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if want := []string{"POST shop/web dry", "POST shop/web"}; !slices.Equal(c.writes, want) {
		t.Errorf("%q, want %q", c.writes, want)
	}
}

// What the user may not see is no reason to refuse: Harvester's webhook sees it.
func TestCreateWithoutRightsElsewhere(t *testing.T) {
	c := newCluster(t, other("lab", "x", "web", "0 3 * * *"))
	c.elsewhere = true
	s := c.scheduler()
	p, err := s.PlanCreate(t.Context(), request())
	if err != nil || len(p.Warnings) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	c.deny = "same granularity as schedule x and offset less than 10m0s"
	for what, err := range map[string]error{"try": s.Try(t.Context(), p), "apply": func() error { _, err := s.Apply(t.Context(), p); return err }()} {
		e := vmbackup.AsError(err, vmbackup.ReasonInternal)
		if e == nil || e.Reason != vmbackup.ReasonForbidden || !e.Preflight || !strings.Contains(e.Message, c.deny) {
			t.Errorf("%s: %+v", what, e)
		}
	}
}

func TestSuspendAndResume(t *testing.T) {
	failing := nightly()
	failing.Status.Failure = 4
	c := newCluster(t, failing)
	c.backups = []vmbackup.Backup{run(0, vmbackup.PhaseFailed, "no room"), run(1, vmbackup.PhaseFailed, "no room"), run(2, vmbackup.PhaseReady, "")}
	s, ref := c.scheduler(), vmbackup.Ref{Namespace: "shop", Name: "nightly"}
	for _, step := range []struct {
		suspend bool
		action  vmbackup.Action
		state   vmbackup.ScheduleState
		warns   string
	}{
		{true, vmbackup.ActionUpdate, vmbackup.ScheduleSuspended, ""},
		{true, vmbackup.ActionUse, vmbackup.ScheduleSuspended, ""},
		{false, vmbackup.ActionUpdate, vmbackup.ScheduleFailing, "Harvester deletes the 2 failed backups"},
		{false, vmbackup.ActionUse, vmbackup.ScheduleFailing, ""},
	} {
		p, err := s.PlanSuspend(t.Context(), ref, step.suspend)
		if err != nil || p.Action != step.action || !strings.Contains(strings.Join(p.Warnings, ""), step.warns) || (step.warns == "" && len(p.Warnings) > 0) {
			t.Fatalf("%+v: %+v, %v", step, p, err)
		}
		got, err := s.Apply(t.Context(), p)
		if err != nil || got.Status.State != step.state || got.Spec.Suspend != step.suspend {
			t.Fatalf("%+v: %+v, %v", step, got, err)
		}
	}
	if want := []string{"PATCH shop/nightly", "PATCH shop/nightly"}; !slices.Equal(c.writes, want) {
		t.Errorf("%q, want %q", c.writes, want)
	}
	if _, err := s.PlanSuspend(t.Context(), vmbackup.Ref{Namespace: "shop", Name: "none"}, true); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("of nothing: %v", err)
	}
}

// A running backup is not stopped; a change that nobody takes up is told as such.
func TestSuspendWithoutControllers(t *testing.T) {
	c := newCluster(t, nightly())
	c.idle = true
	c.backups = []vmbackup.Backup{run(0, vmbackup.PhaseRunning, "")}
	s := c.scheduler()
	p, err := s.PlanSuspend(t.Context(), vmbackup.Ref{Namespace: "shop", Name: "nightly"}, true)
	if err != nil || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "goes on") {
		t.Fatalf("%+v, %v", p, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = s.Apply(ctx, p)
	e := vmbackup.AsError(err, vmbackup.ReasonInternal)
	if e == nil || e.Reason != vmbackup.ReasonTimeout || e.Preflight || !strings.Contains(e.Message, "is recorded") {
		t.Errorf("%+v", e)
	}
}

func TestDelete(t *testing.T) {
	c := newCluster(t, nightly())
	c.backups = []vmbackup.Backup{run(0, vmbackup.PhaseReady, ""), run(1, vmbackup.PhaseReady, "")}
	s, ref := c.scheduler(), vmbackup.Ref{Namespace: "shop", Name: "nightly"}
	p, err := s.PlanDelete(t.Context(), ref)
	if err != nil || len(p.Objects) != 4 || len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "its 2 backups stay") {
		t.Fatalf("%+v, %v", p, err)
	}
	if p.Objects[1].Kind != "CronJob" || p.Objects[1].Name != "svmb-7" || p.Objects[2].Action != vmbackup.ActionUse {
		t.Errorf("%+v", p.Objects)
	}
	if err := s.Try(t.Context(), p); err != nil || len(c.objects) != 1 {
		t.Fatalf("a dry run: %v, %d left", err, len(c.objects))
	}
	for range 2 { // the second time it is gone already
		if _, err := s.Apply(t.Context(), p); err != nil || len(c.objects) != 0 {
			t.Fatalf("%v, %d left", err, len(c.objects))
		}
	}
	if _, err := s.PlanDelete(t.Context(), ref); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("of nothing: %v", err)
	}
}

func TestList(t *testing.T) {
	c := newCluster(t, nightly(), other("lab", "x", "web", "55 2 * * *"), other("shop", "db", "db", "10 9 * * *"))
	s := c.scheduler()
	for opts, want := range map[vmbackup.ListOptions]string{
		{}:                                    "lab/x shop/db shop/nightly",
		{Limit: 1}:                            "lab/x",
		{Namespace: "shop"}:                   "shop/db shop/nightly",
		{Namespace: "shop", VM: "web"}:        "shop/nightly",
		{Namespace: "shop", Selector: "a=b"}:  "shop/db", // the only machine that the cluster says has it
		{Namespace: "empty", Selector: "a=b"}: "",
	} {
		schedules, err := s.Schedules(t.Context(), opts)
		var names []string
		for i := range schedules {
			names = append(names, schedules[i].Ref().String())
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%+v: %q, %v, want %q", opts, got, err, want)
		}
	}
	var seen int
	stop := vmbackup.Errorf(vmbackup.ReasonCanceled, "enough")
	err := s.WatchSchedules(t.Context(), vmbackup.ListOptions{}, func(list []vmbackup.Schedule) error { seen = len(list); return stop })
	if seen != 3 || vmbackup.ReasonOf(err) != vmbackup.ReasonCanceled {
		t.Errorf("watched %d, %v", seen, err)
	}
	c.absent = true
	if _, err := s.Schedules(t.Context(), vmbackup.ListOptions{}); vmbackup.ReasonOf(err) != vmbackup.ReasonEngineUnavailable {
		t.Errorf("without Harvester: %v", err)
	}
	if err := s.WatchSchedules(t.Context(), vmbackup.ListOptions{}, func([]vmbackup.Schedule) error { return nil }); vmbackup.ReasonOf(err) != vmbackup.ReasonEngineUnavailable {
		t.Errorf("watching without Harvester: %v", err)
	}
}

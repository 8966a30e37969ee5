// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// fakeScheduler keeps schedules in memory, notes what is asked of it, and fails
// where errs says so ("apply shop/web").
type fakeScheduler struct {
	schedules []vmbackup.Schedule
	errs      map[string]error
	calls     []string
	changed   chan struct{} // one more look of a watch
}

func (f *fakeScheduler) call(what string) error {
	f.calls = append(f.calls, what)
	return f.errs[what]
}

func (f *fakeScheduler) find(ref vmbackup.Ref) *vmbackup.Schedule {
	for i := range f.schedules {
		if found := f.schedules[i]; found.Ref() == ref {
			return &found
		}
	}
	return nil
}

func (f *fakeScheduler) Schedules(_ context.Context, opts vmbackup.ListOptions) ([]vmbackup.Schedule, error) {
	if err := f.errs["list"]; err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(f.schedules), func(s vmbackup.Schedule) bool {
		return (opts.Namespace != "" && s.Metadata.Namespace != opts.Namespace) || (opts.VM != "" && s.Spec.VM != opts.VM)
	}), nil
}

func (f *fakeScheduler) Schedule(_ context.Context, ref vmbackup.Ref) (*vmbackup.Schedule, error) {
	if s := f.find(ref); s != nil {
		return s, nil
	}
	return nil, failure(vmbackup.ReasonNotFound, "there is no schedule "+ref.String())
}

func (f *fakeScheduler) WatchSchedules(ctx context.Context, opts vmbackup.ListOptions, changed func([]vmbackup.Schedule) error) error {
	for {
		list, err := f.Schedules(ctx, opts)
		if err != nil {
			return err
		}
		if err := changed(list); err != nil {
			return err
		}
		select {
		case <-f.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fakeScheduler) PlanCreate(_ context.Context, r vmbackup.ScheduleRequest) (*vmbackup.SchedulePlan, error) {
	if err := f.errs["plan "+r.Ref().String()]; err != nil {
		return nil, err
	}
	p := &vmbackup.SchedulePlan{Action: vmbackup.ActionCreate, Warnings: []string{"it may be refused"}}
	if p.Schedule = f.find(r.Ref()); p.Schedule != nil {
		p.Action, p.Warnings = vmbackup.ActionUse, nil
		return p, nil
	}
	p.Schedule = scheduled(r.Ref().String(), r.VM, vmbackup.ScheduleActive)
	p.Schedule.Spec = r.Spec()
	return p, nil
}

func (f *fakeScheduler) PlanSuspend(ctx context.Context, ref vmbackup.Ref, suspend bool) (*vmbackup.SchedulePlan, error) {
	s, err := f.Schedule(ctx, ref)
	if err != nil {
		return nil, vmbackup.AsError(err, "").AsPreflight()
	}
	p := &vmbackup.SchedulePlan{Action: vmbackup.ActionUpdate, Schedule: s, Suspend: suspend}
	if s.Spec.Suspend == suspend {
		p.Action = vmbackup.ActionUse
	}
	return p, nil
}

func (f *fakeScheduler) PlanDelete(ctx context.Context, ref vmbackup.Ref) (*vmbackup.SchedulePlan, error) {
	s, err := f.Schedule(ctx, ref)
	if err != nil {
		return nil, vmbackup.AsError(err, "").AsPreflight()
	}
	return &vmbackup.SchedulePlan{Action: vmbackup.ActionDelete, Schedule: s, Warnings: []string{"its 2 backups stay"}, Objects: []vmbackup.PlannedObject{
		{Action: vmbackup.ActionDelete, Kind: "ScheduleVMBackup", Namespace: ref.Namespace, Name: ref.Name},
	}}, nil
}

func (f *fakeScheduler) Try(_ context.Context, p *vmbackup.SchedulePlan) error {
	return f.call("try " + string(p.Action) + " " + p.Schedule.Ref().String())
}

func (f *fakeScheduler) Apply(_ context.Context, p *vmbackup.SchedulePlan) (*vmbackup.Schedule, error) {
	if p.Action == vmbackup.ActionUse {
		return p.Schedule, nil
	}
	ref := p.Schedule.Ref()
	if err := f.call(string(p.Action) + " " + ref.String()); err != nil {
		return p.Schedule, err
	}
	switch p.Action {
	case vmbackup.ActionDelete:
		f.schedules = slices.DeleteFunc(f.schedules, func(s vmbackup.Schedule) bool { return s.Ref() == ref })
		return nil, nil
	case vmbackup.ActionCreate:
		f.schedules = append(f.schedules, *p.Schedule)
	default:
		s := &f.schedules[slices.IndexFunc(f.schedules, func(s vmbackup.Schedule) bool { return s.Ref() == ref })]
		s.Spec.Suspend, s.Status.State = p.Suspend, vmbackup.ScheduleActive
		if p.Suspend {
			s.Status.State, s.Status.SuspendedBy = vmbackup.ScheduleSuspended, vmbackup.SuspendedByUser
		}
	}
	return f.find(ref), nil
}

// scheduled is one of three o'clock with a run of last night.
func scheduled(ref, vm string, state vmbackup.ScheduleState) *vmbackup.Schedule {
	namespace, name, _ := strings.Cut(ref, "/")
	s := vmbackup.NewSchedule(vmbackup.Ref{Namespace: namespace, Name: name})
	s.Spec = vmbackup.ScheduleSpec{VM: vm, Cron: "0 3 * * *", Type: vmbackup.TypeBackup, Retain: 8, MaxFailure: 4, Suspend: state == vmbackup.ScheduleSuspended}
	due, next, created := noon().Add(-9*time.Hour), noon().Add(15*time.Hour), noon().Add(-time.Duration(len(name))*24*time.Hour)
	s.Status = vmbackup.ScheduleStatus{
		State: state, CreatedAt: &created, NextRunAt: &next, Engine: vmbackup.EngineHarvester,
		Runs: []vmbackup.ScheduleRun{{Backup: "svmb-7-20260301.0300", DueAt: &due, Phase: vmbackup.PhaseReady}},
	}
	s.Status.LastRun = &s.Status.Runs[0]
	return s
}

func newScheduleRig(t *testing.T) *rig {
	r := newRig(t)
	r.scheduler.schedules = []vmbackup.Schedule{
		*scheduled("lab/b", "db", vmbackup.ScheduleMissed), *scheduled("shop/db-backups", "db", vmbackup.ScheduleActive),
		*scheduled("shop/web", "web", vmbackup.ScheduleSuspended),
	}
	return r
}

func TestScheduleList(t *testing.T) {
	for args, want := range map[string]string{
		"schedule list":                      "db-backups web",
		"schedules get":                      "db-backups web",
		"list schedules":                     "db-backups web",
		"list schedule -A":                   "b db-backups web",
		"list schedules --vm web":            "web",
		"schedule list -A --sort-by phase":   "db-backups b web",
		"schedule list -A --sort-by vm":      "b db-backups web",
		"schedule list -A --sort-by age":     "db-backups web b",
		"describe schedule/web":              "web",
		"schedule describe web":              "web",
		"schedule describe schedule/lab/b":   "b",
		"schedule suspend web db-backups":    "web db-backups",
		"schedule resume --all -A":           "b db-backups web",
		"schedule create web --cron @daily":  "web",
		"schedule create web --cron=@hourly": "web",
	} {
		got := newScheduleRig(t).run(append(strings.Fields(args), "-o", "name")...)
		names := strings.Fields(strings.ReplaceAll(got.out, "schedule.vmbackup.io/", ""))
		if text := strings.Join(names, " "); text != want || got.code != exitDone || got.err != "" {
			t.Errorf("%s: %q, want %q: %+v", args, text, want, got)
		}
	}
	r := newScheduleRig(t)
	r.run("schedule", "describe", "web").contains(t, exitDone, "Schedule shop/web", "Suspended", "svmb-7-20260301.0300")
	r.run("list", "schedules", "-A").contains(t, exitDone, "NAMESPACE", "Missed", "0_3_*_*_*")
	newRig(t).run("schedule", "list").want(t, exitDone, "", "No schedules found in shop namespace.\n")
	newRig(t).run("schedule", "suspend", "--all").want(t, exitDone, "", "No schedules found in shop namespace.\n")
	newRig(t).run("schedule", "describe", "web").want(t, exitFailed, "", "error: there is no schedule shop/web\n")
}

func TestScheduleListWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newScheduleRig(t)
		r.scheduler.changed = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan ended)
		go func() { done <- r.runIn(ctx, "schedule", "list", "-w", "-o", "name") }()
		synctest.Wait()
		r.scheduler.changed <- struct{}{} // told again, but nothing is new
		synctest.Wait()
		r.scheduler.schedules[2].Status.State = vmbackup.ScheduleActive
		r.scheduler.changed <- struct{}{}
		synctest.Wait()
		cancel()
		const name = "schedule.vmbackup.io/"
		(<-done).want(t, exitDone, name+"db-backups\n"+name+"web\n"+name+"web\n", "")
	})
}

func TestScheduleChanges(t *testing.T) {
	const name = "schedule.vmbackup.io/"
	tests := []struct {
		args  string
		code  int
		out   string
		err   string
		calls string
	}{
		{"create mail --cron @daily", exitDone, name + "mail created: daily at 00:00 UTC, next run in 15h\n", "warning: it may be refused\n", "create shop/mail"},
		{"create mail --schedule @daily --name nightly", exitDone, name + "nightly created: daily at 00:00 UTC, next run in 15h\n", "warning: it may be refused\n", "create shop/nightly"},
		{"create mail --cron @daily --dry-run=client", exitDone, name + "mail created (dry run): daily at 00:00 UTC, next run in 15h\n", "warning: it may be refused\n", ""},
		{"create mail --cron @daily --dry-run=server", exitDone, name + "mail created (server dry run): daily at 00:00 UTC, next run in 15h\n", "warning: it may be refused\n", "try create shop/mail"},
		{"create web --cron @daily", exitDone, name + "web unchanged: daily at 03:00 UTC, next run in 15h, suspended\n", "", ""},
		{"create mail", exitUsage, "", "error: the time of the backups is missing: a cron expression such as '0 3 * * *'\nhint: see 'kubectl vmbackup schedule create --help'\n", ""},
		{"create", exitUsage, "", "error: the virtual machine to back up is missing\nhint: see 'kubectl vmbackup schedule create --help'\n", ""},
		{"create busy --cron @daily", exitRefused, "", "error: the machine has one\n", ""},
		{"suspend db-backups web", exitDone, name + "db-backups suspended\n" + name + "web unchanged\n", "", "update shop/db-backups"},
		{"suspend db-backups --dry-run=server", exitDone, name + "db-backups suspended (server dry run)\n", "", "try update shop/db-backups"},
		{"suspend --all -A", exitDone, name + "b suspended\n" + name + "db-backups suspended\n" + name + "web unchanged\n", "", "update lab/b,update shop/db-backups"},
		{"resume web", exitDone, name + "web resumed: daily at 03:00 UTC, next run in 15h\n", "", "update shop/web"},
		{"resume web none", exitPartly, name + "web resumed: daily at 03:00 UTC, next run in 15h\n", "error: shop/none: there is no schedule shop/none\n", "update shop/web"},
		{"resume none", exitRefused, "", "error: there is no schedule shop/none\n", ""},
		{"suspend", exitUsage, "", "error: name the schedules, or say --all\nhint: see 'kubectl vmbackup schedule suspend --help'\n", ""},
		{"suspend web --all", exitUsage, "", "error: names and --all exclude each other\nhint: see 'kubectl vmbackup schedule suspend --help'\n", ""},
		{"resume web -A", exitUsage, "", "error: --all-namespaces goes with --all\nhint: see 'kubectl vmbackup schedule resume --help'\n", ""},
		{"resume web --timeout 0s", exitUsage, "", "error: --timeout 0s is not positive\nhint: see 'kubectl vmbackup schedule resume --help'\n", ""},
		{"delete none --yes --ignore-not-found", exitDone, "", "", ""},
		{"delete none --yes", exitRefused, "", "error: there is no schedule shop/none\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r := newScheduleRig(t)
			r.scheduler.errs["plan shop/busy"] = failure(vmbackup.ReasonConflict, "the machine has one").AsPreflight()
			r.run(append([]string{"schedule"}, strings.Fields(tt.args)...)...).want(t, tt.code, tt.out, tt.err)
			if got := strings.Join(r.scheduler.calls, ","); got != tt.calls {
				t.Errorf("asked for %q, want %q", got, tt.calls)
			}
		})
	}
}

func TestScheduleDelete(t *testing.T) {
	const deleted = "schedule.vmbackup.io/web deleted\n"
	r := newScheduleRig(t)
	r.run("schedule", "delete", "web", "web", "--yes").contains(t, exitDone, deleted, "Schedule shop/web of VirtualMachine web", "its 2 backups stay")
	if got := strings.Join(r.scheduler.calls, ","); got != "delete shop/web" {
		t.Errorf("asked for %q", got)
	}
	r = newScheduleRig(t)
	r.run("schedule", "delete", "web", "--dry-run").contains(t, exitDone, "web deleted (dry run)\n", "its 2 backups stay")
	r.run("schedule", "delete", "web").contains(t, exitUsage, "has to be confirmed", "hint: confirm with --yes")
	if len(r.scheduler.calls) > 0 {
		t.Errorf("asked for %q", r.scheduler.calls)
	}
	for answer, code := range map[string]int{"y\n": exitDone, "Yes\n": exitDone, "n\n": exitRefused, "": exitRefused} {
		r := newScheduleRig(t)
		r.tty, r.answer = true, strings.NewReader(answer)
		r.run("schedule", "delete", "web").contains(t, code, "Delete this schedule? [y/N] ")
		if done := len(r.scheduler.calls) > 0; done != (code == exitDone) {
			t.Errorf("%q: %q", answer, r.scheduler.calls)
		}
	}
	// One that fails does not stop the others.
	r = newScheduleRig(t)
	r.scheduler.errs["delete shop/web"] = failure(vmbackup.ReasonForbidden, "may not")
	r.run("schedule", "delete", "web", "db-backups", "--yes").contains(t, exitPartly, "db-backups deleted\n", "error: may not\n")
}

func TestScheduleCompletion(t *testing.T) {
	r := newScheduleRig(t)
	if got := r.run("__complete", "schedule", "suspend", ""); !strings.Contains(got.out, "db-backups\tdb, Active\nweb\tweb, Suspended\n") {
		t.Errorf("%+v", got)
	}
	if got := r.run("__complete", "schedule", "create", "w"); !strings.HasPrefix(got.out, "web\nweb-2\n") {
		t.Errorf("%+v", got)
	}
	if got := r.run("__complete", "list", ""); !strings.Contains(got.out, "schedules") {
		t.Errorf("%+v", got)
	}
}

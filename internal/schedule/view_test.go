// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// nightly is a schedule of three o'clock that is ten days old.
func nightly() *harvester.ScheduleVMBackup {
	o := manifest(vmbackup.ScheduleRequest{Namespace: "shop", Name: "nightly", VM: "web", Cron: "0 3 * * *", Type: vmbackup.TypeBackup, Retain: 8, MaxFailure: 4})
	o.UID, o.Finalizers = "7", []string{"wrangler.cattle.io/schedule-vm-bakcup-controller"}
	o.CreationTimestamp = metav1.NewTime(noon().Add(-240 * time.Hour))
	return o
}

// run is a backup that the schedule made some days ago.
func run(daysAgo int, phase vmbackup.Phase, message string) vmbackup.Backup {
	due := noon().Add(-9*time.Hour).AddDate(0, 0, -daysAgo)
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "svmb-7-" + due.Format(runLayout)})
	started := due.Add(3 * time.Second)
	b.Status.Phase, b.Status.StartedAt = phase, &started
	if message != "" {
		b.Status.Error = vmbackup.Errorf(vmbackup.ReasonBackupFailed, "%s", message)
	}
	return *b
}

func TestViewOfWhatControllersWrote(t *testing.T) {
	v := view(nightly(), evidence{now: noon(), backups: []vmbackup.Backup{
		run(1, vmbackup.PhaseFailed, "no room"), run(0, vmbackup.PhaseReady, ""),
		*vmbackup.NewBackup(vmbackup.Ref{Namespace: "shop", Name: "svmb-77-20260301.0300"}), // another schedule's
	}})
	s := v.Status
	if s.State != vmbackup.ScheduleActive || s.Message != "" || len(s.Warnings) > 0 || len(s.Runs) != 2 {
		t.Fatalf("%+v", s)
	}
	if s.LastRun.Phase != vmbackup.PhaseReady || s.LastRun.DueAt.Format(time.RFC3339) != "2026-03-01T03:00:00Z" || s.Runs[1].Message != "no room" {
		t.Errorf("runs %+v", s.Runs)
	}
	if s.NextRunAt.Format(time.RFC3339) != "2026-03-02T03:00:00Z" {
		t.Errorf("next run %s", s.NextRunAt)
	}
	if want := (vmbackup.ScheduleSpec{VM: "web", Cron: "0 3 * * *", Type: vmbackup.TypeBackup, Retain: 8, MaxFailure: 4}); v.Spec != want {
		t.Errorf("spec %+v", v.Spec)
	}
}

// A backup's name is in the time zone of Harvester's process.
func TestDueAtInAnotherTimeZone(t *testing.T) {
	started := noon().Add(4 * time.Second)
	for stamp, want := range map[string]string{
		"20260301.1200": "2026-03-01T12:00:00Z",
		"20260301.1730": "2026-03-01T12:00:00Z",
		"torn":          "2026-03-01T12:00:00Z",
	} {
		if got := dueAt(stamp, &started); got.Format(time.RFC3339) != want {
			t.Errorf("%s: %s, want %s", stamp, got, want)
		}
	}
	if got := dueAt("20260301.1730", nil); got.Format(time.RFC3339) != "2026-03-01T17:30:00Z" {
		t.Errorf("of a backup whose begin is not known: %s", got)
	}
	if got := dueAt("torn", nil); got != nil {
		t.Errorf("made up: %s", got)
	}
}

func TestStates(t *testing.T) {
	suspended := func(reason, message string) func(*harvester.ScheduleVMBackup, *evidence) {
		return func(o *harvester.ScheduleVMBackup, _ *evidence) {
			o.Spec.Suspend, o.Status.Suspended = true, true
			o.Status.Conditions = []harvester.Condition{{Type: harvester.ConditionBackupSuspend, Status: "True", Reason: reason, Message: message}}
		}
	}
	due := func(at time.Time) map[string]cronJob {
		job := cronJob{}
		job.Status.LastScheduleTime = &metav1.Time{Time: at}
		return map[string]cronJob{"svmb-7": job}
	}
	tests := []struct {
		name    string
		change  func(*harvester.ScheduleVMBackup, *evidence)
		backups []vmbackup.Backup
		state   vmbackup.ScheduleState
		by      vmbackup.SuspendedBy
		says    string // in message or warnings
	}{
		{"active", nil, []vmbackup.Backup{run(0, vmbackup.PhaseReady, "")}, vmbackup.ScheduleActive, "", ""},
		{
			"suspended by a user", suspended("Proactive Schedule Suspend", "Proactive Schedule Suspend"),
			nil, vmbackup.ScheduleSuspended, vmbackup.SuspendedByUser, "",
		},
		{
			"suspended a moment ago", func(o *harvester.ScheduleVMBackup, _ *evidence) { o.Spec.Suspend = true },
			nil, vmbackup.ScheduleSuspended, vmbackup.SuspendedByUser, "have not taken the last change up",
		},
		{
			"suspended after failures", suspended(reasonFailures, "failure backups 4 reach max tolerance 4"),
			[]vmbackup.Backup{run(0, vmbackup.PhaseFailed, "no room")},
			vmbackup.ScheduleSuspended, vmbackup.SuspendedByFailures,
			"failure backups 4 reach max tolerance 4; svmb-7-20260301.0300: no room",
		},
		{"suspended for a hung upload", suspended(reasonTarget, "b in error state"), nil, vmbackup.ScheduleSuspended, vmbackup.SuspendedByTarget, "b in error state"},
		{
			"failing", func(o *harvester.ScheduleVMBackup, _ *evidence) { o.Status.Failure = 2 },
			[]vmbackup.Backup{run(0, vmbackup.PhaseFailed, "no room")},
			vmbackup.ScheduleFailing, "", "2 of 4 runs failed in a row; svmb-7-20260301.0300: no room",
		},
		{"missed", nil, []vmbackup.Backup{run(1, vmbackup.PhaseReady, "")}, vmbackup.ScheduleMissed, "", "no backup of the run of 2026-03-01T03:00:00Z is there"},
		{
			"missed without a CronJob", func(_ *harvester.ScheduleVMBackup, e *evidence) { e.jobs = map[string]cronJob{} },
			nil, vmbackup.ScheduleMissed, "", "Harvester has made no CronJob",
		},
		{
			"missed by Kubernetes too", func(_ *harvester.ScheduleVMBackup, e *evidence) { e.jobs = due(noon().AddDate(0, 0, -1)) },
			nil, vmbackup.ScheduleMissed, "", "not due in Kubernetes either",
		},
		{
			"missed by Harvester alone", func(_ *harvester.ScheduleVMBackup, e *evidence) { e.jobs = due(noon().Add(-9 * time.Hour)) },
			nil, vmbackup.ScheduleMissed, "", "its CronJob was due",
		},
		{
			"left out", nil, []vmbackup.Backup{run(1, vmbackup.PhaseRunning, "")}, vmbackup.ScheduleActive, "", "the one before it has not ended",
		},
		{
			"made after it was due", func(o *harvester.ScheduleVMBackup, _ *evidence) {
				o.CreationTimestamp = metav1.NewTime(noon().Add(-time.Hour))
			},
			nil, vmbackup.ScheduleActive, "", "",
		},
		{
			"resumed after it was due", func(o *harvester.ScheduleVMBackup, _ *evidence) {
				o.Status.Conditions = []harvester.Condition{{Type: harvester.ConditionBackupSuspend, Status: "False", LastUpdateTime: "2026-03-01T11:00:00Z"}}
			}, nil, vmbackup.ScheduleActive, "", "",
		},
		{
			"given this time after it was due", func(o *harvester.ScheduleVMBackup, _ *evidence) {
				at := metav1.NewTime(noon().Add(-time.Hour))
				o.ManagedFields = []metav1.ManagedFieldsEntry{{Time: &at, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:cron":{}}}`)}}
			}, nil, vmbackup.ScheduleActive, "", "",
		},
		{
			"due a moment ago", func(o *harvester.ScheduleVMBackup, _ *evidence) { o.Spec.Cron = "58 11 * * *" },
			[]vmbackup.Backup{run(0, vmbackup.PhaseReady, "")},
			vmbackup.ScheduleActive, "", "",
		},
		{
			"with a time that nobody can read", func(o *harvester.ScheduleVMBackup, _ *evidence) { o.Spec.Cron = "x" },
			nil, vmbackup.ScheduleActive, "", "cannot be read",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, e := nightly(), evidence{now: noon(), backups: tt.backups}
			if tt.change != nil {
				tt.change(o, &e)
			}
			s := view(o, e).Status
			told := s.Message + strings.Join(s.Warnings, "\n")
			if s.State != tt.state || s.SuspendedBy != tt.by || !strings.Contains(told, tt.says) || (tt.says == "" && told != "") {
				t.Errorf("%+v", s)
			}
			if (s.NextRunAt == nil) != (s.State == vmbackup.ScheduleSuspended || o.Spec.Cron == "x") {
				t.Errorf("next run %v", s.NextRunAt)
			}
			if (s.MissedRunAt != nil) != (s.State == vmbackup.ScheduleMissed) {
				t.Errorf("missed %v", s.MissedRunAt)
			}
		})
	}
}

// A user who may not look at the backups learns what the schedule itself knows.
func TestViewWithoutRightsToBackups(t *testing.T) {
	o := nightly()
	o.Status.VMBackupInfo = []harvester.VMBackupInfo{{Name: "svmb-7-20260301.0300"}}
	s := view(o, evidence{now: noon(), unseen: "forbidden"}).Status
	if len(s.Runs) != 1 || s.Runs[0].Phase != vmbackup.PhaseUnknown || s.State != vmbackup.ScheduleActive || len(s.Warnings) != 1 {
		t.Errorf("%+v", s)
	}
}

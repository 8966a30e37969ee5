// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// sampleSchedules has a schedule in every state.
func sampleSchedules() []vmbackup.Schedule {
	schedule := func(namespace, name, vm, cron string, state vmbackup.ScheduleState) vmbackup.Schedule {
		s := vmbackup.NewSchedule(vmbackup.Ref{Namespace: namespace, Name: name})
		s.Spec = vmbackup.ScheduleSpec{VM: vm, Cron: cron, Type: vmbackup.TypeBackup, Retain: 8, MaxFailure: 4}
		s.Status = vmbackup.ScheduleStatus{State: state, Engine: vmbackup.EngineHarvester, CreatedAt: ago(100 * 24 * time.Hour), NextRunAt: ago(-11*time.Hour - 30*time.Minute)}
		return *s
	}
	ran := func(s *vmbackup.Schedule, runs ...vmbackup.ScheduleRun) {
		s.Status.Runs, s.Status.LastRun = runs, &runs[0]
	}
	active := schedule("shop", "web", "web", "0 3 * * *", vmbackup.ScheduleActive)
	ran(&active,
		vmbackup.ScheduleRun{Backup: "svmb-2afd098b-c90e-4d9d-a1bc-d45b0a2242f1-20260802.0300", DueAt: ago(12*time.Hour + 30*time.Minute), Phase: vmbackup.PhaseReady},
		vmbackup.ScheduleRun{Backup: "svmb-2afd098b-c90e-4d9d-a1bc-d45b0a2242f1-20260801.0300", DueAt: ago(36*time.Hour + 30*time.Minute), Phase: vmbackup.PhaseReady})
	failing := schedule("shop", "mail-server-of-the-sales-department", "mail", "30 */6 * * *", vmbackup.ScheduleFailing)
	failing.Status.Failures, failing.Status.Message = 2, "2 of 4 runs failed in a row; svmb-61d0-20260802.1230: no room on the target"
	ran(&failing, vmbackup.ScheduleRun{Backup: "svmb-61d0-20260802.1230", DueAt: ago(3 * time.Hour), Phase: vmbackup.PhaseFailed, Message: "no room on the target"})
	missed := schedule("lab", "db", "db", "15 4 * * 1-5", vmbackup.ScheduleMissed)
	missed.Status.MissedRunAt, missed.Status.Message = ago(11*time.Hour+15*time.Minute), "no backup of the run of 2026-08-02T04:15:00Z is there"
	missed.Status.Warnings = []string{"Harvester's controllers have not taken the last change up yet"}
	stopped := schedule("lab", "proxy", "proxy", "@monthly", vmbackup.ScheduleSuspended)
	stopped.Status.SuspendedBy, stopped.Spec.Suspend, stopped.Status.NextRunAt = vmbackup.SuspendedByUser, true, nil
	broken := schedule("lab", "測試", "test", "5 1 2 3 *", vmbackup.ScheduleSuspended)
	broken.Spec.Type, broken.Spec.Suspend, broken.Status.NextRunAt = vmbackup.TypeSnapshot, true, nil
	broken.Status.SuspendedBy, broken.Status.Failures, broken.Status.Message = vmbackup.SuspendedByFailures, 4, "failure backups 4 reach max tolerance 4"
	return []vmbackup.Schedule{active, failing, missed, stopped, broken}
}

func TestSchedules(t *testing.T) {
	for name, o := range layouts() {
		t.Run(name, func(t *testing.T) {
			var tables, trees bytes.Buffer
			o.Namespaces = true
			if err := Schedules(&tables, sampleSchedules(), o); err != nil {
				t.Fatal(err)
			}
			for _, s := range sampleSchedules() {
				if err := Schedule(&trees, &s, o); err != nil {
					t.Fatal(err)
				}
			}
			fitsIn(t, tables.String()+trees.String(), o)
			o.Wide = true
			if err := Schedules(&tables, sampleSchedules(), o); err != nil {
				t.Fatal(err)
			}
			golden(t, "schedules-"+name+".txt", tables.Bytes())
			golden(t, "describe-schedules-"+name+".txt", trees.Bytes())
		})
	}
}

func TestCronWords(t *testing.T) {
	for expression, want := range map[string]string{
		"0 3 * * *":     "daily at 03:00",
		" 5 3 * * * ":   "daily at 03:05",
		"0 3,15 * * *":  "daily at 03:00, 15:00",
		"@daily":        "daily at 00:00",
		"@midnight":     "daily at 00:00",
		"@hourly":       "hourly at :00",
		"15 * * * *":    "hourly at :15",
		"30 */6 * * *":  "every 6 hours at :30",
		"0 3 * * 0":     "Sunday at 03:00",
		"0 3 * * sat":   "Saturday at 03:00",
		"@weekly":       "Sunday at 00:00",
		"0 3 * * 1-5":   "Mon-Fri at 03:00",
		"0 3 * * mon,3": "Mon, Wed at 03:00",
		"0 3 1 * *":     "monthly on day 1 at 03:00",
		"@monthly":      "monthly on day 1 at 00:00",
		// What has no words stays as it is.
		"@every 2h":      "@every 2h",
		"@yearly":        "@yearly",
		"0 3 1 * 1":      "0 3 1 * 1",
		"0 3 1-7 * *":    "0 3 1-7 * *",
		"0 3 * 6 *":      "0 3 * 6 *",
		"*/5 3 * * *":    "*/5 3 * * *",
		"0 3-5 * * *":    "0 3-5 * * *",
		"0 3 * * 1-x":    "0 3 * * 1-x",
		"0 3 * * 1,9":    "0 3 * * 1,9",
		"0 25 * * *":     "0 25 * * *",
		"0 3 * *":        "0 3 * *",
		"0 */0 * * *":    "0 */0 * * *",
		"\x1b[31m 3 * *": "\x1b[31m 3 * *", // made harmless where it is printed
	} {
		if got := cronWords(expression); got != want {
			t.Errorf("%q: %q, want %q", expression, got, want)
		}
	}
}

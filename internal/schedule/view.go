// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// The reasons that Harvester gives for a suspension.
const (
	reasonFailures = "Reach Max Failure"
	reasonTarget   = "Longhorn Backup Not Synced"
)

// runLayout is the time in the name of a run's backup. Harvester writes its own local
// time there.
const runLayout = "20060102.1504"

// evidence is what the views rest on, beside the schedule itself.
type evidence struct {
	now time.Time
	// backups are those of the namespace.
	backups []vmbackup.Backup
	// unseen says why they could not be looked at; empty when they were.
	unseen string
	// jobs are Harvester's CronJobs by name; nil when they may not be read.
	jobs map[string]cronJob
}

// view is the schedule as the tool shows it.
func view(o *harvester.ScheduleVMBackup, e evidence) *vmbackup.Schedule {
	v := vmbackup.NewSchedule(vmbackup.Ref{Namespace: o.Namespace, Name: o.Name})
	v.Metadata.Labels = o.Labels
	v.Spec = vmbackup.ScheduleSpec{
		VM: o.Spec.VMBackup.Source.Name, Cron: o.Spec.Cron, Type: vmbackup.BackupType(cmp.Or(o.Spec.VMBackup.Type, harvester.TypeBackup)),
		Retain: o.Spec.Retain, MaxFailure: o.Spec.MaxFailure, Suspend: o.Spec.Suspend,
	}
	s := &v.Status
	s.Engine, s.Failures = vmbackup.EngineHarvester, o.Status.Failure
	if created := o.CreationTimestamp.Time; !created.IsZero() {
		s.CreatedAt = utc(created)
	}
	s.Runs = runs(o, e)
	if len(s.Runs) > 0 {
		s.LastRun = &s.Runs[0]
	}
	judge(o, v, e)
	if e.unseen != "" {
		s.Warnings = append(s.Warnings, "what became of its backups could not be looked at: "+e.unseen)
	}
	if o.Spec.Suspend != o.Status.Suspended {
		s.Warnings = append(s.Warnings, "Harvester's controllers have not taken the last change up yet")
	}
	if o.DeletionTimestamp != nil {
		s.Warnings = append(s.Warnings, "it is being deleted")
	}
	return v
}

// judge sets the state, and what explains it.
func judge(o *harvester.ScheduleVMBackup, v *vmbackup.Schedule, e evidence) {
	s := &v.Status
	due, err := parse(o.Spec.Cron)
	if err != nil {
		s.Warnings = append(s.Warnings, fmt.Sprintf("its time %q cannot be read: %v", o.Spec.Cron, err))
	}
	s.State = vmbackup.ScheduleActive
	suspension, _ := harvester.FindCondition(o.Status.Conditions, harvester.ConditionBackupSuspend)
	if o.Spec.Suspend || o.Status.Suspended {
		s.State, s.SuspendedBy = vmbackup.ScheduleSuspended, vmbackup.SuspendedByUser
		if suspension.Status != corev1.ConditionTrue {
			return
		}
		switch suspension.Reason {
		case reasonFailures:
			s.SuspendedBy, s.Message = vmbackup.SuspendedByFailures, lastFailure(s, cmp.Or(suspension.Message, suspension.Reason))
		case reasonTarget:
			s.SuspendedBy, s.Message = vmbackup.SuspendedByTarget, suspension.Message
		}
		return
	}
	if due == nil {
		return
	}
	if next := due.Next(e.now); !next.IsZero() {
		s.NextRunAt = utc(next)
	}
	missed(o, s, lastDue(due, e.now.Add(-grace)), e)
	switch {
	case s.Failures > 0:
		s.State, s.Message = vmbackup.ScheduleFailing, lastFailure(s, fmt.Sprintf("%d of %d runs failed in a row", s.Failures, o.Spec.MaxFailure))
	case s.MissedRunAt != nil:
		s.State = vmbackup.ScheduleMissed
	}
}

// lastFailure is what the newest run that failed said, else a text.
func lastFailure(s *vmbackup.ScheduleStatus, otherwise string) string {
	for _, run := range s.Runs {
		if run.Message != "" && run.Phase != vmbackup.PhaseReady {
			return otherwise + "; " + run.Backup + ": " + run.Message
		}
	}
	return otherwise
}

// missed looks for the run that was due last. What was due before the schedule was
// made, resumed or edited proves nothing.
func missed(o *harvester.ScheduleVMBackup, s *vmbackup.ScheduleStatus, due time.Time, e evidence) {
	if due.IsZero() || o.CreationTimestamp.IsZero() || due.Before(changed(o)) {
		return
	}
	for _, run := range s.Runs {
		if run.DueAt == nil || run.DueAt.After(due.Add(-grace)) {
			return
		}
	}
	at := due.UTC().Format(time.RFC3339)
	if s.LastRun != nil && s.LastRun.Phase == vmbackup.PhaseRunning {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the run of %s was left out: the one before it has not ended", at))
		return
	}
	s.MissedRunAt = utc(due)
	s.Message = fmt.Sprintf("no backup of the run of %s is there", at)
	if e.jobs == nil {
		return
	}
	job, made := e.jobs[jobName(o)]
	switch {
	case !made:
		s.Message += ": Harvester has made no CronJob for the schedule; its controllers may be down"
	case job.Status.LastScheduleTime == nil || job.Status.LastScheduleTime.Time.Before(due.Add(-grace)):
		s.Message += ": its CronJob " + jobNamespace + "/" + jobName(o) + " was not due in Kubernetes either; see kubectl describe cronjobs.batch " + jobName(o) + " -n " + jobNamespace
	default:
		s.Message += ": its CronJob was due, and Harvester made no backup of it, or somebody deleted the backup"
	}
}

// changed is when the schedule was made, resumed or given another time last.
func changed(o *harvester.ScheduleVMBackup) time.Time {
	last := o.CreationTimestamp.Time
	later := func(t time.Time) {
		if t.After(last) {
			last = t
		}
	}
	if c, ok := harvester.FindCondition(o.Status.Conditions, harvester.ConditionBackupSuspend); ok {
		for _, text := range []string{c.LastUpdateTime, c.LastTransitionTime} {
			if t, err := time.Parse(time.RFC3339, text); err == nil {
				later(t)
			}
		}
	}
	for _, m := range o.ManagedFields {
		if m.Time != nil && m.FieldsV1 != nil && strings.Contains(m.FieldsV1.GetRawString(), `"f:cron"`) {
			later(m.Time.Time)
		}
	}
	return last
}

// runs are the backups of the schedule, newest first.
func runs(o *harvester.ScheduleVMBackup, e evidence) []vmbackup.ScheduleRun {
	prefix := backupPrefix(o)
	var found []vmbackup.ScheduleRun
	for i := range e.backups {
		b := &e.backups[i]
		stamp, ok := strings.CutPrefix(b.Metadata.Name, prefix)
		if !ok {
			continue
		}
		run := vmbackup.ScheduleRun{Backup: b.Metadata.Name, DueAt: dueAt(stamp, b.Status.StartedAt), Phase: b.Status.Phase}
		if b.Status.Error != nil {
			run.Message = b.Status.Error.Message
		}
		found = append(found, run)
	}
	// A user who may not look at the backups is told what the schedule itself knows.
	for _, info := range o.Status.VMBackupInfo {
		if stamp, ok := strings.CutPrefix(info.Name, prefix); ok && e.unseen != "" {
			found = append(found, vmbackup.ScheduleRun{Backup: info.Name, DueAt: dueAt(stamp, nil), Phase: vmbackup.PhaseUnknown, Message: info.Error.Text()})
		}
	}
	slices.SortStableFunc(found, func(a, b vmbackup.ScheduleRun) int {
		if a.DueAt != nil && b.DueAt != nil && !a.DueAt.Equal(*b.DueAt) {
			return b.DueAt.Compare(*a.DueAt)
		}
		return strings.Compare(b.Backup, a.Backup)
	})
	return found
}

// dueAt is when a run was due. Harvester makes the backup within a minute, so that a
// name which tells another time tells that of another time zone.
func dueAt(stamp string, started *time.Time) *time.Time {
	named, err := time.Parse(runLayout, stamp)
	switch {
	case started == nil && err != nil:
		return nil
	case started == nil, err == nil && started.Sub(named).Abs() < 2*time.Minute:
		return utc(named)
	}
	return utc(started.Truncate(time.Minute))
}

// backupPrefix begins the names of a schedule's backups.
func backupPrefix(o *harvester.ScheduleVMBackup) string { return jobName(o) + "-" }

// jobName is the name of a schedule's CronJob.
func jobName(o *harvester.ScheduleVMBackup) string { return "svmb-" + string(o.UID) }

func utc(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}

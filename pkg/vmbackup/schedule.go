// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"context"
	"time"
)

// KindSchedule is the kind of a Schedule.
const KindSchedule = "Schedule"

// ScheduleState is whether backups come of a schedule as they should.
type ScheduleState string

// The states of a schedule. Of several that apply the first one counts.
const (
	ScheduleSuspended ScheduleState = "Suspended"
	ScheduleFailing   ScheduleState = "Failing" // the last runs failed, and it goes on
	ScheduleMissed    ScheduleState = "Missed"  // a run that was due is not there
	ScheduleActive    ScheduleState = "Active"
)

// SuspendedBy is who suspended a schedule.
type SuspendedBy string

// Who suspends schedules.
const (
	SuspendedByUser     SuspendedBy = "user"
	SuspendedByFailures SuspendedBy = "failures" // as many failures in a row as it may have
	SuspendedByTarget   SuspendedBy = "target"   // an upload hung, mostly because the backup target was away
)

// Schedule backs up one virtual machine by the clock.
type Schedule struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   ObjectMeta     `json:"metadata"`
	Spec       ScheduleSpec   `json:"spec"`
	Status     ScheduleStatus `json:"status"`
}

// NewSchedule returns an empty schedule with its kind set.
func NewSchedule(ref Ref) *Schedule {
	return &Schedule{APIVersion: APIVersion, Kind: KindSchedule, Metadata: ObjectMeta{Name: ref.Name, Namespace: ref.Namespace}}
}

// Ref is the schedule's namespace and name.
func (s *Schedule) Ref() Ref { return Ref{Namespace: s.Metadata.Namespace, Name: s.Metadata.Name} }

// ScheduleSpec is what was asked for.
type ScheduleSpec struct {
	VM string `json:"vm"`
	// Cron has five fields, or is a shorthand as @daily.
	Cron string     `json:"cron"`
	Type BackupType `json:"type"`
	// Retain is how many of its backups stay.
	Retain int `json:"retain"`
	// MaxFailure failures in a row suspend it.
	MaxFailure int  `json:"maxFailure"`
	Suspend    bool `json:"suspend"`
}

// ScheduleStatus is what was observed.
type ScheduleStatus struct {
	State       ScheduleState `json:"state"`
	SuspendedBy SuspendedBy   `json:"suspendedBy,omitempty"`
	// Failures is how many runs have failed since the last good one.
	Failures  int        `json:"failures"`
	CreatedAt *time.Time `json:"createdAt,omitempty"`
	// LastRun is the newest of Runs.
	LastRun *ScheduleRun `json:"lastRun,omitempty"`
	// MissedRunAt is when the newest run that is not there was due.
	MissedRunAt *time.Time `json:"missedRunAt,omitempty"`
	// NextRunAt is not known of a schedule that is suspended.
	NextRunAt *time.Time `json:"nextRunAt,omitempty"`
	// Runs are the backups that it has made and that are still there, newest first.
	Runs   []ScheduleRun `json:"runs,omitempty"`
	Engine string        `json:"engine"`
	// Message says why it is not Active.
	Message  string   `json:"message,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// ScheduleRun is one backup of a schedule.
type ScheduleRun struct {
	Backup  string     `json:"backup"`
	DueAt   *time.Time `json:"dueAt,omitempty"`
	Phase   Phase      `json:"phase"`
	Message string     `json:"message,omitempty"`
}

// ScheduleRequest asks for a schedule.
type ScheduleRequest struct {
	// Name of the schedule; empty for the machine's.
	Name       string     `json:"name,omitempty"`
	Namespace  string     `json:"namespace"`
	VM         string     `json:"vm"`
	Cron       string     `json:"cron"`
	Type       BackupType `json:"type"`
	Retain     int        `json:"retain"`
	MaxFailure int        `json:"maxFailure"`
	// Suspend makes a schedule that runs only once it is resumed.
	Suspend bool `json:"suspend,omitempty"`
}

// Defaults of a ScheduleRequest, those of Harvester.
const (
	DefaultRetain     = 8
	DefaultMaxFailure = 4
)

// Default fills what the request leaves open.
func (r ScheduleRequest) Default() ScheduleRequest {
	if r.Name == "" {
		r.Name = r.VM
	}
	if r.Type == "" {
		r.Type = TypeBackup
	}
	if r.Retain == 0 {
		r.Retain = DefaultRetain
	}
	if r.MaxFailure == 0 {
		r.MaxFailure = DefaultMaxFailure
	}
	return r
}

// Ref is the namespace and name of the schedule.
func (r ScheduleRequest) Ref() Ref { return Ref{Namespace: r.Namespace, Name: r.Name} }

// Spec is the request as the specification of a schedule.
func (r ScheduleRequest) Spec() ScheduleSpec {
	return ScheduleSpec{VM: r.VM, Cron: r.Cron, Type: r.Type, Retain: r.Retain, MaxFailure: r.MaxFailure, Suspend: r.Suspend}
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
// What the platform allows is checked by PlanCreate.
func (r ScheduleRequest) Validate() error {
	if err := validName("virtual machine name", r.VM, 253); err != nil {
		return err
	}
	if err := validName("namespace", r.Namespace, 63); err != nil {
		return err
	}
	if err := validName("schedule name", r.Name, 253); err != nil {
		return err
	}
	if r.Cron == "" {
		return invalid("the time of the backups is missing: a cron expression such as '0 3 * * *'")
	}
	switch r.Type {
	case TypeBackup, TypeSnapshot:
		return nil
	}
	return invalid("type %q is neither %s nor %s", r.Type, TypeBackup, TypeSnapshot)
}

// SchedulePlan is a checked change of a schedule.
type SchedulePlan struct {
	// Action is ActionUse when everything is as it is wanted already.
	Action Action
	// Schedule is as it is, or will be when it is made.
	Schedule *Schedule
	// Suspend is what an update sets.
	Suspend  bool
	Objects  []PlannedObject
	Warnings []string
	// State is the scheduler's own knowledge, carried from plan to change.
	State any
}

// Scheduler keeps schedules. Errors of its Plan methods are preflight errors; on a
// platform without schedules every method returns EngineUnavailable.
type Scheduler interface {
	// Schedules lists, by namespace and name.
	Schedules(ctx context.Context, opts ListOptions) ([]Schedule, error)
	// Schedule returns one schedule, or NotFound.
	Schedule(ctx context.Context, ref Ref) (*Schedule, error)
	// WatchSchedules lists and calls changed with the list, and again with the whole
	// list after every change of a schedule, until changed returns an error, which it
	// returns, or ctx ends.
	WatchSchedules(ctx context.Context, opts ListOptions, changed func([]Schedule) error) error
	// PlanCreate checks the request by the platform's rules. It changes nothing.
	PlanCreate(ctx context.Context, req ScheduleRequest) (*SchedulePlan, error)
	// PlanSuspend says what suspending or resuming would do. It changes nothing.
	PlanSuspend(ctx context.Context, ref Ref, suspend bool) (*SchedulePlan, error)
	// PlanDelete says what deleting would remove, and what stays. It changes nothing.
	PlanDelete(ctx context.Context, ref Ref) (*SchedulePlan, error)
	// Try has the API server check a plan's change and change nothing.
	Try(ctx context.Context, plan *SchedulePlan) error
	// Apply makes the change, and returns the schedule once the platform was seen to
	// have taken it up; nil when it is deleted.
	Apply(ctx context.Context, plan *SchedulePlan) (*Schedule, error)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Bounds of Harvester's API.
const (
	minRetain, maxRetain = 2, 250
	leastMaxFailure      = 2
)

// PlanCreate implements vmbackup.Scheduler.
func (s *Scheduler) PlanCreate(ctx context.Context, r vmbackup.ScheduleRequest) (*vmbackup.SchedulePlan, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if err := s.alive(ctx); err != nil {
		return nil, err
	}
	due, err := checkNumbers(r, s.now())
	if err != nil {
		return nil, err
	}
	if err := s.checkMachine(ctx, r); err != nil {
		return nil, err
	}
	here, err := s.objects(ctx, r.Namespace)
	if err != nil {
		return nil, refused(err)
	}
	p := &vmbackup.SchedulePlan{Action: vmbackup.ActionCreate}
	for _, o := range here {
		same, err := s.checkOther(ctx, r, o)
		if err != nil {
			return nil, err
		}
		if same != nil {
			p.Action, p.Schedule, p.State = vmbackup.ActionUse, same, o
			p.Objects = []vmbackup.PlannedObject{planned(p.Action, o)}
			return p, nil
		}
	}
	warning, err := s.checkOffset(ctx, r, due, here)
	if err != nil {
		return nil, err
	}
	if warning != "" {
		p.Warnings = append(p.Warnings, warning)
	}
	if err := s.checkTarget(ctx, r); err != nil {
		return nil, err
	}
	o := manifest(r)
	p.State, p.Schedule = o, view(o, evidence{now: s.now()})
	p.Schedule.Status.Warnings = nil
	p.Objects = []vmbackup.PlannedObject{
		planned(vmbackup.ActionCreate, o),
		{Action: vmbackup.ActionCreate, APIVersion: "batch/v1", Kind: "CronJob", Namespace: jobNamespace, Name: "svmb-<uid>", Note: "by Harvester"},
	}
	return p, nil
}

// alive refuses where nobody would act on a schedule.
func (s *Scheduler) alive(ctx context.Context) error {
	found, err := s.detect(ctx)
	if err != nil {
		return refused(kube.Error(err, "look for", "Harvester"))
	}
	switch {
	case !found.Served:
		return absent()
	case found.Controllers == harvester.Dead:
		return vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "Harvester's controllers do not work (%s): nobody would follow the schedule; nothing was changed", found.Why).
			AsPreflight().WithHint("see why with: kubectl get pods -n %s", jobNamespace)
	}
	return nil
}

// forbidden is a refusal by a rule of Harvester.
func forbidden(format string, args ...any) *vmbackup.Error {
	return vmbackup.Errorf(vmbackup.ReasonForbidden, format, args...).AsPreflight()
}

// checkNumbers judges what does not depend on the cluster.
func checkNumbers(r vmbackup.ScheduleRequest, now time.Time) (cron.Schedule, error) {
	switch {
	case r.Retain < minRetain || r.Retain > maxRetain:
		return nil, forbidden("Harvester keeps %d to %d backups of a schedule, not %d", minRetain, maxRetain, r.Retain).
			WithHint("choose another number with --retain")
	case r.MaxFailure < leastMaxFailure:
		return nil, forbidden("Harvester suspends a schedule after %d failures in a row at the earliest, not after %d", leastMaxFailure, r.MaxFailure).
			WithHint("choose another number with --max-failure")
	case r.MaxFailure >= r.Retain:
		return nil, forbidden("%d failures in a row would suspend the schedule, and only %d backups are kept, failed ones too: by then no good one might be left", r.MaxFailure, r.Retain).
			WithHint("let --max-failure be less than --retain")
	}
	due, err := parse(r.Cron)
	if err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "%q is no cron expression: %w", r.Cron, err).
			AsPreflight().WithHint("five fields, minute hour day month weekday, as in '0 3 * * *' for three o'clock every night; or @daily")
	}
	gap, first, second := shortestGap(due, now)
	switch {
	case first.IsZero():
		return nil, forbidden("%q is never due in the year to come", r.Cron)
	case gap < minGap:
		return nil, forbidden("Harvester wants an hour at least between two runs of a schedule, and %q is due at %s and again at %s", r.Cron,
			first.UTC().Format("2006-01-02 15:04"), second.UTC().Format("15:04")).
			WithHint("the most frequent schedule is hourly, as in '15 * * * *'")
	}
	return due, nil
}

// checkMachine looks for the machine: Harvester's webhook does not, and each run would fail.
func (s *Scheduler) checkMachine(ctx context.Context, r vmbackup.ScheduleRequest) error {
	_, err := s.clients.VMs.Get(ctx, r.Namespace, r.VM)
	if apierrors.IsNotFound(err) {
		return vmbackup.Errorf(vmbackup.ReasonNotFound, "VirtualMachine %s/%s does not exist; nothing was changed", r.Namespace, r.VM).
			AsPreflight().WithHint("see those that do with: kubectl get virtualmachines.kubevirt.io -n %s", r.Namespace)
	}
	if err != nil {
		return refused(kube.Error(err, "read", fmt.Sprintf("VirtualMachine %s/%s", r.Namespace, r.VM)))
	}
	return nil
}

// checkOther holds the request against a schedule of its namespace. It returns the
// one that is what is asked for already.
func (s *Scheduler) checkOther(ctx context.Context, r vmbackup.ScheduleRequest, o *harvester.ScheduleVMBackup) (*vmbackup.Schedule, error) {
	named, ofMachine := o.Name == r.Name, o.Spec.VMBackup.Source.Name == r.VM
	if !named && !ofMachine {
		return nil, nil
	}
	v, err := s.view(ctx, o)
	if err != nil {
		return nil, refused(err)
	}
	if named && v.Spec == r.Spec() {
		return v, nil
	}
	was := fmt.Sprintf("%q, %s, keeps %d, suspended after %d failures", v.Spec.Cron, v.Spec.Type, v.Spec.Retain, v.Spec.MaxFailure)
	if named {
		return nil, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a schedule %s already, another one: of VirtualMachine %s, %s; nothing was changed", v.Ref(), v.Spec.VM, was).
			AsPreflight().WithHint("change it with: kubectl edit %s.%s %s -n %s; or choose another name with --name", harvester.ScheduleResource, harvester.Group, o.Name, o.Namespace)
	}
	return nil, vmbackup.Errorf(vmbackup.ReasonConflict, "Harvester allows one schedule a machine, and VirtualMachine %s/%s has one: %s (%s); nothing was changed", r.Namespace, r.VM, v.Ref(), was).
		AsPreflight().WithHint("change it with: kubectl edit %s.%s %s -n %s; or delete it with: kubectl vmbackup schedule delete %s -n %s",
		harvester.ScheduleResource, harvester.Group, o.Name, o.Namespace, o.Name, o.Namespace)
}

// checkOffset keeps the runs of schedules of one rhythm apart, in the whole cluster. A
// user who may not look that far is warned: Harvester's webhook looks anyway.
func (s *Scheduler) checkOffset(ctx context.Context, r vmbackup.ScheduleRequest, due cron.Schedule, here []*harvester.ScheduleVMBackup) (warning string, err error) {
	list, err := s.clients.Harvester.Schedules(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	others := here
	switch {
	case err == nil:
		others = nil
		for i := range list.Items {
			others = append(others, &list.Items[i])
		}
	case apierrors.IsForbidden(err):
		warning = "the schedules of other namespaces may not be looked at: Harvester refuses this one if it is due within ten minutes of one of them"
	default:
		return "", refused(kube.Error(err, "list", "ScheduleVMBackups of all namespaces"))
	}
	now := s.now()
	var same []cron.Schedule
	var near *harvester.ScheduleVMBackup
	for _, o := range others {
		other, err := parse(o.Spec.Cron)
		if err != nil || rhythm(other, now) != rhythm(due, now) {
			continue
		}
		same = append(same, other)
		if near == nil && offset(due, other, now) < minOffset {
			near = o
		}
	}
	if near == nil {
		return warning, nil
	}
	e := vmbackup.Errorf(vmbackup.ReasonConflict, "Harvester wants ten minutes between the runs of two schedules of the same rhythm, and %s/%s is due at %q; nothing was changed",
		near.Namespace, near.Name, near.Spec.Cron).AsPreflight()
	if free := freeMinute(r.Cron, same, now); free != "" {
		return "", e.WithHint("a time that is free: --cron '%s'", free)
	}
	return "", e.WithHint("choose another time with --cron")
}

// checkTarget wants a backup target, where the data goes to one.
func (s *Scheduler) checkTarget(ctx context.Context, r vmbackup.ScheduleRequest) error {
	if r.Type == vmbackup.TypeSnapshot {
		return nil
	}
	setting, err := s.clients.Harvester.Settings().Get(ctx, harvester.BackupTargetSetting, metav1.GetOptions{})
	if apierrors.IsForbidden(err) {
		return nil // a lookup that the user has no right for refuses nothing
	}
	if err != nil {
		return refused(kube.Error(err, "read", "Harvester's setting "+harvester.BackupTargetSetting))
	}
	target, err := harvester.DecodeTarget(setting)
	if err != nil {
		return refused(err)
	}
	if target == nil {
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Harvester has no backup target, to which the schedule's backups would go; nothing was changed").
			AsPreflight().WithHint("have the setting %s set, or keep snapshots in the cluster with --type snapshot", harvester.BackupTargetSetting)
	}
	return nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// kind is that of a ScheduleVMBackup.
const kind = "ScheduleVMBackup"

// manifest is the object that a request asks for.
func manifest(r vmbackup.ScheduleRequest) *harvester.ScheduleVMBackup {
	group := "kubevirt.io"
	return &harvester.ScheduleVMBackup{
		TypeMeta:   metav1.TypeMeta{APIVersion: harvester.GroupVersion().String(), Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Namespace: r.Namespace},
		Spec: harvester.ScheduleVMBackupSpec{
			Cron: r.Cron, Retain: r.Retain, MaxFailure: r.MaxFailure, Suspend: r.Suspend,
			VMBackup: harvester.VirtualMachineBackupSpec{
				Source: corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VirtualMachine", Name: r.VM},
				Type:   harvester.BackupType(r.Type),
			},
		},
	}
}

// PlanSuspend implements vmbackup.Scheduler.
func (s *Scheduler) PlanSuspend(ctx context.Context, ref vmbackup.Ref, suspend bool) (*vmbackup.SchedulePlan, error) {
	o, err := s.object(ctx, ref)
	if err != nil {
		return nil, refused(err)
	}
	v, err := s.view(ctx, o)
	if err != nil {
		return nil, refused(err)
	}
	p := &vmbackup.SchedulePlan{Action: vmbackup.ActionUpdate, Schedule: v, Suspend: suspend, State: o}
	if o.Spec.Suspend == suspend && o.Status.Suspended == suspend {
		p.Action = vmbackup.ActionUse
	}
	p.Objects = []vmbackup.PlannedObject{planned(p.Action, o)}
	if p.Action == vmbackup.ActionUse {
		return p, nil
	}
	if err := s.alive(ctx); err != nil {
		return nil, err
	}
	if suspend {
		if v.Status.LastRun != nil && v.Status.LastRun.Phase == vmbackup.PhaseRunning {
			p.Warnings = append(p.Warnings, "its backup "+v.Status.LastRun.Backup+" goes on")
		}
		return p, nil
	}
	if failed := failedRuns(v); v.Status.Failures >= v.Spec.MaxFailure && failed > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("Harvester deletes the %d failed backups of a schedule that it resumes", failed))
	}
	if v.Status.SuspendedBy != "" && v.Status.SuspendedBy != vmbackup.SuspendedByUser {
		p.Warnings = append(p.Warnings, "Harvester had suspended it: "+v.Status.Message)
	}
	return p, nil
}

func failedRuns(v *vmbackup.Schedule) (n int) {
	for _, run := range v.Status.Runs {
		if run.Phase == vmbackup.PhaseFailed || (run.Message != "" && run.Phase != vmbackup.PhaseReady) {
			n++
		}
	}
	return n
}

// PlanDelete implements vmbackup.Scheduler. Nothing owns a scheduled backup: Harvester
// removes it only to keep the number of them, which ends with the schedule.
func (s *Scheduler) PlanDelete(ctx context.Context, ref vmbackup.Ref) (*vmbackup.SchedulePlan, error) {
	o, err := s.object(ctx, ref)
	if err != nil {
		return nil, refused(err)
	}
	v, err := s.view(ctx, o)
	if err != nil {
		return nil, refused(err)
	}
	p := &vmbackup.SchedulePlan{Action: vmbackup.ActionDelete, Schedule: v, State: o, Objects: []vmbackup.PlannedObject{
		planned(vmbackup.ActionDelete, o),
		{Action: vmbackup.ActionDelete, APIVersion: "batch/v1", Kind: "CronJob", Namespace: jobNamespace, Name: jobName(o), Note: "by Harvester"},
	}}
	for _, run := range v.Status.Runs {
		p.Objects = append(p.Objects, vmbackup.PlannedObject{
			Action: vmbackup.ActionUse, APIVersion: harvester.GroupVersion().String(), Kind: harvester.BackupKind,
			Namespace: ref.Namespace, Name: run.Backup, Note: "stays, " + string(run.Phase),
		})
	}
	switch n := len(v.Status.Runs); {
	case n == 1:
		p.Warnings = append(p.Warnings, "its backup stays, and nothing removes it any more but you")
	case n > 1:
		p.Warnings = append(p.Warnings, fmt.Sprintf("its %d backups stay, and nothing removes old ones any more but you", n))
	}
	return p, nil
}

func planned(action vmbackup.Action, o *harvester.ScheduleVMBackup) vmbackup.PlannedObject {
	return vmbackup.PlannedObject{Action: action, APIVersion: harvester.GroupVersion().String(), Kind: kind, Namespace: o.Namespace, Name: o.Name}
}

// Try implements vmbackup.Scheduler: Harvester's webhooks judge without a change.
func (s *Scheduler) Try(ctx context.Context, p *vmbackup.SchedulePlan) error {
	_, err := s.send(ctx, p, []string{metav1.DryRunAll})
	return err
}

// Apply implements vmbackup.Scheduler.
func (s *Scheduler) Apply(ctx context.Context, p *vmbackup.SchedulePlan) (*vmbackup.Schedule, error) {
	o, err := s.send(ctx, p, nil)
	if err != nil || p.Action == vmbackup.ActionUse {
		return p.Schedule, err
	}
	ref := p.Schedule.Ref()
	one := kube.One(s.clients.Harvester.Schedules(ref.Namespace), ref.Name)
	if p.Action == vmbackup.ActionDelete {
		planned, _ := p.State.(*harvester.ScheduleVMBackup)
		return nil, kube.WaitGone[*harvester.ScheduleVMBackup](ctx, one, what(ref), planned.UID)
	}
	err = kube.WaitFor(ctx, one, what(ref), func(now *harvester.ScheduleVMBackup) (bool, error) {
		o = now
		return taken(p, now), nil
	})
	if err != nil {
		if reason := vmbackup.ReasonOf(err); reason == vmbackup.ReasonTimeout {
			err = vmbackup.Errorf(reason, "the change of schedule %s is recorded, and Harvester's controllers have not taken it up yet", ref).
				WithHint("look again with: kubectl vmbackup schedule describe %s -n %s", ref.Name, ref.Namespace)
		}
		return p.Schedule, err
	}
	return s.view(ctx, o)
}

// taken says whether Harvester's controllers have taken a change up: they put their
// finalizer on a new schedule, and follow spec.suspend in the status.
func taken(p *vmbackup.SchedulePlan, o *harvester.ScheduleVMBackup) bool {
	if p.Action == vmbackup.ActionCreate {
		return len(o.Finalizers) > 0 && o.Status.Suspended == o.Spec.Suspend
	}
	return o.Spec.Suspend == p.Suspend && o.Status.Suspended == p.Suspend
}

// send makes the change, or has it checked alone.
func (s *Scheduler) send(ctx context.Context, p *vmbackup.SchedulePlan, dryRun []string) (*harvester.ScheduleVMBackup, error) {
	o, ok := p.State.(*harvester.ScheduleVMBackup)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "the plan of schedule %s is somebody else's", p.Schedule.Ref())
	}
	ref, client := p.Schedule.Ref(), s.clients.Harvester.Schedules(o.Namespace)
	switch p.Action {
	case vmbackup.ActionCreate:
		made, err := client.Create(ctx, o, metav1.CreateOptions{DryRun: dryRun, FieldManager: kube.FieldManager})
		return made, denied(err, "create", what(ref))
	case vmbackup.ActionUpdate:
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"suspend":%t}}`, o.UID, p.Suspend)
		changed, err := client.Patch(ctx, o.Name, types.MergePatchType, patch, metav1.PatchOptions{DryRun: dryRun, FieldManager: kube.FieldManager})
		return changed, denied(err, "change", what(ref))
	case vmbackup.ActionDelete:
		err := client.Delete(ctx, o.Name, metav1.DeleteOptions{DryRun: dryRun, Preconditions: metav1.NewUIDPreconditions(string(o.UID))})
		if apierrors.IsNotFound(err) {
			err = nil // gone, as it was to be
		}
		return o, denied(err, "delete", what(ref))
	}
	return o, nil
}

// denied is the error of a change; what Harvester's webhooks refuse is refused before
// any change.
func denied(err error, action, object string) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		var status apierrors.APIStatus
		text := err.Error()
		if errors.As(err, &status) {
			text = status.Status().Message
		}
		return vmbackup.Errorf(vmbackup.ReasonForbidden, "Harvester refuses to %s %s: %s; nothing was changed", action, object, text).AsPreflight()
	case apierrors.IsAlreadyExists(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return refused(kube.Error(err, action, object))
	}
	return kube.Error(err, action, object)
}

// refused is an error by which nothing was changed.
func refused(err error) error {
	return vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package schedule keeps the schedules of a cluster's backups: Harvester's
// ScheduleVMBackups. Harvester makes a CronJob of each, whose times it takes as the
// sign to make a VirtualMachineBackup; the CronJob's own pod only sleeps.
package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// jobNamespace is where Harvester keeps the CronJobs of its schedules, and runs itself.
const jobNamespace = "harvester-system"

// Backups lists the backups of a namespace that Harvester has made; of all for "".
type Backups interface {
	Backups(ctx context.Context, namespace string) ([]vmbackup.Backup, error)
}

// Scheduler is vmbackup.Scheduler over Harvester's ScheduleVMBackups.
type Scheduler struct {
	clients *kube.Clients
	backups Backups
	now     vmbackup.Clock
	// detect finds out whether Harvester's controllers work.
	detect func(ctx context.Context) (*harvester.Presence, error)
}

// New keeps the schedules of a cluster, which need not be Harvester's.
func New(clients *kube.Clients, backups Backups, now vmbackup.Clock) *Scheduler {
	return &Scheduler{
		clients: clients, backups: backups, now: now,
		detect: func(ctx context.Context) (*harvester.Presence, error) {
			return harvester.NewDetector(clients.Core.Discovery(), clients.Harvester.Settings()).Detect(ctx)
		},
	}
}

// cronJob is the part of a CronJob that tells whether it was due.
type cronJob struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		LastScheduleTime *metav1.Time `json:"lastScheduleTime"`
	} `json:"status"`
}

// Schedules implements vmbackup.Scheduler.
func (s *Scheduler) Schedules(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Schedule, error) {
	objects, err := s.objects(ctx, opts.Namespace)
	if err != nil {
		return nil, err
	}
	return s.views(ctx, objects, opts)
}

// objects lists the ScheduleVMBackups of a namespace, of all for "".
func (s *Scheduler) objects(ctx context.Context, namespace string) ([]*harvester.ScheduleVMBackup, error) {
	list, err := s.clients.Harvester.Schedules(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, s.explained(ctx, err, "list", "ScheduleVMBackups of Harvester")
	}
	objects := make([]*harvester.ScheduleVMBackup, len(list.Items))
	for i := range list.Items {
		objects[i] = &list.Items[i]
	}
	return objects, nil
}

// views are those of the schedules that the options select.
func (s *Scheduler) views(ctx context.Context, objects []*harvester.ScheduleVMBackup, opts vmbackup.ListOptions) ([]vmbackup.Schedule, error) {
	selected, err := s.selected(ctx, objects, opts)
	if err != nil || len(selected) == 0 {
		return nil, err
	}
	e, err := s.evidence(ctx, opts.Namespace)
	if err != nil {
		return nil, err
	}
	views := make([]vmbackup.Schedule, 0, len(selected))
	for _, o := range selected {
		views = append(views, *view(o, e))
	}
	slices.SortFunc(views, func(a, b vmbackup.Schedule) int { return strings.Compare(a.Ref().String(), b.Ref().String()) })
	if opts.Limit > 0 && len(views) > opts.Limit {
		views = views[:opts.Limit]
	}
	return views, nil
}

// selected keeps the schedules of the machine, and of machines with the labels.
func (s *Scheduler) selected(ctx context.Context, objects []*harvester.ScheduleVMBackup, opts vmbackup.ListOptions) ([]*harvester.ScheduleVMBackup, error) {
	machines := map[vmbackup.Ref]bool{}
	if opts.Selector != "" && len(objects) > 0 {
		list, err := s.clients.KubeVirt.KubevirtV1().VirtualMachines(opts.Namespace).List(ctx, metav1.ListOptions{LabelSelector: opts.Selector})
		if err != nil {
			return nil, kube.Error(err, "list", "VirtualMachines with the labels "+opts.Selector)
		}
		for i := range list.Items {
			machines[vmbackup.Ref{Namespace: list.Items[i].Namespace, Name: list.Items[i].Name}] = true
		}
	}
	var chosen []*harvester.ScheduleVMBackup
	for _, o := range objects {
		vm := o.Spec.VMBackup.Source.Name
		if (opts.VM == "" || opts.VM == vm) && (opts.Selector == "" || machines[vmbackup.Ref{Namespace: o.Namespace, Name: vm}]) {
			chosen = append(chosen, o)
		}
	}
	return chosen, nil
}

// evidence is looked at once for all schedules of a namespace, or of the cluster.
func (s *Scheduler) evidence(ctx context.Context, namespace string) (evidence, error) {
	e := evidence{now: s.now()}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		e.backups, err = s.backups.Backups(gctx, namespace)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
			e.unseen, err = err.Error(), nil
		}
		return err
	})
	g.Go(func() error {
		e.jobs = s.jobs(gctx)
		return nil
	})
	if err := g.Wait(); err != nil {
		return e, err
	}
	return e, ctx.Err()
}

// jobs are Harvester's CronJobs by name; nil when the user may not read them, which
// is the rule: they are a help where they can be had. They are read as JSON: a typed
// client of their group would be the only use of it.
func (s *Scheduler) jobs(ctx context.Context) map[string]cronJob {
	const path = "/apis/batch/v1/namespaces/" + jobNamespace + "/cronjobs"
	result := s.clients.Core.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx)
	if result.Error() != nil {
		return nil
	}
	raw, err := result.Raw()
	if err != nil {
		return nil
	}
	var list struct {
		Items []cronJob `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil
	}
	jobs := map[string]cronJob{}
	for _, job := range list.Items {
		jobs[job.Metadata.Name] = job
	}
	return jobs
}

// Schedule implements vmbackup.Scheduler.
func (s *Scheduler) Schedule(ctx context.Context, ref vmbackup.Ref) (*vmbackup.Schedule, error) {
	o, err := s.object(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.view(ctx, o)
}

func (s *Scheduler) object(ctx context.Context, ref vmbackup.Ref) (*harvester.ScheduleVMBackup, error) {
	o, err := s.clients.Harvester.Schedules(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err == nil {
		return o, nil
	}
	if err = s.explained(ctx, err, "read", what(ref)); vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no schedule %s (%s.%s)", ref, harvester.ScheduleResource, harvester.Group).
			WithHint("see those that there are with: kubectl vmbackup schedule list -n %s", ref.Namespace)
	}
	return nil, err
}

func (s *Scheduler) view(ctx context.Context, o *harvester.ScheduleVMBackup) (*vmbackup.Schedule, error) {
	e, err := s.evidence(ctx, o.Namespace)
	if err != nil {
		return nil, err
	}
	return view(o, e), nil
}

// WatchSchedules implements vmbackup.Scheduler. Harvester writes into a schedule what
// becomes of its backups, so that they need no watch of their own.
func (s *Scheduler) WatchSchedules(ctx context.Context, opts vmbackup.ListOptions, changed func([]vmbackup.Schedule) error) error {
	err := kube.WatchAll(ctx, kube.Select(s.clients.Harvester.Schedules(opts.Namespace), metav1.ListOptions{}), "ScheduleVMBackups of Harvester",
		func(objects []*harvester.ScheduleVMBackup) (bool, error) {
			views, err := s.views(ctx, objects, opts)
			if err != nil {
				return false, err
			}
			return false, changed(views)
		})
	return s.explained(ctx, err, "watch", "ScheduleVMBackups of Harvester")
}

// explained tells a cluster without Harvester from one that refuses the user: the API
// server refuses a user without rights before it says that it does not know the kind.
func (s *Scheduler) explained(ctx context.Context, err error, action, object string) error {
	if err == nil {
		return nil
	}
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || vmbackup.ReasonOf(err) == vmbackup.ReasonForbidden {
		served, lookErr := s.clients.Lookup.Serves(ctx, harvester.GroupVersion().WithResource(harvester.ScheduleResource))
		if lookErr == nil && !served {
			return absent()
		}
	}
	return kube.Error(err, action, object)
}

// absent is the answer on a cluster without Harvester.
func absent() error {
	return vmbackup.Errorf(vmbackup.ReasonEngineUnavailable,
		"this cluster has no schedules: they are kept by Harvester (%s.%s, since v1.4), which is not here", harvester.ScheduleResource, harvester.Group).
		AsPreflight().WithHint("on a cluster without Harvester, have another clock run 'kubectl vmbackup create VM': cron, or a CronJob of Kubernetes")
}

func what(ref vmbackup.Ref) string {
	return fmt.Sprintf("%s.%s %s", harvester.ScheduleResource, harvester.Group, ref)
}

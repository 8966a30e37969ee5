// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// scheduleCreateOptions are the flags of schedule create.
type scheduleCreateOptions struct {
	*globals
	output
	changeFlags
	request vmbackup.ScheduleRequest
}

func (g *globals) newScheduleCreate() *cobra.Command {
	o := &scheduleCreateOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "create VM --cron EXPRESSION",
		Short: "Have a machine backed up by the clock",
		Long: `Have a machine backed up by the clock.

Harvester's own rules are checked and explained before anything is changed: one
schedule a machine, an hour at least between two runs, ten minutes at least
between two schedules of the same rhythm in the whole cluster, 2 to 250 backups
kept, at least 2 failures before it suspends the schedule and fewer than backups
kept, and a backup target unless the type is snapshot.

The times are those of the cluster's clock, on Harvester UTC. The same command
run again changes nothing.`,
		Example: `
# Back up every night at three, and keep a week of backups
kubectl vmbackup schedule create web --cron '0 3 * * *' --retain 7

# Snapshots inside the cluster, every six hours
kubectl vmbackup schedule create db --cron '30 */6 * * *' --type snapshot

# See whether Harvester would take it
kubectl vmbackup schedule create web --cron @daily --dry-run=server`,
		Args:              named("the virtual machine to back up", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeMachine,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.request.VM = args[0]
			for _, check := range []func() error{o.requestIn("default").Validate, o.changeFlags.validate, o.check} {
				if err := check(); err != nil {
					return usageError(cmd, err)
				}
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.request.Name, "name", "", "Name of the schedule. If empty, the machine's")
	flags.StringVar(&o.request.Cron, "cron", "", "When: minute, hour, day, month and weekday, or @daily and the like. Also --schedule")
	flags.StringVar(&o.request.Cron, "schedule", "", "The same as --cron")
	flags.Lookup("schedule").Hidden = true // as velero calls it
	flags.IntVar(&o.request.Retain, "retain", vmbackup.DefaultRetain, "Backups to keep; Harvester deletes the oldest, failed ones first")
	flags.IntVar(&o.request.MaxFailure, "max-failure", vmbackup.DefaultMaxFailure, "Failures in a row after which Harvester suspends the schedule")
	flags.StringVar((*string)(&o.request.Type), "type", string(vmbackup.TypeBackup), "Where the data goes: backup (to the backup target) or snapshot (it stays in the volumes)")
	flags.BoolVar(&o.request.Suspend, "suspend", false, "Make it suspended: it runs only once it is resumed")
	o.changeFlags.addFlags(cmd)
	o.output.addFlags(cmd, true)
	fixed(cmd, "type", string(vmbackup.TypeBackup), string(vmbackup.TypeSnapshot))
	return cmd
}

func (o *scheduleCreateOptions) requestIn(namespace string) vmbackup.ScheduleRequest {
	r := o.request
	r.Namespace = namespace
	if r.Name == "" {
		r.Name = r.VM
	}
	return r
}

func (o *scheduleCreateOptions) execute(ctx context.Context) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	plan, err := s.scheduler.PlanCreate(ctx, o.requestIn(s.namespace))
	if err != nil {
		return unbegun(ctx, err, o.timeout)
	}
	if err := o.warn(plan.Warnings); err != nil {
		return err
	}
	schedule, err := o.change(ctx, s, plan)
	if err != nil {
		return err
	}
	done := "created"
	if plan.Action == vmbackup.ActionUse {
		done = "unchanged"
	}
	if !o.human() {
		return o.print(o.streams.Out, schedule)
	}
	if o.format == "" {
		return o.tell(schedule.Ref(), done+o.note()+": "+render.ScheduleLine(schedule, o.clock()))
	}
	options := o.outTerminal().Options(o.clock())
	options.Wide = o.wide()
	return render.Schedules(o.streams.Out, []vmbackup.Schedule{*schedule}, options)
}

// scheduleSuspendOptions are the flags of schedule suspend and resume.
type scheduleSuspendOptions struct {
	*globals
	output
	changeFlags
	suspend       bool
	names         []string
	all           bool
	allNamespaces bool
}

func (g *globals) newScheduleSuspend(suspend bool) *cobra.Command {
	o := &scheduleSuspendOptions{globals: g, suspend: suspend}
	cmd := &cobra.Command{
		Use:   "suspend (NAME... | --all)",
		Short: "Suspend schedules",
		Long: `Suspend schedules: no run of them is due until they are resumed. A backup that
runs goes on, and what is there stays.

An upgrade of Harvester, and a restore in place of the machine, want it so.`,
		Example: `
# Suspend one
kubectl vmbackup schedule suspend web

# Suspend all in the cluster, before an upgrade of Harvester
kubectl vmbackup schedule suspend --all -A`,
	}
	if !suspend {
		cmd.Use, cmd.Short = "resume (NAME... | --all)", "Resume schedules"
		cmd.Long = `Resume schedules, those that Harvester has suspended too. Runs that were due
meanwhile are not made up for.

Of a schedule that was suspended after too many failures Harvester deletes the
failed backups.`
		cmd.Example = `
# Go on after the backup target was away
kubectl vmbackup schedule resume web

# Resume all in the cluster, after an upgrade of Harvester
kubectl vmbackup schedule resume --all -A`
	}
	cmd.ValidArgsFunction = g.completeSchedules
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.names = args
		if err := o.validate(); err != nil {
			return usageError(cmd, err)
		}
		return o.execute(cmd.Context())
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "Every schedule of the namespace")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "With --all, those of all namespaces")
	o.changeFlags.addFlags(cmd)
	o.output.addFlags(cmd, true)
	return cmd
}

func (o *scheduleSuspendOptions) validate() error {
	switch {
	case len(o.names) == 0 && !o.all:
		return invalid("name the schedules, or say --all")
	case len(o.names) > 0 && o.all:
		return invalid("names and --all exclude each other")
	case o.allNamespaces && !o.all:
		return invalid("--all-namespaces goes with --all")
	}
	if _, err := scheduleRefs(o.names, "default"); err != nil {
		return err
	}
	if err := o.changeFlags.validate(); err != nil {
		return err
	}
	return o.check()
}

// refs are the schedules to change.
func (o *scheduleSuspendOptions) refs(ctx context.Context, s *session) ([]vmbackup.Ref, error) {
	if !o.all {
		return scheduleRefs(o.names, s.namespace)
	}
	opts := vmbackup.ListOptions{Namespace: s.namespace}
	if o.allNamespaces {
		opts.Namespace = ""
	}
	schedules, err := s.scheduler.Schedules(ctx, opts)
	if err != nil {
		return nil, err
	}
	refs := make([]vmbackup.Ref, len(schedules))
	for i := range schedules {
		refs[i] = schedules[i].Ref()
	}
	if len(refs) == 0 {
		return nil, render.NoneFound(o.streams.ErrOut, listSchedules, opts.Namespace)
	}
	return refs, nil
}

func (o *scheduleSuspendOptions) execute(ctx context.Context) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	refs, err := o.refs(ctx, s)
	if err != nil || len(refs) == 0 {
		return err
	}
	outcomes := make([]error, len(refs))
	changed := []vmbackup.Schedule{}
	for i, ref := range refs {
		schedule, err := o.one(ctx, s, ref)
		if outcomes[i] = err; err != nil {
			if len(refs) > 1 {
				outcomes[i] = fmt.Errorf("%s: %w", ref, err)
			}
			continue
		}
		changed = append(changed, *schedule)
	}
	if !o.human() && len(changed) > 0 {
		if len(refs) == 1 {
			err = o.print(o.streams.Out, &changed[0])
		} else {
			err = o.print(o.streams.Out, changed)
		}
		if err != nil {
			return err
		}
	}
	return o.outcome(ctx, outcomes, false)
}

// one suspends or resumes one schedule, and tells of it.
func (o *scheduleSuspendOptions) one(ctx context.Context, s *session, ref vmbackup.Ref) (*vmbackup.Schedule, error) {
	plan, err := s.scheduler.PlanSuspend(ctx, ref, o.suspend)
	if err != nil {
		return nil, unbegun(ctx, err, o.timeout)
	}
	if err := o.warn(plan.Warnings); err != nil {
		return nil, err
	}
	schedule, err := o.change(ctx, s, plan)
	if err != nil || !o.human() {
		return schedule, err
	}
	done := map[bool]string{true: "suspended", false: "resumed"}[o.suspend]
	if plan.Action == vmbackup.ActionUse {
		done = "unchanged"
	}
	done += o.note()
	if !o.suspend && !o.dryRun.on() {
		done += ": " + render.ScheduleLine(schedule, o.clock())
	}
	return schedule, o.tell(ref, done)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// schedulePrefix marks a schedule where other things may be named.
const schedulePrefix = "schedule/"

const scheduleLong = `Back up machines by the clock, on Harvester: its controllers keep the schedules,
make the backups and remove the oldest ones, whether or not this tool is there.

A schedule is Active; or Suspended, by somebody or by Harvester itself after too
many failures; or Failing, when the last runs failed and it goes on; or Missed,
when a run was due and there is no backup of it.`

func (g *globals) newSchedule() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "schedule",
		Aliases: []string{"schedules"},
		Short:   "Back up machines by the clock, on Harvester",
		Long:    scheduleLong,
		Example: `
# Back up every night at three
kubectl vmbackup schedule create web --cron '0 3 * * *'

# Do the schedules of the whole cluster work?
kubectl vmbackup schedule list -A`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(g.newScheduleCreate(), g.newScheduleList(), g.newScheduleDescribe(),
		g.newScheduleSuspend(true), g.newScheduleSuspend(false), g.newScheduleDelete())
	return cmd
}

// newScheduleList is list schedules under another name.
func (g *globals) newScheduleList() *cobra.Command {
	o := &listOptions{globals: g, kind: listSchedules, target: vmbackup.DefaultTarget}
	o.options.Source = vmbackup.SourceCluster
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"get", "ls"},
		Short:   "List schedules",
		Long: `List schedules: how the last run of each ended, when the next one is due, and
whether backups come of it as they should. Times are UTC.`,
		Example: `
# The schedules of this namespace
kubectl vmbackup schedule list

# Those of all namespaces, and every change of them
kubectl vmbackup schedule list -A --watch`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	o.addListFlags(cmd)
	return cmd
}

func (o *listOptions) printSchedules(schedules []vmbackup.Schedule) error {
	sortSchedules(schedules, o.sortBy)
	if !o.human() {
		return o.print(o.streams.Out, schedules)
	}
	if len(schedules) == 0 {
		return render.NoneFound(o.streams.ErrOut, listSchedules, o.options.Namespace)
	}
	return render.Schedules(o.streams.Out, schedules, o.render())
}

// followSchedules prints the list and each schedule that changed.
func (o *listOptions) followSchedules(ctx context.Context, s *session) error {
	seen := changes[vmbackup.Schedule]{
		state: func(s *vmbackup.Schedule) (vmbackup.Ref, string) {
			text := fmt.Sprint(s.Spec, s.Status.State, s.Status.Failures, s.Status.Message, s.Status.Warnings)
			for _, run := range s.Status.Runs {
				text += fmt.Sprint(run.Backup, run.Phase, run.Message)
			}
			return s.Ref(), text
		},
		render: render.Schedules,
	}
	return s.scheduler.WatchSchedules(ctx, o.options, func(schedules []vmbackup.Schedule) error {
		sortSchedules(schedules, o.sortBy)
		return seen.print(o, schedules)
	})
}

// sortSchedules sorts by a key of list; by namespace and name where there is none that fits.
func sortSchedules(schedules []vmbackup.Schedule, key string) {
	compare := map[string]func(a, b vmbackup.Schedule) int{
		"age": func(a, b vmbackup.Schedule) int { return compareTimes(a.Status.CreatedAt, b.Status.CreatedAt) },
		"vm":  func(a, b vmbackup.Schedule) int { return strings.Compare(a.Spec.VM, b.Spec.VM) },
		"phase": func(a, b vmbackup.Schedule) int {
			return strings.Compare(string(a.Status.State), string(b.Status.State))
		},
	}[key]
	if compare != nil {
		slices.SortStableFunc(schedules, compare)
	}
}

// scheduleRef reads NAME or schedule/NAME.
func scheduleRef(arg, namespace string) (vmbackup.Ref, error) {
	return vmbackup.ParseRef(strings.TrimPrefix(arg, schedulePrefix), namespace)
}

// scheduleRefs reads several, each once.
func scheduleRefs(args []string, namespace string) ([]vmbackup.Ref, error) {
	var refs []vmbackup.Ref
	seen := map[vmbackup.Ref]bool{}
	for _, arg := range args {
		ref, err := scheduleRef(arg, namespace)
		if err != nil {
			return nil, err
		}
		if !seen[ref] {
			refs, seen[ref] = append(refs, ref), true
		}
	}
	return refs, nil
}

// newScheduleDescribe is describe schedule/NAME under another name.
func (g *globals) newScheduleDescribe() *cobra.Command {
	o := &describeOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Show all that is known of a schedule, as a tree",
		Long: `Show all that is known of a schedule, as a tree: its time, its backups and how
each ended, and why it is not Active.`,
		Example: `
# Why there is no backup of last night
kubectl vmbackup schedule describe web`,
		Args:              named("the name of the schedule to describe", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := scheduleRef(args[0], "default"); err != nil {
				return usageError(cmd, err)
			}
			if err := o.check(); err != nil {
				return usageError(cmd, err)
			}
			s, err := o.connect("")
			if err != nil {
				return err
			}
			return o.describeSchedule(cmd.Context(), s, args[0])
		},
	}
	o.addFlags(cmd, false)
	return cmd
}

func (o *describeOptions) describeSchedule(ctx context.Context, s *session, arg string) error {
	ref, err := scheduleRef(arg, s.namespace)
	if err != nil {
		return err
	}
	schedule, err := s.scheduler.Schedule(ctx, ref)
	if err != nil {
		return err
	}
	if !o.human() {
		return o.print(o.streams.Out, schedule)
	}
	return render.Schedule(o.streams.Out, schedule, o.outTerminal().Options(o.clock()))
}

// changeFlags are the flags of the commands that change schedules.
type changeFlags struct {
	dryRun  dryRun
	timeout time.Duration
}

func (f *changeFlags) addFlags(cmd *cobra.Command) {
	f.dryRun.addFlag(cmd, "show what would be done")
	cmd.Flags().DurationVar(&f.timeout, "timeout", time.Minute, "How long to wait until Harvester has taken the change up")
}

func (f *changeFlags) validate() error {
	if f.timeout <= 0 {
		return invalid("--timeout %s is not positive", f.timeout)
	}
	return f.dryRun.validate()
}

// change makes what was planned, or, with --dry-run=server, has it checked by the
// API server. It returns the schedule as it is then.
func (f *changeFlags) change(ctx context.Context, s *session, plan *vmbackup.SchedulePlan) (*vmbackup.Schedule, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	switch f.dryRun {
	case "client":
		return plan.Schedule, nil
	case "server":
		return plan.Schedule, s.scheduler.Try(ctx, plan)
	}
	return s.scheduler.Apply(ctx, plan)
}

// note follows what was done to a schedule where nothing was done.
func (f *changeFlags) note() string {
	return map[dryRun]string{"client": " (dry run)", "server": " (server dry run)"}[f.dryRun]
}

// tell says in kubectl's words what was done to a schedule.
func (g *globals) tell(ref vmbackup.Ref, done string) error {
	_, err := fmt.Fprintf(g.streams.Out, "schedule.%s/%s %s\n", vmbackup.Group, ref.Name, done)
	return err
}

func (g *globals) warn(warnings []string) error {
	return render.Warnings(g.streams.ErrOut, warnings, g.errTerminal().Options(g.clock()))
}

func (g *globals) completeSchedules(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, given, toComplete, func(ctx context.Context, s *session) (names []string) {
		schedules, err := s.scheduler.Schedules(ctx, vmbackup.ListOptions{Namespace: s.namespace})
		if err != nil {
			return nil
		}
		for i := range schedules {
			names = append(names, fmt.Sprintf("%s\t%s, %s", schedules[i].Metadata.Name, schedules[i].Spec.VM, schedules[i].Status.State))
		}
		return names
	})
}

// completeSchedule completes a single name.
func (g *globals) completeSchedule(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completeSchedules(cmd, given, toComplete)
}

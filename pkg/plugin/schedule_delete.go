// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// scheduleDeleteOptions are the flags of schedule delete.
type scheduleDeleteOptions struct {
	*globals
	changeFlags
	yes            bool
	ignoreNotFound bool
}

func (g *globals) newScheduleDelete() *cobra.Command {
	o := &scheduleDeleteOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "delete NAME...",
		Short: "Delete schedules; their backups stay",
		Long: `Delete schedules. The backups that they have made stay, and a running one goes
on: Harvester removes old ones only as long as their schedule is there, so that
nothing removes them any more but you. They are shown first.`,
		Example: `
# Delete a schedule, after what stays was shown and it was confirmed
kubectl vmbackup schedule delete web

# See what would go and what would stay
kubectl vmbackup schedule delete web --dry-run=client`,
		Args:              named("the name of the schedule to delete", cobra.MinimumNArgs(1)),
		ValidArgsFunction: g.completeSchedules,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := scheduleRefs(args, "default"); err != nil {
				return usageError(cmd, err)
			}
			if err := o.changeFlags.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context(), args)
		},
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	cmd.Flags().BoolVar(&o.ignoreNotFound, "ignore-not-found", false, "One that does not exist is no error")
	o.addFlags(cmd)
	return cmd
}

func (o *scheduleDeleteOptions) execute(ctx context.Context, args []string) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	refs, err := scheduleRefs(args, s.namespace)
	if err != nil {
		return err
	}
	var plans []*vmbackup.SchedulePlan
	for _, ref := range refs {
		plan, err := s.scheduler.PlanDelete(ctx, ref)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound && o.ignoreNotFound {
			continue
		}
		if err != nil {
			return unbegun(ctx, err, o.timeout)
		}
		plans = append(plans, plan)
	}
	if len(plans) == 0 {
		return nil
	}
	if err := o.show(plans); err != nil {
		return err
	}
	if !o.yes && !o.dryRun.on() {
		if err := o.confirm(ctx, len(plans)); err != nil {
			return err
		}
	}
	outcomes := make([]error, len(plans))
	for i, plan := range plans {
		if _, outcomes[i] = o.change(ctx, s, plan); outcomes[i] != nil {
			continue
		}
		if err := o.tell(plan.Schedule.Ref(), "deleted"+o.note()); err != nil {
			return err
		}
	}
	return o.outcome(ctx, outcomes, false)
}

// show shows what goes and what stays, on the error stream: the output is the result.
func (o *scheduleDeleteOptions) show(plans []*vmbackup.SchedulePlan) error {
	terminal := o.errTerminal()
	for i, p := range plans {
		title := fmt.Sprintf("Schedule %s of VirtualMachine %s\n\n", p.Schedule.Ref(), p.Schedule.Spec.VM)
		if i > 0 {
			title = "\n" + title
		}
		if _, err := fmt.Fprint(terminal.Writer, title); err != nil {
			return err
		}
		if err := render.Plan(terminal.Writer, p.Objects, nil, p.Warnings, terminal.Options(o.clock())); err != nil {
			return err
		}
	}
	return nil
}

// confirm asks on a terminal, and refuses where nobody can answer.
func (o *scheduleDeleteOptions) confirm(ctx context.Context, n int) error {
	what := "this schedule"
	if n > 1 {
		what = fmt.Sprintf("these %d schedules", n)
	}
	if !o.facts(o.streams.ErrOut).TTY || !o.answers(o.streams.In) {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "deleting %s has to be confirmed, and there is no terminal to ask on; nothing was deleted", what).
			AsPreflight().WithHint("confirm with --yes")
	}
	answer, err := o.ask(ctx, bufio.NewReader(o.streams.In), fmt.Sprintf("Delete %s? [y/N] ", what))
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed; nothing was deleted").AsPreflight()
	}
	return nil
}

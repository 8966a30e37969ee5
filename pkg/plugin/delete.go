// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// deleteOptions are the flags of delete.
type deleteOptions struct {
	*globals
	dryRun dryRun

	request  vmbackup.DeleteRequest
	backups  []string
	restores []string
	yes      bool
}

func (g *globals) newDelete() *cobra.Command {
	o := &deleteOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "delete (BACKUP | restore/NAME)...",
		Short: "Delete backups and their data",
		Long: `Delete backups: the data and the description on the backup target, the
snapshots, and the record in the cluster. Of a restore, which must have ended,
only the record is deleted: what was restored stays.

What goes is shown first and has to be confirmed, on the terminal or with --yes.
For the last Ready backup of a machine its name has to be typed. A backup that
failed, is half made or cannot be read can always be deleted; one that runs is
stopped.

Before anything is removed, the backup is looked for on the target: against an
empty target, or another one, nothing is deleted. That the data is gone is then
seen there too. Blocks that other backups share stay. A deletion that was
interrupted is finished by the same command.

Harvester removes the data of a backup that it keeps with its object: --keep-data
is refused there.`,
		Example: `
# Delete a backup, after it was shown and confirmed
kubectl vmbackup delete web-20260102-030405

# See what would go
kubectl vmbackup delete web-20260102-030405 --dry-run=client

# Forget the backup in this cluster, and leave it on the target
kubectl vmbackup delete web-20260102-030405 --keep-data --yes

# Take a restore off the list
kubectl vmbackup delete restore/web-20260102-040506`,
		Args:              named("the name of the backup to delete", cobra.MinimumNArgs(1)),
		ValidArgsFunction: g.completeDeletable,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if strings.HasPrefix(arg, restorePrefix) {
					o.restores = append(o.restores, arg)
				} else {
					o.backups = append(o.backups, arg)
				}
			}
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	flags.BoolVar(&o.request.KeepData, "keep-data", false, "Remove only what is in the cluster. Data and description stay on the target")
	addSource(cmd, &o.request.From, vmbackup.SourceAll, "Where to look for the backup")
	flags.StringVar(&o.request.Target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look for the backup on")
	o.dryRun.addFlag(cmd, "show what would go")
	return cmd
}

// requestsIn are the requests, each backup once.
func (o *deleteOptions) requestsIn(namespace string) ([]vmbackup.DeleteRequest, error) {
	var requests []vmbackup.DeleteRequest
	for _, arg := range o.backups {
		ref, err := vmbackup.ParseRef(strings.TrimPrefix(arg, "backup/"), namespace)
		if err != nil {
			return nil, err
		}
		r := o.request
		r.Backup = ref
		if err := r.Validate(); err != nil {
			return nil, err
		}
		if !slices.Contains(requests, r) {
			requests = append(requests, r)
		}
	}
	return requests, nil
}

func (o *deleteOptions) validate() error {
	if err := validSource(o.request.From); err != nil {
		return err
	}
	if _, err := o.requestsIn("default"); err != nil {
		return err
	}
	for _, arg := range o.restores {
		if _, err := parseOperation(arg, "default"); err != nil {
			return err
		}
	}
	return o.dryRun.validate()
}

func (o *deleteOptions) execute(ctx context.Context) error {
	s, err := o.connect(o.request.Target)
	if err != nil {
		return err
	}
	requests, err := o.requestsIn(s.namespace)
	if err != nil {
		return err
	}
	plans := make([]*vmbackup.DeletePlan, len(requests))
	for i, r := range requests {
		if plans[i], err = s.engine.PlanDelete(ctx, r); err != nil {
			return unbegun(ctx, err, 0)
		}
	}
	if err := o.showPlans(plans); err != nil {
		return err
	}
	if o.dryRun.on() {
		return nil
	}
	if len(o.restores) > 0 {
		if err := o.deleteRestores(ctx, s); err != nil || len(plans) == 0 {
			return err
		}
	}
	if !o.yes {
		if err := o.confirm(ctx, plans); err != nil {
			return err
		}
	}
	return o.delete(ctx, s, plans)
}

// deleteRestores removes the records of restores. Nothing hangs on them any more, so
// that nobody is asked.
func (o *deleteOptions) deleteRestores(ctx context.Context, s *session) error {
	outcomes := make([]error, len(o.restores))
	for i, arg := range o.restores {
		op, err := parseOperation(arg, s.namespace)
		if err == nil {
			err = s.engine.DeleteRestore(ctx, op.ref)
		}
		if outcomes[i] = err; err != nil {
			continue
		}
		if _, err := fmt.Fprintf(o.streams.Out, "restore.%s/%s deleted\n", vmbackup.Group, op.ref.Name); err != nil {
			return err
		}
	}
	return o.outcome(ctx, outcomes, false)
}

// delete deletes one backup after the other. One that fails does not stop the others.
func (o *deleteOptions) delete(ctx context.Context, s *session, plans []*vmbackup.DeletePlan) error {
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	outcomes := make([]error, len(plans))
	for i, plan := range plans {
		if ctx.Err() == nil {
			outcomes[i] = s.engine.Delete(ctx, plan, vmbackup.RunOptions{Sink: progress})
		}
		if ctx.Err() != nil {
			op := operation{ref: plan.Request.Backup}
			outcomes[i] = vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; the deletion of %s is not done", op).
				WithHint("finish it with: %s", o.command("delete", op))
		}
	}
	if err := progress.Close(); err != nil {
		return err
	}
	for i, plan := range plans {
		if outcomes[i] != nil {
			continue
		}
		if _, err := fmt.Fprintf(o.streams.Out, "backup.%s/%s deleted\n", vmbackup.Group, plan.Request.Backup.Name); err != nil {
			return err
		}
	}
	return o.outcome(ctx, outcomes, false)
}

// showPlans shows what goes, on the error stream: the output is the result.
func (o *deleteOptions) showPlans(plans []*vmbackup.DeletePlan) error {
	terminal := o.errTerminal()
	if o.dryRun.on() {
		terminal = o.outTerminal()
	}
	for _, arg := range o.restores {
		if _, err := fmt.Fprintf(terminal.Writer, "The record of %s%s\n", arg, map[bool]string{true: " (dry run: nothing was changed)"}[o.dryRun.on()]); err != nil {
			return err
		}
	}
	for i, p := range plans {
		what := fmt.Sprintf("Backup %s of VirtualMachine %s", p.Request.Backup, p.Backup.Spec.VM)
		if p.Bytes > 0 {
			what += fmt.Sprintf(", %s uploaded", render.Bytes(p.Bytes))
		}
		if o.dryRun.on() {
			what += " (dry run: nothing was changed)"
		}
		if i > 0 {
			what = "\n" + what
		}
		if _, err := fmt.Fprintf(terminal.Writer, "%s\n\n", what); err != nil {
			return err
		}
		warnings := p.Warnings
		if isLast(p, plans) {
			warnings = append(slices.Clone(warnings), fmt.Sprintf("no other Ready backup of VirtualMachine %s is left then", p.Backup.Spec.VM))
		}
		if err := render.Plan(terminal.Writer, p.Objects, nil, warnings, terminal.Options(o.clock())); err != nil {
			return err
		}
	}
	return nil
}

// isLast reports whether no Ready backup of its machine is left when all the plans are done.
func isLast(p *vmbackup.DeletePlan, plans []*vmbackup.DeletePlan) bool {
	left := slices.DeleteFunc(slices.Clone(p.OtherReady), func(ref vmbackup.Ref) bool {
		return slices.ContainsFunc(plans, func(other *vmbackup.DeletePlan) bool { return other.Request.Backup == ref })
	})
	return len(left) == 0 && (p.LastReady || len(p.OtherReady) > 0)
}

// confirm asks on a terminal, and refuses where nobody can answer.
func (o *deleteOptions) confirm(ctx context.Context, plans []*vmbackup.DeletePlan) error {
	what := "this backup"
	if len(plans) > 1 {
		what = fmt.Sprintf("these %d backups", len(plans))
	}
	if !o.facts(o.streams.ErrOut).TTY || !o.answers(o.streams.In) {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "deleting %s has to be confirmed, and there is no terminal to ask on; nothing was deleted", what).
			AsPreflight().WithHint("confirm with --yes")
	}
	answers := bufio.NewReader(o.streams.In)
	last := slices.DeleteFunc(slices.Clone(plans), func(p *vmbackup.DeletePlan) bool { return !isLast(p, plans) })
	if len(last) < len(plans) {
		answer, err := o.ask(ctx, answers, fmt.Sprintf("Delete %s for good? [y/N] ", what))
		if err != nil {
			return err
		}
		if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
			return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed; nothing was deleted").AsPreflight()
		}
	}
	for _, p := range last {
		name := p.Request.Backup.Name
		answer, err := o.ask(ctx, answers, fmt.Sprintf("No Ready backup of VirtualMachine %s is left without %s.\nType its name to delete it for good: ", p.Backup.Spec.VM, name))
		if err != nil {
			return err
		}
		if answer != name {
			return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed: %q is not the name of the backup, %s; nothing was deleted", answer, name).AsPreflight()
		}
	}
	return nil
}

// ask asks one question and returns the answer without the blanks around it.
func (g *globals) ask(ctx context.Context, answers *bufio.Reader, question string) (string, error) {
	if _, err := fmt.Fprintf(g.streams.ErrOut, "\n%s", question); err != nil {
		return "", err
	}
	read := make(chan string, 1)
	go func() {
		// What was read before an error, or the end of the input, is the answer.
		answer, _ := answers.ReadString('\n')
		read <- answer
	}()
	select {
	case <-ctx.Done(): // a read from a terminal cannot be ended
		if _, err := fmt.Fprintln(g.streams.ErrOut); err != nil {
			return "", err
		}
		return "", vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; nothing was deleted").AsPreflight()
	case answer := <-read:
		return strings.TrimSpace(answer), nil
	}
}

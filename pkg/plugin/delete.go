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

	request vmbackup.DeleteRequest
	backups []string
	yes     bool
}

func (g *globals) newDelete() *cobra.Command {
	o := &deleteOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "delete BACKUP...",
		Short: "Delete backups and their data",
		Long: `Delete backups: the data and the description on the backup target, the
snapshots, and the record in the cluster.

What goes is shown first and has to be confirmed, on the terminal or with --yes.
That the data is gone is checked on the target. Blocks that other backups share
stay.`,
		Example: `
# Delete a backup, after it was shown and confirmed
kubectl vmbackup delete web-20260102-030405

# See what would go
kubectl vmbackup delete web-20260102-030405 --dry-run=client

# Forget the backup in this cluster, and leave it on the target
kubectl vmbackup delete web-20260102-030405 --keep-data --yes`,
		Args:              named("the name of the backup to delete", cobra.MinimumNArgs(1)),
		ValidArgsFunction: g.completeBackups,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.backups = args
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
	if !o.yes {
		if err := o.confirm(ctx, len(plans)); err != nil {
			return err
		}
	}
	return o.delete(ctx, s, plans)
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
		if err := render.Plan(terminal.Writer, p.Objects, nil, p.Warnings, terminal.Options(o.clock())); err != nil {
			return err
		}
	}
	return nil
}

// confirm asks on a terminal, and refuses where nobody can answer.
func (o *deleteOptions) confirm(ctx context.Context, n int) error {
	what := "this backup"
	if n > 1 {
		what = fmt.Sprintf("these %d backups", n)
	}
	if !o.facts(o.streams.ErrOut).TTY || !o.answers(o.streams.In) {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "deleting %s has to be confirmed, and there is no terminal to ask on; nothing was deleted", what).
			AsPreflight().WithHint("confirm with --yes")
	}
	if _, err := fmt.Fprintf(o.streams.ErrOut, "\nDelete %s for good? [y/N] ", what); err != nil {
		return err
	}
	answers := make(chan string, 1)
	go func() {
		// What was read before an error, or the end of the input, is the answer.
		answer, _ := bufio.NewReader(o.streams.In).ReadString('\n')
		answers <- answer
	}()
	select {
	case <-ctx.Done(): // a read from a terminal cannot be ended
		_, err := fmt.Fprintln(o.streams.ErrOut)
		if err != nil {
			return err
		}
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; nothing was deleted").AsPreflight()
	case answer := <-answers:
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "y", "yes":
			return nil
		}
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed; nothing was deleted").AsPreflight()
	}
}

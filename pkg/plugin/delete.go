// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// deleteOptions are the flags of delete.
type deleteOptions struct {
	*globals

	request vmbackup.DeleteRequest
	backups []string
	yes     bool
	dryRun  string
}

func (g *globals) newDelete() *cobra.Command {
	o := &deleteOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "delete BACKUP...",
		Short: "Delete backups and their data",
		Long: `Delete backups: the data and the description on the backup target, the snapshots, and
the record in the cluster. What goes is shown first and has to be confirmed; that the
data is gone is checked on the target. Blocks that other backups share stay.`,
		Example: `  kubectl vmbackup delete web-20260102-030405

  # Forget the backup in this cluster, and leave it on the target
  kubectl vmbackup delete web-20260102-030405 --keep-data --yes`,
		Args:              usageArgs(cobra.MinimumNArgs(1)),
		ValidArgsFunction: g.completeBackups,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.backups = args
			switch o.dryRun {
			case "none", "client", "server":
			default:
				return usageError(cmd, invalid("--dry-run %q is none of none, client, server", o.dryRun))
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	flags.BoolVar(&o.request.KeepData, "keep-data", false, "Remove only what is in the cluster; data and description stay on the target")
	flags.StringVar((*string)(&o.request.From), "from", string(vmbackup.SourceAll), "Where to look for the backup: cluster, target or all")
	flags.StringVar(&o.request.Target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look for the backup on")
	flags.StringVar(&o.dryRun, "dry-run", "none", "none, client or server: show what would go, change nothing")
	flags.Lookup("dry-run").NoOptDefVal = "client"
	fixed(cmd, "from", sources...)
	fixed(cmd, "dry-run", "none", "client", "server")
	return cmd
}

func (o *deleteOptions) execute(ctx context.Context) error {
	s, err := o.newSession(o.request.Target)
	if err != nil {
		return err
	}
	var plans []*vmbackup.DeletePlan
	for _, arg := range o.backups {
		r := o.request
		if r.Backup, err = vmbackup.ParseRef(strings.TrimPrefix(arg, "backup/"), s.namespace); err != nil {
			return err
		}
		plan, err := s.engine.PlanDelete(ctx, r)
		if err != nil {
			return err
		}
		plans = append(plans, plan)
	}
	if err := o.showPlans(plans); err != nil {
		return err
	}
	if o.dryRun != "none" {
		return nil
	}
	if !o.yes {
		if err := o.confirm(len(plans)); err != nil {
			return err
		}
	}
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	var failed []error
	var deleted []string
	for _, plan := range plans {
		if err := s.engine.Delete(ctx, plan, vmbackup.RunOptions{Sink: progress}); err != nil {
			failed = append(failed, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		deleted = append(deleted, plan.Request.Backup.Name)
	}
	if err := progress.Close(); err != nil {
		return err
	}
	for _, name := range deleted {
		if _, err := fmt.Fprintf(o.streams.Out, "backup.%s/%s deleted\n", vmbackup.Group, name); err != nil {
			return err
		}
	}
	return o.outcome(ctx, failed, len(plans), false)
}

// showPlans shows what goes, on the error stream: the output is the result.
func (o *deleteOptions) showPlans(plans []*vmbackup.DeletePlan) error {
	terminal := o.errTerminal()
	out := o.streams.ErrOut
	if o.dryRun != "none" {
		var err error
		if terminal, err = o.outTerminal(); err != nil {
			return err
		}
		out = o.streams.Out
	}
	for _, p := range plans {
		what := fmt.Sprintf("Backup %s of VirtualMachine %s", p.Request.Backup, p.Backup.Spec.VM)
		if p.Bytes > 0 {
			what += fmt.Sprintf(", %s uploaded", render.Bytes(p.Bytes))
		}
		if _, err := fmt.Fprintf(out, "%s\n\n", what); err != nil {
			return err
		}
		if err := render.Plan(out, p.Objects, nil, p.Warnings, terminal.Options(o.clock())); err != nil {
			return err
		}
	}
	return nil
}

// confirm asks on a terminal, and refuses where nobody can answer.
func (o *deleteOptions) confirm(n int) error {
	if !render.FactsOf(o.streams.ErrOut).TTY || !isTerminal(o.streams.In) {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "deleting %d backups has to be confirmed, and there is no terminal to ask on; nothing was deleted", n).
			AsPreflight().WithHint("confirm with --yes")
	}
	if _, err := fmt.Fprintf(o.streams.ErrOut, "\nDelete this for good? [y/N] "); err != nil {
		return err
	}
	answer, err := bufio.NewReader(o.streams.In).ReadString('\n')
	if err != nil && answer == "" {
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "no answer; nothing was deleted").AsPreflight()
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed; nothing was deleted").AsPreflight()
}

// isTerminal reports whether somebody can answer.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

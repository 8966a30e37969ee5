// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const restoreLong = `Restore a backup as a virtual machine.

Without flags the machine comes back in the namespace and under the name that it
had, which must be free: a restore never overwrites a machine. BACKUP is a name, or
NAMESPACE/NAME; it is looked for in the cluster's records and then on the backup target,
so that it is found when the records are gone.

The machine is created halted and gets its run strategy back when the data of all
its volumes is there. While the source machine still exists, the restored one gets new
MAC addresses.`

const restoreExample = `  # Bring a deleted machine back
  kubectl vmbackup restore web-20260102-030405

  # Restore beside the original, in another namespace
  kubectl vmbackup restore web-20260102-030405 --to-namespace test

  # Restore under another name
  kubectl vmbackup restore web-20260102-030405 --to-name web-copy

  # Restore from the backup target alone
  kubectl vmbackup restore prod/web-20260102-030405 --from target --to-namespace prod`

// restoreOptions are the flags of restore.
type restoreOptions struct {
	*globals
	output
	run runFlags

	backup  string
	request vmbackup.RestoreRequest
	dryRun  string
}

func (g *globals) newRestore() *cobra.Command {
	o := &restoreOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "restore BACKUP",
		Short: "Restore a backup as a virtual machine",
		Long:  restoreLong, Example: restoreExample,
		Args:              usageArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeBackups,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.backup = args[0]
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.request.ToNamespace, "to-namespace", "", "Namespace to restore into; it must exist (default: the backup's)")
	flags.StringVar(&o.request.ToName, "to-name", "", "Name of the restored machine (default: the name it had)")
	flags.StringVar(&o.request.Name, "name", "", "Name of the restore (default <vm>-<UTC time>)")
	flags.StringVar((*string)(&o.request.From), "from", string(vmbackup.SourceAll), "Where to look for the backup: cluster, target or all")
	flags.StringVar(&o.request.Target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look for the backup on")
	flags.StringVar(&o.dryRun, "dry-run", "none", "none, client or server: check everything, show what would be done, change nothing")
	flags.Lookup("dry-run").NoOptDefVal = "client"
	o.run.addFlags(flags)
	o.addFlags(cmd, true)
	fixed(cmd, "from", sources...)
	fixed(cmd, "dry-run", "none", "client", "server")
	must(cmd.RegisterFlagCompletionFunc("to-namespace", g.completeNamespaces))
	return cmd
}

// sources are the values of --from.
var sources = []string{string(vmbackup.SourceCluster), string(vmbackup.SourceTarget), string(vmbackup.SourceAll)}

func (o *restoreOptions) validate() error {
	if !slices.Contains([]string{"none", "client", "server"}, o.dryRun) {
		return invalid("--dry-run %q is none of none, client, server", o.dryRun)
	}
	if err := o.run.validate(); err != nil {
		return err
	}
	return o.check()
}

func (o *restoreOptions) execute(ctx context.Context) error {
	s, err := o.newSession(o.request.Target)
	if err != nil {
		return err
	}
	if o.request.Backup, err = vmbackup.ParseRef(o.backup, s.namespace); err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	plan, err := s.engine.PlanRestore(ctx, o.request)
	if err != nil {
		return err
	}
	if o.dryRun != "none" {
		return o.showPlan(plan)
	}
	restore, err := s.engine.StartRestore(ctx, plan)
	if err != nil {
		return err
	}
	return o.runRestore(ctx, s, restore.Ref(), &o.run, &o.output)
}

// runRestore takes a started restore to its end and prints it.
func (g *globals) runRestore(ctx context.Context, s *session, ref vmbackup.Ref, flags *runFlags, out *output) error {
	progress, err := g.newProgress()
	if err != nil {
		return err
	}
	restore, runErr := s.engine.RunRestore(ctx, ref, vmbackup.RunOptions{Sink: progress, NoWait: !flags.wait})
	if err := progress.Close(); err != nil {
		return err
	}
	if restore != nil {
		if err := g.showRestore(restore, out); err != nil {
			return err
		}
	}
	if runErr != nil {
		return flags.explain(ctx, runErr, "restore", ref, true)
	}
	if len(restore.Status.Warnings) > 0 {
		return &exitError{exitPartly}
	}
	return nil
}

func (g *globals) showRestore(restore *vmbackup.Restore, out *output) error {
	if !out.human() {
		return out.print(g.streams.Out, restore)
	}
	terminal, err := g.outTerminal()
	if err != nil {
		return err
	}
	options := terminal.Options(g.clock())
	options.Wide = out.format == "wide"
	return render.Restores(g.streams.Out, []vmbackup.Restore{*restore}, options)
}

func (o *restoreOptions) showPlan(plan *vmbackup.RestorePlan) error {
	if !o.human() {
		return o.print(o.streams.Out, plan.Restore)
	}
	terminal, err := o.outTerminal()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(o.streams.Out, "Restore of backup %s as VirtualMachine %s/%s (dry run: nothing was changed)\n\n",
		plan.Restore.Spec.Backup, plan.Restore.Spec.TargetNamespace, plan.Restore.Spec.TargetName); err != nil {
		return err
	}
	return render.Plan(o.streams.Out, plan.Objects, plan.Steps, plan.Warnings, terminal.Options(o.clock()))
}

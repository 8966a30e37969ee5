// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const restoreLong = `Restore a backup as a virtual machine.

Without flags the machine comes back in the namespace and under the name that
it had, which must be free: a machine that is there is never overwritten. BACKUP
is NAME or NAMESPACE/NAME; it is looked for in the cluster's records and then on
the backup target, so that it is found when the records are gone.

With --in-place the very machine that was backed up gets its disks and its
specification of then, and stays the same object with the same MAC addresses.
The data is restored into new volumes while the machine runs on; it is off only
while the disks are exchanged, and then runs as it did before. Old volumes,
secrets and config maps stay as they are, so that there is a way back.

On Harvester, a backup that Harvester keeps is restored by its controllers where
they can do what is asked for, and what they leave out of the machine is put
back; a line says why where they do not. --engine chooses.

What can go wrong is looked at first: the namespace and its quota,
StorageClasses, networks, backing images, Longhorn's room, the user's rights and
the data itself. What does not fit is refused with exit code 4 before anything
is changed, and --dry-run shows the whole plan.

The machine is created halted and gets its run strategy back when the data of
all its volumes is there. While the source machine still exists, the restored
one gets new MAC addresses; with --new-identity the guest, too, can tell that it
is another machine.`

const restoreExample = `
# Bring a deleted machine back
kubectl vmbackup restore web-20260102-030405

# Take a machine back to its state of then, which stops it for a moment
kubectl vmbackup restore web-20260102-030405 --in-place --stop

# Restore beside the original, in another namespace
kubectl vmbackup restore web-20260102-030405 --to-namespace test

# Restore under another name
kubectl vmbackup restore web-20260102-030405 --to-name web-copy

# Restore from the backup target alone
kubectl vmbackup restore prod/web-20260102-030405 --from target

# A copy for a test that nobody takes for the original
kubectl vmbackup restore prod/web-20260102-030405 --to-namespace drill \
  --create-namespace --new-identity --start no

# Into a cluster with other StorageClasses and networks
kubectl vmbackup restore web-20260102-030405 --from target \
  --map-storage-class fast=longhorn --map-network prod/vlan10=lab/vlan20

# Into another cluster with the same backup target; the first one may be gone
kubectl vmbackup restore prod/web-20260102-030405 --to-context dr --create-namespace

# As a machine that is started by hand, with a JSON patch on it
echo '[{"op": "add", "path": "/spec/runStrategy", "value": "Manual"}]' |
  kubectl vmbackup restore web-20260102-030405 --to-name copy --patch -

# Save what is left of a backup that has lost a disk
kubectl vmbackup restore web-20260102-030405 --allow-incomplete --dry-run`

// restoreOptions are the flags of restore.
type restoreOptions struct {
	*globals
	output
	run    runFlags
	dryRun dryRun

	backup    string
	patch     string // the file of the JSON patch
	elsewhere elsewhere
	request   vmbackup.RestoreRequest
}

func (g *globals) newRestore() *cobra.Command {
	o := &restoreOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "restore BACKUP",
		Short: "Restore a backup as a virtual machine",
		Long:  restoreLong, Example: restoreExample,
		Args:              named("the name of the backup to restore", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.backup = args[0]
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.request.ToNamespace, "to-namespace", "", "Namespace to restore into. If empty, the backup's")
	flags.StringVar(&o.request.ToName, "to-name", "", "Name of the restored machine. If empty, the name it had")
	o.elsewhere.addFlags(cmd)
	o.addInPlace(flags)
	o.addChanges(cmd)
	flags.StringVar(&o.request.Name, "name", "", "Name of the restore. If empty, the machine's name and the UTC time")
	addSource(cmd, &o.request.From, vmbackup.SourceAll, "Where to look for the backup")
	flags.StringVar(&o.request.Target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look for the backup on")
	o.dryRun.addFlag(cmd, "check everything, show what would be done")
	o.run.addFlags(flags)
	o.addFlags(cmd, true)
	must(cmd.RegisterFlagCompletionFunc("to-namespace", g.completeNamespaces))
	return cmd
}

// sources are the values of --from.
func sources() []string {
	return []string{string(vmbackup.SourceCluster), string(vmbackup.SourceTarget), string(vmbackup.SourceAll)}
}

// addSource adds the flag --from.
func addSource(cmd *cobra.Command, source *vmbackup.Source, otherwise vmbackup.Source, usage string) {
	cmd.Flags().StringVar((*string)(source), "from", string(otherwise),
		usage+": cluster (its records), target (the files on the backup target) or all")
	fixed(cmd, "from", sources()...)
}

// validSource refuses a wrong --from.
func validSource(source vmbackup.Source) error {
	if !slices.Contains(sources(), string(source)) {
		return invalid("--from %q is none of %s", string(source), strings.Join(sources(), ", "))
	}
	return nil
}

// requestIn is the request, of a backup in that namespace unless it names its own.
func (o *restoreOptions) requestIn(namespace string) (vmbackup.RestoreRequest, error) {
	r := o.request
	ref, err := vmbackup.ParseRef(strings.TrimPrefix(o.backup, "backup/"), namespace)
	if err != nil {
		return r, err
	}
	r.Backup = ref
	return r, r.Default().Validate()
}

func (o *restoreOptions) validate() error {
	if err := validSource(o.request.From); err != nil {
		return err
	}
	if err := o.validateChanges(); err != nil {
		return err
	}
	// The namespace is the kubeconfig's; all else is checked before a cluster is asked.
	if _, err := o.requestIn("default"); err != nil {
		return err
	}
	for _, check := range []func() error{o.validateElsewhere, o.dryRun.validate, o.run.validate, o.check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *restoreOptions) execute(ctx context.Context) error {
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	g, planned := o.globals, o.planHere
	if o.elsewhere.on() {
		g, planned = o.at(&o.elsewhere), o.planElsewhere
	}
	s, plan, err := planned(ctx, g)
	if err != nil {
		return unbegun(ctx, err, o.run.timeout)
	}
	if err := g.tellNote(plan); err != nil {
		return err
	}
	if o.dryRun.on() {
		return o.showPlan(plan)
	}
	restore, err := s.engine.StartRestore(ctx, plan)
	if err != nil {
		return g.stopped(ctx, err, operation{restore: true, ref: plan.Restore.Ref()}, "resume", o.run.timeout)
	}
	return g.runRestore(ctx, s, restore.Ref(), &o.run, &o.output)
}

// planHere checks the restore in the cluster of the backup.
func (o *restoreOptions) planHere(ctx context.Context, g *globals) (*session, *vmbackup.RestorePlan, error) {
	s, err := g.connect(o.request.Target)
	if err != nil {
		return nil, nil, err
	}
	request, err := o.requestIn(s.namespace)
	if err != nil {
		return nil, nil, err
	}
	plan, err := s.engine.PlanRestore(ctx, request)
	return s, plan, err
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
	if restore == nil {
		return unbegun(ctx, runErr, flags.timeout)
	}
	// An error tells all that a row would.
	if runErr == nil || !out.human() {
		if err := g.showRestore(restore, out); err != nil {
			return err
		}
	}
	if runErr == nil && restore.Status.Phase.Done() && out.human() {
		if err := g.tellOldVolumes(restore); err != nil {
			return err
		}
	}
	switch {
	case runErr == nil && len(restore.Status.Warnings) > 0:
		return &exitError{exitPartly}
	case runErr == nil || restore.Status.Phase.Done():
		return runErr
	}
	return g.stopped(ctx, runErr, operation{restore: true, ref: ref}, "resume", flags.timeout)
}

// tellNote says, on the error stream, why it is not Harvester that restores. It is no
// warning: the result is the same.
func (g *globals) tellNote(plan *vmbackup.RestorePlan) error {
	if plan.Note == "" || g.progress == string(render.ProgressJSON) || g.progress == string(render.ProgressNone) {
		return nil
	}
	_, err := fmt.Fprintf(g.streams.ErrOut, "note: %s\n", plan.Note)
	return err
}

// tellOldVolumes says, on the error stream, how to remove what a restore in place has kept.
func (g *globals) tellOldVolumes(r *vmbackup.Restore) error {
	if len(r.Status.OldVolumes) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(g.streams.ErrOut, "The old volumes are kept. When they are not needed any more, remove them with:\n  kubectl delete persistentvolumeclaims %s -n %s\n",
		strings.Join(r.Status.OldVolumes, " "), r.Metadata.Namespace)
	return err
}

func (g *globals) showRestore(restore *vmbackup.Restore, out *output) error {
	if !out.human() {
		return out.print(g.streams.Out, restore)
	}
	options := g.outTerminal().Options(g.clock())
	options.Wide = out.wide()
	return render.Restores(g.streams.Out, []vmbackup.Restore{*restore}, options)
}

func (o *restoreOptions) showPlan(plan *vmbackup.RestorePlan) error {
	if !o.human() {
		restore := *plan.Restore
		restore.Status.Objects, restore.Status.Steps, restore.Status.Comparison = plan.Objects, plan.Steps, plan.Comparison
		return o.print(o.streams.Out, &restore)
	}
	if _, err := fmt.Fprintf(o.streams.Out, "Restore of backup %s as VirtualMachine %s/%s (dry run: nothing was changed)\n\n",
		plan.Restore.Spec.Backup, plan.Restore.Spec.TargetNamespace, plan.Restore.Spec.TargetName); err != nil {
		return err
	}
	options := o.outTerminal().Options(o.clock())
	if err := render.Comparison(o.streams.Out, plan.Comparison, options); err != nil {
		return err
	}
	return render.Plan(o.streams.Out, plan.Objects, plan.Steps, plan.Warnings, options)
}

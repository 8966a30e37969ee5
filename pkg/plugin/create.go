// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const createLong = `Back up virtual machines.

All volumes of a machine are snapshotted at the same moment, with the guest's
file systems frozen where the guest agent answers; the guest is thawed as soon
as the last snapshot is cut, before the upload begins. The command then follows
the uploads, writes the machine's description beside the data, and calls the
backup Ready only when it has seen every part on the backup target.

Ending the command early (Ctrl-C, --timeout, --wait=false) ends the waiting, not
the upload: 'kubectl vmbackup resume' takes the backup to its end.

On Harvester the work is left to its own controllers, and the backup is one of
Harvester's, in its UI too. What they cannot do is done without them, and a
warning says why: a freeze that lasts until every snapshot is cut
(--quiesce require), another --target, disks that they would leave out.
--engine decides otherwise.

Several machines are backed up side by side, and one that fails stops no other:
the exit code is 3 when some of them are done.`

const createExample = `
# Back up one machine
kubectl vmbackup create web

# Back up every machine with a label, two at a time; fail rather than
# back up a guest that cannot be frozen
kubectl vmbackup create -l tier=db --concurrency 2 --quiesce require

# Take snapshots inside the cluster, without an upload
kubectl vmbackup create web --type snapshot

# See what would be done
kubectl vmbackup create web --dry-run=client`

// createOptions are the flags of create.
type createOptions struct {
	*globals
	output
	run    runFlags
	dryRun dryRun

	request     vmbackup.BackupRequest
	names       []string
	selector    string
	all         bool
	concurrency int
}

func (g *globals) newCreate() *cobra.Command {
	o := &createOptions{globals: g}
	cmd := &cobra.Command{
		Use:     "create (VM... | -l SELECTOR | --all)",
		Aliases: []string{"backup"},
		Short:   "Back up virtual machines",
		Long:    createLong, Example: createExample,
		ValidArgsFunction: g.completeMachines,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.request.Name, "name", "", "Name of the backup, for a single machine. If empty, the machine's name and the UTC time")
	flags.StringVar((*string)(&o.request.Type), "type", string(vmbackup.TypeBackup), "Where the data goes: backup (to the backup target) or snapshot (it stays in the volumes)")
	flags.StringVar((*string)(&o.request.Quiesce), "quiesce", string(vmbackup.QuiesceAuto), "Freeze the guest's file systems: auto (if the guest agent answers), require (or fail) or skip")
	flags.DurationVar(&o.request.FreezeTimeout, "freeze-timeout", vmbackup.DefaultFreezeTimeout, "The guest thaws itself after this time, whatever happens")
	flags.StringVar(&o.request.Target, "target", "", "Longhorn BackupTarget that the volumes must have. If empty, whichever they have")
	flags.StringVarP(&o.selector, "selector", "l", "", "Back up the machines with these labels")
	flags.BoolVar(&o.all, "all", false, "Back up every machine in the namespace")
	flags.IntVar(&o.concurrency, "concurrency", 4, "Most machines that are backed up at once")
	o.dryRun.addFlag(cmd, "check everything, show what would be done")
	o.run.addFlags(flags)
	o.addFlags(cmd, true)
	fixed(cmd, "type", string(vmbackup.TypeBackup), string(vmbackup.TypeSnapshot))
	fixed(cmd, "quiesce", string(vmbackup.QuiesceAuto), string(vmbackup.QuiesceRequire), string(vmbackup.QuiesceSkip))
	return cmd
}

func (o *createOptions) validate() error {
	chosen := 0
	for _, way := range []bool{len(o.names) > 0, o.selector != "", o.all} {
		if way {
			chosen++
		}
	}
	switch {
	case chosen == 0:
		return invalid("name the virtual machines to back up, or choose them with -l or --all")
	case chosen > 1:
		return invalid("names, -l and --all exclude each other")
	case o.request.Name != "" && len(o.names) != 1:
		return invalid("--name is for the backup of a single machine")
	case o.concurrency < 1:
		return invalid("--concurrency %d is less than 1", o.concurrency)
	case o.request.FreezeTimeout == 0:
		return invalid("--freeze-timeout 0 would not freeze: use --quiesce skip")
	}
	if _, err := labels.Parse(o.selector); err != nil {
		return invalid("-l %s: %v", o.selector, err)
	}
	// Names are not known yet where machines are chosen by labels, and the
	// namespace is the kubeconfig's; all else is checked before a cluster is asked.
	names := o.names
	if len(names) == 0 {
		names = []string{"any"}
	}
	for _, name := range names {
		if err := o.requestFor(name, metav1.NamespaceDefault).Validate(); err != nil {
			return err
		}
	}
	for _, check := range []func() error{o.dryRun.validate, o.run.validate, o.check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *createOptions) requestFor(vm, namespace string) vmbackup.BackupRequest {
	r := o.request
	r.Namespace, r.VM = namespace, vm
	return r.Default(o.clock())
}

func (o *createOptions) execute(ctx context.Context) error {
	s, err := o.connect(o.request.Target)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	names, err := o.machines(ctx, s)
	if err != nil {
		return unbegun(ctx, err, o.run.timeout)
	}
	requests := make([]vmbackup.BackupRequest, len(names))
	for i, name := range names {
		requests[i] = o.requestFor(name, s.namespace)
		if err := requests[i].Validate(); err != nil {
			return err
		}
	}
	if o.dryRun.on() {
		return o.showPlans(ctx, s, requests)
	}
	return o.backUp(ctx, s, requests)
}

// machines are the names of the machines to back up.
func (o *createOptions) machines(ctx context.Context, s *session) ([]string, error) {
	if len(o.names) > 0 {
		names := slices.Clone(o.names)
		slices.Sort(names)
		return slices.Compact(names), nil
	}
	names, err := s.cluster.machines(ctx, s.namespace, o.selector)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		what := "there is no VirtualMachine in namespace " + s.namespace
		if o.selector != "" {
			what += " with the labels " + o.selector
		}
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "%s", what).AsPreflight()
	}
	slices.Sort(names)
	return names, nil
}

// showPlans prints what the backups would do.
func (o *createOptions) showPlans(ctx context.Context, s *session, requests []vmbackup.BackupRequest) error {
	outcomes := make([]error, len(requests))
	var backups []vmbackup.Backup
	for i, r := range requests {
		plan, err := s.engine.PlanBackup(ctx, r)
		if err != nil {
			outcomes[i] = o.about(r, len(requests), unbegun(ctx, err, o.run.timeout))
			continue
		}
		backups = append(backups, *plan.Backup)
		if !o.human() {
			continue
		}
		title := fmt.Sprintf("Backup %s of VirtualMachine %s/%s (dry run: nothing was changed)\n\n", r.Name, r.Namespace, r.VM)
		if len(backups) > 1 {
			title = "\n" + title
		}
		if _, err := fmt.Fprint(o.streams.Out, title); err != nil {
			return err
		}
		if err := render.Plan(o.streams.Out, plan.Objects, plan.Steps, plan.Warnings, o.outTerminal().Options(o.clock())); err != nil {
			return err
		}
	}
	if !o.human() && len(backups) > 0 {
		if err := o.showBackups(backups, len(requests) > 1, &o.output); err != nil {
			return err
		}
	}
	return o.outcome(ctx, outcomes, false)
}

// about names the machine in an error, where it is one of several.
func (o *createOptions) about(r vmbackup.BackupRequest, of int, err error) error {
	if err == nil || of == 1 {
		return err
	}
	return fmt.Errorf("%s: %w", r.VM, err)
}

// backUp makes the backups, some at a time. One that fails does not stop the others.
func (o *createOptions) backUp(ctx context.Context, s *session, requests []vmbackup.BackupRequest) error {
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	made := make([]*vmbackup.Backup, len(requests))
	outcomes := make([]error, len(requests))
	var group errgroup.Group
	group.SetLimit(o.concurrency)
	for i, r := range requests {
		group.Go(func() error {
			made[i], outcomes[i] = o.one(ctx, s, r, progress)
			outcomes[i] = o.about(r, len(requests), outcomes[i])
			return nil
		})
	}
	_ = group.Wait() // errors are collected above, so that each is told
	if err := progress.Close(); err != nil {
		return err
	}
	var backups []vmbackup.Backup
	warned := false
	for _, b := range made {
		if b != nil {
			backups, warned = append(backups, *b), warned || len(b.Status.Warnings) > 0
		}
	}
	// The error of a single one tells all that its row would.
	alone := len(requests) == 1 && outcomes[0] != nil && o.human()
	if len(backups) > 0 && !alone {
		if err := o.showBackups(backups, len(requests) > 1, &o.output); err != nil {
			return err
		}
	}
	return o.outcome(ctx, outcomes, warned)
}

// one makes a single backup. It returns the backup with the error too, once it has begun.
func (o *createOptions) one(ctx context.Context, s *session, r vmbackup.BackupRequest, sink vmbackup.Sink) (*vmbackup.Backup, error) {
	op := operation{ref: r.Ref()}
	if ctx.Err() != nil { // while it was waiting for its turn
		return nil, unbegun(ctx, ctx.Err(), o.run.timeout)
	}
	plan, err := s.engine.PlanBackup(ctx, r)
	if err != nil {
		return nil, unbegun(ctx, err, o.run.timeout)
	}
	backup, err := s.engine.StartBackup(ctx, plan)
	if err != nil {
		return nil, o.stopped(ctx, err, op, "resume", o.run.timeout)
	}
	done, err := s.engine.RunBackup(ctx, backup.Ref(), vmbackup.RunOptions{Sink: sink, NoWait: !o.run.wait})
	if done != nil {
		backup = done
	}
	if err != nil && !backup.Status.Phase.Done() {
		err = o.stopped(ctx, err, op, "resume", o.run.timeout)
	}
	return backup, err
}

// showBackups prints backups: as a list, or a single one as an object.
func (g *globals) showBackups(backups []vmbackup.Backup, list bool, out *output) error {
	if !out.human() {
		if list {
			return out.print(g.streams.Out, backups)
		}
		return out.print(g.streams.Out, &backups[0])
	}
	options := g.outTerminal().Options(g.clock())
	options.Wide = out.wide()
	return render.Backups(g.streams.Out, backups, options)
}

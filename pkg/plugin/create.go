// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const createLong = `Back up virtual machines.

All volumes of a machine are snapshotted at the same moment, with the guest's file
systems frozen where the guest agent answers; the guest is thawed as soon as the
last snapshot is cut, before the upload begins. The command then follows the
uploads, writes the machine's description beside the data, and calls the backup Ready
only when it has seen every part on the backup target.

Ending the command early (Ctrl-C, --timeout, --wait=false) ends the waiting, not
the upload: 'kubectl vmbackup resume' takes the backup to its end.`

const createExample = `  # Back up one machine
  kubectl vmbackup create web

  # Back up every machine with a label, two at a time, and fail rather than back up a guest that cannot be frozen
  kubectl vmbackup create -l tier=db --concurrency 2 --quiesce require

  # Take snapshots inside the cluster, without an upload
  kubectl vmbackup create web --type snapshot

  # See what would be done
  kubectl vmbackup create web --dry-run=client`

// createOptions are the flags of create.
type createOptions struct {
	*globals
	output
	run runFlags

	request     vmbackup.BackupRequest
	names       []string
	selector    string
	all         bool
	concurrency int
	dryRun      string
}

func (g *globals) newCreate() *cobra.Command {
	o := &createOptions{globals: g}
	cmd := &cobra.Command{
		Use:     "create VM... | -l SELECTOR | --all",
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
	flags.StringVar(&o.request.Name, "name", "", "Name of the backup; only for one machine (default <vm>-<UTC time>)")
	flags.StringVar((*string)(&o.request.Type), "type", string(vmbackup.TypeBackup), "backup: data on the backup target; snapshot: data stays in the volumes")
	flags.StringVar((*string)(&o.request.Quiesce), "quiesce", string(vmbackup.QuiesceAuto), "Freeze the guest: auto (if the agent answers), require (or fail), skip")
	flags.DurationVar(&o.request.FreezeTimeout, "freeze-timeout", vmbackup.DefaultFreezeTimeout, "The guest thaws itself after this time, whatever happens")
	flags.StringVar(&o.request.Target, "target", "", "Longhorn BackupTarget that the volumes must have (default: whichever they have)")
	flags.StringVarP(&o.selector, "selector", "l", "", "Back up the machines with these labels")
	flags.BoolVar(&o.all, "all", false, "Back up every machine in the namespace")
	flags.IntVar(&o.concurrency, "concurrency", 4, "Most machines backed up at once")
	flags.StringVar(&o.dryRun, "dry-run", "none", "none, client or server: check everything, show what would be done, change nothing")
	flags.Lookup("dry-run").NoOptDefVal = "client"
	o.run.addFlags(flags)
	o.addFlags(cmd, true)
	fixed(cmd, "type", string(vmbackup.TypeBackup), string(vmbackup.TypeSnapshot))
	fixed(cmd, "quiesce", string(vmbackup.QuiesceAuto), string(vmbackup.QuiesceRequire), string(vmbackup.QuiesceSkip))
	fixed(cmd, "dry-run", "none", "client", "server")
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
	case !slices.Contains([]string{"none", "client", "server"}, o.dryRun):
		return invalid("--dry-run %q is none of none, client, server", o.dryRun)
	}
	if _, err := labels.Parse(o.selector); err != nil {
		return invalid("-l: %v", err)
	}
	if err := o.run.validate(); err != nil {
		return err
	}
	return o.check()
}

func (o *createOptions) execute(ctx context.Context) error {
	s, err := o.newSession(o.request.Target)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	names, err := o.machines(ctx, s)
	if err != nil {
		return err
	}
	requests := make([]vmbackup.BackupRequest, len(names))
	for i, name := range names {
		r := o.request
		r.Namespace, r.VM = s.namespace, name
		requests[i] = r.Default(o.clock())
		if err := requests[i].Validate(); err != nil {
			return err
		}
	}
	if o.dryRun != "none" {
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
	list, err := s.clients.KubeVirt.KubevirtV1().VirtualMachines(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: o.selector})
	if err != nil {
		return nil, kube.Error(err, "list", "VirtualMachines in namespace "+s.namespace)
	}
	if len(list.Items) == 0 {
		what := "there is no VirtualMachine in namespace " + s.namespace
		if o.selector != "" {
			what += " with the labels " + o.selector
		}
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "%s", what).AsPreflight()
	}
	names := make([]string, len(list.Items))
	for i, vm := range list.Items {
		names[i] = vm.Name
	}
	return names, nil
}

// showPlans prints what the backups would do.
func (o *createOptions) showPlans(ctx context.Context, s *session, requests []vmbackup.BackupRequest) error {
	plans := make([]*vmbackup.BackupPlan, len(requests))
	for i, r := range requests {
		plan, err := s.engine.PlanBackup(ctx, r)
		if err != nil {
			return fmt.Errorf("%s: %w", r.VM, err)
		}
		plans[i] = plan
	}
	if !o.human() {
		backups := make([]vmbackup.Backup, len(plans))
		for i, p := range plans {
			backups[i] = *p.Backup
		}
		return o.printObjects(o.streams.Out, backups)
	}
	terminal, err := o.outTerminal()
	if err != nil {
		return err
	}
	for _, p := range plans {
		if _, err := fmt.Fprintf(o.streams.Out, "Backup %s of VirtualMachine %s/%s (dry run: nothing was changed)\n\n", p.Request.Name, p.Request.Namespace, p.Request.VM); err != nil {
			return err
		}
		if err := render.Plan(o.streams.Out, p.Objects, p.Steps, p.Warnings, terminal.Options(o.clock())); err != nil {
			return err
		}
	}
	return nil
}

// printObjects prints one object, or a List of several.
func (o *output) printObjects(w io.Writer, backups []vmbackup.Backup) error {
	if len(backups) == 1 {
		return o.print(w, &backups[0])
	}
	return o.print(w, backups)
}

// backUp makes the backups, some at a time. One that fails does not stop the others.
func (o *createOptions) backUp(ctx context.Context, s *session, requests []vmbackup.BackupRequest) error {
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	var (
		mu      sync.Mutex
		backups []vmbackup.Backup
		failed  []error
	)
	var group errgroup.Group
	group.SetLimit(o.concurrency)
	for _, r := range requests {
		group.Go(func() error {
			backup, err := o.one(ctx, s, r, progress)
			mu.Lock()
			defer mu.Unlock()
			if backup != nil {
				backups = append(backups, *backup)
			}
			if err != nil {
				failed = append(failed, o.run.explain(ctx, err, "backup", r.Ref(), backup != nil))
			}
			return nil
		})
	}
	_ = group.Wait() // errors are collected above, so that each is told
	if err := progress.Close(); err != nil {
		return err
	}
	slices.SortFunc(backups, func(a, b vmbackup.Backup) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	if len(backups) > 0 {
		if err := o.show(backups); err != nil {
			return err
		}
	}
	return o.outcome(ctx, failed, len(requests), slices.ContainsFunc(backups, func(b vmbackup.Backup) bool { return len(b.Status.Warnings) > 0 }))
}

func (o *createOptions) one(ctx context.Context, s *session, r vmbackup.BackupRequest, sink vmbackup.Sink) (*vmbackup.Backup, error) {
	plan, err := s.engine.PlanBackup(ctx, r)
	if err != nil {
		return nil, err
	}
	backup, err := s.engine.StartBackup(ctx, plan)
	if err != nil {
		return nil, err
	}
	done, err := s.engine.RunBackup(ctx, backup.Ref(), vmbackup.RunOptions{Sink: sink, NoWait: !o.run.wait})
	if done != nil {
		backup = done
	}
	return backup, err
}

func (o *createOptions) show(backups []vmbackup.Backup) error {
	if !o.human() {
		return o.printObjects(o.streams.Out, backups)
	}
	terminal, err := o.outTerminal()
	if err != nil {
		return err
	}
	options := terminal.Options(o.clock())
	options.Wide = o.format == "wide"
	return render.Backups(o.streams.Out, backups, options)
}

// outcome turns the errors of several operations into one exit code. A single one
// is returned as it is; of several each is printed.
func (g *globals) outcome(ctx context.Context, failed []error, of int, warned bool) error {
	switch {
	case len(failed) == 0 && warned:
		return &exitError{exitPartly}
	case len(failed) == 0:
		return nil
	case of == 1:
		return failed[0]
	}
	code := 0
	terminal := g.errTerminal()
	for _, err := range failed {
		failure := vmbackup.AsError(err, vmbackup.ReasonInternal)
		if printErr := render.Error(g.streams.ErrOut, failure, terminal.Options(g.clock())); printErr != nil {
			return errors.Join(failed...)
		}
		if c := exitCode(ctx, failure); code == 0 || code == c {
			code = c
		} else {
			code = exitFailed
		}
	}
	if len(failed) < of {
		code = exitPartly
	}
	return &exitError{code}
}

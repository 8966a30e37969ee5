// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const listExample = `
# The backups of this namespace
kubectl vmbackup list

# Every backup of one machine, wherever it lies, oldest first
kubectl vmbackup list --vm web --from all --sort-by age

# What lies on the backup target, whatever this cluster knows of it
kubectl vmbackup list -A --from target

# Restores of all namespaces, and every change of them
kubectl vmbackup list restores -A --watch

# Images from which disks of machines are made
kubectl vmbackup list images -A`

// listOptions are the flags of list.
type listOptions struct {
	*globals
	output

	options       vmbackup.ListOptions
	kind          string
	allNamespaces bool
	sortBy        string
	watch         bool
	target        string
}

// Kinds of list.
const (
	listBackups  = "backups"
	listRestores = "restores"
	listImages   = "images"
	// listSchedules are Harvester's.
	listSchedules = "schedules"
)

// sortKeys are the values of --sort-by.
func sortKeys() []string { return []string{"name", "age", "vm", "phase", "size"} }

func (g *globals) newList() *cobra.Command {
	o := &listOptions{globals: g}
	cmd := &cobra.Command{
		Use:     "list [backups | restores | images | schedules]",
		Aliases: []string{"get", "ls"},
		Short:   "List backups, restores, images or schedules",
		Long: `List backups or restores, newest first, or images or Harvester's schedules by
their names.

Backups are found in the cluster's records, among those of Harvester's own
controllers where they run, and, with --from target or all, in the files on the
backup target. One of Harvester's is Ready here only when its description is on
the target and Longhorn shows every upload of it as completed. Its restores are
listed with the tool's. Parts that cannot be read are warnings and hide nothing;
the exit code is then 3.`,
		Example:   listExample,
		Args:      usageArgs(cobra.MaximumNArgs(1)),
		ValidArgs: []string{listBackups, listRestores, listImages, listSchedules},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.kind = listBackups
			if len(args) == 1 {
				o.kind = args[0]
			}
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	addSource(cmd, &o.options.Source, vmbackup.SourceCluster, "Where to look for backups")
	cmd.Flags().StringVar(&o.target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look at")
	o.addListFlags(cmd)
	return cmd
}

// addListFlags adds the flags that every listing has.
func (o *listOptions) addListFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "List across all namespaces")
	flags.StringVarP(&o.options.Selector, "selector", "l", "", "List only what is of machines that had these labels")
	flags.StringVar(&o.options.VM, "vm", "", "List only what is of the machine with this name")
	flags.StringVar(&o.sortBy, "sort-by", "", "Sort by one of: ("+strings.Join(sortKeys(), ", ")+"). If empty, newest first")
	flags.IntVar(&o.options.Limit, "limit", 0, "Most objects to list, the newest. Zero means all")
	flags.BoolVarP(&o.watch, "watch", "w", false, "After listing, go on and print every change")
	o.addFlags(cmd, true)
	fixed(cmd, "sort-by", sortKeys()...)
	must(cmd.RegisterFlagCompletionFunc("vm", o.completeMachines))
}

func (o *listOptions) validate() error {
	switch o.kind {
	case "backup", listBackups:
		o.kind = listBackups
	case "restore", listRestores:
		o.kind = listRestores
	case "image", listImages:
		o.kind = listImages
		return o.validateImages()
	case "schedule", listSchedules:
		o.kind = listSchedules
	default:
		return invalid("%q is none of %s, %s, %s, %s", o.kind, listBackups, listRestores, listImages, listSchedules)
	}
	if o.sortBy != "" && !slices.Contains(sortKeys(), o.sortBy) {
		return invalid("--sort-by %q is none of %s", o.sortBy, strings.Join(sortKeys(), ", "))
	}
	if _, err := labels.Parse(o.options.Selector); err != nil {
		return invalid("-l %s: %v", o.options.Selector, err)
	}
	if err := validSource(o.options.Source); err != nil {
		return err
	}
	if o.watch && o.options.Source != vmbackup.SourceCluster {
		return invalid("--watch follows the cluster's records, and a backup target cannot be watched: leave --from out")
	}
	if err := o.options.Validate(); err != nil {
		return err
	}
	return o.check()
}

func (o *listOptions) execute(ctx context.Context) error {
	s, err := o.connect(o.target)
	if err != nil {
		return err
	}
	if !o.allNamespaces {
		o.options.Namespace = s.namespace
	}
	if o.kind == listImages {
		return o.listImages(ctx, s)
	}
	if o.watch {
		return o.follow(ctx, s)
	}
	warnings, show, err := o.look(ctx, s)
	if err != nil {
		return err
	}
	if err := render.Warnings(o.streams.ErrOut, warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	if err := show(); err != nil {
		return err
	}
	if len(warnings) > 0 {
		return &exitError{exitPartly}
	}
	return nil
}

// look lists, and returns what is to be told and how the list is printed.
func (o *listOptions) look(ctx context.Context, s *session) (warnings []string, show func() error, err error) {
	if o.kind == listSchedules {
		schedules, err := s.scheduler.Schedules(ctx, o.options)
		return nil, func() error { return o.printSchedules(schedules) }, err
	}
	if o.kind == listRestores {
		restores, warnings, err := s.catalog.Restores(ctx, o.options)
		return warnings, func() error { return o.printRestores(restores) }, err
	}
	backups, warnings, err := o.backups(ctx, s)
	return warnings, func() error { return o.printBackups(backups) }, err
}

// backups lists, with the progress of those that run.
func (o *listOptions) backups(ctx context.Context, s *session) ([]vmbackup.Backup, []string, error) {
	backups, warnings, err := s.catalog.Backups(ctx, o.options)
	if err != nil {
		return nil, nil, err
	}
	for i := range backups {
		if backups[i].Status.Phase != vmbackup.PhaseRunning {
			continue
		}
		if err := s.engine.Observe(ctx, &backups[i]); err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			warnings = append(warnings, fmt.Sprintf("the progress of backup %s is not known: %v", backups[i].Ref(), err))
		}
	}
	sortBackups(backups, o.sortBy)
	return backups, warnings, nil
}

func (o *listOptions) render() render.Options {
	options := o.outTerminal().Options(o.clock())
	options.Wide, options.Namespaces = o.wide(), o.allNamespaces
	return options
}

func (o *listOptions) printBackups(backups []vmbackup.Backup) error {
	if !o.human() {
		return o.print(o.streams.Out, backups)
	}
	if len(backups) == 0 {
		return render.NoneFound(o.streams.ErrOut, listBackups, o.options.Namespace)
	}
	return render.Backups(o.streams.Out, backups, o.render())
}

func (o *listOptions) printRestores(restores []vmbackup.Restore) error {
	sortRestores(restores, o.sortBy)
	if !o.human() {
		return o.print(o.streams.Out, restores)
	}
	if len(restores) == 0 {
		return render.NoneFound(o.streams.ErrOut, listRestores, o.options.Namespace)
	}
	return render.Restores(o.streams.Out, restores, o.render())
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const listExample = `  # The backups of this namespace
  kubectl vmbackup list

  # Every backup of one machine, wherever it lies, oldest first
  kubectl vmbackup list --vm web --sort-by age

  # What lies on the backup target, whatever this cluster knows of it
  kubectl vmbackup list -A --from target

  # Restores
  kubectl vmbackup list restores -A`

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
)

// sortKeys are the values of --sort-by.
var sortKeys = []string{"name", "age", "vm", "phase", "size"}

func (g *globals) newList() *cobra.Command {
	o := &listOptions{globals: g}
	cmd := &cobra.Command{
		Use:     "list [backups|restores]",
		Aliases: []string{"get", "ls"},
		Short:   "List backups or restores",
		Long: `List backups or restores, newest first.

Backups are found in the cluster's records and, with --from target or all, in the
files on the backup target. Parts that cannot be read are warnings and hide nothing.`,
		Example:   listExample,
		Args:      usageArgs(cobra.MaximumNArgs(1)),
		ValidArgs: []string{listBackups, listRestores},
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
	flags := cmd.Flags()
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "List across all namespaces")
	flags.StringVarP(&o.options.Selector, "selector", "l", "", "Only of machines that had these labels")
	flags.StringVar(&o.options.VM, "vm", "", "Only of the machine with this name")
	flags.StringVar((*string)(&o.options.Source), "from", string(vmbackup.SourceCluster), "Where to look: cluster, target or all")
	flags.StringVar(&o.target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look at")
	flags.StringVar(&o.sortBy, "sort-by", "", "Sort by "+strings.Join(sortKeys, ", ")+" (default newest first)")
	flags.IntVar(&o.options.Limit, "limit", 0, "Most objects to list; 0 for all")
	flags.BoolVarP(&o.watch, "watch", "w", false, "Go on and print every change")
	o.addFlags(cmd, true)
	fixed(cmd, "from", sources...)
	fixed(cmd, "sort-by", sortKeys...)
	must(cmd.RegisterFlagCompletionFunc("vm", g.completeMachines))
	return cmd
}

func (o *listOptions) validate() error {
	switch o.kind {
	case "backup", listBackups:
		o.kind = listBackups
	case "restore", listRestores:
		o.kind = listRestores
	default:
		return invalid("%q is neither %s nor %s", o.kind, listBackups, listRestores)
	}
	if o.sortBy != "" && !slices.Contains(sortKeys, o.sortBy) {
		return invalid("--sort-by %q is none of %s", o.sortBy, strings.Join(sortKeys, ", "))
	}
	if _, err := labels.Parse(o.options.Selector); err != nil {
		return invalid("-l: %v", err)
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
	s, err := o.newSession(o.target)
	if err != nil {
		return err
	}
	if !o.allNamespaces {
		o.options.Namespace = s.namespace
	}
	if o.watch {
		return o.follow(ctx, s)
	}
	if o.kind == listRestores {
		restores, err := s.catalog.Restores(ctx, o.options)
		if err != nil {
			return err
		}
		return o.printRestores(restores)
	}
	backups, warnings, err := o.backups(ctx, s)
	if err != nil {
		return err
	}
	if err := render.Warnings(o.streams.ErrOut, warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	if err := o.printBackups(backups); err != nil {
		return err
	}
	if len(warnings) > 0 {
		return &exitError{exitPartly}
	}
	return nil
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

func (o *listOptions) render() (render.Options, error) {
	terminal, err := o.outTerminal()
	if err != nil {
		return render.Options{}, err
	}
	options := terminal.Options(o.clock())
	options.Wide, options.Namespaces = o.format == "wide", o.allNamespaces
	return options, nil
}

func (o *listOptions) printBackups(backups []vmbackup.Backup) error {
	if !o.human() {
		return o.print(o.streams.Out, backups)
	}
	options, err := o.render()
	if err != nil {
		return err
	}
	if len(backups) == 0 {
		return render.NoneFound(o.streams.ErrOut, listBackups, o.options.Namespace)
	}
	return render.Backups(o.streams.Out, backups, options)
}

func (o *listOptions) printRestores(restores []vmbackup.Restore) error {
	sortRestores(restores, o.sortBy)
	if !o.human() {
		return o.print(o.streams.Out, restores)
	}
	options, err := o.render()
	if err != nil {
		return err
	}
	if len(restores) == 0 {
		return render.NoneFound(o.streams.ErrOut, listRestores, o.options.Namespace)
	}
	return render.Restores(o.streams.Out, restores, options)
}

// follow prints the list and, until interrupted, each object that changed.
func (o *listOptions) follow(ctx context.Context, s *session) error {
	printed := map[string]string{}
	var err error
	if o.kind == listRestores {
		err = s.catalog.WatchRestores(ctx, o.options, func(restores []vmbackup.Restore) error {
			restores = slices.DeleteFunc(restores, func(r vmbackup.Restore) bool {
				return !changed(printed, r.Ref(), fmt.Sprint(r.Status.Phase, r.Status.Steps, r.Status.VM))
			})
			if len(restores) == 0 {
				return nil
			}
			return o.printRestores(restores)
		})
	} else {
		err = s.catalog.WatchBackups(ctx, o.options, func(backups []vmbackup.Backup) error {
			backups = slices.DeleteFunc(backups, func(b vmbackup.Backup) bool {
				return !changed(printed, b.Ref(), fmt.Sprint(b.Status.Phase, b.Status.Volumes))
			})
			if len(backups) == 0 {
				return nil
			}
			return o.printBackups(backups)
		})
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil // Ctrl-C is how a watch ends
	}
	return err
}

// changed reports whether an object differs from what was last printed of it.
func changed(printed map[string]string, ref vmbackup.Ref, state string) bool {
	if printed[ref.String()] == state {
		return false
	}
	printed[ref.String()] = state
	return true
}

func sortBackups(backups []vmbackup.Backup, key string) {
	compare := map[string]func(a, b vmbackup.Backup) int{
		"name":  func(a, b vmbackup.Backup) int { return strings.Compare(a.Ref().String(), b.Ref().String()) },
		"age":   func(a, b vmbackup.Backup) int { return compareTimes(a.Status.StartedAt, b.Status.StartedAt) },
		"vm":    func(a, b vmbackup.Backup) int { return strings.Compare(a.Spec.VM, b.Spec.VM) },
		"phase": func(a, b vmbackup.Backup) int { return strings.Compare(string(a.Status.Phase), string(b.Status.Phase)) },
		"size":  func(a, b vmbackup.Backup) int { return cmp.Compare(sizeOf(a), sizeOf(b)) },
	}[key]
	if compare != nil {
		slices.SortStableFunc(backups, compare)
	}
}

func sortRestores(restores []vmbackup.Restore, key string) {
	compare := map[string]func(a, b vmbackup.Restore) int{
		"name": func(a, b vmbackup.Restore) int { return strings.Compare(a.Ref().String(), b.Ref().String()) },
		"age":  func(a, b vmbackup.Restore) int { return compareTimes(a.Status.StartedAt, b.Status.StartedAt) },
		"vm":   func(a, b vmbackup.Restore) int { return strings.Compare(a.Spec.TargetName, b.Spec.TargetName) },
		"phase": func(a, b vmbackup.Restore) int {
			return strings.Compare(string(a.Status.Phase), string(b.Status.Phase))
		},
		"size": func(a, b vmbackup.Restore) int {
			size := func(r vmbackup.Restore) (n int64) {
				for _, v := range r.Status.Volumes {
					n += v.SizeBytes
				}
				return n
			}
			return cmp.Compare(size(a), size(b))
		},
	}[key]
	if compare != nil {
		slices.SortStableFunc(restores, compare)
	}
}

func sizeOf(b vmbackup.Backup) (n int64) {
	for _, v := range b.Status.Volumes {
		n += v.SizeBytes
	}
	return n
}

// compareTimes orders times; an unknown one comes last.
func compareTimes(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(*b)
}

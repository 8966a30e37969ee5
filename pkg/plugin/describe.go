// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// describeOptions are the flags of describe.
type describeOptions struct {
	*globals
	output

	from   vmbackup.Source
	target string
	events bool
}

func (g *globals) newDescribe() *cobra.Command {
	o := &describeOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "describe (BACKUP | restore/NAME | image/NAME | schedule/NAME)",
		Short: "Show all that is known of a backup, restore, image or schedule, as a tree",
		Long: `Show all that is known of a backup or a restore: volumes and their handles,
images, secrets and config maps by their keys (never their values), where the
description lies, times, consistency, and the cluster's events that explain a
wait or a failure.`,
		Example: `
# A backup, from wherever it is known
kubectl vmbackup describe web-20260102-030405

# A backup as the files on the backup target tell it
kubectl vmbackup describe prod/web-20260102-030405 --from target

# A restore
kubectl vmbackup describe restore/web-20260102-040506 -n test

# An image from which disks of machines are made
kubectl vmbackup describe image/ubuntu

# A schedule of Harvester
kubectl vmbackup describe schedule/web`,
		Args:              named("the name of what to describe", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOperation,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validDescribed(args[0], func() error { return validSource(o.from) }, o.check); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context(), args[0])
		},
	}
	flags := cmd.Flags()
	addSource(cmd, &o.from, vmbackup.SourceAll, "Where to look for the backup")
	flags.StringVar(&o.target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look at")
	flags.BoolVar(&o.events, "show-events", true, "Show the events of what still runs or has failed")
	o.addFlags(cmd, false)
	return cmd
}

func (o *describeOptions) execute(ctx context.Context, arg string) error {
	s, err := o.connect(o.target)
	if err != nil {
		return err
	}
	if strings.HasPrefix(arg, imagePrefix) {
		return o.describeImage(ctx, s, arg)
	}
	if strings.HasPrefix(arg, schedulePrefix) {
		return o.describeSchedule(ctx, s, arg)
	}
	op, err := parseOperation(arg, s.namespace)
	if err != nil {
		return err
	}
	options := o.outTerminal().Options(o.clock())
	if op.restore {
		restore, err := s.catalog.Restore(ctx, op.ref)
		if err != nil {
			return err
		}
		if !o.human() {
			return o.print(o.streams.Out, restore)
		}
		return render.Restore(o.streams.Out, restore, o.eventsOf(ctx, s, restore.Status.Phase, op.ref.Namespace, namesOfRestore(restore)), options)
	}
	backup, err := s.catalog.Backup(ctx, op.ref, o.from)
	if err != nil {
		return err
	}
	if err := s.engine.Observe(ctx, backup); err != nil {
		backup.Status.Warnings = append(backup.Status.Warnings, "the progress is not known: "+err.Error())
	}
	if !o.human() {
		return o.print(o.streams.Out, backup)
	}
	return render.Backup(o.streams.Out, backup, o.eventsOf(ctx, s, backup.Status.Phase, op.ref.Namespace, namesOfBackup(backup)), options)
}

func namesOfBackup(b *vmbackup.Backup) []string {
	names := []string{b.Spec.VM}
	for _, v := range b.Status.Volumes {
		names = append(names, v.PVC, v.VolumeSnapshot, v.LonghornVolume, v.LonghornBackup)
	}
	return names
}

func namesOfRestore(r *vmbackup.Restore) []string {
	names := []string{r.Metadata.Name, r.Spec.TargetName}
	for _, v := range r.Status.Volumes {
		names = append(names, v.PVC, v.LonghornVolume)
	}
	return names
}

// eventsOf are the cluster's events of the objects of an operation that is not
// Ready: they say why something waits. They are a help, and none of them missing
// is an error.
func (o *describeOptions) eventsOf(ctx context.Context, s *session, phase vmbackup.Phase, namespace string, names []string) []render.EventLine {
	if !o.events || phase == vmbackup.PhaseReady {
		return nil
	}
	var lines []render.EventLine
	for _, ns := range []string{namespace, kube.LonghornNamespace} {
		events, err := s.cluster.events(ctx, ns)
		if err != nil {
			continue
		}
		for i := range events {
			e := &events[i]
			// Pods of a machine carry its name and a random end.
			about := slices.ContainsFunc(names, func(name string) bool {
				return name != "" && (e.InvolvedObject.Name == name || strings.HasPrefix(e.InvolvedObject.Name, "virt-launcher-"+name+"-"))
			})
			if !about {
				continue
			}
			at := e.LastTimestamp.Time
			if at.IsZero() {
				at = e.EventTime.Time
			}
			lines = append(lines, render.EventLine{
				Time: at, Warning: e.Type == "Warning", Reason: e.Reason, Message: e.Message,
				Object: strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name,
			})
		}
	}
	slices.SortStableFunc(lines, func(a, b render.EventLine) int { return a.Time.Compare(b.Time) })
	const most = 20
	return lines[max(0, len(lines)-most):]
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// imageTargetOptions are the flags of image backup and image restore.
type imageTargetOptions struct {
	*globals
	output
	run    runFlags
	dryRun dryRun

	image   string
	to      string
	request vmbackup.ImageRestoreRequest
}

func (g *globals) newImageBackup() *cobra.Command {
	o := &imageTargetOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "backup IMAGE",
		Short: "Back up an image to the backup target",
		Long: `Back up an image to the backup target, with its description in Harvester's format
beside the data, so that it can be restored from the target alone.

A backup of the same content that is there is kept and only its description is
written anew; one that has failed is made anew. One of other content under the
same name is refused (SourceMismatch), since backups of volumes may rest on it.`,
		Example: `
# Back up an image, and follow it to the end
kubectl vmbackup image backup ubuntu`,
		Args:              named("the name of the image", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.image = args[0]
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.backup(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&o.request.Target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to back up to")
	o.dryRun.addFlag(cmd, "check everything, show what would be made")
	o.run.addFlags(cmd.Flags())
	cmd.Flags().Lookup("wait").Usage = "Wait until the backup is complete. If false, return as soon as Longhorn goes on by itself; the same command then writes the description"
	o.addFlags(cmd, true)
	return cmd
}

func (g *globals) newImageRestore() *cobra.Command {
	o := &imageTargetOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "restore IMAGE",
		Short: "Bring an image back from the backup target",
		Long: `Bring an image back from its backup on the backup target, which is all that is
needed: the backing image, and the StorageClass whose volumes are made of it.

Names are as they were where these are free, and others, with a warning, where
they are not. Harvester's controllers, where they work, choose the StorageClass
themselves. IMAGE may also be the name of a backing image whose backup is there.

An image of the same name and content that is there is left as it is; one of
other content is refused (AlreadyExists).`,
		Example: `
# Bring an image back that was deleted, or is another cluster's
kubectl vmbackup image restore images/ubuntu

# Under another name
kubectl vmbackup image restore images/ubuntu --to test/ubuntu-old`,
		Args: named("the name of the image", cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.image = args[0]
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.restore(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.to, "to", "", "[NAMESPACE/]NAME of the image to make. If empty, as it was")
	flags.StringVar(&o.request.StorageClass, "storage-class", "", "Name of the StorageClass to make. If empty, longhorn-NAME. Harvester chooses its own")
	flags.StringVar(&o.request.Target, "target", vmbackup.DefaultTarget, "Longhorn BackupTarget to look for the image on")
	o.dryRun.addFlag(cmd, "check everything, show what would be made")
	o.run.addFlags(flags)
	flags.Lookup("wait").Usage = "Wait until the image is there. If false, return as soon as the rest goes on by itself"
	o.addFlags(cmd, true)
	return cmd
}

// requestIn is the request, of an image in that namespace unless it names its own.
func (o *imageTargetOptions) requestIn(namespace string) (vmbackup.ImageRestoreRequest, error) {
	r := o.request
	var err error
	if r.Image, err = parseImage(o.image, namespace); err != nil {
		return r, err
	}
	if o.to != "" {
		if r.To, err = parseImage(o.to, r.Image.Namespace); err != nil {
			return r, err
		}
	}
	return r, r.Validate()
}

func (o *imageTargetOptions) validate() error {
	if _, err := o.requestIn("default"); err != nil {
		return err
	}
	for _, check := range []func() error{o.dryRun.validate, o.run.validate, o.check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *imageTargetOptions) backup(ctx context.Context) error {
	return o.execute(ctx, "Backup of image ", "backup", func(ctx context.Context, s *session, r vmbackup.ImageRestoreRequest) (*vmbackup.ImagePlan, error) {
		return s.images.PlanBackup(ctx, r.Image, r.Target)
	})
}

func (o *imageTargetOptions) restore(ctx context.Context) error {
	return o.execute(ctx, "Restore of image ", "restore", func(ctx context.Context, s *session, r vmbackup.ImageRestoreRequest) (*vmbackup.ImagePlan, error) {
		return s.images.PlanRestore(ctx, r)
	})
}

func (o *imageTargetOptions) execute(ctx context.Context, title, verb string, plan func(context.Context, *session, vmbackup.ImageRestoreRequest) (*vmbackup.ImagePlan, error)) error {
	s, err := o.connect(o.request.Target)
	if err != nil {
		return err
	}
	request, err := o.requestIn(s.namespace)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	p, err := plan(ctx, s, request)
	if err != nil {
		return unbegun(ctx, err, o.run.timeout)
	}
	if o.dryRun.on() {
		return o.showImagePlan(p, title+request.Image.String(), &o.output)
	}
	if err := render.Warnings(o.streams.ErrOut, p.Warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	words := []string{request.Image.Name}
	for _, f := range []struct{ flag, value string }{{"--to", o.to}, {"--storage-class", request.StorageClass}} {
		if f.value != "" {
			words = append(words, f.flag, f.value)
		}
	}
	if request.Target != vmbackup.DefaultTarget {
		words = append(words, "--target", request.Target)
	}
	return o.runImage(ctx, &o.run, &o.output, p.Image.Ref(), goOn{o.imageCommand(verb, request.Image.Namespace, words...), longhornGoesOn}, func(opts vmbackup.RunOptions) (*vmbackup.Image, error) {
		return s.images.Run(ctx, p, opts)
	})
}

// imageDeleteOptions are the flags of image delete.
type imageDeleteOptions struct {
	*globals
	dryRun dryRun
	run    runFlags
	yes    bool
}

func (g *globals) newImageDelete() *cobra.Command {
	o := &imageDeleteOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "delete IMAGE",
		Short: "Delete an image and its StorageClass",
		Long: `Delete an image: its backing image with all replicas, and its StorageClass. One
that is in use is refused (exit code 4), with the volumes, claims, machines and
other StorageClasses that use it.

What goes is shown first and has to be confirmed, on the terminal or with --yes.
The backup of the image on a backup target stays.`,
		Example: `
# Delete an image, after it was shown and confirmed
kubectl vmbackup image delete ubuntu

# See what would go, and what would stay
kubectl vmbackup image delete ubuntu --dry-run`,
		Args:              named("the name of the image", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := parseImage(args[0], "default"); err != nil {
				return usageError(cmd, err)
			}
			for _, check := range []func() error{o.dryRun.validate, o.run.validate} {
				if err := check(); err != nil {
					return usageError(cmd, err)
				}
			}
			return o.execute(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	o.dryRun.addFlag(cmd, "show what would go")
	o.run.addTimeout(cmd.Flags())
	return cmd
}

func (o *imageDeleteOptions) execute(ctx context.Context, arg string) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	ref, err := parseImage(arg, s.namespace)
	if err != nil {
		return err
	}
	ctx, cancel := o.run.context(ctx)
	defer cancel()
	plan, err := s.images.PlanDelete(ctx, ref)
	if err != nil {
		return unbegun(ctx, err, o.run.timeout)
	}
	terminal, note := o.errTerminal(), ""
	if o.dryRun.on() {
		terminal, note = o.outTerminal(), " (dry run: nothing was changed)"
	}
	if _, err := fmt.Fprintf(terminal.Writer, "Image %s%s\n\n", plan.Image.Ref(), note); err != nil {
		return err
	}
	if err := render.Plan(terminal.Writer, plan.Objects, nil, plan.Warnings, terminal.Options(o.clock())); err != nil || o.dryRun.on() {
		return err
	}
	if !o.yes {
		if err := o.confirm(ctx); err != nil {
			return err
		}
	}
	progress, err := o.newProgress()
	if err != nil {
		return err
	}
	_, runErr := s.images.Run(ctx, plan, vmbackup.RunOptions{Sink: progress})
	if err := progress.Close(); err != nil {
		return err
	}
	if runErr != nil {
		return o.imageStopped(ctx, runErr, plan.Image.Ref(), goOn{o.imageCommand("delete", ref.Namespace, ref.Name, "--yes"), longhornGoesOn}, o.run.timeout)
	}
	_, err = fmt.Fprintf(o.streams.Out, "image.%s/%s deleted\n", vmbackup.Group, plan.Image.Metadata.Name)
	return err
}

// confirm asks on a terminal, and refuses where nobody can answer.
func (o *imageDeleteOptions) confirm(ctx context.Context) error {
	if !o.facts(o.streams.ErrOut).TTY || !o.answers(o.streams.In) {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "deleting this image has to be confirmed, and there is no terminal to ask on; nothing was deleted").
			AsPreflight().WithHint("confirm with --yes")
	}
	asking := &deleteOptions{globals: o.globals}
	answer, err := asking.ask(ctx, bufio.NewReader(o.streams.In), "Delete this image for good? [y/N] ")
	if err != nil {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed; nothing was deleted").AsPreflight()
	}
	return nil
}

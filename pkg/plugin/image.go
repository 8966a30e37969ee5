// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// imagePrefix marks an image where other things may be named, too.
const imagePrefix = "image/"

// parseImage reads NAME, NAMESPACE/NAME or image/NAME.
func parseImage(arg, namespace string) (vmbackup.Ref, error) {
	return vmbackup.ParseImageRef(strings.TrimPrefix(arg, imagePrefix), namespace)
}

func (g *globals) newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "image",
		Aliases: []string{"images"},
		Short:   "Images from which disks of machines are made",
		Long: `Work with the images from which disks of machines are made: Longhorn's backing
images with their StorageClasses, and Harvester's VirtualMachineImages.

An image is imported as soon as one replica of it is ready, and in progress
until then.`,
		Example: `
# The images of this namespace, and those that belong to none
kubectl vmbackup image list

# All that is known of one
kubectl vmbackup image describe ubuntu`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		g.newImageList(), g.newImageDescribe(), g.newImageCreate(),
		g.newImageBackup(), g.newImageRestore(), g.newImageDelete(),
	)
	return cmd
}

// imageListOptions are the flags of image list.
type imageListOptions struct {
	*globals
	output

	allNamespaces bool
	sortBy        string
}

// imageSortKeys are the values of --sort-by of images.
func imageSortKeys() []string { return []string{"name", "age", "phase", "size"} }

func (g *globals) newImageList() *cobra.Command {
	o := &imageListOptions{globals: g}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"get", "ls"},
		Short:   "List images",
		Long: `List images with how far they are, their replicas, sizes and StorageClasses, what
uses them, and whether they are on the backup target.

Backing images that belong to no namespace are in every listing. What you may
not see is a warning; the exit code is then 3.`,
		Example: `
# The images of all namespaces
kubectl vmbackup image list -A

# With checksums, sources and all else that a line can hold
kubectl vmbackup image list -A -o wide`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "List across all namespaces")
	flags.StringVar(&o.sortBy, "sort-by", "", "Sort by one of: ("+strings.Join(imageSortKeys(), ", ")+"). If empty, by name")
	o.addFlags(cmd, true)
	fixed(cmd, "sort-by", imageSortKeys()...)
	return cmd
}

func (o *imageListOptions) validate() error {
	if o.sortBy != "" && !slices.Contains(imageSortKeys(), o.sortBy) {
		return invalid("--sort-by %q is none of %s", o.sortBy, strings.Join(imageSortKeys(), ", "))
	}
	return o.check()
}

func (o *imageListOptions) execute(ctx context.Context) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	return o.list(ctx, s)
}

func (o *imageListOptions) list(ctx context.Context, s *session) error {
	namespace := s.namespace
	if o.allNamespaces {
		namespace = ""
	}
	images, warnings, err := s.images.List(ctx, namespace)
	if err != nil {
		return err
	}
	sortImages(images, o.sortBy)
	if err := render.Warnings(o.streams.ErrOut, warnings, o.errTerminal().Options(o.clock())); err != nil {
		return err
	}
	if err := o.show(images, namespace); err != nil {
		return err
	}
	if len(warnings) > 0 {
		return &exitError{exitPartly}
	}
	return nil
}

func (o *imageListOptions) show(images []vmbackup.Image, namespace string) error {
	if !o.human() {
		return o.print(o.streams.Out, images)
	}
	if len(images) == 0 {
		return render.NoneFound(o.streams.ErrOut, "images", namespace)
	}
	options := o.outTerminal().Options(o.clock())
	options.Wide, options.Namespaces = o.wide(), o.allNamespaces
	return render.Images(o.streams.Out, images, options)
}

// validateImages refuses the flags of list that say nothing of images.
func (o *listOptions) validateImages() error {
	for _, f := range []struct {
		flag string
		set  bool
	}{
		{"selector", o.options.Selector != ""},
		{"vm", o.options.VM != ""},
		{"limit", o.options.Limit != 0},
		{"watch", o.watch},
		{"from", o.options.Source != vmbackup.SourceCluster},
	} {
		if f.set {
			return invalid("--%s is not for images", f.flag)
		}
	}
	return o.asImages().validate()
}

// asImages is list images as image list.
func (o *listOptions) asImages() *imageListOptions {
	return &imageListOptions{globals: o.globals, output: o.output, allNamespaces: o.allNamespaces, sortBy: o.sortBy}
}

// listImages lists images.
func (o *listOptions) listImages(ctx context.Context, s *session) error {
	images := o.asImages()
	if err := images.check(); err != nil { // it makes the printer
		return err
	}
	return images.list(ctx, s)
}

// validDescribed refuses wrong arguments of describe.
func validDescribed(arg string, checks ...func() error) error {
	var err error
	switch {
	case strings.HasPrefix(arg, imagePrefix):
		_, err = parseImage(arg, "default")
	case strings.HasPrefix(arg, schedulePrefix):
		_, err = scheduleRef(arg, "default")
	default:
		return validOperation(arg, checks...)
	}
	if err != nil {
		return err
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// sortImages sorts a list that is sorted by namespace and name.
func sortImages(images []vmbackup.Image, by string) {
	slices.SortStableFunc(images, func(a, b vmbackup.Image) int {
		switch by {
		case "name":
			return cmp.Compare(a.Metadata.Name, b.Metadata.Name)
		case "age":
			return compareTimes(a.Status.CreatedAt, b.Status.CreatedAt)
		case "phase":
			return cmp.Compare(a.Status.Phase, b.Status.Phase)
		case "size":
			return cmp.Compare(a.Status.SizeBytes, b.Status.SizeBytes)
		}
		return 0
	})
}

func (g *globals) newImageDescribe() *cobra.Command {
	o := &describeOptions{globals: g, events: true}
	cmd := &cobra.Command{
		Use:   "describe IMAGE",
		Short: "Show all that is known of an image, as a tree",
		Long: `Show all that is known of an image: its backing image with each replica, sizes
and checksum, where it came from, its backup, and the volumes, claims, machines
and StorageClasses that use it.

IMAGE is the image's name, NAMESPACE/NAME, or the name of its backing image.`,
		Example: `
# An image of this namespace
kubectl vmbackup image describe ubuntu

# By the name of Longhorn's backing image
kubectl vmbackup image describe vmi-1c2f7a9e-0d2b-4f5e-9d1a-3a7e0c6b8f10`,
		Args:              named("the name of the image", cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := parseImage(args[0], "default"); err != nil {
				return usageError(cmd, err)
			}
			if err := o.check(); err != nil {
				return usageError(cmd, err)
			}
			s, err := o.connect("")
			if err != nil {
				return err
			}
			return o.describeImage(cmd.Context(), s, args[0])
		},
	}
	cmd.Flags().BoolVar(&o.events, "show-events", true, "Show the events of an image that is not imported")
	o.addFlags(cmd, false)
	return cmd
}

// describeImage shows one image.
func (o *describeOptions) describeImage(ctx context.Context, s *session, arg string) error {
	ref, err := parseImage(arg, s.namespace)
	if err != nil {
		return err
	}
	image, err := s.images.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !o.human() {
		return o.print(o.streams.Out, image)
	}
	phase := vmbackup.PhaseRunning
	if image.Status.Ready {
		phase = vmbackup.PhaseReady
	}
	names := []string{image.Metadata.Name, image.Status.BackingImage}
	return render.Image(o.streams.Out, image, o.eventsOf(ctx, s, phase, image.Metadata.Namespace, names), o.outTerminal().Options(o.clock()))
}

// completeImage completes the single name of an image.
func (g *globals) completeImage(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completing(cmd, nil, toComplete, func(ctx context.Context, s *session) (names []string) {
		images, _, err := s.images.List(ctx, s.namespace)
		if err != nil {
			return nil
		}
		for i := range images {
			names = append(names, images[i].Metadata.Name+"\t"+string(images[i].Status.Phase))
		}
		return names
	})
}

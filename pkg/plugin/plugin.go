// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plugin is the command line: cobra commands that make requests of flags,
// hand them to an engine, and print what comes back.
package plugin

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Build says which build of the program this is.
type Build struct {
	// Version is semantic, with a leading v.
	Version string
	Commit  string
}

// globals are the flags that every command has.
type globals struct {
	streams genericiooptions.IOStreams
	build   Build
	config  *genericclioptions.ConfigFlags
	clock   vmbackup.Clock

	engine   string
	colour   string
	progress string
}

const rootLong = `Back up and restore KubeVirt virtual machines whose disks lie on Longhorn.

A backup holds the data of every disk, through CSI snapshots and Longhorn backups
on S3 or NFS, and beside it everything else that makes the machine: its spec,
labels and annotations, secrets, config maps and cloud-init data. It is called Ready
only when every part was seen on the backup target.

Exit codes:
    0    done
    1    failed
    2    wrong usage
    3    done in part, or with warnings
    4    refused by a check; nothing was changed
    5    time-out; the work in the cluster goes on
    130  interrupted; the command that goes on is printed`

// NewCommand returns the command tree.
func NewCommand(streams genericiooptions.IOStreams, build Build) *cobra.Command {
	_, cmd := newRoot(streams, build)
	return cmd
}

func newRoot(streams genericiooptions.IOStreams, build Build) (*globals, *cobra.Command) {
	g := &globals{streams: streams, build: build, config: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag(), clock: time.Now}
	cmd := &cobra.Command{
		Use:           "kubectl-vmbackup",
		Short:         "Back up and restore KubeVirt virtual machines on Longhorn",
		Long:          rootLong,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl vmbackup"},
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		CompletionOptions: cobra.CompletionOptions{
			DisableDefaultCmd: true, // our own says how kubectl finds it
		},
	}
	cmd.SetIn(streams.In)
	cmd.SetOut(streams.Out)
	cmd.SetErr(streams.ErrOut)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, err) })

	flags := cmd.PersistentFlags()
	g.config.AddFlags(flags)
	flags.StringVar(&g.engine, "engine", "auto", "Who does the work: auto|direct")
	flags.StringVar(&g.colour, "color", string(render.ColourAuto), "Colour the output: auto|always|never; NO_COLOR is honoured")
	flags.StringVar(&g.progress, "progress", string(render.ProgressAuto), "How progress is shown on the error stream: auto|tty|plain|json|none")
	addVerbosity(flags)
	fixed(cmd, "engine", "auto", vmbackup.EngineDirect)
	fixed(cmd, "color", render.ColourModes()...)
	fixed(cmd, "progress", render.ProgressModes()...)
	must(cmd.RegisterFlagCompletionFunc("namespace", g.completeNamespaces))

	cmd.AddGroup(
		&cobra.Group{ID: "main", Title: "Backup and restore:"},
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "other", Title: "Other:"})
	cmd.SetHelpCommandGroupID("other")
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("main", g.newCreate(), g.newRestore(), g.newResume(), g.newDelete())
	add("look", g.newList(), g.newDescribe(), g.newWatch())
	add("other", g.newVersion(), g.newCompletion(), g.newOptions())
	return g, cmd
}

// addVerbosity adds klog's -v alone, as kubectl has it.
func addVerbosity(flags *pflag.FlagSet) {
	all := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(all)
	flags.AddGoFlag(all.Lookup("v"))
}

// Execute runs the command line and returns the exit code. Errors are printed.
func Execute(ctx context.Context, streams genericiooptions.IOStreams, build Build, args []string) int {
	g, cmd := newRoot(streams, build)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var silent *exitError
	if errors.As(err, &silent) {
		return silent.code
	}
	failure := vmbackup.AsError(err, vmbackup.ReasonInternal)
	// The terminal is asked anew: the error may be in the flag that says how to print it.
	terminal := g.errTerminal()
	if printErr := render.Error(streams.ErrOut, failure, terminal.Options(g.clock())); printErr != nil {
		return exitFailed
	}
	return exitCode(ctx, failure)
}

// errTerminal is the error stream.
func (g *globals) errTerminal() *render.Terminal {
	mode, err := render.ParseColourMode(g.colour)
	if err != nil {
		mode = render.ColourAuto
	}
	return render.NewTerminal(g.streams.ErrOut, mode, render.FactsOf(g.streams.ErrOut))
}

// outTerminal is the output stream.
func (g *globals) outTerminal() (*render.Terminal, error) {
	mode, err := render.ParseColourMode(g.colour)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return render.NewTerminal(g.streams.Out, mode, render.FactsOf(g.streams.Out)), nil
}

// newProgress is the progress that --progress asks for, on the error stream.
func (g *globals) newProgress() (render.Progress, error) {
	mode, err := render.ParseProgressMode(g.progress)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return render.NewProgress(mode, g.errTerminal(), g.clock)
}

// must is for mistakes in the commands' own definitions.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// fixed completes a flag with fixed values.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

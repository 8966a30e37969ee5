// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plugin is the command line: cobra commands that make requests of flags,
// hand them to an engine, and print what comes back.
package plugin

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/templates"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/router"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Build says which build of the program this is.
type Build struct {
	// Version is semantic, with a leading v.
	Version string
	Commit  string
}

// globals are what every command has: its surroundings, and the flags of all commands.
type globals struct {
	streams genericiooptions.IOStreams
	build   Build
	clock   vmbackup.Clock
	// facts looks at a stream that is written to, answers at one that is read:
	// whether somebody sits there who can answer.
	facts   func(io.Writer) render.Facts
	answers func(io.Reader) bool
	// connect makes the session of a command. Backups are looked for on the
	// backup target of that name; empty for the default one.
	connect func(targetName string) (*session, error)
	// connector makes connect of the surroundings in another cluster.
	connector func(other *globals) func(targetName string) (*session, error)

	config   *genericclioptions.ConfigFlags
	engine   string
	color    string
	progress string
}

const rootLong = `Back up and restore KubeVirt virtual machines whose disks lie on Longhorn.

A backup holds the data of every disk, through CSI snapshots and Longhorn
backups on S3 or NFS, and beside it everything else that makes the machine: its
spec, labels and annotations, secrets, config maps and cloud-init data. It is
called Ready only when every part was seen on the backup target.

Exit codes:
    0    done
    1    failed
    2    wrong usage
    3    done in part, or with warnings
    4    refused by a check; nothing was changed
    5    time-out; the work in the cluster goes on
    130  interrupted; the command that goes on is printed`

// newGlobals returns the surroundings of the process and of the kubeconfig.
func newGlobals(streams genericiooptions.IOStreams, build Build) *globals {
	g := &globals{
		streams: streams, build: build, clock: time.Now,
		facts: render.FactsOf, answers: isTerminal,
		config: genericclioptions.NewConfigFlags(true),
	}
	// Nothing that is cached on disk is used.
	g.config.CacheDir = nil
	g.connect = g.newSession
	g.connector = func(other *globals) func(string) (*session, error) { return other.newSession }
	return g
}

// isTerminal reports whether a reader is a terminal.
func isTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// NewCommand returns the command tree.
func NewCommand(streams genericiooptions.IOStreams, build Build) *cobra.Command {
	return newGlobals(streams, build).newRoot()
}

func (g *globals) newRoot() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "kubectl-vmbackup",
		Short:         "Back up and restore KubeVirt virtual machines on Longhorn",
		Long:          rootLong,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl vmbackup"},
		SilenceErrors: true,
		// How many letters may be wrong in a command for the right one to be suggested.
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		Args:                       knownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := g.validate(); err != nil {
				return usageError(cmd, err)
			}
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{
			DisableDefaultCmd: true, // our own says how kubectl finds it
		},
	}
	cmd.SetIn(g.streams.In)
	cmd.SetOut(g.streams.Out)
	cmd.SetErr(g.streams.ErrOut)
	cmd.SetFlagErrorFunc(usageError)

	flags := cmd.PersistentFlags()
	g.config.AddFlags(flags)
	flags.StringVar(&g.engine, "engine", router.Auto, "Who makes what is new: "+strings.Join(router.Choices(), "|")+". auto leaves it to Harvester's controllers where they can do it")
	flags.StringVar(&g.color, "color", string(render.ColourAuto), "Color the output: "+strings.Join(render.ColourModes(), "|")+". NO_COLOR is honored")
	flags.StringVar(&g.progress, "progress", string(render.ProgressAuto),
		"How progress is shown on the error stream: "+strings.Join(render.ProgressModes(), "|")+". json is one event a line")
	addVerbosity(flags)
	fixed(cmd, "engine", router.Choices()...)
	fixed(cmd, "color", render.ColourModes()...)
	fixed(cmd, "progress", render.ProgressModes()...)
	must(cmd.RegisterFlagCompletionFunc("namespace", g.completeNamespaces))

	groups := templates.CommandGroups{
		{Message: "Backup and Restore Commands:", Commands: []*cobra.Command{
			g.newCreate(), g.newRestore(), g.newResume(), g.newCancel(), g.newDelete(), g.newSchedule(),
		}},
		{Message: "Inspection Commands:", Commands: []*cobra.Command{
			g.newList(), g.newDescribe(), g.newWatch(),
		}},
		{Message: "Image Commands:", Commands: []*cobra.Command{
			g.newImage(),
		}},
		{Message: "Backup Target Commands:", Commands: []*cobra.Command{
			g.newTarget(),
		}},
		{Message: "Other Commands:", Commands: []*cobra.Command{
			g.newVersion(), g.newCompletion(), g.newPluginCompletion(),
		}},
	}
	groups.Add(cmd)
	cmd.AddCommand(g.newOptions())
	g.addHelp(cmd, groups)
	return cmd
}

// validate refuses wrong values of the flags of all commands before anything is done.
func (g *globals) validate() error {
	if !slices.Contains(router.Choices(), g.engine) {
		return invalid("--engine %q is none of %s", g.engine, strings.Join(router.Choices(), ", "))
	}
	if _, err := render.ParseColourMode(g.color); err != nil {
		return invalid("%v", err)
	}
	if _, err := render.ParseProgressMode(g.progress); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// addVerbosity adds klog's -v alone, as kubectl has it.
func addVerbosity(flags *pflag.FlagSet) {
	all := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(all)
	flags.AddGoFlag(all.Lookup("v"))
}

// Execute runs the command line and returns the exit code. Errors are printed.
func Execute(ctx context.Context, streams genericiooptions.IOStreams, build Build, args []string) int {
	return newGlobals(streams, build).execute(ctx, args)
}

func (g *globals) execute(ctx context.Context, args []string) int {
	cmd := g.newRoot()
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
	if printErr := render.Error(g.streams.ErrOut, failure, g.errTerminal().Options(g.clock())); printErr != nil {
		return exitFailed
	}
	return exitCode(ctx, failure)
}

// terminal is a stream to write to. A wrong --color is not its matter: it may be
// what the error to be written is about.
func (g *globals) terminal(w io.Writer) *render.Terminal {
	mode, err := render.ParseColourMode(g.color)
	if err != nil {
		mode = render.ColourAuto
	}
	return render.NewTerminal(w, mode, g.facts(w))
}

func (g *globals) errTerminal() *render.Terminal { return g.terminal(g.streams.ErrOut) }

func (g *globals) outTerminal() *render.Terminal { return g.terminal(g.streams.Out) }

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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/kubectl/pkg/util/templates"
	"k8s.io/kubectl/pkg/util/term"
)

// Widths of help: texts are written for the first, flags use up to the second.
const (
	helpWidth    = 80
	helpWidthMax = 120
)

// addHelp makes the help of the whole tree look as kubectl's does: the flags of
// all commands stand under "options" alone. kubectl's own templates call the
// program by its file name and ask the process for its terminal; its parts that
// do neither are used.
func (g *globals) addHelp(root *cobra.Command, groups templates.CommandGroups) {
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		_, err := io.WriteString(cmd.OutOrStderr(), g.usage(cmd, groups))
		return err
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		text := cmd.Long
		if text == "" {
			text = cmd.Short + "."
		}
		out := term.NewWordWrapWriter(cmd.OutOrStdout(), g.helpWidth())
		_, err := io.WriteString(out, strings.TrimSpace(text)+"\n\n"+g.usage(cmd, groups))
		if err != nil {
			cmd.PrintErrln(err)
		}
	})
}

// helpWidth is the width to write help for.
func (g *globals) helpWidth() uint {
	width := g.outTerminal().Width()
	if width <= 0 {
		return helpWidth
	}
	return uint(min(max(width, helpWidth/2), helpWidthMax))
}

// usage is the help of a command below its description.
func (g *globals) usage(cmd *cobra.Command, groups templates.CommandGroups) string {
	var sections []string
	section := func(title, body string) {
		lines := strings.Split(strings.TrimRight(body, "\n "), "\n")
		for i, line := range lines {
			lines[i] = strings.TrimRight(line, " ")
		}
		sections = append(sections, title+"\n"+strings.Join(lines, "\n"))
	}
	if len(cmd.Aliases) > 0 {
		section("Aliases:", "  "+cmd.NameAndAliases())
	}
	if cmd.HasExample() {
		section("Examples:", templates.Examples(cmd.Example))
	}
	if cmd.HasAvailableSubCommands() {
		if cmd.HasParent() {
			groups = templates.CommandGroups{{Message: "Available Commands:", Commands: cmd.Commands()}}
		}
		for _, group := range groups {
			section(group.Message, commandLines(group.Commands))
		}
	}
	if flags := ownFlags(cmd); flags.HasAvailableFlags() {
		section("Options:", g.flagUsages(flags))
	}
	if cmd.HasParent() && cmd.Runnable() {
		line := strings.TrimSuffix(cmd.UseLine(), " [flags]")
		section("Usage:", "  "+line+" [options]")
	}
	var tips []string
	root := cmd.Root().CommandPath()
	if cmd.HasAvailableSubCommands() {
		tips = append(tips, fmt.Sprintf("Use %q for more information about a given command.", cmd.CommandPath()+" <command> --help"))
	}
	tips = append(tips, fmt.Sprintf("Use %q for the flags that every command has.", root+" options"))
	sections = append(sections, strings.Join(tips, "\n"))
	return strings.Join(sections, "\n\n") + "\n"
}

func commandLines(commands []*cobra.Command) string {
	var lines strings.Builder
	for _, c := range commands {
		if c.IsAvailableCommand() && c.Name() != "help" {
			fmt.Fprintf(&lines, "  %-*s   %s\n", c.NamePadding(), c.Name(), c.Short)
		}
	}
	return lines.String()
}

// ownFlags are the flags of a command that not every command has.
func ownFlags(cmd *cobra.Command) *pflag.FlagSet {
	own := pflag.NewFlagSet(cmd.Name(), pflag.ContinueOnError)
	if cmd.HasParent() {
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" {
				own.AddFlag(f)
			}
		})
	}
	return own
}

// flagUsages describes flags as kubectl does.
func (g *globals) flagUsages(flags *pflag.FlagSet) string {
	var text strings.Builder
	printer := templates.NewHelpFlagPrinter(&text, g.helpWidth())
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			printer.PrintHelpFlag(f)
		}
	})
	return text.String()
}

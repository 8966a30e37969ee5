// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// commands are all commands that a user sees, by their path below the root.
func commands(r *rig) [][]string {
	out := &buffer{}
	var paths [][]string
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		paths = append(paths, path)
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				walk(sub, append(append([]string(nil), path...), sub.Name()))
			}
		}
	}
	walk(r.globals(out, out).newRoot(), nil)
	return paths
}

// TestHelp keeps the help of every command, and that it fits a terminal of 80 columns.
func TestHelp(t *testing.T) {
	r := newRig(t)
	for _, path := range commands(r) {
		name := strings.Join(append([]string{"help"}, path...), "-")
		t.Run(name, func(t *testing.T) {
			got := r.run(append(path, "--help")...)
			if got.code != exitDone || got.err != "" {
				t.Errorf("exit code %d: %s", got.code, got.err)
			}
			golden(t, name+".txt", got.out)
			for line := range strings.Lines(got.out) {
				line = strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "        ")
				if n := utf8.RuneCountInString(line); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
				if strings.TrimRight(line, " ") != line {
					t.Errorf("blanks at the end: %q", line)
				}
			}
			if again := r.run(append([]string{"help"}, path...)...); again.out != got.out {
				t.Errorf("help %q differs:\n%s", path, again.out)
			}
		})
	}
	golden(t, "options.txt", r.run("options").out)
}

// TestEveryCommandIsExplained holds new commands to what the others have.
func TestEveryCommandIsExplained(t *testing.T) {
	r := newRig(t)
	root := r.globals(&buffer{}, &buffer{}).newRoot()
	for _, path := range commands(r) {
		cmd, _, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		if cmd == root || cmd.Name() == "options" {
			continue
		}
		if cmd.Long == "" || !strings.Contains(cmd.Example, "kubectl vmbackup "+strings.Join(path, " ")) {
			t.Errorf("%s lacks a description or an example", cmd.CommandPath())
		}
	}
}

func TestNoGlobalFlagsInHelp(t *testing.T) {
	r := newRig(t)
	for _, path := range commands(r) {
		if help := r.run(append(path, "--help")...).out; strings.Contains(help, "--kubeconfig") || strings.Contains(help, "--help=") {
			t.Errorf("%q shows flags of every command", path)
		}
	}
	options := r.run("options").out
	for _, want := range []string{"--kubeconfig=", "--context=", "-n, --namespace=", "--as=", "--engine='auto'", "--color='auto'", "--progress='auto'", "-v, --v="} {
		if !strings.Contains(options, want) {
			t.Errorf("options lack %s", want)
		}
	}
	for _, unwanted := range []string{"cache-dir", "password", "username"} {
		if strings.Contains(options, unwanted) {
			t.Errorf("options have %s", unwanted)
		}
	}
}

func TestHelpFollowsTheTerminal(t *testing.T) {
	r := newRig(t)
	piped := r.run("create", "--help").out
	r.tty, r.width = true, 80
	if got := r.run("create", "--help").out; got != piped {
		t.Errorf("on a terminal of 80 columns:\n%s", got)
	}
	r.width = 300
	longest := 0
	for line := range strings.Lines(r.run("create", "--help").out) {
		longest = max(longest, utf8.RuneCountInString(line))
	}
	if longest <= 80 || longest > 121 {
		t.Errorf("%d columns on a wide terminal", longest)
	}
}

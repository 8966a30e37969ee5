// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// completerName is the program that kubectl runs to complete the plugin's arguments.
const completerName = "kubectl_complete-vmbackup"

// completer is its content.
const completer = `#!/bin/sh
# kubectl runs this to complete the arguments of "kubectl vmbackup".
exec kubectl-vmbackup __complete "$@"
`

func (g *globals) newPluginCompletion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugin-completion",
		Short: "Have kubectl complete the arguments of the plugin",
		Long: `Have kubectl complete the arguments of the plugin.

Where kubectl's own completion is set up, it completes the arguments of a plugin
by running a program beside it, which package managers of plugins do not
install.`,
		Example: `
# Install it beside the plugin
kubectl vmbackup plugin-completion install`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(g.newPluginCompletionInstall())
	return cmd
}

func (g *globals) newPluginCompletionInstall() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install " + completerName,
		Long: `Install kubectl_complete-vmbackup, the program that kubectl runs to complete the
arguments of 'kubectl vmbackup'.

It is a shell script of two lines that calls the plugin. Another file of that
name is not overwritten.`,
		Example: `
# Install it into the folder of the PATH where the plugin is found
kubectl vmbackup plugin-completion install

# Install it somewhere else
kubectl vmbackup plugin-completion install --dir ~/bin`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return g.installCompleter(dir) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "Folder to install into, which should be on the PATH. If empty, where kubectl-vmbackup is found")
	must(cmd.MarkFlagDirname("dir"))
	return cmd
}

func (g *globals) installCompleter(dir string) error {
	if runtime.GOOS == "windows" {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "the program is a shell script, and this is Windows; nothing was installed").AsPreflight().
			WithHint("use 'kubectl vmbackup completion powershell'")
	}
	if dir == "" {
		plugin, err := exec.LookPath("kubectl-vmbackup")
		if err != nil {
			return vmbackup.Errorf(vmbackup.ReasonNotFound, "kubectl-vmbackup is not on the PATH: %w", err).AsPreflight().
				WithHint("name a folder with --dir")
		}
		dir = filepath.Dir(plugin)
	}
	path := filepath.Join(dir, completerName)
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("look for an installed one: %w", err)
	case string(have) != completer:
		return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "%s is another program; it was left as it is", path).AsPreflight().
			WithHint("remove it, or name another folder with --dir")
	}
	// A file of its own, renamed: kubectl never runs half of it.
	file, err := os.CreateTemp(dir, "."+completerName+"-*")
	if err != nil {
		return fmt.Errorf("install %s: %w", path, err)
	}
	_, err = file.WriteString(completer)
	err = errors.Join(err, file.Chmod(0o755), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("install %s: %w", path, err), os.Remove(file.Name()))
	}
	_, err = fmt.Fprintf(g.streams.Out, "%s installed\n", path)
	return err
}

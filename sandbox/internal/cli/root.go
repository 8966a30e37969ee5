// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line of the sandbox.
package cli

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/instance"
)

// app is what all commands share.
type app struct {
	in   io.Reader
	out  io.Writer // results, for scripts
	err  io.Writer // progress, for people
	name string
}

// New is the root command.
func New(in io.Reader, out, errOut io.Writer) *cobra.Command {
	a := &app{in: in, out: out, err: errOut}
	root := &cobra.Command{
		Use:           "sandbox",
		Short:         "A real control plane with Longhorn and KubeVirt as plain processes",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	root.PersistentFlags().StringVar(&a.name, "name", "default", "the instance")
	root.AddCommand(
		a.buildCommand(), a.upCommand(), a.downCommand(), a.statusCommand(), a.kubeconfigCommand(),
		a.execCommand(), a.logsCommand(), a.componentCommand(), a.seedCommand(), a.diskCommand(), a.guestCommand(), a.bucketCommand(),
		a.monitorCommand(), a.initCommand(), a.superviseCommand(), a.standinCommand(),
	)
	return root
}

// repository is the checkout that holds sandbox/modules: it is looked for from
// the working directory and from the program upwards.
func repository() (string, error) {
	var starts []string
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		for {
			if _, err := os.Stat(filepath.Join(dir, "sandbox", "modules", build.ControlPlane, "go.mod")); err == nil {
				return dir, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", errors.New("run the sandbox inside a checkout of kubectl-vmbackup: sandbox/modules is not found")
}

// home holds the instances: $SANDBOX_HOME, or .sandbox in the checkout.
func home() (string, error) {
	if dir := os.Getenv("SANDBOX_HOME"); dir != "" {
		return filepath.Abs(dir)
	}
	repo, err := repository()
	if err != nil {
		return "", err
	}
	return filepath.Join(repo, ".sandbox"), nil
}

// builder makes what instances of a profile need.
func (a *app) builder(profile string) (*build.Builder, error) {
	if err := component.CheckProfile(profile); err != nil {
		return nil, err
	}
	repo, err := repository()
	if err != nil {
		return nil, err
	}
	cache, err := build.DefaultCache()
	if err != nil {
		return nil, err
	}
	return &build.Builder{
		Modules:  filepath.Join(repo, "sandbox", "modules"),
		Families: build.FamiliesOf(profile),
		Cache:    cache,
		Out:      a.err,
	}, nil
}

// instance is the one that --name means.
func (a *app) instance() (*instance.Instance, error) {
	return a.named(a.name)
}

func (a *app) named(name string) (*instance.Instance, error) {
	dir, err := home()
	if err != nil {
		return nil, err
	}
	return instance.At(dir, name)
}

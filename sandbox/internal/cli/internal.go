// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/instance"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/importer"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/virthandler"
)

// dirCommand is a hidden command that works on a state directory: the
// processes of an instance are this program too.
func dirCommand(use, short string, run func(ctx context.Context, dir string) error) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    use,
		Short:  short,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), dir) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the state directory")
	return cmd
}

func (a *app) monitorCommand() *cobra.Command {
	return dirCommand("monitor", "Hold an instance (started by up)", instance.Monitor)
}

func (a *app) initCommand() *cobra.Command {
	return dirCommand("init", "Process 1 of an instance (started by monitor)", func(_ context.Context, dir string) error {
		return instance.Init(dir)
	})
}

func (a *app) superviseCommand() *cobra.Command {
	return dirCommand("supervise", "Run the components of an instance (started by init)", instance.Supervise)
}

// standinCommand holds the stand-ins, each a process of its own with its own log.
func (a *app) standinCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "standin", Short: "Stand-ins (started by supervise)", Hidden: true}
	add := func(use, short string, run func(context.Context, *component.Env) error) {
		cmd.AddCommand(dirCommand(use, short, func(ctx context.Context, dir string) error {
			env, err := (&instance.Instance{Name: filepath.Base(dir), Dir: dir}).Env()
			if err != nil {
				return err
			}
			return run(ctx, env)
		}))
	}
	add("kubelet", "Node and pods", standin.RunKubelet)
	add("frontend", "Volumes without a block device", standin.RunFrontend)
	add("virthandler", "VMs and their guests", virthandler.Run)
	add("importer", "DataVolumes", importer.Run)
	cmd.AddCommand(&cobra.Command{
		Use:   "idle",
		Short: "Be there under a name that others look for",
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		},
	})
	return cmd
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// completionDeadline is how long a shell waits for names before it goes without.
const completionDeadline = 3 * time.Second

const completionLong = `Print the completion script of a shell for the program under its own name,
kubectl-vmbackup.

For 'kubectl vmbackup' no script is needed: kubectl completes the arguments of a
plugin itself, once 'kubectl vmbackup plugin-completion install' was run.`

func (g *globals) newCompletion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion (bash | zsh | fish | powershell)",
		Short: "Print the completion script of a shell",
		Long:  completionLong,
		Example: `
# Complete kubectl-vmbackup in this bash
source <(kubectl vmbackup completion bash)`,
		Args:      named("the shell (bash, zsh, fish or powershell)", cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), g.streams.Out
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return root.GenPowerShellCompletionWithDesc(out)
		},
	}
}

// completing asks the cluster for names, each with a tab and a description if it
// has one; what cannot be had, or is given already, is not completed.
func (g *globals) completing(cmd *cobra.Command, given []string, toComplete string, ask func(ctx context.Context, s *session) []string) ([]string, cobra.ShellCompDirective) {
	s, err := g.connect("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionDeadline)
	defer cancel()
	var fitting []string
	for _, line := range ask(ctx, s) {
		name, _, _ := strings.Cut(line, "\t")
		if strings.HasPrefix(name, toComplete) && !slices.Contains(given, name) {
			fitting = append(fitting, line)
		}
	}
	return fitting, cobra.ShellCompDirectiveNoFileComp
}

func (g *globals) completeMachines(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, given, toComplete, func(ctx context.Context, s *session) []string {
		names, err := s.cluster.machines(ctx, s.namespace, "")
		if err != nil {
			return nil
		}
		return names
	})
}

// completeMachine completes a single name.
func (g *globals) completeMachine(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completeMachines(cmd, given, toComplete)
}

func (g *globals) completeNamespaces(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, nil, toComplete, func(ctx context.Context, s *session) []string {
		names, err := s.cluster.namespaces(ctx)
		if err != nil {
			return nil
		}
		return names
	})
}

// completeDeletable completes backups, and restores that have ended.
func (g *globals) completeDeletable(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.HasPrefix(toComplete, "restore") {
		return g.completeOperation(cmd, nil, toComplete)
	}
	return g.completeBackups(cmd, given, toComplete)
}

func (g *globals) completeBackups(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, given, toComplete, backupNames)
}

// completeBackup completes a single name.
func (g *globals) completeBackup(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completeBackups(cmd, given, toComplete)
}

// completeOperation completes the single name of a backup or a restore.
func (g *globals) completeOperation(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completing(cmd, nil, toComplete, func(ctx context.Context, s *session) []string {
		names := backupNames(ctx, s)
		restores, _, err := s.catalog.Restores(ctx, vmbackup.ListOptions{Namespace: s.namespace, Source: vmbackup.SourceCluster})
		if err != nil {
			return names
		}
		for i := range restores {
			r := &restores[i]
			names = append(names, fmt.Sprintf("%s%s\t%s, %s", restorePrefix, r.Metadata.Name, r.Spec.TargetName, r.Status.Phase))
		}
		return names
	})
}

// completeRunning completes the single name of a backup or a restore that has not ended.
func (g *globals) completeRunning(cmd *cobra.Command, given []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	lines, directive := g.completeOperation(cmd, given, toComplete)
	ended := func(line string) bool {
		_, description, _ := strings.Cut(line, "\t")
		_, phase, _ := strings.Cut(description, ", ")
		return vmbackup.Phase(phase).Done()
	}
	return slices.DeleteFunc(lines, ended), directive
}

// backupNames are the backups of the namespace, each with what it is of.
func backupNames(ctx context.Context, s *session) (names []string) {
	backups, _, err := s.catalog.Backups(ctx, vmbackup.ListOptions{Namespace: s.namespace, Source: vmbackup.SourceCluster})
	if err != nil {
		return nil
	}
	for i := range backups {
		b := &backups[i]
		names = append(names, fmt.Sprintf("%s\t%s, %s", b.Metadata.Name, b.Spec.VM, b.Status.Phase))
	}
	return names
}

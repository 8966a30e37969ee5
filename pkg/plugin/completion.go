// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// completionDeadline is how long a shell waits for names before it goes without.
const completionDeadline = 3 * time.Second

const completionLong = `Print the completion script of a shell.

kubectl completes the arguments of a plugin by running a program of the name
kubectl_complete-vmbackup, which must be on the PATH and executable:

    cat > kubectl_complete-vmbackup <<'EOF'
    #!/bin/sh
    exec kubectl-vmbackup __complete "$@"
    EOF
    chmod +x kubectl_complete-vmbackup && mv kubectl_complete-vmbackup /usr/local/bin/

The scripts of this command complete the program under its own name, kubectl-vmbackup.`

func (g *globals) newCompletion() *cobra.Command {
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|powershell",
		Short:     "Print the completion script of a shell",
		Long:      completionLong,
		Args:      usageArgs(cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs)),
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

// completing asks the cluster for names; what cannot be had is not completed.
func (g *globals) completing(cmd *cobra.Command, toComplete string, ask func(ctx context.Context, s *session) []string) ([]string, cobra.ShellCompDirective) {
	s, err := g.newSession("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionDeadline)
	defer cancel()
	var fitting []string
	for _, name := range ask(ctx, s) {
		if strings.HasPrefix(name, toComplete) {
			fitting = append(fitting, name)
		}
	}
	return fitting, cobra.ShellCompDirectiveNoFileComp
}

func (g *globals) completeMachines(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, toComplete, func(ctx context.Context, s *session) (names []string) {
		list, err := s.clients.KubeVirt.KubevirtV1().VirtualMachines(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil
		}
		for _, vm := range list.Items {
			names = append(names, vm.Name)
		}
		return names
	})
}

func (g *globals) completeNamespaces(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, toComplete, func(ctx context.Context, s *session) (names []string) {
		list, err := s.clients.Core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil
		}
		for _, ns := range list.Items {
			names = append(names, ns.Name)
		}
		return names
	})
}

func (g *globals) completeBackups(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return g.completing(cmd, toComplete, func(ctx context.Context, s *session) []string { return backupNames(ctx, s) })
}

func (g *globals) completeOperations(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return g.completing(cmd, toComplete, func(ctx context.Context, s *session) []string {
		names := backupNames(ctx, s)
		restores, err := s.catalog.Restores(ctx, vmbackup.ListOptions{Namespace: s.namespace, Source: vmbackup.SourceCluster})
		if err != nil {
			return names
		}
		for _, r := range restores {
			names = append(names, restorePrefix+r.Metadata.Name)
		}
		return names
	})
}

// backupNames are the backups of the namespace, each with what it is of.
func backupNames(ctx context.Context, s *session) (names []string) {
	backups, _, err := s.catalog.Backups(ctx, vmbackup.ListOptions{Namespace: s.namespace, Source: vmbackup.SourceCluster})
	if err != nil {
		return nil
	}
	for _, b := range backups {
		names = append(names, fmt.Sprintf("%s\t%s, %s", b.Metadata.Name, b.Spec.VM, b.Status.Phase))
	}
	return names
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import "github.com/spf13/cobra"

func (a *app) seedCommand() *cobra.Command { return &cobra.Command{Use: "seed"} }
func (a *app) diskCommand() *cobra.Command { return &cobra.Command{Use: "disk"} }

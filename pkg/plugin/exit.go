// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// The exit codes; they are part of the command line's contract.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitPartly      = 3
	exitRefused     = 4
	exitTimeout     = 5
	exitInterrupted = 130
)

// exitError ends the program with a code when everything has been told already.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// exitCode maps an error to the exit code.
func exitCode(ctx context.Context, err *vmbackup.Error) int {
	switch {
	case err == nil:
		return exitDone
	case err.Reason == vmbackup.ReasonTimeout:
		return exitTimeout
	case err.Reason == vmbackup.ReasonCanceled && ctx.Err() != nil:
		return exitInterrupted
	case err.Preflight && err.Reason == vmbackup.ReasonInvalidRequest:
		return exitUsage
	case err.Preflight:
		return exitRefused
	}
	return exitFailed
}

// invalid is a usage error.
func invalid(format string, args ...any) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "%s", fmt.Sprintf(format, args...)).AsPreflight()
}

// usageError points at the command's help.
func usageError(cmd *cobra.Command, err error) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "%w", err).AsPreflight().
		WithHint("see '%s --help'", cmd.CommandPath())
}

// usageArgs makes a check of arguments return usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(cmd, err)
		}
		return nil
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
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

// outcome turns what became of several operations, nil for each that is done, into
// one exit code. The error of a single one is returned; of several each is printed.
func (g *globals) outcome(ctx context.Context, outcomes []error, warned bool) error {
	var failed []*vmbackup.Error
	for _, err := range outcomes {
		if err != nil {
			failed = append(failed, vmbackup.AsError(err, vmbackup.ReasonInternal))
		}
	}
	switch {
	case len(failed) == 0 && warned:
		return &exitError{exitPartly}
	case len(failed) == 0:
		return nil
	case len(outcomes) == 1:
		return failed[0]
	}
	options := g.errTerminal().Options(g.clock())
	codes := map[int]bool{}
	for _, failure := range failed {
		if err := render.Error(g.streams.ErrOut, failure, options); err != nil {
			return errors.Join(outcomes...)
		}
		codes[exitCode(ctx, failure)] = true
	}
	return &exitError{codeOf(codes, len(failed) < len(outcomes))}
}

// codeOf is the exit code of several operations of which some are done, or none.
func codeOf(codes map[int]bool, someDone bool) int {
	switch {
	case codes[exitInterrupted]:
		return exitInterrupted
	case len(codes) == 1 && codes[exitTimeout]:
		return exitTimeout
	case someDone:
		return exitPartly
	case len(codes) == 1:
		for code := range codes {
			return code
		}
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

// named wants arguments, as many as check says, and says which when there is none.
func named(what string, check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError(cmd, invalid("%s is missing", what))
		}
		return usageArgs(check)(cmd, args)
	}
}

// knownCommand refuses what is no command, and says what may have been meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "unknown command %q for %q", args[0], cmd.CommandPath()).AsPreflight()
	if meant := cmd.SuggestionsFor(args[0]); len(meant) > 0 {
		return err.WithHint("did you mean %s?", strings.Join(meant, " or "))
	}
	return err.WithHint("see '%s --help'", cmd.CommandPath())
}

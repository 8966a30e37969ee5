// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubectl-vmbackup is the kubectl plugin "kubectl vmbackup".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin"
)

// Set by the linker.
var (
	version = "v0.0.0-dev"
	commit  = "unknown"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the command in good order, the second one at once.
	context.AfterFunc(ctx, stop)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	code := plugin.Execute(ctx, streams, plugin.Build{Version: version, Commit: commit}, os.Args[1:])
	stop()
	os.Exit(code)
}

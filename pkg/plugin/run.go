// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"time"

	"github.com/spf13/pflag"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// runFlags are the flags of every command that runs an operation.
type runFlags struct {
	wait    bool
	timeout time.Duration
}

func (f *runFlags) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.wait, "wait", true, "Wait until everything is done; false returns when the rest goes on by itself")
	flags.DurationVar(&f.timeout, "timeout", 0, "Stop waiting after this time, with exit code 5; 0 waits as long as it takes")
}

func (f *runFlags) validate() error {
	if f.timeout < 0 {
		return invalid("--timeout %s is negative", f.timeout)
	}
	return nil
}

// context adds the time-out.
func (f *runFlags) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout > 0 {
		return context.WithTimeout(ctx, f.timeout)
	}
	return context.WithCancel(ctx)
}

// explain adds the command that goes on to an error which ended only the waiting.
// started is true when the operation had begun.
func (f *runFlags) explain(ctx context.Context, err error, kind string, ref vmbackup.Ref, started bool) error {
	failure := vmbackup.AsError(err, vmbackup.ReasonInternal)
	if !started || ctx.Err() == nil {
		return failure
	}
	name := ref.Name
	if kind != "backup" {
		name = kind + "/" + name
	}
	const next = "go on with: kubectl vmbackup resume %s -n %s"
	if ctx.Err() == context.DeadlineExceeded {
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "%s %s was not done in %s; nothing is lost, and what Longhorn does goes on", kind, ref, f.timeout).WithHint(next, name, ref.Namespace)
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; %s %s is not done, nothing is lost, and what Longhorn does goes on", kind, ref).WithHint(next, name, ref.Namespace)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// runFlags are the flags of every command that runs an operation.
type runFlags struct {
	wait    bool
	timeout time.Duration
}

func (f *runFlags) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.wait, "wait", true, "Wait until everything is done. If false, return as soon as the rest goes on by itself; 'resume' then takes it to its end")
	f.addTimeout(flags)
}

func (f *runFlags) addTimeout(flags *pflag.FlagSet) {
	flags.DurationVar(&f.timeout, "timeout", 0, "Stop waiting after this time, with exit code 5. Zero means as long as it takes")
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

// dryRun is the flag --dry-run.
type dryRun string

// dryRuns are the values of --dry-run, as kubectl has them.
func dryRuns() []string { return []string{"none", "client", "server"} }

func (d *dryRun) addFlag(cmd *cobra.Command, shows string) {
	cmd.Flags().StringVar((*string)(d), "dry-run", "none",
		"Must be none, client or server. If client or server, "+shows+" and change nothing")
	cmd.Flags().Lookup("dry-run").NoOptDefVal = "client"
	fixed(cmd, "dry-run", dryRuns()...)
}

func (d dryRun) validate() error {
	if !slices.Contains(dryRuns(), string(d)) {
		return invalid("--dry-run %q is none of %s", string(d), strings.Join(dryRuns(), ", "))
	}
	return nil
}

// on reports whether nothing may be changed.
func (d dryRun) on() bool { return d != "none" }

// operation is a backup or a restore by its name.
type operation struct {
	restore bool
	ref     vmbackup.Ref
}

func (o operation) kind() string {
	if o.restore {
		return "restore"
	}
	return "backup"
}

// String is its name in sentences: backup shop/web-1.
func (o operation) String() string { return o.kind() + " " + o.ref.String() }

// id is its name in events: backup/shop/web-1.
func (o operation) id() string { return o.kind() + "/" + o.ref.String() }

// restorePrefix marks a restore where a backup or a restore may be named.
const restorePrefix = "restore/"

// parseOperation reads BACKUP or restore/NAME.
func parseOperation(arg, namespace string) (operation, error) {
	name, restore := strings.CutPrefix(arg, restorePrefix)
	if !restore {
		name = strings.TrimPrefix(arg, "backup/")
	}
	ref, err := vmbackup.ParseRef(name, namespace)
	return operation{restore: restore, ref: ref}, err
}

// command is the command line that does something with an operation from anywhere:
// the same cluster is named, and nothing that is secret.
func (g *globals) command(verb string, op operation) string {
	name := op.ref.Name
	if op.restore {
		name = restorePrefix + name
	}
	words := []string{"kubectl", "vmbackup", verb, name, "-n", op.ref.Namespace}
	if v := g.config.Context; v != nil && *v != "" {
		words = append(words, "--context", *v)
	}
	if v := g.config.KubeConfig; v != nil && *v != "" {
		words = append(words, "--kubeconfig", *v)
	}
	for i, w := range words {
		words[i] = shellWord(w)
	}
	return strings.Join(words, " ")
}

// shellWord quotes what a shell would not take as it is.
func shellWord(s string) string {
	special := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+=,", r)
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// stopped explains an error by which a begun operation ended before its end: when
// only the waiting ended, what is safe, and the command that goes on.
func (g *globals) stopped(ctx context.Context, err error, op operation, verb string, after time.Duration) error {
	const safe = "nothing is lost, and what Longhorn does goes on"
	switch {
	case ctx.Err() == nil:
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "%s was not done in %s; %s", op, after, safe).
			WithHint("go on with: %s", g.command(verb, op))
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; %s is not done, %s", op, safe).
		WithHint("go on with: %s", g.command(verb, op))
}

// unbegun explains an error by which nothing was begun at all.
func unbegun(ctx context.Context, err error, after time.Duration) error {
	switch {
	case ctx.Err() == nil:
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "the checks were not done in %s; nothing was changed", after).AsPreflight().
			WithHint("run the same command again with a longer --timeout")
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; nothing was changed").AsPreflight()
}

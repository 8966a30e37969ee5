// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"slices"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// reach turns what a target has refused during a run into TargetUnavailable: the
// run's work is not undone by it, and the same command goes on once the target
// takes it. Forbidden is of the target's credentials here, which can be mended.
func (r *backupRun) reach(err error) error {
	switch vmbackup.ReasonOf(err) {
	case vmbackup.ReasonForbidden, vmbackup.ReasonTargetUnavailable:
		e := vmbackup.AsError(err, vmbackup.ReasonTargetUnavailable)
		hint := strings.TrimSuffix(e.Hint, ".")
		if hint != "" {
			hint += "; then "
		}
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%w; the snapshots and what is uploaded are kept", e).WithHint("%s%s", hint, r.goOn)
	}
	return err
}

// lookAtTarget asks Longhorn and the target itself whether the target can be used now,
// and whether anything is on it.
func (e *Engine) lookAtTarget(ctx context.Context, name string) (store target.Store, empty bool, err error) {
	if store, err = e.openTarget(ctx, name); err != nil {
		return nil, false, err
	}
	empty, err = target.Empty(ctx, store)
	return store, empty, err
}

// targetNow is why the target cannot be used now; nil when it can.
func (r *backupRun) targetNow(ctx context.Context) error {
	_, _, err := r.engine.lookAtTarget(ctx, r.backup().Spec.Target)
	return err
}

// saysTarget reports whether a failure that Longhorn tells is the target's: its
// words are those of the clients of S3, NFS and others for a server that is away.
// They widen what is tried again from the same snapshots, and decide nothing else.
func saysTarget(message string) bool {
	return saysAway(message) || says(message, "no space left", "insufficientstorage", "storagefull", "quotaexceeded")
}

// saysAway reports whether a failure is that of a target that could not be used. That of
// one that is full is none: in a restore it is the room on Longhorn's own disks.
func saysAway(message string) bool {
	return says(message,
		"connection refused", "connection reset", "no such host", "no route to host", "i/o timeout", "send request failed", "request send failed", "requesterror", "aws http error",
		"nosuchbucket", "slowdown", "serviceunavailable", "internalerror", "accessdenied", "signaturedoesnotmatch", "invalidaccesskeyid", "backup target", "stale file handle")
}

func says(message string, words ...string) bool {
	message = strings.ToLower(message)
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(message, w) })
}

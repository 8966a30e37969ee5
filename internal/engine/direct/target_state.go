// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
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

// targetNow asks Longhorn and the target itself whether the target can be used now.
func (r *backupRun) targetNow(ctx context.Context) error {
	store, err := r.engine.openTarget(ctx, r.backup().Spec.Target)
	if err != nil {
		return err
	}
	_, err = target.Empty(ctx, store)
	return err
}

// saysTarget reports whether a failure that Longhorn tells is the target's: its
// words are those of the clients of S3, NFS and others for a server that is away.
// They widen what is tried again from the same snapshots, and decide nothing else.
func saysTarget(message string) bool {
	message = strings.ToLower(message)
	for _, words := range []string{
		"connection refused", "connection reset", "no such host", "no route to host", "i/o timeout", "send request failed", "request send failed", "requesterror", "aws http error",
		"nosuchbucket", "slowdown", "serviceunavailable", "internalerror", "accessdenied", "signaturedoesnotmatch", "invalidaccesskeyid", "backup target", "stale file handle",
		"no space left", "insufficientstorage", "storagefull", "quotaexceeded",
	} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

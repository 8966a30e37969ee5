// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestCancel(t *testing.T) {
	for _, tt := range []struct {
		arg, call, out string
	}{
		{"web-1", "run cancel backup shop/web-1", "backup.vmbackup.io/web-1 canceled\n"},
		{"test/web-1", "run cancel backup test/web-1", "backup.vmbackup.io/web-1 canceled\n"},
		{"restore/web-9", "run cancel restore shop/web-9", "restore.vmbackup.io/web-9 canceled\n"},
	} {
		t.Run(tt.arg, func(t *testing.T) {
			r := newRig(t)
			got := r.run("cancel", tt.arg, "--progress=none")
			got.want(t, exitDone, tt.out, "")
			if want := []string{tt.call}; !slices.Equal(r.engine.changes(), want) {
				t.Errorf("calls %q, want %q", r.engine.changes(), want)
			}
		})
	}
	r := newRig(t)
	r.run("cancel", "web-1", "-o", "jsonpath={.kind} {.status.phase}", "--progress=none").want(t, exitDone, "Backup Canceled", "")
}

func TestCancelThatIsRefused(t *testing.T) {
	r := newRig(t)
	r.engine.errs["run cancel backup shop/web-1"] = failure("Conflict", "backup shop/web-1 has ended as Ready: there is nothing to cancel").AsPreflight()
	r.run("cancel", "web-1", "--progress=none").want(t, exitRefused, "", "error: backup shop/web-1 has ended as Ready: there is nothing to cancel\n")
	r.engine.errs["run cancel restore shop/web-9"] = failure("NotFound", "no record of restore shop/web-9 in the cluster").AsPreflight()
	r.run("cancel", "restore/web-9", "--progress=none").want(t, exitRefused, "", "error: no record of restore shop/web-9 in the cluster\n")
	r.run("cancel", "a/b/c").contains(t, exitUsage, "neither NAME nor NAMESPACE/NAME")
	r.run("cancel").contains(t, exitUsage, "the name of what to cancel is missing")
	r.run("cancel", "web-1", "web-2").contains(t, exitUsage, "accepts 1 arg")
}

func TestInterruptedCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.during = untilEnded
		r.runIn(soon(t), "cancel", "restore/web-9", "--progress=none").contains(t, exitInterrupted, "go on with: kubectl vmbackup cancel restore/web-9 -n shop")
	})
}

func TestDeleteOfRestores(t *testing.T) {
	r := newRig(t)
	r.run("delete", "restore/web-9", "restore/web-8").want(t, exitDone,
		"restore.vmbackup.io/web-9 deleted\nrestore.vmbackup.io/web-8 deleted\n", "The record of restore/web-9\nThe record of restore/web-8\n")
	r = newRig(t)
	r.run("delete", "restore/web-9", "--dry-run").contains(t, exitDone, "The record of restore/web-9 (dry run: nothing was changed)")
	if len(r.engine.changes()) > 0 {
		t.Errorf("a dry run calls %q", r.engine.changes())
	}
	r.engine.errs["delete restore shop/web-9"] = failure("Conflict", "restore shop/web-9 has not ended; its record is needed").AsPreflight()
	r.run("delete", "restore/web-9", "web-1", "-y", "--progress=none").contains(t, exitRefused, "has not ended")
	if slices.Contains(r.engine.changes(), "run delete shop/web-1") {
		t.Errorf("calls %q", r.engine.changes())
	}
}

// Only what has not ended is offered for cancellation.
func TestCompletionOfCancel(t *testing.T) {
	r := newRig(t)
	running := backup("shop/web-2", "web", 1)
	running.Status.Phase = vmbackup.PhaseRunning
	r.put(backup("shop/web-1", "web", 2), running, restore("shop/web-8", "web", vmbackup.PhaseReady), restore("shop/web-9", "web", vmbackup.PhaseRunning))
	got := r.run("__complete", "cancel", "").out
	for name, offered := range map[string]bool{"web-1\t": false, "web-2\t": true, "restore/web-8\t": false, "restore/web-9\t": true} {
		if strings.Contains(got, name) != offered {
			t.Errorf("%q offered: %t\n%s", name, !offered, got)
		}
	}
	if got := r.run("__complete", "delete", "restore/").out; !strings.Contains(got, "restore/web-8\t") {
		t.Error(got)
	}
}

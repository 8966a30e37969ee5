// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestDeleteAsks(t *testing.T) {
	tests := []struct {
		name, answer string
		tty          bool
		code         int
		told         string
	}{
		{"yes", "y\n", true, exitDone, "Delete this backup for good? [y/N] "},
		{"in full", " YES \n", true, exitDone, "[y/N] "},
		{"without a line end", "y", true, exitDone, "[y/N] "},
		{"no", "n\n", true, exitRefused, "error: not confirmed; nothing was deleted\n"},
		{"enter", "\n", true, exitRefused, "error: not confirmed; nothing was deleted\n"},
		{"end of input", "", true, exitRefused, "error: not confirmed; nothing was deleted\n"},
		{"something else", "yesterday\n", true, exitRefused, "error: not confirmed; nothing was deleted\n"},
		{
			"no terminal", "y\n", false, exitUsage,
			"error: deleting this backup has to be confirmed, and there is no terminal to ask on; nothing was deleted\nhint: confirm with --yes\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.tty, r.answer, r.env["NO_COLOR"] = tt.tty, strings.NewReader(tt.answer), "1"
			r.width = 200
			got := r.run("delete", "web-1", "--progress=none")
			got.contains(t, tt.code, "harvester/vmbackups/shop/web-1.cfg", "3 MiB", tt.told)
			var want []string
			if tt.code == exitDone {
				want = []string{"run delete shop/web-1"}
			}
			if changes := r.engine.changes(); !slices.Equal(changes, want) {
				t.Errorf("calls %q, want %q", changes, want)
			}
			if deleted := strings.Contains(got.out, "backup.vmbackup.io/web-1 deleted\n"); deleted != (tt.code == exitDone) {
				t.Errorf("output %q", got.out)
			}
		})
	}
}

func TestDeleteAsksOnceForSeveral(t *testing.T) {
	r := newRig(t)
	r.tty, r.answer = true, strings.NewReader("y\n")
	r.run("delete", "web-1", "web-2", "--progress=none").contains(t, exitDone, "Delete these 2 backups for good? [y/N] ",
		"backup.vmbackup.io/web-1 deleted\nbackup.vmbackup.io/web-2 deleted\n")
}

// The last Ready backup of a machine goes only when its name is typed.
func TestLastBackupNeedsItsName(t *testing.T) {
	shop := func(names ...string) (refs []vmbackup.Ref) {
		for _, name := range names {
			refs = append(refs, vmbackup.Ref{Namespace: "shop", Name: name})
		}
		return refs
	}
	for _, tt := range []struct {
		name, answer string
		others       map[string][]vmbackup.Ref
		backups      []string
		code         int
		told         []string
	}{
		{
			"its name", "web-1\n",
			map[string][]vmbackup.Ref{"web-1": nil},
			[]string{"web-1"},
			exitDone,
			[]string{"warning: no other Ready backup of VirtualMachine web is left then", "Type its name to delete it for good: "},
		},
		{
			"yes", "yes\n",
			map[string][]vmbackup.Ref{"web-1": nil},
			[]string{"web-1"},
			exitRefused,
			[]string{`error: not confirmed: "yes" is not the name of the backup, web-1; nothing was deleted`},
		},
		{"nothing", "", map[string][]vmbackup.Ref{"web-1": nil}, []string{"web-1"}, exitRefused, []string{"nothing was deleted"}},
		{
			"both of two", "web-1\nweb-2\n",
			map[string][]vmbackup.Ref{"web-1": shop("web-2"), "web-2": shop("web-1")},
			[]string{"web-1", "web-2"},
			exitDone,
			[]string{"left without web-1", "left without web-2"},
		},
		{"both, and one name", "web-1\ny\n", map[string][]vmbackup.Ref{"web-1": shop("web-2"), "web-2": shop("web-1")}, []string{"web-1", "web-2"}, exitRefused, nil},
		{"one of three", "y\n", map[string][]vmbackup.Ref{"web-1": shop("web-2", "web-3")}, []string{"web-1"}, exitDone, nil},
		{"the last of one, one of another", "y\ndb-1\n", map[string][]vmbackup.Ref{"db-1": nil, "web-1": shop("web-2")}, []string{"web-1", "db-1"}, exitDone, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.tty, r.answer, r.env["NO_COLOR"], r.width = true, strings.NewReader(tt.answer), "1", 200
			r.engine.others = tt.others
			got := r.run(append([]string{"delete", "--progress=none"}, tt.backups...)...)
			got.contains(t, tt.code, tt.told...)
			if deleted := len(r.engine.changes()) == len(tt.backups); deleted != (tt.code == exitDone) {
				t.Errorf("calls %q", r.engine.changes())
			}
		})
	}
	r := newRig(t)
	r.engine.others = map[string][]vmbackup.Ref{"web-1": nil}
	r.run("delete", "web-1", "--yes", "--progress=none").contains(t, exitDone, "warning: no other Ready backup", "backup.vmbackup.io/web-1 deleted")
}

func TestInterruptEndsTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		typed, keyboard := io.Pipe() // nobody types
		defer func() { _ = keyboard.Close() }()
		r.tty, r.answer, r.env["NO_COLOR"] = true, typed, "1"
		got := r.runIn(soon(t), "delete", "web-1")
		got.contains(t, exitInterrupted, "[y/N] \nerror: interrupted; nothing was deleted\n")
		if changes := r.engine.changes(); len(changes) > 0 {
			t.Errorf("calls %q", changes)
		}
	})
}

func TestDeleteOfSeveral(t *testing.T) {
	r := newRig(t)
	r.engine.errs["run delete shop/web-1"] = failure("TargetUnavailable", "the target does not answer")
	got := r.run("delete", "web-1", "web-2", "-y", "--progress=none")
	got.contains(t, exitPartly, "error: the target does not answer\n")
	if want := "backup.vmbackup.io/web-2 deleted\n"; got.out != want {
		t.Errorf("output %q, want %q", got.out, want)
	}
}

// TestDeletePlansAll shows that nothing is deleted when one of several cannot be.
func TestDeletePlansAll(t *testing.T) {
	r := newRig(t)
	r.engine.errs["plan delete shop/web-2"] = failure("NotFound", "no backup shop/web-2").AsPreflight()
	r.run("delete", "web-1", "web-2", "-y").want(t, exitRefused, "", "error: no backup shop/web-2\n")
	if changes := r.engine.changes(); len(changes) > 0 {
		t.Errorf("calls %q", changes)
	}
}

func TestInterruptedDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.during = untilEnded
		got := r.runIn(soon(t), "delete", "web-1", "web-2", "-y", "--progress=none")
		got.contains(t, exitInterrupted,
			"error: interrupted; the deletion of backup shop/web-1 is not done\nhint: finish it with: kubectl vmbackup delete web-1 -n shop\n",
			"error: interrupted; the deletion of backup shop/web-2 is not done\n")
		if want := []string{"run delete shop/web-1"}; !slices.Equal(r.engine.changes(), want) || got.out != "" {
			t.Errorf("calls %q, output %q", r.engine.changes(), got.out)
		}
	})
}

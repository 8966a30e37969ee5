// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func failure(reason vmbackup.Reason, message string) *vmbackup.Error {
	return vmbackup.Errorf(reason, "%s", message)
}

func TestExitCodes(t *testing.T) {
	missing := failure(vmbackup.ReasonNotFound, "there is no VirtualMachine shop/web").WithHint("look again").AsPreflight()
	lost := failure(vmbackup.ReasonBackupFailed, "the upload of volume root failed").WithHint("see why with: kubectl vmbackup describe")
	tests := []struct {
		name, args, fails string
		err               error
		code              int
		told              string
	}{
		{"create done", "create web", "", nil, exitDone, ""},
		{"create refused", "create web", "plan backup shop/web", missing, exitRefused, "error: there is no VirtualMachine shop/web\nhint: look again\n"},
		{"create wrong", "create web", "plan backup shop/web", failure(vmbackup.ReasonInvalidRequest, "no").AsPreflight(), exitUsage, "error: no\n"},
		{"create not started", "create web", "start backup shop/web-20260301-120000", failure(vmbackup.ReasonConflict, "taken"), exitFailed, "error: taken\n"},
		{
			"create failed", "create web", "run backup shop/web-20260301-120000", lost, exitFailed,
			"error: the upload of volume root failed\nhint: see why with: kubectl vmbackup describe\n",
		},
		{"create without a reason", "create web", "run backup shop/web-20260301-120000", errors.New("broken"), exitFailed, "error: broken\n"},
		{"create timed out elsewhere", "create web", "run backup shop/web-20260301-120000", failure(vmbackup.ReasonTimeout, "no answer"), exitTimeout, "error: no answer\n"},
		{"canceled by somebody else", "create web", "run backup shop/web-20260301-120000", failure(vmbackup.ReasonCanceled, "canceled"), exitFailed, "error: canceled\n"},
		{"restore refused", "restore web-1", "plan restore shop/web-1", missing, exitRefused, "error: there is no"},
		{"restore not started", "restore web-1", "start restore shop/web-9", failure(vmbackup.ReasonForbidden, "may not"), exitFailed, "error: may not\n"},
		{"restore failed", "restore web-1", "run restore shop/web-9", lost, exitFailed, "error: the upload"},
		{"resume failed", "resume web-1", "run backup shop/web-1", lost, exitFailed, "error: the upload"},
		{"resume of nothing", "resume web-1", "run backup shop/web-1", failure(vmbackup.ReasonNotFound, "no backup shop/web-1"), exitFailed, "error: no backup shop/web-1\n"},
		{"resume of no restore", "resume restore/r", "run restore shop/r", failure(vmbackup.ReasonNotFound, "no restore shop/r"), exitFailed, "error: no restore shop/r\n"},
		{"delete refused", "delete web-1 -y", "plan delete shop/web-1", missing, exitRefused, "error: there is no"},
		{"delete failed", "delete web-1 -y", "run delete shop/web-1", lost, exitFailed, "error: the upload"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.engine.errs[tt.fails] = tt.err
			got := r.run(append(strings.Fields(tt.args), "--progress=none")...)
			got.contains(t, tt.code, tt.told)
			want := 0
			if tt.told != "" {
				want = 1
			}
			if n := strings.Count(got.err, "error: "); n != want {
				t.Errorf("%d errors are told, want %d:\n%s", n, want, got.err)
			}
			if tt.err != nil && got.out != "" {
				t.Errorf("output %q beside the error, want none", got.out)
			}
		})
	}
}

func TestWarningsAreExitCode3(t *testing.T) {
	for _, args := range []string{"create web", "restore web-1", "resume web-1", "resume restore/r"} {
		r := newRig(t)
		r.engine.warned = "the guest agent did not answer"
		if got := r.run(strings.Fields(args)...); got.code != exitPartly {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.err)
		}
	}
}

func TestNotConnected(t *testing.T) {
	for _, args := range []string{"create web", "restore a", "resume a", "delete a", "list", "describe a", "watch a"} {
		r := newRig(t)
		r.unreachable = failure(vmbackup.ReasonEngineUnavailable, "no cluster").AsPreflight()
		r.run(strings.Fields(args)...).want(t, exitRefused, "", "error: no cluster\n")
	}
}

func TestSeveralMachines(t *testing.T) {
	timeOut, gone := failure(vmbackup.ReasonTimeout, "slow"), failure(vmbackup.ReasonNotFound, "gone").WithHint("look for it").AsPreflight()
	tests := []struct {
		name string
		errs map[string]error // by machine
		code int
		told string
	}{
		{"all done", nil, exitDone, ""},
		{"one failed", map[string]error{"db": gone}, exitPartly, "error: db: gone\nhint: look for it\n"},
		{"all refused", map[string]error{"db": gone, "web": gone}, exitRefused, "error: db: gone\nhint: look for it\nerror: web: gone\nhint: look for it\n"},
		{"all failed in their own way", map[string]error{"db": gone, "web": errors.New("broken")}, exitFailed, "error: db: gone\nhint: look for it\nerror: web: broken\n"},
		{"one timed out", map[string]error{"db": timeOut}, exitTimeout, "error: db: slow\n"},
		{"one timed out, one failed", map[string]error{"db": timeOut, "web": gone}, exitFailed, "error: db: slow\nerror: web: gone\nhint: look for it\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			for vm, err := range tt.errs {
				r.engine.errs["plan backup shop/"+vm] = err
			}
			got := r.run("create", "web", "db", "-o", "name", "--progress=none")
			var out string
			for _, vm := range []string{"db", "web"} {
				if tt.errs[vm] == nil {
					out += "backup.vmbackup.io/" + vm + "-20260301-120000\n"
				}
			}
			got.want(t, tt.code, out, tt.told)
		})
	}
}

func TestSeveralMachinesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var most, now int
		r.engine.during = func(ctx context.Context, _ string) error {
			r.mu.Lock()
			now++
			most = max(most, now)
			r.mu.Unlock()
			defer func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				now--
			}()
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
			}
			return nil
		}
		got := r.run("create", "a", "b", "c", "d", "e", "--concurrency", "2", "-o", "name")
		if got.code != exitDone || strings.Count(got.out, "\n") != 5 {
			t.Errorf("exit code %d, output %q", got.code, got.out)
		}
		if most != 2 {
			t.Errorf("%d at once, want 2", most)
		}
	})
}

func untilEnded(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestWaitingEnds shows that a time-out and an interrupt say what is safe, and
// print the command that goes on.
func TestWaitingEnds(t *testing.T) {
	tests := []struct{ args, op, next string }{
		{"create web", "backup shop/web-20260301-120000", "resume web-20260301-120000 -n shop"},
		{"restore web-1", "restore shop/web-9", "resume restore/web-9 -n shop"},
		{"resume web-1", "backup shop/web-1", "resume web-1 -n shop"},
		{"resume restore/web-9", "restore shop/web-9", "resume restore/web-9 -n shop"},
		{"resume prod/web-1", "backup prod/web-1", "resume web-1 -n prod"},
	}
	for _, tt := range tests {
		args := append(strings.Fields(tt.args), "--progress=none", "--context", "my ctx", "--token", "s3cret")
		hint := "hint: go on with: kubectl vmbackup " + tt.next + " --context 'my ctx'\n"
		t.Run(tt.args, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.engine.during = untilEnded
				r.run(append(args, "--timeout", "90s")...).want(t, exitTimeout, "",
					"error: "+tt.op+" was not done in 1m30s; nothing is lost, and what Longhorn does goes on\n"+hint)
			})
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.engine.during = untilEnded
				r.runIn(soon(t), args...).want(t, exitInterrupted, "",
					"error: interrupted; "+tt.op+" is not done, nothing is lost, and what Longhorn does goes on\n"+hint)
			})
		})
	}
}

// soon is a context that is interrupted after a minute.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(time.Minute, cancel)
	t.Cleanup(func() { timer.Stop() })
	return ctx
}

func TestEndedBeforeAnythingBegan(t *testing.T) {
	for args, plan := range map[string]string{"create web": "plan backup shop/web", "restore web-1": "plan restore shop/web-1", "delete web-1 -y": "plan delete shop/web-1"} {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.engine.errs[plan] = failure(vmbackup.ReasonCanceled, "cannot read this").AsPreflight()
		r.runIn(ctx, strings.Fields(args)...).want(t, exitInterrupted, "", "error: interrupted; nothing was changed\n")
		if changes := r.engine.changes(); len(changes) > 0 {
			t.Errorf("%s: %q", args, changes)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.errs["plan backup shop/web"] = failure(vmbackup.ReasonTimeout, "cannot read this").AsPreflight()
		r.engine.planning = func(ctx context.Context) { <-ctx.Done() }
		r.run("create", "web", "--timeout", "3s").want(t, exitTimeout, "",
			"error: the checks were not done in 3s; nothing was changed\nhint: run the same command again with a longer --timeout\n")
	})
}

// TestFailedAtTheInterrupt shows that a failure is not taken for an interrupt.
func TestFailedAtTheInterrupt(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.engine.fails = true
	r.engine.during = func(context.Context, string) error {
		cancel()
		return failure(vmbackup.ReasonDataLost, "the volume is gone")
	}
	r.runIn(ctx, "create", "web", "--progress=none").want(t, exitFailed, "", "error: the volume is gone\n")
}

func TestInterruptOfSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.during = func(ctx context.Context, call string) error {
			if strings.Contains(call, "db") {
				return nil
			}
			return untilEnded(ctx, call)
		}
		got := r.runIn(soon(t), "create", "db", "web", "web-2", "--concurrency", "2", "-o", "name", "--progress=none")
		got.want(t, exitInterrupted, "backup.vmbackup.io/db-20260301-120000\nbackup.vmbackup.io/web-20260301-120000\nbackup.vmbackup.io/web-2-20260301-120000\n",
			`error: web: interrupted; backup shop/web-20260301-120000 is not done, nothing is lost, and what Longhorn does goes on
hint: go on with: kubectl vmbackup resume web-20260301-120000 -n shop
error: web-2: interrupted; backup shop/web-2-20260301-120000 is not done, nothing is lost, and what Longhorn does goes on
hint: go on with: kubectl vmbackup resume web-2-20260301-120000 -n shop
`)
		if !slices.Contains(r.engine.calls, "run backup shop/web-2-20260301-120000") {
			t.Errorf("calls %q", r.engine.calls)
		}
	})
}

func TestInterruptBeforeItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.during = untilEnded
		r.runIn(soon(t), "create", "db", "web", "--concurrency", "1", "--progress=none").contains(t, exitInterrupted,
			"error: db: interrupted; backup shop/db-20260301-120000 is not done", "error: web: interrupted; nothing was changed\n")
		if slices.Contains(r.engine.calls, "plan backup shop/web") {
			t.Errorf("a backup was planned after the interrupt: %q", r.engine.calls)
		}
	})
}

func TestShellWord(t *testing.T) {
	for s, want := range map[string]string{
		"": "''", "admin@prod": "admin@prod", "my ctx": "'my ctx'", "it's": `'it'\''s'`, "$(id)": "'$(id)'", "~/x": "'~/x'",
	} {
		if got := shellWord(s); got != want {
			t.Errorf("%q is %s, want %s", s, got, want)
		}
	}
}

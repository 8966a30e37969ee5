// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestList(t *testing.T) {
	r := newRig(t)
	running := backup("shop/db-1", "db", 2)
	running.Status.Phase, running.Status.CompletedAt = vmbackup.PhaseRunning, nil
	running.Status.Volumes[0].State, running.Status.Volumes[0].Progress, running.Status.Volumes[0].SizeBytes = vmbackup.StateRunning, 0, 5<<30
	r.put(backup("shop/web-1", "web", 1), running, backup("test/web-2", "web", 3), restore("shop/web-9", "web", vmbackup.PhaseReady))
	names := func(args string) string {
		got := r.run(append(strings.Fields(args), "-o", "name")...)
		if got.code != exitDone || got.err != "" {
			t.Errorf("%s: exit code %d: %s", args, got.code, got.err)
		}
		return strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(got.out), "backup.vmbackup.io/", ""), "\n", " ")
	}
	for args, want := range map[string]string{
		"list":                       "web-1 db-1",
		"get backups":                "web-1 db-1",
		"ls backup":                  "web-1 db-1",
		"list -A":                    "web-1 db-1 web-2",
		"list -A --limit 1":          "web-1",
		"list -A --vm web":           "web-1 web-2",
		"list -A -l app=db":          "db-1",
		"list -A --sort-by name":     "db-1 web-1 web-2",
		"list -A --sort-by vm":       "db-1 web-1 web-2",
		"list -A --sort-by age":      "web-2 db-1 web-1",
		"list -A --sort-by size":     "web-1 web-2 db-1",
		"list -A --sort-by phase":    "web-1 web-2 db-1",
		"list restores":              "restore.vmbackup.io/web-9",
		"list restore --sort-by age": "restore.vmbackup.io/web-9",
		"list restores --vm db":      "",
	} {
		if got := names(args); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	var all strings.Builder
	for _, args := range []string{"list", "list -A", "list -A -o wide", "list restores -A"} {
		all.WriteString("$ kubectl vmbackup " + args + "\n" + r.run(strings.Fields(args)...).out + "\n")
	}
	golden(t, "lists.txt", all.String())
}

func TestListWarnings(t *testing.T) {
	r := newRig(t)
	running := backup("shop/web-1", "web", 1)
	running.Status.Phase = vmbackup.PhaseRunning
	r.put(running)
	r.engine.errs["observe shop/web-1"] = failure(vmbackup.ReasonForbidden, "may not list Backups")
	r.run("list", "-o", "name").want(t, exitPartly, "backup.vmbackup.io/web-1\n",
		"warning: the progress of backup shop/web-1 is not known: may not list Backups\n")
	// A backup that was deleted between the listing and the look at it is no warning.
	r.engine.errs["observe shop/web-1"] = failure(vmbackup.ReasonNotFound, "gone")
	r.run("list", "-o", "name").want(t, exitDone, "backup.vmbackup.io/web-1\n", "")
}

// TestListWatch shows that the titles come once, then rows of what changed, in line.
func TestListWatch(t *testing.T) {
	first, second := backup("shop/web-1", "web", 1), backup("shop/database-1", "database", 2)
	first.Status.Phase = vmbackup.PhaseRunning
	first.Status.Volumes[0].State, first.Status.Volumes[0].Progress = vmbackup.StateRunning, 10
	watch := func(t *testing.T, change func(*rig), args ...string) string {
		out := &buffer{}
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			running := *first
			r.put(&running, second, restore("shop/web-8", "web", vmbackup.PhaseReady), restore("shop/web-9", "web", vmbackup.PhaseRunning))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan int)
			go func() { done <- r.globals(out, io.Discard).execute(ctx, args) }()
			synctest.Wait()
			change(r)
			synctest.Wait()
			cancel()
			if code := <-done; code != exitDone {
				t.Errorf("exit code %d", code)
			}
		})
		return out.String()
	}
	finish := func(r *rig) {
		ready := backup("shop/web-1", "web", 1)
		r.put(ready)
		synctest.Wait()
		r.put(ready) // told again, but nothing is new
		synctest.Wait()
		if err := r.journal.Delete(t.Context(), journal.KindBackup, ready.Ref()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		r.put(restore("shop/web-9", "web", vmbackup.PhaseReady))
	}
	golden(t, "list-watch.txt", watch(t, finish, "list", "-w"))
	golden(t, "list-watch-restores.txt", watch(t, finish, "list", "restores", "--watch", "--sort-by=name"))
	if got, want := watch(t, finish, "list", "-w", "-o", "name"), "backup.vmbackup.io/web-1\nbackup.vmbackup.io/database-1\nbackup.vmbackup.io/web-1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := watch(t, finish, "list", "-w", "-o", "custom-columns=N:.metadata.name"), "N\nweb-1\ndatabase-1\nweb-1\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	decoder := json.NewDecoder(strings.NewReader(watch(t, finish, "list", "-w", "-o", "json")))
	for i, want := range []string{"web-1 Running", "database-1 Ready", "web-1 Ready"} {
		b := vmbackup.Backup{}
		if err := decoder.Decode(&b); err != nil {
			t.Fatalf("object %d: %v", i, err)
		}
		if got := fmt.Sprint(b.Metadata.Name, " ", b.Status.Phase); got != want {
			t.Errorf("object %d: %s, want %s", i, got, want)
		}
	}
}

func TestListWatchOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.tty, r.env["NO_COLOR"] = true, "1"
		running := backup("shop/web-1", "web", 1)
		running.Status.Phase = vmbackup.PhaseRunning
		r.put(running, backup("shop/db-1", "db", 2))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan ended)
		go func() { done <- r.runIn(ctx, "list", "-w") }()
		synctest.Wait()
		ready := backup("shop/web-1", "web", 1)
		ready.Status.Consistency = vmbackup.ConsistencyCrash // a column that was empty stays away
		r.put(ready)
		synctest.Wait()
		cancel()
		got := <-done
		if n := strings.Count(got.out, "STATUS"); n != 1 {
			t.Errorf("%d headers, want 1:\n%s", n, got.out)
		}
		if lines := strings.Count(got.out, "\n"); lines != 5 { // header, rule, two rows, and the changed one
			t.Errorf("%d lines, want 5:\n%s", lines, got.out)
		}
		golden(t, "list-watch-terminal.txt", got.out)
	})
}

// TestWatch follows an operation that somebody else runs.
func TestWatch(t *testing.T) {
	tests := []struct {
		name   string
		end    func(*vmbackup.Backup)
		code   int
		out    string
		errors string
	}{
		{"ready", func(*vmbackup.Backup) {}, exitDone, "Ready", ""},
		{"with warnings", func(b *vmbackup.Backup) { b.Status.Warnings = []string{"frozen for long"} }, exitPartly, "Ready", ""},
		{"incomplete", func(b *vmbackup.Backup) { b.Status.Phase = vmbackup.PhaseIncomplete }, exitPartly, "Incomplete", ""},
		{"canceled", func(b *vmbackup.Backup) { b.Status.Phase = vmbackup.PhaseCanceled }, exitFailed, "Canceled", ""},
		{"failed", func(b *vmbackup.Backup) {
			b.Status.Phase, b.Status.Error = vmbackup.PhaseFailed, failure(vmbackup.ReasonBackupFailed, "the disk is full").WithHint("make room")
		}, exitFailed, "Failed", "error: the disk is full\nhint: make room\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.engine.during = untilEnded
				b := backup("shop/web-1", "web", 1)
				b.Status.Phase, b.Status.Ready = vmbackup.PhaseRunning, false
				r.put(b)
				done := make(chan ended)
				go func() { done <- r.run("watch", "web-1", "-o", "jsonpath={.status.phase}", "--progress", "none") }()
				synctest.Wait()
				last := backup("shop/web-1", "web", 1)
				tt.end(last)
				r.put(last)
				(<-done).want(t, tt.code, tt.out, tt.errors)
				if changes := r.engine.changes(); len(changes) > 0 {
					t.Errorf("watching changed something: %q", changes)
				}
			})
		})
	}
}

func TestWatchTellsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.put(restore("shop/web-9", "web", vmbackup.PhaseRunning))
		done := make(chan ended)
		go func() { done <- r.run("watch", "restore/web-9", "-o", "name", "--progress", "json") }()
		synctest.Wait()
		last := restore("shop/web-9", "web", vmbackup.PhaseFailed)
		last.Status.Error = failure(vmbackup.ReasonQuotaExceeded, "no room")
		r.put(last)
		(<-done).want(t, exitFailed, "restore.vmbackup.io/web-9\n",
			`{"seq":1,"time":"2026-03-01T12:00:00Z","type":"plan","operation":"restore/shop/web-9","steps":[{"id":"upload","title":"Upload the volumes","state":"Pending"}]}
{"seq":2,"time":"2026-03-01T12:00:00Z","type":"result","operation":"restore/shop/web-9","phase":"Failed","message":"no room","reason":"QuotaExceeded"}
error: no room
`)
	})
}

// TestWatchOfAnOrphan shows that somebody is told when nobody finishes a backup.
func TestWatchOfAnOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := backup("shop/web-1", "web", 1)
		b.Status.Phase = vmbackup.PhaseRunning
		r.put(b)
		errOut := &buffer{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int)
		go func() {
			done <- r.globals(io.Discard, errOut).execute(ctx, []string{"watch", "web-1", "--progress", "plain"})
		}()
		<-time.After(watchPatience - time.Second)
		synctest.Wait()
		if strings.Contains(errOut.String(), "warning") {
			t.Errorf("too early: %s", errOut.String())
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		const want = "backup/shop/web-1 warning: the data is there, but nobody has finished backup shop/web-1 in 30s; finish it with: kubectl vmbackup resume web-1 -n shop\n"
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("%s\nwant %s", errOut.String(), want)
		}
		cancel()
		if code := <-done; code != exitInterrupted {
			t.Errorf("exit code %d", code)
		}
		const next = "hint: go on with: kubectl vmbackup watch web-1 -n shop\n"
		if !strings.HasSuffix(errOut.String(), next) {
			t.Errorf("%s\nwant %s", errOut.String(), next)
		}
	})
}

func TestWatchTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.during = untilEnded
		r.put(restore("shop/web-9", "web", vmbackup.PhaseRunning))
		r.run("watch", "restore/web-9", "--timeout", "10m", "--progress=none").want(t, exitTimeout, "",
			"error: restore shop/web-9 was not done in 10m0s; nothing is lost, and what Longhorn does goes on\nhint: go on with: kubectl vmbackup watch restore/web-9 -n shop\n")
	})
}

func TestWatchOfNothing(t *testing.T) {
	for _, args := range []string{"watch none", "watch restore/none"} {
		newRig(t).run(strings.Fields(args)...).contains(t, exitFailed, "shop/none")
	}
}

// TestUnreadableRecord shows that a record which cannot be read is told, and hides nothing.
func TestUnreadableRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.put(backup("shop/web-1", "web", 1))
		if _, err := r.journal.Create(t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: "shop", Name: "torn"}, Data: []byte("{")}); err != nil {
			t.Fatal(err)
		}
		r.run("list", "-o", "name").contains(t, exitPartly, "backup.vmbackup.io/web-1\n", "warning: ", "shop/torn")
		r.runIn(soon(t), "list", "-w", "-o", "name").contains(t, exitDone, "backup.vmbackup.io/web-1\n", "warning: ", "shop/torn")
	})
}

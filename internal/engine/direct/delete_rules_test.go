// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// completeAlso takes another backup of the machine to its end.
func (c *cluster) completeAlso(name string) {
	c.t.Helper()
	req := request()
	req.Name = name
	plan, err := c.engine.PlanBackup(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := c.engine.StartBackup(c.t.Context(), plan)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.engine.RunBackup(c.t.Context(), b.Ref(), vmbackup.RunOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// pass lets time pass for the controllers.
func (c *cluster) pass(d time.Duration) {
	c.t.Helper()
	if err := sleep(c.t.Context(), d); err != nil {
		c.t.Fatal(err)
	}
}

func TestLastReadyBackupIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		last := func(req vmbackup.DeleteRequest) (bool, []vmbackup.Ref) {
			t.Helper()
			plan, err := c.engine.PlanDelete(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			return plan.LastReady, plan.OtherReady
		}
		if is, _ := last(deleteRequest()); !is {
			t.Error("the only backup is not the last one")
		}
		keep := deleteRequest()
		keep.KeepData = true
		if is, _ := last(keep); is {
			t.Error("data that stays is no loss")
		}
		c.completeAlso("b2")
		is, others := last(deleteRequest())
		wantSame(t, "others", others, []vmbackup.Ref{{Namespace: "demo", Name: "b2"}})
		if is {
			t.Error("one of two is the last one")
		}
		// One that is known on the target alone counts as well.
		if err := c.journal.Store.Delete(t.Context(), journal.KindBackup, others[0]); err != nil {
			t.Fatal(err)
		}
		if is, others := last(deleteRequest()); is || len(others) != 1 {
			t.Errorf("with another one on the target: last %t, others %v", is, others)
		}
	})
}

func TestBackupThatNeverGotReadyIsNotTheLastOne(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadFails["pvc-web-data"] = "no space"
		c.start(request())
		_, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonBackupFailed)
		plan, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		if err != nil || plan.LastReady {
			t.Errorf("last %t, %v", plan.LastReady, err)
		}
	})
}

// emptyTarget takes everything from the target that matches.
func (c *cluster) emptyTarget(what func(key string) bool) {
	c.t.Helper()
	for _, key := range c.files() {
		if !what(key) {
			continue
		}
		if err := c.store.Store.Delete(c.t.Context(), key); err != nil {
			c.t.Fatal(err)
		}
	}
}

func everyKey(string) bool { return true }

func TestDeleteAgainstAnotherTargetIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.emptyTarget(everyKey)
		c.forget()
		_, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		e := failure(t, err, vmbackup.ReasonTargetEmpty)
		if !e.Preflight || !strings.Contains(e.Message, "nothing was deleted") || !strings.Contains(e.Hint, "--keep-data") {
			t.Errorf("%s\n%s", e.Message, e.Hint)
		}
		wantSame(t, "writes", c.writes(), nil)
		// What the cluster has can go all the same.
		req := deleteRequest()
		req.KeepData = true
		if err := c.discard(req); err != nil || c.recorded(b1) {
			t.Errorf("recorded %t, %v", c.recorded(b1), err)
		}
	})
}

func TestDeleteNeedsItsTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.anew()
		c.openErr = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "it is down").WithHint("mend it")
		c.forget()
		_, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		e := failure(t, err, vmbackup.ReasonTargetUnavailable)
		if !e.Preflight || !strings.Contains(e.Hint, "mend it; forget the backup") {
			t.Errorf("%+v", e)
		}
		wantSame(t, "writes", c.writes(), nil)
	})
}

// A deletion that has emptied the target itself is not refused for it.
func TestDeleteThatHasBegunIsNotStoppedByAnEmptyTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		down := true
		c.fail("delete", "snapshots", func(string) error {
			if down {
				return errors.New("connection lost")
			}
			return nil
		})
		if err := c.discard(deleteRequest()); err == nil {
			t.Fatal("not interrupted")
		}
		wantSame(t, "files", c.files(), []string{})
		// What is half gone is not whole, is not restored and does not go on.
		status := c.record(b1).Backup.Status
		if status.Phase != vmbackup.PhaseIncomplete || status.Ready || !strings.Contains(status.Error.Hint, "kubectl vmbackup delete b1 -n demo") {
			t.Errorf("%+v", status)
		}
		_, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		wantReason(t, err, vmbackup.ReasonDataLost)
		down = false
		c.anew()
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		if c.recorded(b1) || len(c.names("snapshots")) > 0 {
			t.Errorf("recorded %t, snapshots %v", c.recorded(b1), c.names("snapshots"))
		}
	})
}

// A kill at any request of a deletion leaves what the same command finishes.
func TestDeleteKilledAtAnyRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
	})
	for n := 1; ; n++ {
		done := false
		inBubble(t, func(t *testing.T, c *cluster) {
			c.complete()
			before := len(c.writes())
			ctx, kill := context.WithCancel(t.Context())
			killed := func(string) error {
				if len(c.writes())-before >= n {
					kill()
					return context.Canceled
				}
				return nil
			}
			for _, resource := range []string{"journal", "volumesnapshots", "volumesnapshotcontents", "backups", "file", "snapshots"} {
				c.fail("*", resource, killed)
			}
			plan, err := c.engine.PlanDelete(t.Context(), deleteRequest())
			if err != nil {
				t.Fatal(err)
			}
			err = c.engine.Delete(ctx, plan, vmbackup.RunOptions{})
			done = err == nil
			c.mend()
			c.anew()
			if err != nil {
				if err := c.discard(deleteRequest()); err != nil && (c.recorded(b1) || vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound) {
					t.Fatalf("killed at write %d: %v", n, err)
				}
			}
			for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "backups", "snapshots"} {
				wantSame(t, resource, c.names(resource), []string{})
			}
			wantSame(t, "files", c.files(), []string{})
			if c.recorded(b1) {
				t.Error("the record is left")
			}
		})
		if done || t.Failed() {
			if n < 10 {
				t.Errorf("only %d writes", n)
			}
			return
		}
	}
}

func TestDeleteOfARecordThatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadTakes = time.Hour
		c.start(request())
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		entry, err := c.journal.Store.Get(t.Context(), journal.KindBackup, b1)
		if err != nil {
			t.Fatal(err)
		}
		entry.Data = []byte("not a record")
		if _, err := c.journal.Store.Update(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
		plan, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		if err != nil {
			t.Fatal(err)
		}
		if plan.Backup.Spec.VM != "web" || plan.LastReady || !strings.Contains(strings.Join(plan.Warnings, "\n"), "cannot be read") {
			t.Errorf("%+v, %v", plan.Backup.Spec, plan.Warnings)
		}
		if err := c.engine.Delete(t.Context(), plan, vmbackup.RunOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "backups", "snapshots"} {
			wantSame(t, resource, c.names(resource), []string{})
		}
		if c.recorded(b1) {
			t.Error("the record is left")
		}
	})
}

func TestDeleteWhileARestoreReadsTheBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		c.forget()
		_, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		e := failure(t, err, vmbackup.ReasonConflict)
		if !e.Preflight || !strings.Contains(e.Message, "restore other/r1") || !strings.Contains(e.Hint, "watch restore/r1 -n other") {
			t.Errorf("%+v", e)
		}
		wantSame(t, "writes", c.writes(), nil)
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.discard(deleteRequest()); err != nil {
			t.Error(err)
		}
	})
}

// A backup that runs stops when somebody deletes it.
func TestRunStopsWhenItsBackupIsDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadTakes = time.Hour
		c.start(request())
		began := time.Now()
		deleted := make(chan error, 1)
		time.AfterFunc(10*time.Second, func() { deleted <- c.discard(deleteRequest()) })
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonCanceled)
		if !strings.Contains(e.Message, "is being deleted") || b.Status.Phase != vmbackup.PhaseCanceled || time.Since(began) > time.Minute {
			t.Errorf("%s after %s: %s", b.Status.Phase, time.Since(began), e.Message)
		}
		c.pass(time.Minute)
		if err := <-deleted; err != nil || c.recorded(b1) || len(c.names("backups")) > 0 {
			t.Errorf("recorded %t, %v", c.recorded(b1), err)
		}
	})
}

// The data must be gone from the target for every backup that Longhorn had made,
// recorded by name or not.
func TestDeleteSeesUnnamedDataGone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Minute) // the uploads end, and nobody has recorded it
		c.keeps = true
		e := failure(t, c.discard(deleteRequest()), vmbackup.ReasonInternal)
		if !strings.Contains(e.Message, "still holds "+target.VolumesPrefix) {
			t.Error(e.Message)
		}
	})
}

// Longhorn does not end an upload whose backup is deleted: it writes the backup's file
// after the deletion, and Longhorn lists it again.
func TestDeleteOfAnUploadThatEndsLate(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		b := c.complete()
		v := b.Status.Volumes[0]
		key := target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)
		content, err := c.store.Get(t.Context(), key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var late atomic.Bool
		c.after = append(c.after, func(verb, resource string, object runtime.Object) {
			if verb != "delete" || resource != "backups" || accessor(t, object).GetName() != v.LonghornBackup || late.Swap(true) {
				return
			}
			listed := object.DeepCopyObject().(*longhornv1.Backup)
			listed.DeletionTimestamp = nil
			c.mu.Lock()
			c.listed[v.LonghornBackup] = listed
			c.mu.Unlock()
			if err := c.store.Put(t.Context(), key, content); err != nil {
				t.Error(err)
			}
		})
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		if !late.Load() {
			t.Fatal("nothing came late")
		}
		wantSame(t, "backups", c.names("backups"), []string{})
		wantSame(t, "files", c.files(), []string{})
	})
}

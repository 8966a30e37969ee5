// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func deleteRequest() vmbackup.DeleteRequest {
	return vmbackup.DeleteRequest{Backup: b1, From: vmbackup.SourceAll, Target: vmbackup.DefaultTarget}
}

// remove plans and runs a deletion.
func (c *cluster) discard(req vmbackup.DeleteRequest) error {
	c.t.Helper()
	plan, err := c.engine.PlanDelete(c.t.Context(), req)
	if err != nil {
		return err
	}
	return c.engine.Delete(c.t.Context(), plan, vmbackup.RunOptions{Sink: c.events})
}

func (c *cluster) recorded(ref vmbackup.Ref) bool {
	_, err := c.journal.Get(c.t.Context(), journal.KindBackup, ref)
	return err == nil
}

func TestDeletePlan(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		plan, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "writes", c.writes(), nil)
		count := map[string]int{}
		for _, o := range plan.Objects {
			if o.Action != vmbackup.ActionDelete {
				t.Errorf("%+v", o)
			}
			count[o.Kind]++
		}
		wantSame(t, "objects", count, map[string]int{"VolumeSnapshot": 2, "Backup": 2, "Snapshot": 2, "file": 2, "Secret": 1})
		if plan.Bytes != 2<<20 {
			t.Errorf("%d bytes", plan.Bytes)
		}
	})
}

func TestDeletePlanRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		_, err := c.engine.PlanDelete(t.Context(), deleteRequest())
		if e := failure(t, err, vmbackup.ReasonNotFound); !e.Preflight {
			t.Error("not a preflight error")
		}
		_, err = c.engine.PlanDelete(t.Context(), vmbackup.DeleteRequest{Backup: b1})
		wantReason(t, err, vmbackup.ReasonInvalidRequest)
		wantSame(t, "writes", c.writes(), nil)
	})
}

func TestDeleteRemovesEverything(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "backups", "snapshots"} {
			wantSame(t, resource, c.names(resource), []string{})
		}
		wantSame(t, "files", c.files(), []string{})
		if c.recorded(b1) {
			t.Error("the record is still there")
		}
		// The record goes last: until then the same command goes on.
		log := c.writes()
		wantSame(t, "last", log[len(log)-1], "delete journal demo/b1")
		if position(t, log, "delete file "+metadata.RecordKey(b1)) < position(t, log, "delete backups") {
			t.Error("the description goes before the data")
		}
		wantSame(t, "steps", slices.Compact(c.events.told(vmbackup.EventStep, vmbackup.EventResult)), []string{
			"step mark Running", "step mark Ready", "step snapshots Running", "step snapshots Ready", "step backups Running", "step backups Ready",
			"step files Running", "step files Ready", "step longhorn-snapshots Running", "step longhorn-snapshots Ready",
			"step record Running", "step record Ready", "result Ready",
		})
		// The machine and its disks are not touched.
		wantSame(t, "claims", c.names("persistentvolumeclaims"), []string{"web-data", "web-root"})
	})
}

func TestDeleteKeepsTheData(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		files := c.files()
		req := deleteRequest()
		req.KeepData = true
		if err := c.discard(req); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "files", c.files(), files)
		wantSame(t, "Longhorn backups", len(c.names("backups")), 2)
		wantSame(t, "VolumeSnapshots", c.names("volumesnapshots"), []string{})
		if c.recorded(b1) {
			t.Error("the record is still there")
		}
		// What is on the target can be found, and deleted, from there.
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "files", c.files(), []string{})
	})
}

func TestDeleteThatLonghornOnlyPretends(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.keeps = true
		err := c.discard(deleteRequest())
		e := failure(t, err, vmbackup.ReasonInternal)
		if !strings.Contains(e.Message, "still holds") {
			t.Error(e.Message)
		}
		if !c.recorded(b1) || !slices.Contains(c.files(), metadata.RecordKey(b1)) {
			t.Error("record or description are gone though the data is there")
		}
		wantSame(t, "result", c.events.told(vmbackup.EventResult), []string{"result Failed Internal"})
	})
}

// Longhorn that does not list a backup deletes nothing: it has to list it first.
func TestDeleteOfBackupsThatLonghornDoesNotList(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.forgetBackups()
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		position(t, c.log(), "patch backuptargets longhorn-system/default")
		wantSame(t, "files", c.files(), []string{})
		wantSame(t, "Longhorn backups", c.names("backups"), []string{})
	})
}

func TestDeleteThatWasInterruptedGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		down := true
		c.fail("delete", "snapshots", func(string) error {
			if down {
				return errors.New("connection lost")
			}
			return nil
		})
		if err := c.discard(deleteRequest()); err == nil || !c.recorded(b1) {
			t.Fatalf("record kept: %t, %v", c.recorded(b1), err)
		}
		down = false
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "snapshots", c.names("snapshots"), []string{})
		if c.recorded(b1) {
			t.Error("the record is still there")
		}
	})
}

func TestDeleteOfABackupThatFailed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadFails["pvc-web-data"] = "no space"
		c.start(request())
		_, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonBackupFailed)
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		wantSame(t, "Longhorn backups", c.names("backups"), []string{})
		wantSame(t, "files", c.files(), []string{})
	})
}

func TestDeleteGivesUpOnLonghornInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.forgetBackups()
		clear(c.listed) // and it never lists them again
		began := time.Now()
		wantReason(t, c.discard(deleteRequest()), vmbackup.ReasonTargetUnavailable)
		if took := time.Since(began); took != deleteDeadline || !c.recorded(b1) {
			t.Errorf("after %s, record kept: %t", took, c.recorded(b1))
		}
	})
}

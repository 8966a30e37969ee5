// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// twoRuns runs the backup b1 twice, the second one later, and returns their errors.
func (c *cluster) twoRuns(later time.Duration) (first, second error) {
	var both sync.WaitGroup
	both.Go(func() { _, first = c.run(c.t.Context()) })
	both.Go(func() {
		if err := sleep(c.t.Context(), later); err != nil {
			second = err
			return
		}
		_, second = c.run(c.t.Context())
	})
	both.Wait()
	return first, second
}

func TestTwoRunsAtOnce(t *testing.T) {
	for name, later := range map[string]time.Duration{
		"from the start":        0,
		"while the other waits": time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.start(request())
				if later == 0 {
					// Both have read the record before one of them writes it: neither is
					// the process that has started the backup.
					c.anew()
					c.engine.started.Clear()
					c.journal.gate = &sync.WaitGroup{}
					c.journal.gate.Add(2)
				}
				first, second := c.twoRuns(later)
				c.journal.gate = nil
				if first != nil && second != nil || first == nil && second == nil {
					t.Fatalf("want one winner: %v, %v", first, second)
				}
				for _, err := range []error{first, second} {
					if err != nil {
						e := failure(t, err, vmbackup.ReasonConflict)
						if !strings.Contains(e.Hint, "kubectl vmbackup watch b1 -n demo") {
							t.Errorf("hint %q", e.Hint)
						}
					}
				}
				if got := c.record(b1).Backup.Status; got.Phase != vmbackup.PhaseReady || got.Error != nil {
					t.Errorf("recorded as %s, error %v", got.Phase, got.Error)
				}
				// The loser neither froze nor thawed the guest of the winner's round.
				if got := len(c.log("freeze", "unfreeze")); got != 2 {
					t.Errorf("%v", c.log("freeze", "unfreeze"))
				}
				wantSame(t, "VolumeSnapshots", c.names("volumesnapshots"), []string{"b1-volume-web-data", "b1-volume-web-root"})
			})
		})
	}
}

// A second run that comes while the first one waits for its snapshots takes over:
// it cannot know that the first one still lives.
func TestRunThatTakesOverARound(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.cutTakes["web-root"], c.cutTakes["web-data"] = 3*time.Second, 3*time.Second
		c.start(request())
		first, second := c.twoRuns(time.Second)
		wantReason(t, first, vmbackup.ReasonConflict)
		if second != nil {
			t.Fatal(second)
		}
		if got := c.record(b1).Backup.Status; got.Phase != vmbackup.PhaseReady || got.Error != nil {
			t.Errorf("recorded as %s, error %v", got.Phase, got.Error)
		}
		wantSame(t, "VolumeSnapshots", c.names("volumesnapshots"), []string{"b1-volume-web-data-2", "b1-volume-web-root-2"})
		if got := len(c.files()); got != 4 {
			t.Errorf("files %v", c.files())
		}
	})
}

func TestTwoStartsAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		one, err := c.engine.PlanBackup(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		two, err := c.engine.PlanBackup(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.engine.StartBackup(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		_, err = c.engine.StartBackup(t.Context(), two)
		wantReason(t, err, vmbackup.ReasonAlreadyExists)
	})
}

// A volume whose Longhorn backup failed and was cleaned away while another one
// still uploads must not be waited for.
func TestFailedUploadThatIsCleanedAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		time.AfterFunc(1500*time.Millisecond, func() {
			for _, name := range c.names("backups") {
				if strings.HasSuffix(name, "1") {
					_ = c.remove("backups", "longhorn-system", name)
				}
			}
		})
		began := time.Now()
		b, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonBackupFailed)
		if took := time.Since(began); took > time.Minute || b.Status.Phase != vmbackup.PhaseFailed {
			t.Errorf("%s after %s", b.Status.Phase, took)
		}
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		// Both have read the record before one of them writes it: neither is the
		// process that has started the backup.
		c.anew()
		c.engine.started.Clear()
		c.journal.gate = newGate(2)
		first, second := c.twoRuns(0)
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
		c.oneBackup()
	})
}

// oneBackup sees that b1 is ready and was made once, with one freeze.
func (c *cluster) oneBackup() {
	c.t.Helper()
	if got := c.record(b1).Backup.Status; got.Phase != vmbackup.PhaseReady || got.Error != nil || got.Consistency != vmbackup.ConsistencyApplication {
		c.t.Errorf("recorded as %s, %s, error %v", got.Phase, got.Consistency, got.Error)
	}
	// The loser neither froze nor thawed the guest of the winner's round.
	if got := c.log("freeze", "unfreeze"); len(got) != 2 {
		c.t.Errorf("%v", got)
	}
	wantSame(c.t, "VolumeSnapshots", c.names("volumesnapshots"), []string{"b1-volume-web-data", "b1-volume-web-root"})
	for _, resource := range []string{"volumesnapshotcontents", "snapshots", "backups"} {
		if got := c.names(resource); len(got) != 2 {
			c.t.Errorf("%s: %v", resource, got)
		}
	}
	if got := c.files(); len(got) != 4 {
		c.t.Errorf("files %v", got)
	}
}

// A second run that comes at any time lets the first one's round be and goes on from
// there; whichever ends first, both tell that end.
func TestRunThatComesLater(t *testing.T) {
	for name, later := range map[string]time.Duration{
		"while the snapshots are cut":    time.Second,
		"while the volumes are uploaded": 4 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.cutTakes["web-root"], c.cutTakes["web-data"] = 3*time.Second, 3*time.Second
				c.start(request())
				first, second := c.twoRuns(later)
				for _, err := range []error{first, second} {
					if err != nil {
						wantReason(t, err, vmbackup.ReasonConflict)
					}
				}
				if first != nil && second != nil {
					t.Errorf("no run has the backup: %v, %v", first, second)
				}
				c.oneBackup()
			})
		})
	}
}

// A round that its run has left without a word is not waited for longer than its
// guest may be frozen.
func TestRunThatTakesOverARound(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.cutTakes["web-root"], c.cutTakes["web-data"] = time.Hour, time.Hour
		req := request()
		req.FreezeTimeout = 10 * time.Second
		c.start(req)
		var first error
		var left sync.WaitGroup
		left.Go(func() { _, first = c.run(t.Context()) })
		if err := sleep(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		c.cutQuickly()
		began := time.Now()
		_, second := c.run(t.Context())
		if second != nil {
			t.Fatal(second)
		}
		if took := time.Since(began); took < 13*time.Second || took > 25*time.Second {
			t.Errorf("taken over and ended after %s", took)
		}
		left.Wait()
		// The first run waits for its snapshots, and learns at its own deadline what has become of the backup.
		if first != nil {
			wantReason(t, first, vmbackup.ReasonConflict)
		}
		if got := c.record(b1).Backup.Status; got.Phase != vmbackup.PhaseReady || got.Consistency != vmbackup.ConsistencyApplication {
			t.Errorf("recorded as %s, %s", got.Phase, got.Consistency)
		}
		wantSame(t, "VolumeSnapshots", c.names("volumesnapshots"), []string{"b1-volume-web-data-2", "b1-volume-web-root-2"})
		if got := len(c.files()); got != 4 {
			t.Errorf("files %v", c.files())
		}
	})
}

// The same command twice, the second one at any time: one backup or restore, made
// once, and at least one of the two tells its end.
func TestSameCommandTwice(t *testing.T) {
	for _, cmd := range commands() {
		t.Run(cmd.name, func(t *testing.T) {
			want, _ := cmd.undisturbed(t)
			for later := time.Duration(0); later < 6*time.Second; later += 300 * time.Millisecond {
				inBubble(t, func(t *testing.T, c *cluster) {
					cmd.prepare(c)
					c.forget()
					var errs [2]error
					var both sync.WaitGroup
					for i := range errs {
						p := c.process(0, "")
						both.Go(func() {
							if errs[i] = sleep(t.Context(), time.Duration(i)*later); errs[i] == nil {
								errs[i] = p.live(cmd.run)
							}
						})
					}
					both.Wait()
					if errs[0] != nil && errs[1] != nil {
						t.Errorf("%s later: %v, %v", later, errs[0], errs[1])
					}
					for _, err := range errs {
						switch vmbackup.ReasonOf(err) {
						case "", vmbackup.ReasonConflict, vmbackup.ReasonAlreadyExists:
						default:
							t.Errorf("%s later: %v", later, err)
						}
					}
					c.same(want)
					if freezes := len(c.log("freeze")); freezes > 1 {
						t.Errorf("%s later: %d freezes", later, freezes)
					}
				})
			}
		})
	}
}

// A run on a machine that sleeps at the moment of the freeze and wakes after another
// run has done everything removes its own late snapshots, and nothing else.
func TestRunThatWakesUpLate(t *testing.T) {
	cmd := command{name: "create", prepare: func(*cluster) {}, run: createCommand(request())}
	want, changes := cmd.undisturbed(t)
	inBubble(t, func(t *testing.T, c *cluster) {
		sleeper := c.process(slices.Index(changes, "freeze")+1, stall)
		late := make(chan error, 1)
		go func() { late <- sleeper.live(cmd.run) }()
		synctest.Wait()
		p := c.process(0, "")
		if err := p.live(cmd.run); err != nil {
			t.Fatal(err)
		}
		before := c.names("volumesnapshots")
		close(sleeper.wake)
		if err := <-late; err != nil {
			t.Errorf("the other run's end is this one's: %v", err)
		}
		if !slices.Contains(sleeper.changes, "create volumesnapshots") {
			t.Errorf("it has made nothing that would have to go: %q", sleeper.changes)
		}
		wantSame(t, "VolumeSnapshots", c.names("volumesnapshots"), before)
		c.same(want)
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

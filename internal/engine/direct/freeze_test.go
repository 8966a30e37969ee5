// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestQuiesce(t *testing.T) {
	noAgent := func(c *cluster) { c.vms.run(web, false) }
	off := func(c *cluster) { c.vanish("virtualmachineinstances", "demo", "web") }
	refuses := func(c *cluster) {
		c.fail("freeze", "virtualmachines", func(string) error { return errors.New("fsfreeze hook failed") })
	}
	for _, tc := range []struct {
		name    string
		quiesce vmbackup.Quiesce
		set     func(*cluster) // after the start
		want    vmbackup.Consistency
		reason  vmbackup.Reason
		frozen  bool // the guest was asked to freeze
		warned  string
	}{
		{name: "skip", quiesce: vmbackup.QuiesceSkip, want: vmbackup.ConsistencyCrash},
		{name: "off", quiesce: vmbackup.QuiesceAuto, set: off, want: vmbackup.ConsistencyOffline},
		{name: "off, required", quiesce: vmbackup.QuiesceRequire, set: off, want: vmbackup.ConsistencyOffline},
		{name: "no agent", quiesce: vmbackup.QuiesceAuto, set: noAgent, want: vmbackup.ConsistencyCrash},
		{name: "no agent, required", quiesce: vmbackup.QuiesceRequire, set: noAgent, reason: vmbackup.ReasonFreezeFailed},
		{name: "refused", quiesce: vmbackup.QuiesceAuto, set: refuses, want: vmbackup.ConsistencyCrash, frozen: true, warned: "fsfreeze hook failed"},
		{name: "refused, required", quiesce: vmbackup.QuiesceRequire, set: refuses, reason: vmbackup.ReasonFreezeFailed, frozen: true},
		{name: "frozen, required", quiesce: vmbackup.QuiesceRequire, want: vmbackup.ConsistencyApplication, frozen: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				req := request()
				req.Quiesce = tc.quiesce
				c.start(req)
				if tc.set != nil {
					tc.set(c)
				}
				b, err := c.run(t.Context())
				if got := vmbackup.ReasonOf(err); got != tc.reason {
					t.Fatalf("reason %q, want %q: %v", got, tc.reason, err)
				}
				log := c.log()
				if got := slices.Contains(log, "freeze virtualmachines demo/web"); got != tc.frozen {
					t.Errorf("freeze asked for: %t", got)
				}
				if c.vms.standsStill(web) {
					t.Error("the guest is left frozen")
				}
				if tc.reason != "" {
					wantSame(t, "snapshots", c.names("volumesnapshots"), []string{})
					if b.Status.Phase != vmbackup.PhaseFailed || b.Status.Error == nil {
						t.Errorf("phase %s, error %v", b.Status.Phase, b.Status.Error)
					}
					return
				}
				if b.Status.Consistency != tc.want || !b.Status.Ready {
					t.Errorf("consistency %s, ready %t", b.Status.Consistency, b.Status.Ready)
				}
				if tc.warned != "" && !strings.Contains(strings.Join(b.Status.Warnings, "\n"), tc.warned) {
					t.Errorf("warnings %q", b.Status.Warnings)
				}
			})
		})
	}
}

func TestFreezeWindowThatTheGuestEndedItself(t *testing.T) {
	for _, tc := range []struct {
		quiesce vmbackup.Quiesce
		reason  vmbackup.Reason
	}{{vmbackup.QuiesceAuto, ""}, {vmbackup.QuiesceRequire, vmbackup.ReasonFreezeFailed}} {
		t.Run(string(tc.quiesce), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				req := request()
				req.Quiesce, req.FreezeTimeout = tc.quiesce, 5*time.Second
				c.cutTakes["web-data"] = 7 * time.Second
				c.start(req)
				b, err := c.run(t.Context())
				if got := vmbackup.ReasonOf(err); got != tc.reason {
					t.Fatalf("reason %q, want %q: %v", got, tc.reason, err)
				}
				if b.Status.Consistency != vmbackup.ConsistencyCrash || b.Status.FreezeSeconds != 5 {
					t.Errorf("consistency %s, frozen for %v s", b.Status.Consistency, b.Status.FreezeSeconds)
				}
				if tc.reason == "" && len(b.Status.Warnings) == 0 {
					t.Error("no warning")
				}
			})
		})
	}
}

// A thaw that is slow to be answered, or is not, comes after the snapshots were cut.
func TestThawThatFailsDoesNotSpoilTheSnapshots(t *testing.T) {
	for name, set := range map[string]func(*cluster){
		"slow": func(c *cluster) { c.vms.thawTakes = 10 * time.Second },
		"fails": func(c *cluster) {
			c.fail("unfreeze", "virtualmachines", func(string) error { return errors.New("no route") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				set(c)
				req := request()
				req.Quiesce, req.FreezeTimeout = vmbackup.QuiesceRequire, 8*time.Second
				c.start(req)
				b, err := c.run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if b.Status.Consistency != vmbackup.ConsistencyApplication {
					t.Errorf("consistency %s: the snapshots were cut within 0.3 s", b.Status.Consistency)
				}
				if name == "fails" && len(b.Status.Warnings) == 0 {
					t.Error("no warning about the guest that was not thawed")
				}
			})
		})
	}
}

func TestGuestIsThawedWhenSnapshotsFail(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.fail("create", "volumesnapshots", func(name string) error {
			if strings.HasSuffix(name, "web-data") {
				return errors.New("admission webhook denied it")
			}
			return nil
		})
		c.start(request())
		b, err := c.run(t.Context())
		if err == nil || b.Status.Phase != vmbackup.PhaseFailed {
			t.Fatalf("phase %s: %v", b.Status.Phase, err)
		}
		position(t, c.log(), "unfreeze")
		if c.vms.standsStill(web) {
			t.Error("the guest is left frozen")
		}
		if got := c.record(b1).Backup.Status; got.Phase != vmbackup.PhaseFailed || got.Error == nil || got.Ready {
			t.Errorf("recorded as %s, error %v", got.Phase, got.Error)
		}
	})
}

func TestSnapshotThatIsNeverCut(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.cutTakes["web-data"] = -1
		c.start(request())
		began := time.Now()
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonSnapshotFailed)
		if !strings.Contains(e.Message, "volumes data of") || !strings.Contains(e.Message, "DeadlineExceeded") {
			t.Errorf("the error names neither the volume nor the reason of the CSI driver: %s", e.Message)
		}
		if took := time.Since(began); took != snapshotDeadline {
			t.Errorf("given up after %s", took)
		}
		if b.Status.Phase != vmbackup.PhaseFailed || c.vms.standsStill(web) {
			t.Errorf("phase %s, guest frozen %t", b.Status.Phase, c.vms.standsStill(web))
		}
	})
}

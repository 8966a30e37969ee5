// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"strings"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// A round whose VolumeSnapshots are gone and whose contents are not, because the
// run that threw it away was interrupted, is thrown away to the end.
func TestLeftoversOfABrokenRoundAreFound(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.cutTakes["web-data"] = 3 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := c.run(ctx); err == nil {
			t.Fatal("not interrupted")
		}
		for _, name := range c.names("volumesnapshots") {
			c.vanish("volumesnapshots", "demo", name)
		}
		if b, err := c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Fatalf("%v", err)
		}
		wantSame(t, "contents", len(c.names("volumesnapshotcontents")), 2)
		wantSame(t, "snapshots", len(c.names("snapshots")), 2)
		wantSame(t, "Longhorn backups", len(c.names("backups")), 2)
		wantSame(t, "files", len(c.files()), 4)
	})
}

func TestRestoreTakesAnotherClassWhenItsOwnIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		other := newClass(vmbackup.TypeBackup)
		other.Name = "aaa"
		c.put("volumesnapshotclasses", other)
		c.vanish("volumesnapshotclasses", "", "vmbackup-longhorn-bak")
		if r, err := c.runRestore(t.Context()); err != nil || !r.Status.Ready {
			t.Fatal(err)
		}
		if got := c.restoreEntry().Class; got != "aaa" {
			t.Errorf("class %s", got)
		}
	})
}

func TestRestoreIntoAVolumeThatFaults(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		c.events.on = func(e vmbackup.Event) {
			if e.Step != "data" || e.State != vmbackup.StateRunning || e.Type != vmbackup.EventStep {
				return
			}
			name := c.restoreEntry().Restore.Status.Volumes[0].LonghornVolume
			edit(c.apiServer, "volumes", kube.LonghornNamespace, name, func(v *longhornv1.Volume) {
				v.Status.Robustness = longhornv1.VolumeRobustnessFaulted
				v.Status.Conditions = []longhornv1.Condition{{Type: longhornv1.VolumeConditionTypeScheduled, Status: longhornv1.ConditionStatusFalse, Message: "insufficient storage"}}
			})
		}
		_, err := c.runRestore(t.Context())
		if e := failure(t, err, vmbackup.ReasonBackupFailed); !strings.Contains(e.Message, "insufficient storage") {
			t.Error(e.Message)
		}
	})
}

// A machine that somebody starts by hand, or that was off, is not waited for.
func TestRestoreLeavesTheMachineAsItWas(t *testing.T) {
	for _, strategy := range []kubevirtv1.VirtualMachineRunStrategy{kubevirtv1.RunStrategyManual, kubevirtv1.RunStrategyHalted} {
		t.Run(string(strategy), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.vms.remove(web)
				c.addMachine(strings.Replace(webManifest, `"Always"`, `"`+string(strategy)+`"`, 1))
				c.complete()
				c.startRestore(restoreRequest())
				if r, err := c.runRestore(t.Context()); err != nil || !r.Status.Ready {
					t.Fatal(err)
				}
				if got := c.machine(other)["spec"].(map[string]any)["runStrategy"]; got != string(strategy) {
					t.Errorf("run strategy %v", got)
				}
			})
		})
	}
}

func TestEngineName(t *testing.T) {
	if got := New(nil, nil, nil, nil, nil).Name(); got != "direct" {
		t.Error(got)
	}
}

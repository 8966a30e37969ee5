// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const cutOff = "failed to restore: RequestError: send request failed: connection refused"

// setRestoreFails is what the restores of all volumes end with from now on.
func (c *cluster) setRestoreFails(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restoreFails = why
}

// createdClaims counts the claims that were made of a restore.
func (c *cluster) createdClaims() (n int) {
	for _, line := range c.log() {
		if strings.HasPrefix(line, "create persistentvolumeclaims") {
			n++
		}
	}
	return n
}

// A copy that the target has cut off is made anew when the target is back. Longhorn has
// dropped its records of the target meanwhile, and takes them up under new UIDs.
func TestCopyThatTheTargetCutsOff(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		before := c.createdClaims()
		c.setRestoreFails(cutOff)
		time.AfterFunc(time.Second, func() {
			c.away(targetDown)
			c.forgetBackups()
		})
		time.AfterFunc(2*time.Minute, func() {
			c.setRestoreFails("")
			c.away(nil)
		})
		r, err := c.runRestore(t.Context())
		if err != nil || !r.Status.Ready {
			t.Fatalf("%s: %v", r.Status.Phase, err)
		}
		said := strings.Join(c.events.said(), "\n")
		for _, want := range []string{"waiting for the backup target", "making the volume anew"} {
			if !strings.Contains(said, want) {
				t.Errorf("not said: %s", want)
			}
		}
		if made := c.createdClaims() - before; made < 3 {
			t.Errorf("%d claims made", made)
		}
		wantSame(t, "composed snapshots", len(c.names("volumesnapshots")), 2) // those of the backup
		for _, v := range r.Status.Volumes {
			if v.State != vmbackup.StateReady || !c.has("volumes", "longhorn-system", v.LonghornVolume) {
				t.Errorf("%+v", v)
			}
		}
	})
}

func TestCopyWhoseTargetStaysAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		c.setRestoreFails(cutOff)
		time.AfterFunc(time.Second, func() { c.away(targetDown) })
		r, err := c.runRestore(t.Context())
		e := failure(t, err, vmbackup.ReasonTargetUnavailable)
		if r.Status.Phase != vmbackup.PhaseRunning || !strings.Contains(e.Hint, "resume restore/") || !strings.Contains(e.Message, "are kept") {
			t.Errorf("%s: %s\n%s", r.Status.Phase, e.Message, e.Hint)
		}
		c.setRestoreFails("")
		c.away(nil)
		c.anew()
		if r, err = c.runRestore(t.Context()); err != nil || !r.Status.Ready {
			t.Errorf("%s: %v", r.Status.Phase, err)
		}
	})
}

func TestCopyThatIsNotMadeAnew(t *testing.T) {
	for name, tc := range map[string]struct {
		why   string
		set   func(*cluster)
		tries int
	}{
		"other cause":     {"cannot read block 17", func(*cluster) {}, 1},
		"no room":         {"write: no space left on device", func(*cluster) {}, 1},
		"again and again": {cutOff, func(*cluster) {}, copyLimit + 1},
		"claim taken over": {cutOff, func(c *cluster) {
			time.AfterFunc(time.Second, func() {
				for _, o := range c.all("persistentvolumeclaims") {
					claim := o.(*corev1.PersistentVolumeClaim)
					edit(c.apiServer, "persistentvolumeclaims", claim.Namespace, claim.Name, func(p *corev1.PersistentVolumeClaim) {
						p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "cdi.kubevirt.io/v1beta1", Kind: "DataVolume", Name: "d", UID: "u"}}
					})
				}
			})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.startRestore(restoreRequest())
				before := c.createdClaims()
				c.setRestoreFails(tc.why)
				tc.set(c)
				r, err := c.runRestore(t.Context())
				wantReason(t, err, vmbackup.ReasonBackupFailed)
				if r.Status.Phase != vmbackup.PhaseFailed {
					t.Errorf("%s", r.Status.Phase)
				}
				if made := c.createdClaims() - before; made < tc.tries+1 || made > tc.tries*2 {
					t.Errorf("%d claims made in %d tries", made, tc.tries)
				}
			})
		})
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func (c *cluster) cancelBackup() (*vmbackup.Backup, error) {
	return c.engine.CancelBackup(c.t.Context(), b1, vmbackup.RunOptions{})
}

func (c *cluster) cancelRestore(ref vmbackup.Ref) (*vmbackup.Restore, error) {
	return c.engine.CancelRestore(c.t.Context(), ref, vmbackup.RunOptions{})
}

// nothingLeft sees that nothing of a backup is there but its record.
func (c *cluster) nothingLeft() {
	c.t.Helper()
	for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "backups", "snapshots"} {
		wantSame(c.t, resource, c.names(resource), []string{})
	}
	wantSame(c.t, "files", c.files(), []string{})
	if c.vms.standsStill(web) {
		c.t.Error("the guest is left frozen")
	}
}

// Whoever runs a backup stops when somebody else cancels it, wherever it is.
func TestCancelOfABackupThatRuns(t *testing.T) {
	for name, tc := range map[string]struct {
		set  func(*cluster)
		when time.Duration
	}{
		"in the freeze":    {func(c *cluster) { c.cutTakes["web-root"], c.cutTakes["web-data"] = time.Minute, time.Minute }, 2 * time.Second},
		"in the upload":    {func(c *cluster) { c.uploadTakes = time.Hour }, 10 * time.Second},
		"before any round": {func(c *cluster) { c.vms.freezeTakes = 20 * time.Second }, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				tc.set(c)
				c.start(request())
				canceled := make(chan error, 1)
				time.AfterFunc(tc.when, func() {
					_, err := c.cancelBackup()
					canceled <- err
				})
				b, err := c.run(t.Context())
				e := failure(t, err, vmbackup.ReasonCanceled)
				if e.Preflight || !strings.Contains(e.Message, "is being canceled") || b.Status.Phase != vmbackup.PhaseCanceled || b.Status.Ready {
					t.Errorf("%s: %+v", b.Status.Phase, e)
				}
				wantSame(t, "result", c.events.told(vmbackup.EventResult), []string{"result Canceled Canceled"})
				c.pass(5 * time.Minute)
				if err := <-canceled; err != nil {
					t.Fatal(err)
				}
				c.nothingLeft()
				status := c.record(b1).Backup.Status
				if status.Phase != vmbackup.PhaseCanceled || status.Ready || status.Error == nil || status.Error.Reason != vmbackup.ReasonCanceled || status.CompletedAt == nil {
					t.Errorf("recorded %+v", status)
				}
			})
		})
	}
}

func TestCanceledBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadTakes = time.Hour
		c.start(request())
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		b, err := c.cancelBackup()
		if err != nil || b.Status.Phase != vmbackup.PhaseCanceled {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		c.nothingLeft()
		c.forget()
		// Again it is canceled already; it is not resumed, and not restored.
		if b, err := c.cancelBackup(); err != nil || b.Status.Phase != vmbackup.PhaseCanceled {
			t.Error(err)
		}
		_, err = c.run(t.Context())
		if e := failure(t, err, vmbackup.ReasonCanceled); !e.Preflight || !strings.Contains(e.Message, "was canceled") {
			t.Errorf("%+v", e)
		}
		_, err = c.engine.PlanRestore(t.Context(), restoreRequest())
		wantReason(t, err, vmbackup.ReasonConflict)
		wantSame(t, "writes", c.writes(), nil)
		if err := c.discard(deleteRequest()); err != nil || c.recorded(b1) {
			t.Errorf("recorded %t: %v", c.recorded(b1), err)
		}
	})
}

func TestCancelOfWhatHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		_, err := c.cancelBackup()
		if e := failure(t, err, vmbackup.ReasonNotFound); !e.Preflight {
			t.Error("not a preflight error")
		}
		c.complete()
		files := c.files()
		c.forget()
		_, err = c.cancelBackup()
		if e := failure(t, err, vmbackup.ReasonConflict); !e.Preflight || !strings.Contains(e.Message, "has ended as Ready: there is nothing to cancel") {
			t.Errorf("%+v", e)
		}
		wantSame(t, "writes", c.writes(), nil)
		wantSame(t, "files", c.files(), files)
		c.startRestore(restoreRequest())
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = c.cancelRestore(r1)
		wantReason(t, err, vmbackup.ReasonConflict)
		if !c.has("virtualmachines", "other", "web") {
			t.Error("the restored machine is gone")
		}
	})
}

// A description of the same name that is of another backup is not this one's to remove.
func TestCancelLeavesTheDescriptionOfAnotherBackup(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		other := c.complete()
		keys := []string{metadata.RecordKey(b1), metadata.HarvesterBackupKey(b1)}
		written := map[string][]byte{}
		for _, key := range keys {
			content, err := c.store.Get(t.Context(), key, metadata.FileLimit)
			if err != nil {
				t.Fatal(err)
			}
			written[key] = content
		}
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		c.uploadTakes = time.Hour
		c.start(request()) // b1 anew
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		// Another cluster writes one of that name to the same target, and its data.
		for _, v := range other.Status.Volumes {
			c.write(target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
			keys = append(keys, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
		}
		for key, content := range written {
			if err := c.store.Store.Put(t.Context(), key, content); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.cancelBackup(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(keys)
		wantSame(t, "files", c.files(), keys)
	})
}

func TestCancelOfARestore(t *testing.T) {
	for _, step := range []string{"snapshots", "objects", "volumes", "machine", "data"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web-conf"}, Data: map[string]string{"port": "8080"}})
				before := c.summary()
				c.startRestore(restoreRequest())
				ctx, stop := context.WithCancel(t.Context())
				c.events.on = func(e vmbackup.Event) {
					if e.Step == step && e.State == vmbackup.StateReady {
						stop()
					}
				}
				_, err := c.runRestore(ctx)
				wantReason(t, err, vmbackup.ReasonCanceled)
				c.events.on = nil
				c.anew()
				r, err := c.cancelRestore(r1)
				if err != nil || r.Status.Phase != vmbackup.PhaseCanceled || r.Status.VM != "" {
					t.Fatalf("%+v: %v", r.Status, err)
				}
				c.settle()
				after := c.summary()
				delete(after, "records")
				delete(before, "records")
				wantSame(t, "state", after, before)
				_, err = c.runRestore(t.Context())
				if e := failure(t, err, vmbackup.ReasonCanceled); !e.Preflight {
					t.Errorf("%+v", e)
				}
				if err := c.engine.DeleteRestore(t.Context(), r1); err != nil {
					t.Error(err)
				}
				_, err = c.journal.Get(t.Context(), journal.KindRestore, r1)
				wantReason(t, err, vmbackup.ReasonNotFound)
			})
		})
	}
}

func TestCancelOfARestoreThatRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		canceled := make(chan error, 1)
		c.events.on = func(e vmbackup.Event) {
			if e.Step == "data" && e.Type == vmbackup.EventStep && e.State == vmbackup.StateRunning {
				time.AfterFunc(time.Second, func() {
					_, err := c.cancelRestore(r1)
					canceled <- err
				})
			}
		}
		r, err := c.runRestore(t.Context())
		e := failure(t, err, vmbackup.ReasonCanceled)
		if e.Preflight || r.Status.Phase != vmbackup.PhaseCanceled {
			t.Errorf("%s: %+v", r.Status.Phase, e)
		}
		c.settle()
		if err := <-canceled; err != nil || c.has("virtualmachines", "other", "web") || c.restoreEntry().Restore.Status.Phase != vmbackup.PhaseCanceled {
			t.Errorf("%v, %v", err, c.names("virtualmachines"))
		}
		wantSame(t, "claims", c.names("persistentvolumeclaims"), []string{"web-data", "web-root"})
	})
}

func TestCancelOfARestoreWhoseMachineWasStarted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		ctx, stop := context.WithCancel(t.Context())
		c.fail("watch", "virtualmachines", func(string) error { stop(); return errors.New("connection lost") })
		_, err := c.runRestore(ctx)
		wantReason(t, err, vmbackup.ReasonCanceled)
		c.mend()
		c.forget()
		_, err = c.cancelRestore(r1)
		e := failure(t, err, vmbackup.ReasonConflict)
		if !e.Preflight || !strings.Contains(e.Message, "too late") || !strings.Contains(e.Hint, "resume restore/r1 -n other") {
			t.Errorf("%+v", e)
		}
		wantSame(t, "writes", c.writes(), nil)
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Before the exchange the machine of a restore in place is given back; after it, it is too late.
func TestCancelOfARestoreInPlace(t *testing.T) {
	for _, step := range []string{"volumes", "data", "objects", "stop", "machine"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.changed()
				spec, state := c.machine(web)["spec"], c.summary()
				c.startRestore(inPlaceRequest())
				ctx, stop := context.WithCancel(t.Context())
				c.events.on = func(e vmbackup.Event) {
					if e.Step == step && e.State == vmbackup.StateReady {
						stop()
					}
				}
				_, err := c.runInPlace(ctx)
				wantReason(t, err, vmbackup.ReasonCanceled)
				c.events.on = nil
				c.anew()
				r, err := c.cancelRestore(p1)
				if step == "machine" {
					e := failure(t, err, vmbackup.ReasonConflict)
					if !e.Preflight || !strings.Contains(e.Message, "too late") || !strings.Contains(e.Hint, "resume restore/p1") || !strings.Contains(e.Hint, `"claimName":"web-root"`) {
						t.Errorf("%+v", e)
					}
					if r, err := c.runInPlace(t.Context()); err != nil || !r.Status.Ready {
						t.Error(err)
					}
					return
				}
				if err != nil || r.Status.Phase != vmbackup.PhaseCanceled {
					t.Fatalf("%s: %v", r.Status.Phase, err)
				}
				c.settle()
				wantSame(t, "spec", c.machine(web)["spec"], spec)
				if annotation := c.machine(web)["metadata"].(map[string]any)["annotations"].(map[string]any)[AnnotationGivenUp]; annotation != nil {
					t.Errorf("left annotation %v", annotation)
				}
				after := c.summary()
				for _, s := range []map[string][]string{after, state} {
					delete(s, "records")
					delete(s, "virtualmachines") // started again, and of the spec above
				}
				wantSame(t, "state", after, state)
			})
		})
	}
}

// A run that is about to exchange the disks when the restore is canceled does not:
// the cancellation has changed the machine's version, and the run's record.
func TestCancelAgainstTheExchange(t *testing.T) {
	for _, at := range []string{"get", "update"} {
		t.Run(at, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.startRestore(inPlaceRequest())
				var canceled error
				done := false
				c.fail("update", "virtualmachines", func(string) error {
					if at == "update" && !done {
						done = true // between the run's last look and its update
						_, canceled = c.engine.CancelRestore(context.WithoutCancel(t.Context()), p1, vmbackup.RunOptions{})
					}
					return nil
				})
				c.events.on = func(e vmbackup.Event) {
					if at == "get" && e.Step == "machine" && e.State == vmbackup.StateRunning && !done {
						done = true
						_, canceled = c.engine.CancelRestore(context.WithoutCancel(t.Context()), p1, vmbackup.RunOptions{})
					}
				}
				_, err := c.runInPlace(t.Context())
				wantReason(t, err, vmbackup.ReasonCanceled)
				if canceled != nil {
					t.Fatal(canceled)
				}
				c.settle()
				if disks := c.disksOf(web); disks["root"] != "web-root" || c.runStrategy(web) != "Always" {
					t.Errorf("disks %v, %s", disks, c.runStrategy(web))
				}
			})
		})
	}
}

// What a failed restore in place could not give back, cancel gives back.
func TestCancelAfterAFailedGivingBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(inPlaceRequest())
		broken := true
		c.fail("update", "virtualmachines", func(string) error { return errors.New("refused by a webhook") })
		c.fail("delete", "persistentvolumeclaims", func(string) error {
			if broken {
				return errors.New("refused by another one")
			}
			return nil
		})
		r, err := c.runInPlace(t.Context())
		e := failure(t, err, vmbackup.ReasonInternal)
		if r.Status.Phase != vmbackup.PhaseFailed || !strings.Contains(e.Hint, "kubectl vmbackup cancel restore/p1 -n demo") {
			t.Errorf("%s: %+v", r.Status.Phase, e)
		}
		broken = false
		if r, err := c.cancelRestore(p1); err != nil || r.Status.Phase != vmbackup.PhaseCanceled {
			t.Fatalf("%s: %v", r.Status.Phase, err)
		}
		wantSame(t, "claims", c.names("persistentvolumeclaims"), []string{"web-data", "web-root"})
		if c.runStrategy(web) != "Always" {
			t.Error("the machine is left off")
		}
	})
}

// Objects that only look like the restore's are left alone.
func TestCancelRemovesOnlyItsOwn(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		if _, err := c.engine.RunRestore(t.Context(), r1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		record := c.restoreEntry()
		// Somebody has taken over the secret and the machine under their names.
		edit(c.apiServer, "secrets", "other", "web-init", func(s *corev1.Secret) { delete(s.Labels, LabelOperation) })
		c.vms.remove(other)
		c.addMachine(strings.NewReplacer("demo", "other", "web-root", "mine", "web-data", "mine-too").Replace(webManifest))
		c.put("persistentvolumeclaims", &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "labelled", Labels: map[string]string{LabelOperation: record.Operation}}})
		if _, err := c.cancelRestore(r1); err != nil {
			t.Fatal(err)
		}
		if !c.has("secrets", "other", "web-init") || !c.has("virtualmachines", "other", "web") || !c.has("persistentvolumeclaims", "other", "labelled") {
			t.Errorf("secrets %v, machines %v, claims %v", c.names("secrets"), c.names("virtualmachines"), c.names("persistentvolumeclaims"))
		}
		if c.has("persistentvolumeclaims", "other", "web-root") || c.has("configmaps", "other", "web-conf") {
			t.Error("the restore's own objects are left")
		}
	})
}

// Volumes that somebody has attached meanwhile are in use and stay.
func TestCancelLeavesVolumesThatAreUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		if _, err := c.engine.RunRestore(t.Context(), r1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		c.addMachine(strings.NewReplacer("demo", "other", `"name": "web"`, `"name": "thief"`).Replace(webManifest))
		_, err := c.cancelRestore(r1)
		e := failure(t, err, vmbackup.ReasonConflict)
		if !strings.Contains(e.Message, "thief") || !c.has("persistentvolumeclaims", "other", "web-root") {
			t.Errorf("%+v", e)
		}
		c.vms.remove(vmbackup.Ref{Namespace: "other", Name: "thief"})
		if r, err := c.cancelRestore(r1); err != nil || r.Status.Phase != vmbackup.PhaseCanceled {
			t.Error(err)
		}
	})
}

func TestCancelOfARecordThatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		if _, err := c.journal.Create(t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: b1, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		_, err := c.cancelBackup()
		if e := failure(t, err, vmbackup.ReasonDataDamaged); !strings.Contains(e.Hint, "delete b1 -n demo") {
			t.Errorf("%+v", e)
		}
	})
}

// A guest that a killed run has left frozen is thawed.
func TestCancelThawsTheGuestOfADeadRun(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.cutTakes["web-root"], c.cutTakes["web-data"] = time.Minute, time.Minute
		p := c.process(0, dieAfter)
		p.until = "freeze"
		defer p.bury()
		if err := p.live(createCommand(request())); !errors.Is(err, errDead) || !c.vms.standsStill(web) {
			t.Fatalf("frozen %t: %v", c.vms.standsStill(web), err)
		}
		if _, err := c.cancelBackup(); err != nil {
			t.Fatal(err)
		}
		if c.vms.standsStill(web) {
			t.Error("the guest is left frozen")
		}
		if key := metadata.RecordKey(b1); len(c.files()) > 0 {
			t.Errorf("files %v, and no %s was written", c.files(), key)
		}
	})
}

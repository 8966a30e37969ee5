// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"slices"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// away makes the target one that cannot be used, nil for one that can.
func (c *cluster) away(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.openErr = err
}

// fails makes every later upload of a volume fail, for "" none.
func (c *cluster) fails(volume, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uploadFails[volume] = why
}

// noFiles empties the target.
func (c *cluster) noFiles() {
	for _, key := range c.files() {
		if err := c.store.Store.Delete(c.t.Context(), key); err != nil {
			c.t.Error(err)
		}
	}
}

var targetDown = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "connection refused").WithHint("check the server")

// The target goes away in the middle of the uploads, and Longhorn gives one up. The
// run says so and stays resumable; the next one uploads from the same snapshots.
func TestTargetAwayDuringUploads(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.fails("pvc-web-data", "send request failed: connection refused")
		time.AfterFunc(time.Second, func() { c.away(targetDown) })
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonTargetUnavailable)
		if b.Status.Phase != vmbackup.PhaseRunning || !strings.Contains(e.Message, "web-data") || !strings.Contains(e.Message, "connection refused") ||
			!strings.Contains(e.Hint, "go on with: kubectl vmbackup resume b1 -n demo") || e.Preflight {
			t.Errorf("phase %s, error %+v", b.Status.Phase, e)
		}
		cuts := c.names("snapshots")

		// As long as it is away, a run changes nothing.
		c.anew()
		b, err = c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonTargetUnavailable)
		if b.Status.Phase != vmbackup.PhaseRunning {
			t.Errorf("phase %s", b.Status.Phase)
		}

		c.away(nil)
		c.fails("pvc-web-data", "")
		c.anew()
		b, err = c.run(t.Context())
		if err != nil || !b.Status.Ready || b.Status.Consistency != vmbackup.ConsistencyApplication {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		if got := c.names("snapshots"); !slices.Equal(got, cuts) {
			t.Errorf("snapshots %q, want %q", got, cuts)
		}
		for _, v := range b.Status.Volumes {
			if v.SnapshotHandle != "bak://"+v.LonghornVolume+"/"+v.LonghornBackup || v.Progress != 100 || v.Message != "" {
				t.Errorf("volume %+v", v)
			}
		}
		// The failed one is gone, and each snapshot has one backup.
		if got := c.names("backups"); len(got) != 2 {
			t.Errorf("backups %q", got)
		}
	})
}

// A failure that is the target's by its words is resumable though the target answers again.
func TestTargetAwayForAMoment(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.fails("pvc-web-data", "RequestError: send request failed")
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonTargetUnavailable)
		if b.Status.Phase != vmbackup.PhaseRunning || !strings.Contains(e.Message, "answers again") {
			t.Errorf("phase %s, error %+v", b.Status.Phase, e)
		}
		// What fails again, and not by the target, fails for good.
		c.fails("pvc-web-data", "replica r-1 is corrupt")
		c.anew()
		b, err = c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonBackupFailed)
		if b.Status.Phase != vmbackup.PhaseFailed {
			t.Errorf("phase %s", b.Status.Phase)
		}
	})
}

func TestFailuresOfTheTarget(t *testing.T) {
	for message, want := range map[string]bool{
		"failed to put object: blocks/a7.blk: AWS Error: InsufficientStorage No space left on device.":                        true,
		"AWS HTTP Error: 0 request send failed, Get \"http://127.0.0.1:9000/b?list-type=2\": EOF":                             true,
		"cannot create backup config: AWS Error: NoSuchBucket The specified bucket does not exist":                            true,
		"failed to execute: /usr/bin/mount nfs: mount.nfs: Connection refused":                                                true,
		"failed waiting for the engine pvc-1-e-0 to be running before enabling backup monitor":                                false,
		"backing image b checksum a in the backing image backup is not equal to the checksum c in the existing backing image": false,
		"": false,
	} {
		if got := saysTarget(message); got != want {
			t.Errorf("%q: %t", message, got)
		}
	}
}

// Without its snapshot there is nothing to upload again.
func TestFailedUploadWithoutSnapshot(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.fails("pvc-web-data", "connection refused")
		_, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonTargetUnavailable)
		for _, name := range c.names("snapshots") {
			c.vanish("snapshots", kube.LonghornNamespace, name)
		}
		before := c.names("backups")
		c.anew()
		_, err = c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonBackupFailed)
		wantSame(t, "backups", c.names("backups"), before)
	})
}

// Longhorn removes a failed backup after its time: nobody waits for it for good.
func TestFailedBackupThatWasCleanedAway(t *testing.T) {
	for name, test := range map[string]struct {
		others bool
		reason vmbackup.Reason
		phase  vmbackup.Phase
	}{
		"Gone":        {true, vmbackup.ReasonBackupFailed, vmbackup.PhaseFailed},
		"EmptyTarget": {false, vmbackup.ReasonTargetEmpty, vmbackup.PhaseRunning},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				if test.others {
					c.write("somebody/else")
				}
				c.start(request())
				c.uploadTakes = time.Hour
				time.AfterFunc(31*time.Minute, func() {
					c.forgetBackups()
					if !test.others {
						c.noFiles()
					}
				})
				began := time.Now()
				b, err := c.run(t.Context())
				wantReason(t, err, test.reason)
				if b.Status.Phase != test.phase {
					t.Errorf("phase %s", b.Status.Phase)
				}
				if took := time.Since(began); took > 32*time.Minute {
					t.Errorf("noticed after %s", took)
				}
			})
		})
	}
}

// What Longhorn does not list while the target is away is waited for.
func TestVanishedWhileTheTargetIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		time.AfterFunc(1500*time.Millisecond, func() {
			for _, o := range c.all("backups") {
				b := o.(*longhornv1.Backup)
				b.Status.State, b.Status.Progress = longhornv1.BackupStateCompleted, 100
				readBack(b)
				c.write(target.BackupConfigKey(b.Status.VolumeName, b.Name))
				c.listed[b.Name] = b
			}
			c.away(targetDown)
			c.forgetBackups()
			time.AfterFunc(4*time.Minute, func() { c.away(nil) })
		})
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		told := strings.Join(c.events.said(), "\n")
		if !strings.Contains(told, "waiting for the backup target: connection refused") || !strings.Contains(told, "which the target has; it was asked to look there") {
			t.Errorf("told:\n%s", told)
		}
	})
}

// The CSI sidecar stops waiting and leaves its error; the upload is what counts.
func TestStaleErrorOfTheSidecar(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		time.AfterFunc(1500*time.Millisecond, func() {
			message := "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
			for _, o := range c.all("volumesnapshots") {
				s := o.(*snapshotv1.VolumeSnapshot)
				edit(c.apiServer, "volumesnapshots", s.Namespace, s.Name, func(s *snapshotv1.VolumeSnapshot) {
					s.Status.Error = &snapshotv1.VolumeSnapshotError{Message: &message}
				})
			}
		})
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready || len(b.Status.Warnings) > 0 {
			t.Fatalf("%s, %q: %v", b.Status.Phase, b.Status.Warnings, err)
		}
		if told := strings.Join(c.events.said(), "\n"); strings.Count(told, "the upload goes on; its VolumeSnapshot still shows an error of the CSI sidecar: rpc error: code = DeadlineExceeded") != 2 {
			t.Errorf("told:\n%s", told)
		}
	})
}

// An upload that does not begin says why, and one that cannot begin fails.
func TestUploadThatDoesNotBegin(t *testing.T) {
	detached := func(v *longhornv1.Volume) {
		v.Status.State = longhornv1.VolumeStateDetached
		v.Status.Conditions = []longhornv1.Condition{{Type: "Scheduled", Status: longhornv1.ConditionStatusFalse, Message: "node n1 is down"}}
	}
	for name, test := range map[string]struct {
		change func(c *cluster)
		says   string
		reason vmbackup.Reason
	}{
		"Detached": {func(c *cluster) { edit(c.apiServer, "volumes", kube.LonghornNamespace, "pvc-web-data", detached) }, "must be attached for the upload: node n1 is down", ""},
		"Faulted": {func(c *cluster) {
			edit(c.apiServer, "volumes", kube.LonghornNamespace, "pvc-web-data", func(v *longhornv1.Volume) { v.Status.Robustness = longhornv1.VolumeRobustnessFaulted })
		}, "is faulted", vmbackup.ReasonBackupFailed},
		"Gone": {func(c *cluster) { c.vanish("volumes", kube.LonghornNamespace, "pvc-web-data") }, "is gone", vmbackup.ReasonBackupFailed},
		"TargetAway": {func(c *cluster) {
			c.away(targetDown)
			time.AfterFunc(4*time.Minute, func() { c.away(nil) })
		}, "waiting for the backup target: connection refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				for _, v := range []string{"pvc-web-root", "pvc-web-data"} {
					edit(c.apiServer, "volumes", kube.LonghornNamespace, v, func(v *longhornv1.Volume) { v.Status.State = longhornv1.VolumeStateAttached })
				}
				c.start(request())
				c.uploadTakes = 10 * time.Minute // the first half shows nothing
				if name == "TargetAway" {
					c.uploadWaits = 10 * time.Minute // the sidecar tries again and again
				}
				time.AfterFunc(time.Second, func() { test.change(c) })
				b, err := c.run(t.Context())
				if vmbackup.ReasonOf(err) != test.reason {
					t.Fatalf("%s: %v", b.Status.Phase, err)
				}
				told := strings.Join(c.events.said(), "\n")
				if err != nil {
					told += err.Error()
				}
				if !strings.Contains(told, test.says) {
					t.Errorf("told:\n%s", told)
				}
			})
		})
	}
}

// Longhorn's own words and those of its events stand in the error.
func TestCausesOfAFailedUpload(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.fails("pvc-web-data", "replica r-1 is corrupt")
		event := func(name, object, message string, at time.Time) {
			c.put("events", &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name}, Type: corev1.EventTypeWarning, Reason: "Faulted", Message: message,
				InvolvedObject: corev1.ObjectReference{Name: object}, LastTimestamp: metav1.NewTime(at),
			})
		}
		event("1", "pvc-web-data-r-0", "disk of node n1 is read only", time.Now().Add(time.Second))
		event("2", "pvc-web-database", "of another volume", time.Now().Add(time.Second))
		event("3", "pvc-other", "of another volume", time.Now().Add(time.Second))
		event("4", "pvc-web-data", "of another volume's time", time.Now().Add(-time.Hour))
		c.start(request())
		_, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonBackupFailed)
		if !strings.Contains(e.Message, "replica r-1 is corrupt") || !strings.Contains(e.Message, "disk of node n1 is read only") || strings.Contains(e.Message, "another volume") {
			t.Errorf("%s", e.Message)
		}
	})
}

// A class that was removed after the plan is found, or made, anew.
func TestClassRemovedAfterThePlan(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.put("volumesnapshotclasses", &snapshotv1.VolumeSnapshotClass{
			ObjectMeta: metav1.ObjectMeta{Name: "of-the-admin"}, Driver: Driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
		})
		c.start(request())
		c.vanish("volumesnapshotclasses", "", "of-the-admin")
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		wantSame(t, "classes", c.names("volumesnapshotclasses"), []string{"vmbackup-longhorn-bak"})
	})
}

// The target refuses the description, or the look at the data: nothing has failed
// for good, and the next run ends the backup.
func TestTargetRefusesAtTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.store.refuse(vmbackup.Errorf(vmbackup.ReasonForbidden, "the access key is not known").WithHint("compare the keys"))
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonTargetUnavailable)
		if b.Status.Phase != vmbackup.PhaseRunning || !strings.Contains(e.Hint, "compare the keys; then go on with: kubectl vmbackup resume b1") {
			t.Errorf("phase %s, %+v", b.Status.Phase, e)
		}
		c.store.refuse(nil)
		c.anew()
		if b, err = c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Errorf("%s: %v", b.Status.Phase, err)
		}
	})
}

// A restore from an empty target is refused as such: it proves nothing about the data.
func TestRestoreFromAnEmptyTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		files := c.files()
		c.noFiles()
		_, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		wantReason(t, err, vmbackup.ReasonTargetEmpty)
		for _, key := range files {
			if !strings.Contains(key, "web-data") {
				c.write(key)
			}
		}
		_, err = c.engine.PlanRestore(t.Context(), restoreRequest())
		wantReason(t, err, vmbackup.ReasonDataLost)
	})
}

// said are the messages of all events.
func (r *recorder) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, e := range r.events {
		list = append(list, e.Message)
	}
	return list
}

// A run does not wait for a target for good, and what it waited for goes on.
func TestUploadThatWaitsForTheTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.uploadWaits = time.Hour
		time.AfterFunc(time.Second, func() { c.away(targetDown) })
		began := time.Now()
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonTargetUnavailable)
		if took := time.Since(began); took < targetPatience || took > targetPatience+time.Minute || b.Status.Phase != vmbackup.PhaseRunning || !strings.Contains(e.Hint, "check the server; then go on with: kubectl vmbackup resume b1") {
			t.Errorf("after %s: phase %s, %+v", took, b.Status.Phase, e)
		}
		c.away(nil)
		c.anew()
		if b, err = c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Errorf("%s: %v", b.Status.Phase, err)
		}
	})
}

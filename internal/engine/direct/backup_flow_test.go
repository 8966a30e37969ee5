// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// request asks for a backup "b1" of the machine of most tests.
func request() vmbackup.BackupRequest {
	return vmbackup.BackupRequest{Name: "b1", Namespace: "demo", VM: "web"}
}

var b1 = vmbackup.Ref{Namespace: "demo", Name: "b1"}

// inBubble runs a test on a cluster of its own, with a clock that costs nothing.
func inBubble(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.addWeb()
		f(t, c)
	})
}

// start plans and starts a backup.
func (c *cluster) start(req vmbackup.BackupRequest) {
	c.t.Helper()
	plan, err := c.engine.PlanBackup(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.engine.StartBackup(c.t.Context(), plan); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) run(ctx context.Context) (*vmbackup.Backup, error) {
	return c.engine.RunBackup(ctx, b1, vmbackup.RunOptions{Sink: c.events})
}

// complete makes a ready backup b1.
func (c *cluster) complete() *vmbackup.Backup {
	c.t.Helper()
	c.start(request())
	backup, err := c.run(c.t.Context())
	if err != nil || !backup.Status.Ready {
		c.t.Fatalf("backup is %s: %v", backup.Status.Phase, err)
	}
	c.forget()
	c.events.events = nil
	return backup
}

// failure is the error as it is told, of the reason wanted.
func failure(t *testing.T, err error, want vmbackup.Reason) *vmbackup.Error {
	t.Helper()
	wantReason(t, err, want)
	return vmbackup.AsError(err, vmbackup.ReasonInternal)
}

func wantReason(t *testing.T, err error, want vmbackup.Reason) {
	t.Helper()
	if got := vmbackup.ReasonOf(err); got != want {
		t.Fatalf("reason %q, want %q: %v", got, want, err)
	}
}

func wantSame[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// position is the place of the first request that begins with prefix.
func position(t *testing.T, log []string, prefix string) int {
	t.Helper()
	i := slices.IndexFunc(log, func(r string) bool { return strings.HasPrefix(r, prefix) })
	if i < 0 {
		t.Fatalf("no request %q in:\n%s", prefix, strings.Join(log, "\n"))
	}
	return i
}

func TestBackupEndsReady(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		b, err := c.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !b.Status.Ready || b.Status.Phase != vmbackup.PhaseReady || b.Status.Error != nil {
			t.Errorf("phase %s, ready %t, error %v", b.Status.Phase, b.Status.Ready, b.Status.Error)
		}
		if b.Status.Consistency != vmbackup.ConsistencyApplication || b.Status.FreezeSeconds != 0.3 {
			t.Errorf("consistency %s after %v s frozen", b.Status.Consistency, b.Status.FreezeSeconds)
		}
		if len(b.Status.Volumes) != 2 {
			t.Fatalf("%d volumes", len(b.Status.Volumes))
		}
		for _, v := range b.Status.Volumes {
			if v.State != vmbackup.StateReady || v.Progress != 100 || v.BackupBytes != 2<<20 || v.UploadedBytes != 1<<20 ||
				v.SnapshotHandle != "bak://pvc-"+v.PVC+"/"+v.LonghornBackup || v.VolumeSnapshot != "b1-volume-"+v.PVC {
				t.Errorf("volume %+v", v)
			}
		}
		if b.Status.FoundOn != "cluster,target" {
			t.Errorf("found on %q", b.Status.FoundOn)
		}
		b.Status.FoundOn = "" // where it was found is no part of the record
		// What is said is what is recorded.
		if !reflect.DeepEqual(&c.record(b1).Backup, b) {
			t.Errorf("the journal has %+v\nthe run says %+v", c.record(b1).Backup, b)
		}
		if c.vms.standsStill(web) {
			t.Error("the guest is still frozen")
		}
	})
}

func TestBackupTellsItsSteps(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		if _, err := c.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		steps := slices.Compact(c.events.told(vmbackup.EventPlan, vmbackup.EventStep, vmbackup.EventResult))
		wantSame(t, "steps", steps, []string{
			"plan",
			"step class Running", "step class Ready",
			"step snapshot Running", "step snapshot Ready",
			"step upload Running", "step upload Ready",
			"step verify Running", "step verify Ready",
			"step metadata Running", "step metadata Ready",
			"result Ready",
		})
		var announced []string
		for _, s := range c.events.events[0].Steps {
			announced = append(announced, s.ID)
		}
		wantSame(t, "announced", announced, []string{"class", "snapshot", "upload", "verify", "metadata"})
		progress := map[string][]int{}
		for i, e := range c.events.events {
			if e.Seq != int64(i+1) || e.Operation != "backup/demo/b1" {
				t.Errorf("event %d: number %d of %s", i, e.Seq, e.Operation)
			}
			if e.Type == vmbackup.EventVolume && e.Step == "upload" {
				progress[e.Volume] = append(progress[e.Volume], e.Progress)
			}
		}
		wantSame(t, "progress", progress, map[string][]int{"root": {0, 50, 100, 100}, "data": {0, 50, 100, 100}})
	})
}

func TestGuestIsFrozenForTheSnapshotsAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		if _, err := c.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		log := c.log()
		freeze, thaw := position(t, log, "freeze"), position(t, log, "unfreeze")
		for _, disk := range []string{"web-root", "web-data"} {
			if at := position(t, log, "create volumesnapshots demo/b1-volume-"+disk); at < freeze || at > thaw {
				t.Errorf("snapshot of %s is request %d, frozen from %d to %d", disk, at, freeze, thaw)
			}
		}
		if at := position(t, log, "list backups"); at < thaw {
			t.Errorf("uploads are followed before the guest is thawed: %v", log)
		}
		if at := position(t, log, "watch snapshots"); at < position(t, log, "list snapshots") {
			t.Error("watch before list")
		}
		if at := position(t, log, "list snapshots"); at > freeze {
			t.Error("the guest waits for the watch to open")
		}
	})
}

func TestBackupDescribesItselfOnTheTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		b := c.complete()
		want := []string{metadata.HarvesterBackupKey(b1), metadata.RecordKey(b1)}
		for _, v := range b.Status.Volumes {
			want = append(want, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup))
		}
		slices.Sort(want)
		wantSame(t, "files", c.files(), want)
		content, err := c.store.Get(t.Context(), metadata.RecordKey(b1), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		record, err := metadata.DecodeRecord(metadata.RecordKey(b1), content)
		if err != nil {
			t.Fatal(err)
		}
		if !record.Backup.Status.Ready || record.State != nil {
			t.Errorf("on the target: ready %t, state %s", record.Backup.Status.Ready, record.State)
		}
		if len(record.Secrets) != 1 || len(record.ConfigMaps) != 1 || len(record.Claims) != 2 {
			t.Errorf("%d secrets, %d config maps, %d claims", len(record.Secrets), len(record.ConfigMaps), len(record.Claims))
		}
		if !strings.Contains(string(record.VM), `"fieldOfTheFuture":{"answer":42}`) {
			t.Errorf("a field that this build does not know is lost: %s", record.VM)
		}
	})
}

func TestBackupThatHasEndedIsNotRunAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%v, %v", b.Status.Phase, err)
		}
		wantSame(t, "writes", c.writes(), nil)
		wantSame(t, "events", c.events.told(vmbackup.EventPlan, vmbackup.EventStep, vmbackup.EventResult), []string{"plan", "result Ready"})
	})
}

// cancelWhen ends the returned context at the first request that begins with prefix.
func (c *cluster) cancelWhen(verb, resource string) context.Context {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.fail(verb, resource, func(string) error {
		cancel()
		return nil
	})
	return ctx
}

func TestInterruptLeavesTheGuestRunning(t *testing.T) {
	for name, set := range map[string]func(*cluster) context.Context{
		"while freezing": func(c *cluster) context.Context {
			c.vms.freezeTakes = time.Second
			ctx, cancel := context.WithCancel(c.t.Context())
			time.AfterFunc(500*time.Millisecond, cancel)
			return ctx
		},
		"while snapshots are created": func(c *cluster) context.Context { return c.cancelWhen("create", "volumesnapshots") },
		"while snapshots are cut": func(c *cluster) context.Context {
			ctx, cancel := context.WithCancel(c.t.Context())
			time.AfterFunc(200*time.Millisecond, cancel)
			return ctx
		},
		"deadline": func(c *cluster) context.Context {
			ctx, cancel := context.WithTimeout(c.t.Context(), 200*time.Millisecond)
			c.t.Cleanup(cancel)
			return ctx
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.start(request())
				ctx := set(c)
				_, err := c.run(ctx)
				if got := vmbackup.ReasonOf(err); got != vmbackup.ReasonCanceled && got != vmbackup.ReasonTimeout {
					t.Errorf("reason %q: %v", got, err)
				}
				position(t, c.log(), "unfreeze")
				if c.vms.standsStill(web) {
					t.Error("the guest is left frozen")
				}
				if got := c.record(b1).Backup.Status.Phase; got != vmbackup.PhaseRunning {
					t.Errorf("recorded as %s; an interrupt ends nothing", got)
				}
				told := c.events.told(vmbackup.EventResult)
				if len(told) != 1 || !strings.HasPrefix(told[0], "result Running ") {
					t.Errorf("result told: %q", told)
				}
			})
		})
	}
}

func TestResumedBackupTakesANewRound(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		// The first disk is cut and uploading when the run ends, the second is not.
		c.cutTakes["web-data"] = 3 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := c.run(ctx); err == nil {
			t.Fatal("not interrupted")
		}
		broken := c.names("snapshots")
		if len(broken) != 2 || len(c.names("backups")) != 1 {
			t.Fatalf("snapshots %v, backups %v", broken, c.names("backups"))
		}
		c.cutQuickly()
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		wantSame(t, "VolumeSnapshots", c.names("volumesnapshots"), []string{"b1-volume-web-data-2", "b1-volume-web-root-2"})
		for _, name := range c.names("snapshots") {
			if slices.Contains(broken, name) {
				t.Errorf("snapshot %s of the broken round is still there", name)
			}
		}
		wantSame(t, "VolumeSnapshotContents", len(c.names("volumesnapshotcontents")), 2)
		// Its data too: two disks of two moments make no machine.
		wantSame(t, "files", len(c.files()), 4)
		wantSame(t, "Longhorn backups", len(c.names("backups")), 2)
	})
}

func TestResumedBackupGoesOnWithItsUploads(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.run(ctx)
		wantReason(t, err, vmbackup.ReasonTimeout)
		before := c.names("volumesnapshots")
		c.forget()
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready || b.Status.Consistency != vmbackup.ConsistencyApplication {
			t.Fatalf("%s, %s: %v", b.Status.Phase, b.Status.Consistency, err)
		}
		wantSame(t, "snapshots", c.names("volumesnapshots"), before)
		if slices.ContainsFunc(c.log(), func(r string) bool { return strings.HasPrefix(r, "freeze") }) {
			t.Error("the guest was frozen again")
		}
	})
}

func TestNoWaitEndsBeforeTheUploads(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		b, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{Sink: c.events, NoWait: true})
		if err != nil || b.Status.Phase != vmbackup.PhaseRunning || b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		wantSame(t, "result", c.events.told(vmbackup.EventResult), []string{"result Running"})
		if c.vms.standsStill(web) {
			t.Error("the guest is left frozen")
		}
		// Any later run, on any machine, takes it to its end.
		if b, err = c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Errorf("%s: %v", b.Status.Phase, err)
		}
	})
}

func TestUploadThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadFails["pvc-web-data"] = "replica r-1 is corrupt"
		c.start(request())
		b, err := c.run(t.Context())
		e := failure(t, err, vmbackup.ReasonBackupFailed)
		if !strings.Contains(e.Message, "1 of 2 volumes") || !strings.Contains(e.Message, "replica r-1 is corrupt") || e.Preflight {
			t.Errorf("error %+v", e)
		}
		if b.Status.Phase != vmbackup.PhaseFailed || b.Status.Ready {
			t.Errorf("phase %s, ready %t", b.Status.Phase, b.Status.Ready)
		}
		// The other volume is told as it is.
		for _, v := range c.record(b1).Backup.Status.Volumes {
			want := vmbackup.StateReady
			if v.Name == "data" {
				want = vmbackup.StateFailed
			}
			if v.State != want {
				t.Errorf("volume %s is %s", v.Name, v.State)
			}
		}
		for _, key := range c.files() {
			if !strings.HasPrefix(key, target.VolumesPrefix) {
				t.Errorf("a failed backup is described on the target: %s", key)
			}
		}
	})
}

func TestCompleteBackupThatIsNotOnTheTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.loses = true
		c.write("somebody/else")
		c.start(request())
		b, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonDataLost)
		if b.Status.Ready || b.Status.Phase != vmbackup.PhaseFailed {
			t.Errorf("phase %s, ready %t", b.Status.Phase, b.Status.Ready)
		}
		wantSame(t, "files", c.files(), []string{"somebody/else"})
	})
}

func TestTargetThatDoesNotAnswerEndsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		down := true
		c.fail("stat", "file", func(string) error {
			if down {
				return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "connection refused")
			}
			return nil
		})
		_, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonTargetUnavailable)
		if got := c.record(b1).Backup.Status.Phase; got != vmbackup.PhaseRunning {
			t.Errorf("recorded as %s", got)
		}
		down = false
		if b, err := c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Errorf("%s: %v", b.Status.Phase, err)
		}
	})
}

func TestTargetThatDoesNotKeepWhatIsWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.store.damages = map[string]bool{metadata.RecordKey(b1): true}
		c.start(request())
		b, err := c.run(t.Context())
		wantReason(t, err, vmbackup.ReasonDataDamaged)
		if b.Status.Ready {
			t.Error("ready")
		}
	})
}

// Who may not ask Longhorn for snapshots gets them through the CSI driver.
func TestSnapshotsThroughTheDriverAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.fail("create", "snapshots", func(name string) error {
			return apierrors.NewForbidden(schema.GroupResource{Group: "longhorn.io", Resource: "snapshots"}, name, errors.New("no"))
		})
		c.start(request())
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready || b.Status.Consistency != vmbackup.ConsistencyApplication || b.Status.FreezeSeconds != 0.35 {
			t.Errorf("%s, %s, frozen for %v s: %v", b.Status.Phase, b.Status.Consistency, b.Status.FreezeSeconds, err)
		}
		if len(b.Status.Warnings) != 0 {
			t.Errorf("warnings %q", b.Status.Warnings)
		}
	})
}

func TestBackupOfTypeSnapshot(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		req := request()
		req.Type = vmbackup.TypeSnapshot
		c.start(req)
		b, err := c.run(t.Context())
		if err != nil || !b.Status.Ready {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		for _, v := range b.Status.Volumes {
			kind, volume, name, ok := handleParts(v.SnapshotHandle)
			if !ok || kind != "snap" || volume != v.LonghornVolume || !c.has("snapshots", "longhorn-system", name) || v.State != vmbackup.StateReady {
				t.Errorf("volume %+v", v)
			}
		}
		wantSame(t, "files", c.files(), []string{})
		class := c.all("volumesnapshotclasses")[0].(*snapshotv1.VolumeSnapshotClass)
		if class.Parameters["type"] != "snap" || class.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain {
			t.Errorf("class %+v", class)
		}
	})
}

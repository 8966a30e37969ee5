// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// longhornLooks makes Longhorn answer each request to look at a target: at once it
// notes what look leaves of the target, and look does the rest.
func (c *cluster) longhornLooks(look func(bt *longhornv1.BackupTarget)) {
	c.longhorn.PrependReactor("patch", "backuptargets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		handled, object, err := clienttesting.ObjectReaction(c.longhorn.Tracker())(action)
		if bt, ok := object.(*longhornv1.BackupTarget); ok && err == nil {
			bt = bt.DeepCopy()
			look(bt)
			err = c.longhorn.Tracker().Update(longhornv1.SchemeGroupVersion.WithResource("backuptargets"), bt, kube.LonghornNamespace)
		}
		return handled, object, err
	})
}

func (c *cluster) add(objects ...runtime.Object) {
	c.t.Helper()
	for _, o := range objects {
		if err := c.longhorn.Tracker().Add(o); err != nil {
			c.t.Error(err)
		}
	}
}

func TestSync(t *testing.T) {
	volumes := longhornv1.SchemeGroupVersion.WithResource("backupvolumes")
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"), backupVolume("v1", "default", "1024"), backupVolume("old", "default", "1"),
		longhornBackup("b1", "default", "v1", longhornv1.BackupStateCompleted), longhornBackup("of-another", "second", "v1", longhornv1.BackupStateCompleted))
	lookedAt := metav1.Time{Time: noon().Add(time.Minute)}
	c.longhornLooks(func(bt *longhornv1.BackupTarget) {
		if asked := bt.Spec.SyncRequestedAt.Time; !asked.Equal(noon().Add(-59 * time.Second)) {
			t.Errorf("asked for a look at %s, which is not right after the last one", asked)
		}
		bt.Status.LastSyncedAt = lookedAt
		fresh := backupVolume("v2", "default", "1024")
		fresh.Status.LastSyncedAt = metav1.Time{}
		c.add(fresh)
		if err := c.longhorn.Tracker().Delete(volumes, kube.LonghornNamespace, "old-default"); err != nil {
			t.Error(err)
		}
		// The new volume's backups are found a moment later.
		time.AfterFunc(50*time.Millisecond, func() {
			c.add(longhornBackup("b2", "default", "v2", longhornv1.BackupStateCompleted))
			fresh = fresh.DeepCopy()
			fresh.Status.LastSyncedAt = lookedAt
			if err := c.longhorn.Tracker().Update(volumes, fresh, kube.LonghornNamespace); err != nil {
				t.Error(err)
			}
		})
	})
	got, err := c.Sync(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	s := got.Status
	if len(s.Appeared) != 2 || s.Appeared[0].Name != "b2" || s.Appeared[1].Name != "v2-default" || len(s.Disappeared) != 1 || s.Disappeared[0].Name != "old-default" {
		t.Errorf("appeared %+v, disappeared %+v", s.Appeared, s.Disappeared)
	}
	if !s.LonghornSyncedAt.Equal(lookedAt.Time) || s.Holds.Backups != 2 || s.HarvesterRefreshedAt != nil || s.Warnings != nil {
		t.Errorf("%+v", s)
	}
}

func TestSyncFails(t *testing.T) {
	soon := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("the target is away", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
		c.longhornLooks(func(bt *longhornv1.BackupTarget) {
			bt.Status.Available = false
			bt.Status.Conditions = []longhornv1.Condition{{Type: "Unavailable", Status: longhornv1.ConditionStatusTrue, Message: "no route"}}
		})
		// It is told at once, and when it fails again in the same words, at the deadline.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := c.Sync(ctx, "default")
		if vmbackup.ReasonOf(err) != vmbackup.ReasonTargetUnavailable || !strings.Contains(err.Error(), "no route") || ctx.Err() != nil {
			t.Error(err, ctx.Err())
		}
		if _, err := c.Sync(soon(t), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonTargetUnavailable || !strings.Contains(err.Error(), "no route") {
			t.Error(err)
		}
	})
	t.Run("Longhorn does nothing", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
		if _, err := c.Sync(soon(t), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonTimeout {
			t.Error(err)
		}
	})
	t.Run("a volume is not looked at", func(t *testing.T) {
		waiting := backupVolume("v1", "default", "1")
		waiting.Spec.SyncRequestedAt = metav1.Time{Time: noon().Add(time.Hour)}
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"), waiting)
		c.longhornLooks(func(bt *longhornv1.BackupTarget) { bt.Status.LastSyncedAt = metav1.Time{Time: noon()} })
		if _, err := c.Sync(soon(t), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonTimeout || !strings.Contains(err.Error(), "volumes") {
			t.Error(err)
		}
	})
	t.Run("no URL", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", ""))
		if _, err := c.Sync(t.Context(), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonTargetUnavailable || len(c.longhorn.Actions()) != 1 {
			t.Errorf("%v, %v", err, c.longhorn.Actions())
		}
	})
	t.Run("no right", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
		forbid(&c.longhorn.Fake, "patch", "backuptargets")
		if _, err := c.Sync(t.Context(), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
			t.Error(err)
		}
	})
}

// TestRequest keeps requests from running ahead of Longhorn's clock.
func TestRequest(t *testing.T) {
	bt := backupTarget("default", "s3://b@r/")
	bt.Spec.SyncRequestedAt = metav1.Time{Time: noon()}
	if got := request(bt); !got.Equal(noon().Add(time.Second)) {
		t.Error(got)
	}
	bt.Status.LastSyncedAt, bt.Spec.SyncRequestedAt = metav1.Time{}, metav1.Time{}
	if got := request(bt); !got.Before(noon()) {
		t.Error(got)
	}
}

func TestSyncOnHarvester(t *testing.T) {
	const value = `{"type":"s3","endpoint":"http://e:9000","bucketName":"bucket","bucketRegion":"region"}`
	looks := func(bt *longhornv1.BackupTarget) { bt.Status.LastSyncedAt = metav1.Time{Time: noon()} }
	t.Run("reads again", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
		c.longhornLooks(looks)
		c.setting = harvesterSetting(value)
		c.patched = func(s *harvester.Setting) {
			if _, there := s.Annotations[harvester.TargetHashAnnotation]; there || s.Value != value {
				t.Errorf("patched to %+v", s)
			}
			s.Annotations[harvester.TargetHashAnnotation], s.Annotations[harvester.TargetRefreshAnnotation] = "h", "2026-03-01T12:05:00Z"
		}
		got, err := c.Sync(t.Context(), "default")
		if err != nil || !got.Status.HarvesterRefreshedAt.Equal(noon().Add(5*time.Minute)) {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("stops at a file", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
		c.longhornLooks(looks)
		c.setting = harvesterSetting(value)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := c.Sync(ctx, "default")
		if e := vmbackup.AsError(err, ""); e == nil || e.Reason != vmbackup.ReasonTimeout || !strings.Contains(e.Hint, "target contents default") {
			t.Error(err)
		}
	})
	for name, change := range map[string]func(*cluster){
		"may not be read": func(c *cluster) { c.settingCode = http.StatusForbidden },
		"is empty":        func(c *cluster) { c.setting = harvesterSetting("") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
			c.longhornLooks(looks)
			change(c)
			got, err := c.Sync(t.Context(), "default")
			if err != nil || len(got.Status.Warnings) != 1 || !strings.Contains(got.Status.Warnings[0], name) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// one sees that the backup has made one Longhorn backup a volume, and nothing else.
func (c *cluster) one(b *vmbackup.Backup) {
	c.t.Helper()
	if !b.Status.Ready {
		c.t.Fatalf("%s", b.Status.Phase)
	}
	c.pass(time.Hour) // what comes late would have come
	c.relist()
	for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "snapshots", "backups"} {
		wantSame(c.t, resource, len(c.names(resource)), 2)
	}
	for _, v := range b.Status.Volumes {
		if !c.has("backups", kube.LonghornNamespace, v.LonghornBackup) {
			c.t.Errorf("volume %s: its backup %s is gone", v.Name, v.LonghornBackup)
		}
	}
	wantSame(c.t, "files", len(c.files()), 4)
}

// The first backup of a volume, in a round that broke while it was uploaded: Longhorn
// would leave on the target what it writes after the deletion of its Backup.
func TestUploadOfABrokenRoundEndsBeforeItGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.start(request())
		c.cutTakes["web-data"], c.uploadTakes = 10*time.Second, time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := c.run(ctx); err == nil {
			t.Fatal("not interrupted")
		}
		c.pass(40 * time.Second) // it is under way
		c.cutQuickly()
		c.mu.Lock()
		c.uploadTakes = 2 * time.Second
		c.mu.Unlock()
		b, err := c.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.one(b)
	})
}

// Longhorn's CSI plugin asks for a backup again when the answer to its request was lost.
func TestSecondBackupOfASnapshotGoes(t *testing.T) {
	for _, taken := range []int{0, 1} {
		inBubble(t, func(t *testing.T, c *cluster) {
			var mu sync.Mutex // guards made
			var made []string
			c.after = append(c.after, func(verb, _ string, object runtime.Object) {
				b, ok := object.(*longhornv1.Backup)
				if !ok || verb != "create" || b.Labels["backup-volume"] != "pvc-web-root" {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if made = append(made, b.Name); len(made) == 1 {
					time.AfterFunc(time.Second, func() { c.upload("pvc-web-root", b.Spec.SnapshotName) })
				}
				if taken == len(made)-1 {
					handle := "bak://pvc-web-root/" + b.Name
					edit(c.apiServer, "volumesnapshotcontents", "", "snapcontent-"+strings.TrimPrefix(b.Spec.SnapshotName, "snapshot-"), func(o *snapshotv1.VolumeSnapshotContent) {
						o.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle}
					})
				}
			})
			c.start(request())
			b, err := c.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.one(b)
			if len(made) != 2 || b.Status.Volumes[0].LonghornBackup != made[taken] {
				t.Errorf("made %v, taken %s, and the CSI snapshot has that of %d", made, b.Status.Volumes[0].LonghornBackup, taken)
			}
		})
	}
}

func TestCancelOfAFirstUpload(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadTakes = 2 * time.Minute
		c.start(request())
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		c.pass(90 * time.Second) // the uploads are under way
		if b, err := c.engine.CancelBackup(t.Context(), b1, vmbackup.RunOptions{Sink: c.events}); err != nil || b.Status.Phase != vmbackup.PhaseCanceled {
			t.Fatalf("%s: %v", b.Status.Phase, err)
		}
		told := strings.Join(c.events.said(), "\n")
		if !strings.Contains(told, "waiting for the upload of Longhorn Backup") || !strings.Contains(told, "(50 %)") {
			t.Error(told)
		}
		c.pass(time.Hour)
		c.relist()
		c.nothingLeft()
	})
}

func TestDeleteOfAnUploadThatStalls(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.uploadTakes = 10 * time.Hour
		c.start(request())
		if _, err := c.engine.RunBackup(t.Context(), b1, vmbackup.RunOptions{NoWait: true}); err != nil {
			t.Fatal(err)
		}
		c.pass(6 * time.Hour)
		e := failure(t, c.discard(deleteRequest()), vmbackup.ReasonTargetUnavailable)
		if !strings.Contains(e.Message, "no progress for 10m0s") || !strings.Contains(e.Hint, "run the same command again") {
			t.Errorf("%s\n%s", e.Message, e.Hint)
		}
		wantSame(t, "Longhorn backups", len(c.names("backups")), 2)
		c.pass(5 * time.Hour)
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		c.relist()
		c.nothingLeft()
	})
}

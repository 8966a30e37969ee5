// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// lastAsk makes the cluster's csi-snapshotter what the real one is: it holds a
// VolumeSnapshotContent for a moment after its deletion, and asks Longhorn once
// more for its snapshot, which Longhorn uploads again, before it lets go.
func (c *cluster) lastAsk() {
	c.after = append(c.after, func(verb, _ string, object runtime.Object) {
		content, ok := object.(*snapshotv1.VolumeSnapshotContent)
		switch {
		case !ok:
		case verb == "create":
			edit(c.apiServer, "volumesnapshotcontents", "", content.Name, func(o *snapshotv1.VolumeSnapshotContent) {
				o.Finalizers = []string{"snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"}
			})
		case verb == "update" && content.DeletionTimestamp != nil:
			time.AfterFunc(400*time.Millisecond, func() {
				name := longhornSnapshot(string(content.Spec.VolumeSnapshotRef.UID))
				volume := "pvc-" + strings.TrimPrefix(content.Spec.VolumeSnapshotRef.Name, "b1-volume-")
				if !c.has("snapshots", kube.LonghornNamespace, name) {
					c.put("snapshots", &longhornv1.Snapshot{
						ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name, Labels: map[string]string{"longhornvolume": volume}},
						Spec:       longhornv1.SnapshotSpec{Volume: volume},
					})
				}
				c.upload(volume, name)
			})
			time.AfterFunc(500*time.Millisecond, func() { c.vanish("volumesnapshotcontents", "", content.Name) })
		}
	})
}

// interruptedRound ends a run in the middle of its round of snapshots.
func (c *cluster) interruptedRound() {
	c.t.Helper()
	c.start(request())
	c.cutTakes["web-data"] = 3 * time.Second
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.run(ctx); err == nil {
		c.t.Fatal("not interrupted")
	}
}

// Of a broken round nothing is left, although csi-snapshotter asks for its
// snapshots until its contents are gone.
func TestBrokenRoundIsRemovedForGood(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.lastAsk()
		c.interruptedRound()
		if b, err := c.run(t.Context()); err != nil || !b.Status.Ready {
			t.Fatalf("%v", err)
		}
		for _, resource := range []string{"volumesnapshotcontents", "snapshots", "backups"} {
			wantSame(t, resource, len(c.names(resource)), 2)
		}
		wantSame(t, "leftovers", len(loadState(c.record(b1)).Leftovers), 0)
	})
}

func TestHalfMadeBackupIsDeletedForGood(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.lastAsk()
		c.interruptedRound()
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "snapshots", "backups"} {
			wantSame(t, resource, c.names(resource), []string{})
		}
	})
}

// Once the contents are gone nothing in the cluster names Longhorn's snapshots of
// a broken round: the record does.
func TestInterruptedRemovalFindsItsWayBack(t *testing.T) {
	for name, remove := range map[string]func(*cluster) error{
		"of a round": func(c *cluster) error {
			_, err := c.run(c.t.Context())
			return err
		},
		"of a backup": func(c *cluster) error { return c.discard(deleteRequest()) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.interruptedRound()
				down := true
				for _, resource := range []string{"backups", "snapshots"} {
					c.fail("delete", resource, func(string) error {
						if down {
							return context.DeadlineExceeded
						}
						return nil
					})
				}
				if err := remove(c); err == nil {
					t.Fatal("not interrupted")
				}
				wantSame(t, "contents", c.names("volumesnapshotcontents"), []string{})
				down = false
				if err := remove(c); err != nil {
					t.Fatal(err)
				}
				want := 0
				if name == "of a round" {
					want = 2
				}
				wantSame(t, "snapshots", len(c.names("snapshots")), want)
				wantSame(t, "backups", len(c.names("backups")), want)
			})
		})
	}
}

// A csi-snapshotter that is down holds the contents for ever; that is told.
func TestContentsThatStay(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.interruptedRound()
		for _, name := range c.names("volumesnapshotcontents") {
			edit(c.apiServer, "volumesnapshotcontents", "", name, func(o *snapshotv1.VolumeSnapshotContent) { o.Finalizers = []string{"held"} })
		}
		began := time.Now()
		err := c.discard(deleteRequest())
		if e := failure(t, err, vmbackup.ReasonEngineUnavailable); e.Hint == "" || time.Since(began) < contentsDeadline {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if !c.recorded(b1) {
			t.Error("the record is gone")
		}
	})
}

// A content that is deleted just when its snapshot gets ready is let go of only when
// something about it changes once more.
func TestContentsThatAreForgottenAreLookedAtAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.interruptedRound()
		for _, name := range c.names("volumesnapshotcontents") {
			edit(c.apiServer, "volumesnapshotcontents", "", name, func(o *snapshotv1.VolumeSnapshotContent) { o.Finalizers = []string{"held"} })
		}
		c.after = append(c.after, func(verb, _ string, object runtime.Object) {
			content, ok := object.(*snapshotv1.VolumeSnapshotContent)
			if ok && verb == "update" && content.DeletionTimestamp != nil && content.Annotations[annotationNudge] != "" {
				c.vanish("volumesnapshotcontents", "", content.Name)
			}
		})
		if err := c.discard(deleteRequest()); err != nil {
			t.Fatal(err)
		}
		for _, resource := range []string{"volumesnapshotcontents", "snapshots", "backups"} {
			wantSame(t, resource, c.names(resource), []string{})
		}
	})
}

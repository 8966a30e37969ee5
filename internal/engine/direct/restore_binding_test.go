// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"slices"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// A snapshot controller that has overlooked the composed snapshots is made to look again.
func TestComposedSnapshotsThatAreOverlookedAreBound(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.bindForgets = true
		c.startRestore(restoreRequest())
		began := time.Now()
		r, err := c.runRestore(t.Context())
		if err != nil || r.Status.Phase != vmbackup.PhaseReady {
			t.Fatalf("%v, %+v", err, r)
		}
		if took := time.Since(began); took < nudgeAfter {
			t.Errorf("ended after %s, before anybody looked again", took)
		}
	})
}

// Somebody removes a composed snapshot before it is bound: it is made again.
func TestComposedSnapshotsThatVanishAreMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.startRestore(restoreRequest())
		removed := false
		c.after = append(c.after, func(verb, _ string, object runtime.Object) {
			s, ok := object.(*snapshotv1.VolumeSnapshot)
			if ok && verb == "create" && s.Spec.Source.VolumeSnapshotContentName != nil && !removed {
				removed = true
				c.vanish("volumesnapshots", s.Namespace, s.Name)
			}
		})
		if r, err := c.runRestore(t.Context()); err != nil || r.Status.Phase != vmbackup.PhaseReady {
			t.Fatalf("%v, %+v", err, r)
		}
		if !removed {
			t.Error("nothing was removed")
		}
	})
}

// Why a composed snapshot is not bound is told of its volume, once.
func TestWhyAComposedSnapshotIsNotBoundIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.bindForgets = true
		c.startRestore(restoreRequest())
		message := "the class is gone"
		c.after = append(c.after, func(verb, _ string, object runtime.Object) {
			s, ok := object.(*snapshotv1.VolumeSnapshot)
			if ok && verb == "create" && s.Spec.Source.VolumeSnapshotContentName != nil {
				edit(c.apiServer, "volumesnapshots", s.Namespace, s.Name, func(s *snapshotv1.VolumeSnapshot) {
					s.Status = &snapshotv1.VolumeSnapshotStatus{Error: &snapshotv1.VolumeSnapshotError{Message: &message}}
				})
			}
		})
		if _, err := c.runRestore(t.Context()); err != nil {
			t.Fatal(err)
		}
		told := slices.DeleteFunc(slices.Clone(c.events.events), func(e vmbackup.Event) bool {
			return e.Step != "snapshots" || e.State != vmbackup.StatePending || e.Volume != "root"
		})
		if len(told) != 1 || told[0].Message == "" {
			t.Errorf("told %+v", told)
		}
	})
}

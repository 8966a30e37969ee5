// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findClass finds a VolumeSnapshotClass that fits the type, or describes the one to make.
func (e *Engine) findClass(ctx context.Context, kind vmbackup.BackupType) (class *snapshotv1.VolumeSnapshotClass, isNew bool, err error) {
	list, err := e.clients.Snapshot.SnapshotV1().VolumeSnapshotClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, false, kube.Error(err, "list", "VolumeSnapshotClasses")
	}
	want := newClass(kind)
	var (
		fitting []snapshotv1.VolumeSnapshotClass
		misfit  error
	)
	for _, c := range list.Items {
		switch {
		case fits(&c, want):
			fitting = append(fitting, c)
		case c.Name == want.Name:
			misfit = unfit(&c)
		}
	}
	if len(fitting) == 0 {
		return want, true, misfit
	}
	// Our own first, then the first by name: the same one every time.
	slices.SortFunc(fitting, func(a, b snapshotv1.VolumeSnapshotClass) int {
		if (a.Name == want.Name) != (b.Name == want.Name) {
			if a.Name == want.Name {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return &fitting[0], false, nil
}

// fits reports whether a class does what the wanted one does. The policy is part of
// it: with Delete, the data would go with an object.
func fits(c, want *snapshotv1.VolumeSnapshotClass) bool {
	return c.Driver == want.Driver && c.DeletionPolicy == want.DeletionPolicy && classType(c) == classType(want)
}

// unfit is the error for a class that has the name of the engine's own and is another.
func unfit(c *snapshotv1.VolumeSnapshotClass) error {
	return vmbackup.Errorf(vmbackup.ReasonConflict, "there is a VolumeSnapshotClass %s already, with driver %s, deletion policy %s and type %s, which is not safe to back up with", c.Name, c.Driver, c.DeletionPolicy, classType(c)).
		WithHint("rename or remove it, or make another class with driver %s, deletionPolicy %s and the type that is needed", Driver, snapshotv1.VolumeSnapshotContentRetain)
}

// classType is the type parameter as Longhorn reads it: empty means bak.
func classType(c *snapshotv1.VolumeSnapshotClass) string {
	if t := c.Parameters["type"]; t != "" {
		return t
	}
	return "bak"
}

// longhornType is Longhorn's CSI snapshot type for a backup's type.
func longhornType(kind vmbackup.BackupType) string {
	if kind == vmbackup.TypeSnapshot {
		return "snap"
	}
	return "bak"
}

// newClass is the class that the engine makes where none fits. The policy is
// Retain: with Delete, deleting a VolumeSnapshot or its namespace would delete the
// data on the target.
func newClass(kind vmbackup.BackupType) *snapshotv1.VolumeSnapshotClass {
	parameter := longhornType(kind)
	return &snapshotv1.VolumeSnapshotClass{
		ObjectMeta:     metav1.ObjectMeta{Name: "vmbackup-longhorn-" + parameter, Labels: map[string]string{LabelManagedBy: kube.FieldManager}},
		Driver:         Driver,
		DeletionPolicy: snapshotv1.VolumeSnapshotContentRetain,
		Parameters:     map[string]string{"type": parameter},
	}
}

func (r *backupRun) ensureClass(ctx context.Context) error {
	if r.state.cut() {
		return nil // nothing is asked of it any more
	}
	if r.state.Class != "" {
		// Somebody may have removed or changed it since the plan.
		have, err := r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshotClasses().Get(ctx, r.state.Class, metav1.GetOptions{})
		switch {
		case err == nil && fits(have, newClass(r.backup().Spec.Type)):
			return nil
		case err != nil && !apierrors.IsNotFound(err):
			return kube.Error(err, "read", "VolumeSnapshotClass "+r.state.Class)
		}
	}
	class, err := r.engine.ensureClass(ctx, r.backup().Spec.Type)
	if err != nil {
		return err
	}
	r.state.Class = class // once it is there: the step may be run again
	return nil
}

// ensureClass returns the name of a fitting class, which it makes where there is none.
func (e *Engine) ensureClass(ctx context.Context, kind vmbackup.BackupType) (string, error) {
	class, isNew, err := e.findClass(ctx, kind)
	if err != nil {
		return "", err
	}
	if isNew {
		err = e.createClass(ctx, class)
	}
	return class.Name, err
}

// createClass creates a class, unless somebody else has in the meantime.
func (e *Engine) createClass(ctx context.Context, class *snapshotv1.VolumeSnapshotClass) error {
	client := e.clients.Snapshot.SnapshotV1().VolumeSnapshotClasses()
	_, err := client.Create(ctx, class, metav1.CreateOptions{FieldManager: kube.FieldManager})
	if apierrors.IsAlreadyExists(err) {
		var have *snapshotv1.VolumeSnapshotClass
		if have, err = client.Get(ctx, class.Name, metav1.GetOptions{}); err == nil && !fits(have, class) {
			return unfit(have)
		}
	}
	return kube.Error(err, "create", "VolumeSnapshotClass "+class.Name)
}

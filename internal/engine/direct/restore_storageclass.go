// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// recordedClass is the StorageClass of that name as a backup holds it, nil when it
// holds none. Of the object only what decides about volumes is taken: an annotation
// could make it the cluster's default.
func recordedClass(record *metadata.Record, name string) (*storagev1.StorageClass, error) {
	for _, raw := range record.Others {
		m, err := metadata.ParseManifest(raw)
		if err != nil {
			return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "an object of backup %s cannot be read: %w", record.Backup.Ref(), err)
		}
		if m.Group() != storagev1.GroupName || m.Kind != "StorageClass" || m.Metadata.Name != name {
			continue
		}
		was := &storagev1.StorageClass{}
		if err := metadata.ReadObject(raw, was); err != nil {
			return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "StorageClass %q of backup %s cannot be read: %w", name, record.Backup.Ref(), err)
		}
		return bareClass(was), nil
	}
	return nil, nil
}

// bareClass is a StorageClass without what is not about its volumes.
func bareClass(was *storagev1.StorageClass) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: was.Name, Labels: map[string]string{LabelManagedBy: kube.FieldManager}},
		Provisioner: was.Provisioner, Parameters: was.Parameters, ReclaimPolicy: was.ReclaimPolicy, MountOptions: was.MountOptions,
		AllowVolumeExpansion: was.AllowVolumeExpansion, VolumeBindingMode: was.VolumeBindingMode,
	}
}

// recallClasses adds to the destination the StorageClasses that it lacks and the
// backup holds: they are made by the restore. One that is mapped must be there.
func (d *destination) recallClasses(record *metadata.Record, mapping map[string]string) error {
	for _, v := range record.Backup.Status.Volumes {
		if _, mapped := mapping[v.StorageClass]; mapped || v.StorageClass == "" || d.classes[v.StorageClass] != nil {
			continue
		}
		class, err := recordedClass(record, v.StorageClass)
		if err != nil {
			return err
		}
		if class != nil && class.Provisioner == Driver {
			d.classes[class.Name] = class
			d.newClasses = append(d.newClasses, *class)
		}
	}
	return nil
}

// changedClasses warns of StorageClasses that are there with other parameters than when
// the backup was made: their volumes are made as they say now.
func (d *destination) changedClasses(record *metadata.Record, mapping map[string]string) (warnings []string, err error) {
	told := map[string]bool{}
	for _, v := range record.Backup.Status.Volumes {
		class := d.classes[v.StorageClass]
		if _, mapped := mapping[v.StorageClass]; mapped || class == nil || told[v.StorageClass] {
			continue
		}
		told[v.StorageClass] = true
		was, err := recordedClass(record, v.StorageClass)
		if err != nil {
			return nil, err
		}
		if was == nil || maps.Equal(was.Parameters, class.Parameters) {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("StorageClass %q has other parameters than when the backup was made (%s): the restored volumes get those of now; another class can be named with --map-storage-class %s=CLASS",
			class.Name, differences(was.Parameters, class.Parameters), class.Name))
	}
	return warnings, nil
}

// differences says in what parameters differ, in their order.
func differences(was, is map[string]string) string {
	var words []string
	keys := slices.Sorted(maps.Keys(is))
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if _, there := is[key]; !there {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		now, there := is[key]
		before, had := was[key]
		switch {
		case !had:
			words = append(words, fmt.Sprintf("%s %q is new", key, now))
		case !there:
			words = append(words, fmt.Sprintf("%s was %q and is gone", key, before))
		case now != before:
			words = append(words, fmt.Sprintf("%s is %q and was %q", key, now, before))
		}
	}
	return strings.Join(words, ", ")
}

// makesClasses adds the step that makes StorageClasses, where there are any to make.
func (r *restoreRun) makesClasses(steps []flow.Step) []flow.Step {
	if len(r.record.StorageClasses) == 0 {
		return steps
	}
	return append(steps, flow.Step{ID: "storage-classes", Title: "Make the StorageClasses of the volumes", Ensure: r.ensureStorageClasses})
}

// ensureStorageClasses makes the StorageClasses that the cluster lacked. One that has
// appeared since is taken when it makes the same volumes.
func (r *restoreRun) ensureStorageClasses(ctx context.Context) error {
	client := r.engine.clients.Core.StorageV1().StorageClasses()
	for i := range r.record.StorageClasses {
		class := r.record.StorageClasses[i].DeepCopy()
		_, err := client.Create(ctx, class, metav1.CreateOptions{FieldManager: kube.FieldManager})
		if apierrors.IsAlreadyExists(err) {
			var have *storagev1.StorageClass
			if have, err = client.Get(ctx, class.Name, metav1.GetOptions{}); err == nil && (have.Provisioner != class.Provisioner || !maps.Equal(have.Parameters, class.Parameters)) {
				return vmbackup.Errorf(vmbackup.ReasonConflict, "StorageClass %q appeared since the restore was planned, with other parameters than that of the backup; it was left as it is", class.Name).
					WithHint("start a new restore: it is held against the StorageClass that is there now")
			}
		}
		if err != nil {
			return kube.Error(err, "create", "StorageClass "+class.Name)
		}
	}
	return nil
}

// checkClasses refuses StorageClasses in a record that no restore would have written
// there: of another provisioner, or of no volume of its own.
func (r *restoreRecord) checkClasses() error {
	for i := range r.StorageClasses {
		class := &r.StorageClasses[i]
		switch {
		case !isName(class.Name):
			return fmt.Errorf("storageClasses[%d]: %q is no name of Kubernetes", i, class.Name)
		case class.Provisioner != Driver:
			return fmt.Errorf("storageClasses[%d]: its provisioner %q is not Longhorn's", i, class.Provisioner)
		case !slices.ContainsFunc(r.Restore.Status.Volumes, func(v vmbackup.RestoreVolume) bool { return v.StorageClass == class.Name }):
			return fmt.Errorf("storageClasses[%d]: no volume has StorageClass %q", i, class.Name)
		}
		*class = *bareClass(class)
	}
	return nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Parameters of Longhorn's StorageClasses.
const (
	parameterEncrypted  = "encrypted"
	parameterDataEngine = "dataEngine"
	parameterImage      = "backingImage"
	parameterReplicas   = "numberOfReplicas"
	parameterMigratable = "migratable"
)

// findStorageClasses reads all StorageClasses: the one that is missing is told
// together with those that could take its place.
func (e *Engine) findStorageClasses(ctx context.Context) (map[string]*storagev1.StorageClass, error) {
	list, err := e.clients.Core.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "StorageClasses")
	}
	classes := make(map[string]*storagev1.StorageClass, len(list.Items))
	for i := range list.Items {
		classes[list.Items[i].Name] = &list.Items[i]
	}
	return classes, nil
}

// checkMappedClasses refuses a mapping of a class that the backup does not have:
// a mistyped name would leave the volumes where they must not go.
func checkMappedClasses(backup *vmbackup.Backup, mapping map[string]string) error {
	var has []string
	for _, v := range backup.Status.Volumes {
		if v.StorageClass != "" && !slices.Contains(has, v.StorageClass) {
			has = append(has, v.StorageClass)
		}
	}
	for _, from := range slices.Sorted(maps.Keys(mapping)) {
		if !slices.Contains(has, from) {
			return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "StorageClass %q is mapped to %q, but no volume of backup %s has it", from, mapping[from], backup.Ref()).
				WithHint("the StorageClasses of this backup are: %s", strings.Join(has, ", "))
		}
	}
	return nil
}

// place finds the StorageClass that a volume of the backup comes back with, and
// refuses one into which Longhorn would not restore this data.
func (d *destination) place(backup *vmbackup.Backup, v *vmbackup.BackupVolume, mapping map[string]string) (*storagev1.StorageClass, error) {
	if v.StorageClass == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageClassMissing, "volume %s of backup %s names no StorageClass, so it cannot be provisioned", v.Name, backup.Ref())
	}
	name, mapped := mapping[v.StorageClass]
	if !mapped {
		name = v.StorageClass
	}
	class, found := d.classes[name]
	if !found {
		return nil, d.classMissing(backup, v, name)
	}
	unsupported := func(format string, args ...any) *vmbackup.Error {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "StorageClass "+strconv.Quote(name)+" "+format, args...)
	}
	if class.Provisioner != Driver {
		return nil, unsupported("provisions with %s, which cannot restore Longhorn's backups", class.Provisioner).
			WithHint("map it to one with the provisioner %s: --map-storage-class %s=CLASS; there are: %s", Driver, v.StorageClass, d.longhornClasses())
	}
	if class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer {
		return nil, unsupported("waits for its first consumer (volumeBindingMode WaitForFirstConsumer), so its volumes would be restored only when the machine starts").
			WithHint("map it to one with volumeBindingMode Immediate, which is Longhorn's default: --map-storage-class %s=CLASS", v.StorageClass)
	}
	if engine := class.Parameters[parameterDataEngine]; engine != "" && engine != string(longhornv1.DataEngineTypeV1) {
		return nil, unsupported("makes volumes of Longhorn's data engine %s, and volume %s of backup %s was made by v1", engine, v.Name, backup.Ref()).
			WithHint("map it to one with dataEngine v1: --map-storage-class %s=CLASS", v.StorageClass)
	}
	if was, known := d.encryptedIn(v); known && was != encrypts(class) {
		words := map[bool]string{true: "encrypted", false: "not encrypted"}
		return nil, unsupported("makes volumes that are %s, and volume %s of backup %s is %s: its data could not be read in there", words[!was], v.Name, backup.Ref(), words[was]).
			WithHint("map it to a StorageClass whose volumes are %s: --map-storage-class %s=CLASS", words[was], v.StorageClass)
	}
	if image := class.Parameters[parameterImage]; image != "" && image != v.Image {
		below := "no backing image"
		if v.Image != "" {
			below = "backing image " + v.Image
		}
		return nil, unsupported("puts its volumes on backing image %s, and volume %s of backup %s rests on %s: the disk would be a mixture of both", image, v.Name, backup.Ref(), below).
			WithHint("map it to a StorageClass without a backing image, or with that of the backup: --map-storage-class %s=CLASS", v.StorageClass)
	}
	return class, nil
}

// checkMode refuses a claim that the volumes of a class cannot serve: Longhorn shares
// a volume that is not migratable through NFS, which has no block devices.
func checkMode(class *storagev1.StorageClass, claim *corev1.PersistentVolumeClaim, from string) error {
	block := claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock
	migratable, err := strconv.ParseBool(class.Parameters[parameterMigratable])
	if !block || !slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany) || (err == nil && migratable) {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "StorageClass %q makes no volumes that a machine could use from two nodes as a block device (its parameter migratable is not \"true\"), as PersistentVolumeClaim %s asks for (ReadWriteMany, volumeMode Block)", class.Name, claim.Name).
		WithHint("map it to one with migratable: \"true\": --map-storage-class %s=CLASS", from)
}

func (d *destination) classMissing(backup *vmbackup.Backup, v *vmbackup.BackupVolume, name string) error {
	what := "which volume " + v.Name + " of backup " + backup.Ref().String() + " had"
	if name != v.StorageClass {
		what = "to which " + strconv.Quote(v.StorageClass) + " is mapped"
	}
	return vmbackup.Errorf(vmbackup.ReasonStorageClassMissing, "StorageClass %q, %s, does not exist in this cluster", name, what).
		WithHint("map it to another one with --map-storage-class %s=CLASS; those of Longhorn in this cluster are: %s", v.StorageClass, d.longhornClasses())
}

// longhornClasses names the classes that a volume could be mapped to.
func (d *destination) longhornClasses() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(d.classes)) {
		if d.classes[name].Provisioner == Driver {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// encrypts reports whether the volumes of a class are encrypted.
func encrypts(class *storagev1.StorageClass) bool {
	on, err := strconv.ParseBool(class.Parameters[parameterEncrypted])
	return err == nil && on
}

// encryptedIn reports whether a volume of the backup is encrypted. A backup that
// does not say so (Harvester's do not) is judged by the class that it came from,
// where that is still there.
func (d *destination) encryptedIn(v *vmbackup.BackupVolume) (encrypted, known bool) {
	if v.Encrypted != nil {
		return *v.Encrypted, true
	}
	if class, found := d.classes[v.StorageClass]; found && class.Provisioner == Driver {
		return encrypts(class), true
	}
	return false, false
}

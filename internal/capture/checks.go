// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// checkEngine refuses a volume whose backup could not be restored for sure: of
// Longhorn's data engines, v1 alone is known to this tool.
func checkEngine(volume *longhornv1.Volume, ref ClaimRef, vm vmbackup.Ref) error {
	if engine := volume.Spec.DataEngine; engine != "" && engine != longhornv1.DataEngineTypeV1 {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "volume %q of VirtualMachine %s (Longhorn volume %s) is run by Longhorn's data engine %s, and only those of v1 are backed up", ref.Volume, vm, volume.Name, engine).
			WithHint("move the disk to a StorageClass with dataEngine v1, or back it up in Longhorn itself")
	}
	return nil
}

// shared names the disks of a machine that others may have open, too. Their
// snapshots hold whatever the others were writing: freezing this guest does not
// stop them.
func shared(vm *kubevirtv1.VirtualMachine) (warnings []string) {
	for _, d := range vm.Spec.Template.Spec.Domain.Devices.Disks {
		if d.Shareable != nil && *d.Shareable {
			warnings = append(warnings, fmt.Sprintf("disk %q is shareable: what other machines write to it while its snapshot is taken is crash consistent at best, and a restored machine gets a disk of its own in its place", d.Name))
		}
	}
	return warnings
}

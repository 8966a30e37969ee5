// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/json"
	"strings"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestPluggedIntoTheInstanceAlone(t *testing.T) {
	vm, vmi := &kubevirtv1.VirtualMachine{}, &kubevirtv1.VirtualMachineInstance{}
	if err := json.Unmarshal([]byte(`{"spec":{"template":{"spec":{"domain":{},"volumes":[{"name":"kept","persistentVolumeClaim":{"claimName":"a","hotpluggable":true}}]}}}}`), vm); err != nil {
		t.Fatal(err)
	}
	plugged := func(name string, hot bool) kubevirtv1.Volume {
		v := kubevirtv1.Volume{Name: name}
		v.PersistentVolumeClaim = &kubevirtv1.PersistentVolumeClaimVolumeSource{Hotpluggable: hot}
		return v
	}
	vmi.Spec.Volumes = []kubevirtv1.Volume{plugged("kept", true), plugged("guest", true), plugged("of-a-preference", false)}
	got := pluggedOnly(vm, vmi)
	if len(got) != 1 || !strings.Contains(got[0], `"guest"`) || !strings.Contains(got[0], "--persist") {
		t.Errorf("warnings %q", got)
	}
	if got := pluggedOnly(vm, nil); got != nil {
		t.Errorf("a machine that is off: %q", got)
	}
}

func TestShareableDiskIsTold(t *testing.T) {
	yes := true
	vm := &kubevirtv1.VirtualMachine{Spec: kubevirtv1.VirtualMachineSpec{Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{}}}
	vm.Spec.Template.Spec.Domain.Devices.Disks = []kubevirtv1.Disk{{Name: "own"}, {Name: "quorum", Shareable: &yes}}
	if got := shared(vm); len(got) != 1 || !strings.Contains(got[0], `"quorum"`) {
		t.Errorf("%q", got)
	}
}

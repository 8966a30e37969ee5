// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

var now = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

func disk(name string, bus virtv1.DiskBus) virtv1.Disk {
	return virtv1.Disk{Name: name, DiskDevice: virtv1.DiskDevice{Disk: &virtv1.DiskTarget{Bus: bus}}}
}

func claim(name, pvc string) virtv1.Volume {
	return virtv1.Volume{Name: name, VolumeSource: virtv1.VolumeSource{
		PersistentVolumeClaim: &virtv1.PersistentVolumeClaimVolumeSource{
			PersistentVolumeClaimVolumeSource: corev1.PersistentVolumeClaimVolumeSource{ClaimName: pvc},
		},
	}}
}

// scheduledVMI is what virt-controller hands over: one disk, one interface on the pod network.
func scheduledVMI() *virtv1.VirtualMachineInstance {
	vmi := &virtv1.VirtualMachineInstance{
		TypeMeta:   metav1.TypeMeta{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "vm", UID: "uid-1"},
		Status: virtv1.VirtualMachineInstanceStatus{
			Phase:    virtv1.Scheduled,
			NodeName: "sandbox-node",
			Conditions: []virtv1.VirtualMachineInstanceCondition{
				{Type: virtv1.VirtualMachineInstanceReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			},
			VolumeStatus: []virtv1.VolumeStatus{{Name: "root"}},
			Interfaces: []virtv1.VirtualMachineInstanceNetworkInterface{
				{Name: "default", PodInterfaceName: "eth0", InfoSource: "multus-status"},
			},
		},
	}
	vmi.Spec.Domain.Devices.Disks = []virtv1.Disk{disk("root", virtv1.DiskBusVirtio)}
	vmi.Spec.Domain.Devices.Interfaces = []virtv1.Interface{{Name: "default"}}
	vmi.Spec.Networks = []virtv1.Network{{Name: "default", NetworkSource: virtv1.NetworkSource{Pod: &virtv1.PodNetwork{}}}}
	vmi.Spec.Volumes = []virtv1.Volume{claim("root", "root-pvc")}
	return vmi
}

func condition(status *virtv1.VirtualMachineInstanceStatus, kind virtv1.VirtualMachineInstanceConditionType) *virtv1.VirtualMachineInstanceCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

func TestRunningStatus(t *testing.T) {
	vmi := scheduledVMI()
	seen := observation{now: now, podIP: "127.0.0.1", attached: map[string]bool{"root": true}}
	status := runningStatus(vmi, seen)
	if status.Phase != virtv1.Running || len(status.PhaseTransitionTimestamps) != 1 {
		t.Errorf("phase %s, transitions %v", status.Phase, status.PhaseTransitionTimestamps)
	}
	agent := condition(&status, virtv1.VirtualMachineInstanceAgentConnected)
	if agent == nil || agent.Status != corev1.ConditionTrue || agent.LastProbeTime.IsZero() {
		t.Errorf("agent condition %+v: the API wants a probe time", agent)
	}
	if condition(&status, virtv1.VirtualMachineInstanceReady) == nil {
		t.Error("a condition of virt-controller was lost")
	}
	i := status.Interfaces[0]
	if i.IP != "127.0.0.1" || i.MAC == "" || i.InterfaceName != "eth0" || i.PodInterfaceName != "eth0" ||
		i.InfoSource != "multus-status, domain, guest-agent" {
		t.Errorf("interface %+v", i)
	}
	if status.VolumeStatus[0].Target != "vda" || status.GuestOSInfo.ID == "" {
		t.Errorf("volume %+v, guest %+v", status.VolumeStatus[0], status.GuestOSInfo)
	}

	// Looking again at the same guest changes nothing, or the stand-in would write for ever.
	vmi.Status = status
	seen.now = metav1.NewTime(now.Add(time.Hour))
	if again := runningStatus(vmi, seen); !equality.Semantic.DeepEqual(again, status) {
		t.Errorf("a second look changed the status:\n%+v\n%+v", status, again)
	}

	seen.frozen, seen.paused = true, true
	status = runningStatus(vmi, seen)
	if status.FSFreezeStatus != "frozen" || condition(&status, virtv1.VirtualMachineInstancePaused) == nil {
		t.Errorf("frozen and paused gave %q, %+v", status.FSFreezeStatus, status.Conditions)
	}
	vmi.Status = status
	seen.frozen, seen.paused = false, false
	status = runningStatus(vmi, seen)
	if status.FSFreezeStatus != "" || condition(&status, virtv1.VirtualMachineInstancePaused) != nil {
		t.Errorf("thawed and resumed gave %q, %+v", status.FSFreezeStatus, status.Conditions)
	}

	vmi.Annotations = map[string]string{guest.AgentAnnotation: guest.Absent}
	status = runningStatus(vmi, seen)
	if condition(&status, virtv1.VirtualMachineInstanceAgentConnected) != nil || status.GuestOSInfo.ID != "" ||
		status.Interfaces[0].InterfaceName != "" {
		t.Errorf("without an agent: %+v", status)
	}
}

func TestHotplugPhases(t *testing.T) {
	vmi := scheduledVMI()
	vmi.Spec.Domain.Devices.Disks = append(vmi.Spec.Domain.Devices.Disks, disk("hot", virtv1.DiskBusSCSI))
	vmi.Spec.Volumes = append(vmi.Spec.Volumes, claim("hot", "hot-pvc"))
	vmi.Status.VolumeStatus = []virtv1.VolumeStatus{
		{Name: "root"},
		{Name: "hot", Phase: virtv1.HotplugVolumeAttachedToNode, HotplugVolume: &virtv1.HotplugVolumeStatus{AttachPodUID: "pod"}},
	}
	of := func(attached ...string) virtv1.VolumeStatus {
		t.Helper()
		have := map[string]bool{}
		for _, name := range attached {
			have[name] = true
		}
		for _, status := range volumeStatus(vmi, have) {
			if status.Name == "hot" {
				return status
			}
		}
		t.Fatal("no status of the hot-plugged volume")
		return virtv1.VolumeStatus{}
	}
	if s := of("root"); s.Phase != virtv1.HotplugVolumeAttachedToNode || s.Target != "" {
		t.Errorf("before it is attached: %+v", s)
	}
	if s := of("root", "hot"); s.Phase != virtv1.VolumeReady || s.Target != "sda" {
		t.Errorf("attached: %+v", s)
	}
	vmi.Status.VolumeStatus[1].Phase = virtv1.VolumeReady
	vmi.Spec.Volumes = vmi.Spec.Volumes[:1]
	vmi.Spec.Domain.Devices.Disks = vmi.Spec.Domain.Devices.Disks[:1]
	if s := of("root"); s.Phase != virtv1.HotplugVolumeUnMounted || s.Target != "" {
		t.Errorf("unplugged: %+v", s)
	}
}

func TestShutdownOutcome(t *testing.T) {
	ignores := map[string]string{guest.ShutdownAnnotation: guest.Ignore}
	for name, test := range map[string]struct {
		annotations  map[string]string
		grace, since time.Duration
		phase        virtv1.VirtualMachineInstancePhase
		left         time.Duration
	}{
		"obeys":                     {grace: time.Minute, phase: virtv1.Succeeded},
		"ignores, within the grace": {annotations: ignores, grace: time.Minute, since: 20 * time.Second, left: 40 * time.Second},
		"ignores, destroyed":        {annotations: ignores, grace: time.Minute, since: time.Minute, phase: virtv1.Failed},
		"no grace":                  {annotations: ignores, phase: virtv1.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			phase, left := shutdownOutcome(test.annotations, test.grace, test.since)
			if phase != test.phase || left != test.left {
				t.Errorf("phase %q in %s, want %q in %s", phase, left, test.phase, test.left)
			}
		})
	}
}

func TestDeviceLetters(t *testing.T) {
	for n, want := range map[int]string{0: "a", 25: "z", 26: "aa", 27: "ab", 701: "zz", 702: "aaa"} {
		if got := deviceLetters(n); got != want {
			t.Errorf("disk %d is %q, want %q", n, got, want)
		}
	}
}

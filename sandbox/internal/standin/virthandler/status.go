// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package virthandler

import (
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

// frozen is the value of status.fsFreezeStatus while frozen; it is empty otherwise.
const frozen = "frozen"

// observation is what the stand-in sees of a running guest.
type observation struct {
	now    metav1.Time
	podIP  string
	frozen bool
	paused bool
	// attached are the names of the VMI's volumes that the guest has.
	attached map[string]bool
}

// runningStatus is the status of a VMI whose guest runs. Fields that
// virt-controller owns stay as they are.
func runningStatus(vmi *virtv1.VirtualMachineInstance, o observation) virtv1.VirtualMachineInstanceStatus {
	status := vmi.Status.DeepCopy()
	setPhase(status, virtv1.Running, o.now)
	agent := guest.Connected(vmi.Annotations)
	setCondition(status, agent, virtv1.VirtualMachineInstanceCondition{
		Type: virtv1.VirtualMachineInstanceAgentConnected, Status: corev1.ConditionTrue,
	}, o.now)
	setCondition(status, o.paused, virtv1.VirtualMachineInstanceCondition{
		Type: virtv1.VirtualMachineInstancePaused, Status: corev1.ConditionTrue,
		Reason: "PausedByUser", Message: "VMI was paused by user",
	}, o.now)
	setCondition(status, true, virtv1.VirtualMachineInstanceCondition{
		Type: virtv1.VirtualMachineInstanceIsMigratable, Status: corev1.ConditionFalse,
		Reason: "StandIn", Message: "the sandbox has one node and a stand-in for virt-handler",
	}, o.now)
	status.FSFreezeStatus = ""
	status.GuestOSInfo = virtv1.VirtualMachineInstanceGuestOSInfo{}
	if agent {
		status.GuestOSInfo = osInfo()
		if o.frozen {
			status.FSFreezeStatus = frozen
		}
	}
	status.Interfaces = interfaces(vmi, o.podIP, agent)
	status.VolumeStatus = volumeStatus(vmi, o.attached)
	if status.Machine == nil {
		machine := "q35"
		if vmi.Spec.Domain.Machine != nil && vmi.Spec.Domain.Machine.Type != "" {
			machine = vmi.Spec.Domain.Machine.Type
		}
		status.Machine = &virtv1.Machine{Type: machine}
	}
	if status.SelinuxContext == "" {
		status.SelinuxContext = "none"
	}
	if memory := status.Memory; memory != nil && memory.GuestCurrent == nil {
		memory.GuestCurrent = memory.GuestAtBoot
	}
	return *status
}

// osInfo names the guest for what it is.
func osInfo() virtv1.VirtualMachineInstanceGuestOSInfo {
	return virtv1.VirtualMachineInstanceGuestOSInfo{
		ID: "sandbox", Name: "Sandbox Guest", PrettyName: "Sandbox Guest (stand-in)",
		Version: "1", VersionID: "1", KernelRelease: "0.0.0", KernelVersion: "none", Machine: "x86_64",
	}
}

func setPhase(status *virtv1.VirtualMachineInstanceStatus, phase virtv1.VirtualMachineInstancePhase, now metav1.Time) {
	status.Phase = phase
	for _, transition := range status.PhaseTransitionTimestamps {
		if transition.Phase == phase {
			return
		}
	}
	status.PhaseTransitionTimestamps = append(status.PhaseTransitionTimestamps,
		virtv1.VirtualMachineInstancePhaseTransitionTimestamp{Phase: phase, PhaseTransitionTimestamp: now})
}

// setCondition adds the condition or takes it away; one that is there already keeps its times.
func setCondition(status *virtv1.VirtualMachineInstanceStatus, wanted bool, condition virtv1.VirtualMachineInstanceCondition, now metav1.Time) {
	if !wanted {
		removeCondition(status, condition.Type)
		return
	}
	for _, c := range status.Conditions {
		if c.Type == condition.Type && c.Status == condition.Status {
			return
		}
	}
	removeCondition(status, condition.Type)
	condition.LastProbeTime, condition.LastTransitionTime = now, now
	status.Conditions = append(status.Conditions, condition)
}

func removeCondition(status *virtv1.VirtualMachineInstanceStatus, kind virtv1.VirtualMachineInstanceConditionType) {
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c virtv1.VirtualMachineInstanceCondition) bool {
		return c.Type == kind
	})
}

// interfaces reports every interface of the spec. What virt-controller wrote
// into an entry (the pod's interface, its source) stays.
func interfaces(vmi *virtv1.VirtualMachineInstance, podIP string, agent bool) []virtv1.VirtualMachineInstanceNetworkInterface {
	onPodNetwork := map[string]bool{}
	for _, network := range vmi.Spec.Networks {
		onPodNetwork[network.Name] = network.Pod != nil
	}
	var reported []virtv1.VirtualMachineInstanceNetworkInterface
	for i, spec := range vmi.Spec.Domain.Devices.Interfaces {
		entry := virtv1.VirtualMachineInstanceNetworkInterface{Name: spec.Name}
		for _, known := range vmi.Status.Interfaces {
			if known.Name == spec.Name {
				entry = *known.DeepCopy()
			}
		}
		entry.MAC = spec.MacAddress
		if entry.MAC == "" {
			entry.MAC = macAddress(string(vmi.UID), spec.Name)
		}
		entry.QueueCount, entry.LinkState = 1, "up"
		entry.InfoSource = addSource(entry.InfoSource, "domain")
		entry.InterfaceName = ""
		if agent {
			entry.InfoSource = addSource(entry.InfoSource, "guest-agent")
			entry.InterfaceName = fmt.Sprintf("eth%d", i)
		}
		if onPodNetwork[spec.Name] && podIP != "" {
			entry.IP, entry.IPs = podIP, []string{podIP}
		}
		reported = append(reported, entry)
	}
	return reported
}

func addSource(sources, source string) string {
	if sources == "" {
		return source
	}
	if slices.Contains(strings.Split(sources, ", "), source) {
		return sources
	}
	return sources + ", " + source
}

// macAddress is stable for the life of a VMI, in the range that QEMU uses.
func macAddress(uid, name string) string {
	sum := sha256.Sum256([]byte(uid + "/" + name))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}.String()
}

// volumeStatus gives every disk that the guest has its device, and brings
// hot-plugged volumes forward once they are attached or gone.
func volumeStatus(vmi *virtv1.VirtualMachineInstance, attached map[string]bool) []virtv1.VolumeStatus {
	targets := map[string]string{}
	letters := map[string]int{}
	for _, disk := range vmi.Spec.Domain.Devices.Disks {
		prefix := "sd"
		if target := disk.Disk; target != nil && target.Bus == virtv1.DiskBusVirtio {
			prefix = "vd"
		}
		targets[disk.Name] = prefix + deviceLetters(letters[prefix])
		letters[prefix]++
	}
	inSpec := map[string]bool{}
	for _, volume := range vmi.Spec.Volumes {
		inSpec[volume.Name] = true
	}
	var reported []virtv1.VolumeStatus
	for _, known := range vmi.Status.VolumeStatus {
		entry := *known.DeepCopy()
		if entry.HotplugVolume == nil {
			entry.Target = targets[entry.Name]
			reported = append(reported, entry)
			continue
		}
		entry.Target = ""
		switch {
		case attached[entry.Name]:
			entry.Target = targets[entry.Name]
			entry.Phase, entry.Reason = virtv1.VolumeReady, "VolumeReady"
			entry.Message = fmt.Sprintf("Successfully attach hotplugged volume %s to VM", entry.Name)
		case !inSpec[entry.Name] && leavable(entry.Phase):
			entry.Phase, entry.Reason = virtv1.HotplugVolumeUnMounted, "VolumeUnMountedFromPod"
			entry.Message = fmt.Sprintf("Volume %s has been unmounted from virt-launcher pod", entry.Name)
		}
		reported = append(reported, entry)
	}
	slices.SortStableFunc(reported, func(a, b virtv1.VolumeStatus) int { return strings.Compare(a.Name, b.Name) })
	return reported
}

// leavable are the phases from which a volume that left the spec is unmounted.
func leavable(phase virtv1.VolumePhase) bool {
	return phase == virtv1.VolumeReady || phase == virtv1.HotplugVolumeMounted || phase == virtv1.HotplugVolumeAttachedToNode
}

// deviceLetters counts as the kernel names disks: a ... z, aa, ab ...
func deviceLetters(n int) string {
	letters := ""
	for n >= 0 {
		letters = string(rune('a'+n%26)) + letters
		n = n/26 - 1
	}
	return letters
}

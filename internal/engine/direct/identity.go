// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"strings"

	"github.com/google/uuid"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// dropsMACs reports whether the restored machine is left to get MAC addresses of
// its own: two machines with one address do not go together.
func dropsMACs(req vmbackup.RestoreRequest, sourceExists bool) bool {
	switch req.MAC {
	case vmbackup.MACKeep:
		return false
	case vmbackup.MACNew:
		return true
	}
	return sourceExists && !req.InPlace
}

// fixedMACs are the MAC addresses that a machine's manifest names.
func fixedMACs(vm json.RawMessage) []string {
	var m struct {
		Spec struct {
			Template struct {
				Spec struct {
					Domain struct {
						Devices struct {
							Interfaces []struct {
								MAC string `json:"macAddress"`
							} `json:"interfaces"`
						} `json:"devices"`
					} `json:"domain"`
				} `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	_ = json.Unmarshal(vm, &m) // KubeVirt judges a manifest that is none
	var macs []string
	for _, i := range m.Spec.Template.Spec.Domain.Devices.Interfaces {
		if i.MAC != "" {
			macs = append(macs, i.MAC)
		}
	}
	return macs
}

// macs does what was asked with the fixed MAC addresses, and tells where that may
// surprise somebody.
func (e *editor) macs(n *renaming) {
	fixed := 0
	for _, i := range e.list("spec", "template", "spec", "domain", "devices", "interfaces") {
		if _, found := i["macAddress"]; found {
			fixed++
			if n.newMACs {
				delete(i, "macAddress")
			}
		}
	}
	switch {
	case fixed == 0 || !n.sourceExists:
	case n.newMACs && n.macPolicy != vmbackup.MACNew:
		e.warn("the source machine still exists, so the restored one gets new MAC addresses (%d of them were fixed); addresses that the guest has configured itself may still clash", fixed)
	case !n.newMACs:
		e.warn("the source machine still exists and has the same MAC addresses (%d of them are fixed and kept): let only one of the two run on a network", fixed)
	}
}

// identify gives the machine another identity than its source has: the hostname
// where it has one, and the firmware's UUID and serial number. KubeVirt makes the
// instance-id of a NoCloud disk of that UUID, and that of a ConfigDrive of the
// machine's name and namespace, beside the UUID (pkg/cloud-init/cloud-init.go).
func (e *editor) identify(n *renaming) {
	spec := e.at("spec", "template", "spec")
	domain := e.at("spec", "template", "spec", "domain")
	if spec == nil || domain == nil {
		return
	}
	if old, _ := spec["hostname"].(string); old != "" {
		spec["hostname"] = newHostname(old, n)
	}
	firmware, _ := domain["firmware"].(map[string]any)
	if firmware == nil {
		firmware = map[string]any{}
		domain["firmware"] = firmware
	}
	firmware["uuid"], firmware["serial"] = uuid.NewString(), uuid.NewString()
	if chassis, ok := domain["chassis"].(map[string]any); ok && chassis["serial"] != nil {
		chassis["serial"] = uuid.NewString()
	}
	if n.from == n.to && e.hasVolume("cloudInitConfigDrive") {
		e.warn("cloud-init's instance-id on a ConfigDrive is made of the machine's name and namespace, which both stay: cloud-init takes the machine for the old one; restore under another name for another instance-id")
	}
}

// newHostname is the machine's new name as a hostname, or one made of the
// operation's token where that is what it was called before.
func newHostname(old string, n *renaming) string {
	const limit = 63 // of a DNS label
	label := func(s string) string { return shorten(strings.ReplaceAll(s, ".", "-"), limit) }
	if name := label(n.to.Name); name != old {
		return name
	}
	return label(old + "-" + n.operation[:4])
}

// hasVolume reports whether the machine has a volume of a kind.
func (e *editor) hasVolume(kind string) bool {
	for _, v := range e.list("spec", "template", "spec", "volumes") {
		if _, found := v[kind]; found {
			return true
		}
	}
	return false
}

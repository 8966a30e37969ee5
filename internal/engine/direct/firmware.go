// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import "github.com/google/uuid"

// legacyFirmware is the name space of the firmware UUIDs that KubeVirt derived from
// machines' names before it kept them in the specification.
const legacyFirmware = "6a1a24a1-4061-4607-8bf4-a3963d0c5895"

// keepFirmwareUUID writes the firmware's UUID down where the machine has none. It had
// one all the same, derived from its name; a KubeVirt that keeps UUIDs gives a new
// machine a random one, by which its guest would take itself for another machine.
func (e *editor) keepFirmwareUUID(vm string) {
	domain := e.at("spec", "template", "spec", "domain")
	if domain == nil {
		return
	}
	firmware, ok := domain["firmware"].(map[string]any)
	if !ok {
		firmware = map[string]any{}
		domain["firmware"] = firmware
	}
	if set, _ := firmware["uuid"].(string); set == "" {
		firmware["uuid"] = uuid.NewSHA1(uuid.MustParse(legacyFirmware), []byte(vm)).String()
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"fmt"
	"slices"
	"strings"
)

// Profiles of an instance: what runs in it.
const (
	// Default is Longhorn and KubeVirt.
	Default = "default"
	// Harvester is Default with Harvester's controllers and webhooks.
	Harvester = "harvester"
)

// CheckProfile refuses a name that is no profile.
func CheckProfile(name string) error {
	profiles := []string{Default, Harvester}
	if !slices.Contains(profiles, name) {
		return fmt.Errorf("unknown profile %q: there is %s", name, strings.Join(profiles, " and "))
	}
	return nil
}

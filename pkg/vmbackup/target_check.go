// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

// KindTargetCheck is the kind of a printed TargetCheck.
const KindTargetCheck = "TargetCheck"

// TargetCheck is what came of using a backup target with the client's own connection.
type TargetCheck struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Metadata   ObjectMeta         `json:"metadata"`
	Spec       TargetContentsSpec `json:"spec"`
	Status     TargetCheckStatus  `json:"status"`
}

// TargetCheckStatus is what was observed.
type TargetCheckStatus struct {
	// Usable is whether every step succeeded.
	Usable bool         `json:"usable"`
	Steps  []TargetStep `json:"steps"`
	// Empty is whether not one file lies on the target.
	Empty bool `json:"empty"`
	// Longhorn is whether Longhorn can use the target; empty without a cluster.
	Longhorn        TargetState `json:"longhorn,omitempty"`
	LonghornMessage string      `json:"longhornMessage,omitempty"`
	Warnings        []string    `json:"warnings,omitempty"`
	Error           *Error      `json:"error,omitempty"`
}

// TargetStep is one thing that was tried.
type TargetStep struct {
	// ID is list, write, read or delete.
	ID    string `json:"id"`
	Title string `json:"title"`
	// State is Ready, Failed, or Skipped after a failure.
	State   State   `json:"state"`
	Seconds float64 `json:"seconds"`
	Message string  `json:"message,omitempty"`
}

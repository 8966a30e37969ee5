// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import "time"

// State is where a component stands.
type State string

const (
	// Waiting for the components it starts after.
	Waiting State = "waiting"
	// Starting: the process runs (or the task works) but is not ready yet.
	Starting State = "starting"
	// Ready: the process answered its probe, or the task is done.
	Ready State = "ready"
	// Restarting: it ended or failed and waits for its next start.
	Restarting State = "restarting"
	// Stopped on request, until it is started on request.
	Stopped State = "stopped"
)

// Status is what an observer sees of one component.
type Status struct {
	Name     string    `json:"name"`
	Role     Role      `json:"role"`
	About    string    `json:"about,omitempty"`
	State    State     `json:"state"`
	PID      int       `json:"pid,omitempty"` // in the PID namespace of its supervisor
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"`             // of State
	Message  string    `json:"message,omitempty"` // why it is not ready, last error
}

// AllReady says whether every component is ready.
func AllReady(statuses []Status) bool {
	for _, s := range statuses {
		if s.State != Ready {
			return false
		}
	}
	return len(statuses) > 0
}

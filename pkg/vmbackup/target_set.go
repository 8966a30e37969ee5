// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import "time"

// TargetRequest asks for a backup target to be set.
type TargetRequest struct {
	// Name of Longhorn's BackupTarget; one that is not there is made.
	Name string
	// URL in Longhorn's form, with mount options where there are some.
	URL string
	// CredentialSecret names an existing Secret in Longhorn's namespace; empty for the
	// one that the target has, or the Credentials.
	CredentialSecret string
	// Credentials are the data of a Secret to be made for the target; nil for none.
	Credentials map[string][]byte
	// PollInterval is how often Longhorn, and Harvester on its target, look at the
	// target; nil leaves it as it is.
	PollInterval *time.Duration
	// SkipCheck sets the target without proving first that this machine can use it.
	SkipCheck bool
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
// Whether the URL is one of Longhorn's is seen by the plan.
func (r TargetRequest) Validate() error {
	if err := validName("target", r.Name, 63); err != nil {
		return err
	}
	switch {
	case r.URL == "":
		return invalid("the URL is empty: a target is not emptied here, since Longhorn then drops its list of all backups; set another URL instead")
	case r.CredentialSecret != "" && r.Credentials != nil:
		return invalid("a Secret and credentials are given: one of them is to be used")
	case r.PollInterval != nil && (*r.PollInterval < 0 || *r.PollInterval%time.Second != 0):
		return invalid("poll interval %s is not a number of seconds from 0", *r.PollInterval)
	}
	if r.CredentialSecret == "" {
		return nil
	}
	return validName("credential secret", r.CredentialSecret, 253)
}

// TargetPlan is a checked TargetRequest and what it would do.
type TargetPlan struct {
	Request TargetRequest
	// Before is the target as it is; nil when there is none yet.
	Before *Target
	// URL is the new one without a password and without options.
	URL     string
	Objects []PlannedObject
	// Check is what came of using the new target; nil when that was skipped.
	Check *TargetCheck
	// Hides is what Longhorn lists now and will not any more; nil for nothing.
	Hides    *TargetHoldings
	Warnings []string
	// Unchanged is whether all is as it is asked for.
	Unchanged bool
	// State is the planner's own knowledge, carried from plan to change.
	State any
}

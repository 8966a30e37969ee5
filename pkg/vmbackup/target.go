// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"context"
	"time"
)

// KindTarget is the kind of a printed Target.
const KindTarget = "Target"

// Target is one backup target as Longhorn and, where it runs, Harvester see it.
type Target struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   ObjectMeta   `json:"metadata"`
	Spec       TargetSpec   `json:"spec"`
	Status     TargetStatus `json:"status"`
}

// NewTarget returns an empty target with its kind set.
func NewTarget(name string) *Target {
	return &Target{APIVersion: APIVersion, Kind: KindTarget, Metadata: ObjectMeta{Name: name}}
}

// TargetSpec is how Longhorn is told to use a target.
type TargetSpec struct {
	// URL is Longhorn's without a password and without mount options; empty when none is set.
	URL string `json:"url"`
	// Type is the URL's scheme: s3, nfs, cifs, azblob.
	Type string `json:"type,omitempty"`
	// PollIntervalSeconds is how often Longhorn looks at the target by itself; 0 is never.
	PollIntervalSeconds int64 `json:"pollIntervalSeconds"`
	// CredentialSecret is the name of the Secret in Longhorn's namespace; empty for none.
	CredentialSecret string `json:"credentialSecret,omitempty"`
}

// TargetState is whether Longhorn can use a target.
type TargetState string

// The states of a target.
const (
	TargetAvailable   TargetState = "Available"
	TargetUnavailable TargetState = "Unavailable"
	TargetNotSet      TargetState = "NotSet" // it has no URL
)

// TargetStatus is what was observed of a target.
type TargetStatus struct {
	State TargetState `json:"state"`
	// Message is Longhorn's reason why the target cannot be used.
	Message string `json:"message,omitempty"`
	// LastSyncedAt is when Longhorn last read what lies on the target.
	LastSyncedAt *time.Time        `json:"lastSyncedAt,omitempty"`
	Credentials  TargetCredentials `json:"credentials"`
	// Holds is what Longhorn lists of the target; nil when that may not be looked at.
	Holds *TargetHoldings `json:"holds,omitempty"`
	// Harvester is its setting backup-target, which is of Longhorn's target
	// "default"; nil on other clusters and for other targets.
	Harvester *TargetSetting `json:"harvester,omitempty"`
	Warnings  []string       `json:"warnings,omitempty"`
}

// TargetCredentials is the Secret of a target by its keys; values are never shown.
type TargetCredentials struct {
	// State is Ready when the Secret is there, Failed when it is not, Unknown when it
	// may not be read, Skipped when the target names none.
	State State    `json:"state"`
	Keys  []string `json:"keys,omitempty"`
	// Message says what is wrong.
	Message string `json:"message,omitempty"`
}

// TargetHoldings is what Longhorn lists of a target.
type TargetHoldings struct {
	Volumes int `json:"volumes"`
	Backups int `json:"backups"`
	// FailedBackups are those of Backups that ended in an error.
	FailedBackups int `json:"failedBackups,omitempty"`
	Images        int `json:"images"`
	// Bytes is what blocks and images take on the target.
	Bytes int64 `json:"bytes"`
}

// TargetSetting is Harvester's setting backup-target without its keys.
type TargetSetting struct {
	// State is Ready when Harvester has configured Longhorn with the setting, Failed
	// when it could not, Pending while it has not, Unknown when it may not be read, and
	// Skipped when the setting is empty.
	State State `json:"state"`
	// URL is that of the setting, as Harvester gives it to Longhorn.
	URL string `json:"url,omitempty"`
	// RefreshIntervalSeconds is how often Harvester looks for new backups; 0 is never.
	RefreshIntervalSeconds int64 `json:"refreshIntervalSeconds"`
	// LastRefreshedAt is when Harvester last read the descriptions on the target.
	LastRefreshedAt *time.Time `json:"lastRefreshedAt,omitempty"`
	Message         string     `json:"message,omitempty"`
}

// Targets looks after the backup targets of a cluster.
type Targets interface {
	// Names are the names of all targets, Longhorn's default one first.
	Names(ctx context.Context) ([]string, error)
	// List returns all targets in the order of Names.
	List(ctx context.Context) ([]Target, error)
	// Get returns one target, or NotFound.
	Get(ctx context.Context, name string) (*Target, error)
	// Contents reads what lies on a target, with the client's own connection.
	Contents(ctx context.Context, name string) (*TargetContents, error)
	// Check uses a target with the client's own connection. A target that turns out
	// not to be usable is no error, but told in the status.
	Check(ctx context.Context, name string) (*TargetCheck, error)
	// PlanSet checks a request, uses the new target with the client's own connection,
	// and says what would be done. It changes nothing.
	PlanSet(ctx context.Context, req TargetRequest) (*TargetPlan, error)
	// Set does what the plan says and waits until Longhorn can use the target, or ctx
	// ends. It returns the target as it is then.
	Set(ctx context.Context, plan *TargetPlan) (*Target, error)
	// Sync has Longhorn and, for its target, Harvester look at a target again, and
	// waits for them until ctx ends.
	Sync(ctx context.Context, name string) (*TargetSync, error)
}

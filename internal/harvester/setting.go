// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of settings.
const (
	BackupTargetSetting  = "backup-target"
	ServerVersionSetting = "server-version"
	CSIDriverSetting     = "csi-driver-config"
	SnapshotClassSetting = "volume-snapshot-class"
)

// ConditionConfigured of the setting backup-target says that Longhorn was
// configured by it.
const ConditionConfigured = "configured"

// What Harvester notes on the setting backup-target.
const (
	// TargetHashAnnotation is of the value whose content was read last. Without it
	// Harvester reads the target again at once.
	TargetHashAnnotation = "harvesterhci.io/hash"
	// TargetRefreshAnnotation is when it was read, RFC 3339.
	TargetRefreshAnnotation = "harvesterhci.io/lastRefreshTime"
)

// Setting is one of Harvester's settings. It is cluster-scoped.
type Setting struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Value is what was set; when it is empty, Default counts.
	Value      string `json:"value,omitempty"`
	Default    string `json:"default,omitempty"`
	Customized bool   `json:"customized,omitempty"`
	Source     string `json:"source,omitempty"`

	Status SettingStatus `json:"status,omitempty"`
}

// SettingStatus is what became of a setting.
type SettingStatus struct {
	Conditions []Condition `json:"conditions,omitempty"`
}

// SettingList is a list of them.
type SettingList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []Setting `json:"items"`
}

// Effective is the value that counts.
func (s *Setting) Effective() string {
	if s.Value != "" {
		return s.Value
	}
	return s.Default
}

// TargetType is the kind of a backup target.
type TargetType string

// Kinds of backup targets.
const (
	TargetS3  TargetType = "s3"
	TargetNFS TargetType = "nfs"
)

// Target is the value of the setting backup-target without its keys, which
// Harvester blanks as soon as it has given them to Longhorn.
type Target struct {
	Type               TargetType `json:"type"`
	Endpoint           string     `json:"endpoint"`
	BucketName         string     `json:"bucketName"`
	BucketRegion       string     `json:"bucketRegion"`
	VirtualHostedStyle bool       `json:"virtualHostedStyle"`
	// RefreshIntervalInSeconds is how often Harvester looks for new backups on the
	// target; 0 is never, also after somebody else wrote there.
	RefreshIntervalInSeconds int64 `json:"refreshIntervalInSeconds"`
}

// DecodeTarget reads the setting backup-target; nil when no target is set.
func DecodeTarget(s *Setting) (*Target, error) {
	value := s.Effective()
	if value == "" {
		return nil, nil
	}
	t := &Target{}
	if err := json.Unmarshal([]byte(value), t); err != nil {
		// The value may hold keys: the error must not quote it.
		return nil, fmt.Errorf("setting %s.%s %s: its value is no JSON object of a backup target", SettingResource, Group, s.Name)
	}
	if t.Type == "" {
		return nil, nil
	}
	return t, nil
}

// URL is the target's in the form of Longhorn's BackupTarget, as Harvester composes it.
func (t *Target) URL() string {
	if t.Type == TargetS3 {
		return fmt.Sprintf("s3://%s@%s/", t.BucketName, t.BucketRegion)
	}
	return "nfs://" + strings.TrimPrefix(t.Endpoint, "nfs://")
}

// Same says whether a backup lies on this target, by Harvester's own rule.
func (t *Target) Same(b *BackupTarget) bool {
	if t == nil || b == nil {
		return false
	}
	return t.Endpoint == b.Endpoint && t.BucketName == b.BucketName && t.BucketRegion == b.BucketRegion
}

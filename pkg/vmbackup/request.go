// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// BackupRequest asks for a backup of one virtual machine.
type BackupRequest struct {
	// Name of the backup; empty for one made of the machine's name and the time.
	Name      string     `json:"name,omitempty"`
	Namespace string     `json:"namespace"`
	VM        string     `json:"vm"`
	Type      BackupType `json:"type"`
	Quiesce   Quiesce    `json:"quiesce"`
	// FreezeTimeout is the longest that the guest may stay frozen; the guest
	// thaws itself at this deadline even when nobody comes back.
	FreezeTimeout time.Duration `json:"freezeTimeout"`
	// Target is the name of Longhorn's BackupTarget that the volumes must have;
	// empty for whichever they have.
	Target string `json:"target,omitempty"`
}

// Defaults of a BackupRequest.
const (
	DefaultFreezeTimeout = 30 * time.Second
	DefaultTarget        = "default"
	// MaxFreezeTimeout is the longest freeze that a request may ask for: a guest
	// that stands still for longer loses its services, its leases or its cluster.
	MaxFreezeTimeout = 10 * time.Minute
)

// MaxNameLength is the longest name of a backup or restore: the names of the
// objects made for it add to it and must still be names of Kubernetes.
const MaxNameLength = 180

// Default fills what the request leaves open. The time names a backup without a name.
func (r BackupRequest) Default(now time.Time) BackupRequest {
	if r.Type == "" {
		r.Type = TypeBackup
	}
	if r.Quiesce == "" {
		r.Quiesce = QuiesceAuto
	}
	if r.FreezeTimeout == 0 {
		r.FreezeTimeout = DefaultFreezeTimeout
	}
	if r.Name == "" && r.VM != "" {
		r.Name = TimedName(r.VM, now)
	}
	return r
}

// Ref is the namespace and name of the backup.
func (r BackupRequest) Ref() Ref { return Ref{Namespace: r.Namespace, Name: r.Name} }

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
func (r BackupRequest) Validate() error {
	if err := validName("virtual machine name", r.VM, 253); err != nil {
		return err
	}
	if err := validName("namespace", r.Namespace, 63); err != nil {
		return err
	}
	if err := validName("backup name", r.Name, MaxNameLength); err != nil {
		return err
	}
	switch r.Type {
	case TypeBackup, TypeSnapshot:
	default:
		return invalid("type %q is neither %s nor %s", r.Type, TypeBackup, TypeSnapshot)
	}
	switch r.Quiesce {
	case QuiesceAuto, QuiesceRequire, QuiesceSkip:
	default:
		return invalid("quiesce policy %q is none of %s, %s, %s", r.Quiesce, QuiesceAuto, QuiesceRequire, QuiesceSkip)
	}
	if r.FreezeTimeout < time.Second || r.FreezeTimeout > MaxFreezeTimeout {
		return invalid("freeze time-out %s is not between 1s and %s", r.FreezeTimeout, MaxFreezeTimeout)
	}
	if r.Target == "" {
		return nil
	}
	return validName("target", r.Target, 253)
}

// RestoreRequest asks for a restore of one backup as a new virtual machine.
type RestoreRequest struct {
	// Name of the restore; empty for one made of the machine's name and the time.
	Name   string `json:"name,omitempty"`
	Backup Ref    `json:"backup"`
	// From says where to look for the backup.
	From Source `json:"from"`
	// ToNamespace is the namespace of the restored machine; empty for the backup's own.
	ToNamespace string `json:"toNamespace,omitempty"`
	// ToName is the name of the restored machine; empty for the name it had.
	ToName string `json:"toName,omitempty"`
	// Target is the name of Longhorn's BackupTarget to look for the backup on.
	Target string `json:"target"`
}

// Default fills what the request leaves open and can be known without looking at the backup.
func (r RestoreRequest) Default() RestoreRequest {
	if r.From == "" {
		r.From = SourceAll
	}
	if r.ToNamespace == "" {
		r.ToNamespace = r.Backup.Namespace
	}
	if r.Target == "" {
		r.Target = DefaultTarget
	}
	return r
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
func (r RestoreRequest) Validate() error {
	if err := validName("backup name", r.Backup.Name, 253); err != nil {
		return err
	}
	if err := validName("backup namespace", r.Backup.Namespace, 63); err != nil {
		return err
	}
	if err := validName("target namespace", r.ToNamespace, 63); err != nil {
		return err
	}
	if r.ToName != "" {
		// KubeVirt puts the machine's name into labels of its pods.
		if err := validName("target name", r.ToName, 63); err != nil {
			return err
		}
	}
	if r.Name != "" {
		if err := validName("restore name", r.Name, MaxNameLength); err != nil {
			return err
		}
	}
	if err := validSource(r.From); err != nil {
		return err
	}
	return validName("target", r.Target, 253)
}

// DeleteRequest asks for the removal of one backup.
type DeleteRequest struct {
	Backup Ref    `json:"backup"`
	From   Source `json:"from"`
	// KeepData leaves the data and the metadata on the target and removes only
	// the objects in the cluster.
	KeepData bool   `json:"keepData,omitempty"`
	Target   string `json:"target"`
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
func (r DeleteRequest) Validate() error {
	if err := validName("backup name", r.Backup.Name, 253); err != nil {
		return err
	}
	if err := validName("backup namespace", r.Backup.Namespace, 63); err != nil {
		return err
	}
	return validSource(r.From)
}

// Validate returns an InvalidRequest error that names the first wrong field, or nil.
func (o ListOptions) Validate() error {
	if o.Limit < 0 {
		return invalid("limit %d is negative", o.Limit)
	}
	return validSource(o.Source)
}

// TimedName names an operation on a machine at a time: <vm>-20060102-150405 (UTC).
func TimedName(vm string, now time.Time) string {
	const layout = "20060102-150405"
	if limit := MaxNameLength - len(layout) - 1; len(vm) > limit {
		vm = strings.TrimRight(vm[:limit], "-.")
	}
	return vm + "-" + now.UTC().Format(layout)
}

// ParseRef reads "name" or "namespace/name"; a bare name is in the namespace given.
func ParseRef(s, namespace string) (Ref, error) {
	parts := strings.Split(s, "/")
	switch {
	case len(parts) == 1 && parts[0] != "":
		return Ref{Namespace: namespace, Name: parts[0]}, nil
	case len(parts) == 2 && parts[0] != "" && parts[1] != "":
		return Ref{Namespace: parts[0], Name: parts[1]}, nil
	}
	return Ref{}, invalid("%q is neither NAME nor NAMESPACE/NAME", s)
}

// dnsSubdomain is Kubernetes' form of a name (RFC 1123).
var dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func validName(what, name string, limit int) error {
	switch {
	case name == "":
		return invalid("%s is missing", what)
	case len(name) > limit:
		return invalid("%s %q is longer than %d characters", what, name, limit)
	case !dnsSubdomain.MatchString(name):
		return invalid("%s %q must be lower case letters, digits, '-' and '.', and begin and end with a letter or digit", what, name)
	}
	return nil
}

func validSource(s Source) error {
	switch s {
	case SourceCluster, SourceTarget, SourceAll:
		return nil
	}
	return invalid("%q is none of %s, %s, %s", s, SourceCluster, SourceTarget, SourceAll)
}

func invalid(format string, args ...any) error {
	return Errorf(ReasonInvalidRequest, "%s", fmt.Sprintf(format, args...)).AsPreflight()
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
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

// MACPolicy says what becomes of the fixed MAC addresses of a restored machine.
type MACPolicy string

// The MAC policies.
const (
	MACAuto MACPolicy = "auto" // keep them, unless the source machine still exists beside the restored one
	MACKeep MACPolicy = "keep"
	MACNew  MACPolicy = "new" // leave the choice to the new machine
)

// StartPolicy says whether a restored machine is started.
type StartPolicy string

// The start policies.
const (
	StartAuto StartPolicy = "auto" // as its run strategy in the backup says
	StartYes  StartPolicy = "yes"
	StartNo   StartPolicy = "no" // it stays halted
)

// RestoreRequest asks for a restore of one backup as a virtual machine.
type RestoreRequest struct {
	// Name of the restore; empty for one made of the machine's name and the time.
	Name   string `json:"name,omitempty"`
	Backup Ref    `json:"backup"`
	// From says where to look for the backup.
	From Source `json:"from"`
	// ToNamespace is the namespace of the restored machine; empty for the backup's own.
	ToNamespace string `json:"toNamespace,omitempty"`
	// CreateNamespace makes that namespace where it does not exist.
	CreateNamespace bool `json:"createNamespace,omitempty"`
	// ToName is the name of the restored machine; empty for the name it had.
	ToName string `json:"toName,omitempty"`
	// InPlace replaces the disks and the specification of the machine that the
	// backup is of, which must still be the same one (by its UID).
	InPlace bool `json:"inPlace,omitempty"`
	// Stop lets a restore in place stop the machine first, where it runs.
	Stop bool `json:"stop,omitempty"`
	// DeleteOldVolumes removes the replaced claims of a restore in place once the
	// restored machine was seen running; else they are kept.
	DeleteOldVolumes bool `json:"deleteOldVolumes,omitempty"`
	// MAC is what becomes of fixed MAC addresses.
	MAC MACPolicy `json:"mac,omitempty"`
	// Start is whether the machine is started.
	Start StartPolicy `json:"start,omitempty"`
	// NewIdentity gives the machine another hostname, firmware UUID and serial and
	// cloud-init instance-id than its source has.
	NewIdentity bool `json:"newIdentity,omitempty"`
	// StorageClasses and Networks map names in the backup to names in this cluster.
	// A network's name is that of its NetworkAttachmentDefinition, with its namespace or without.
	StorageClasses map[string]string `json:"storageClasses,omitempty"`
	Networks       map[string]string `json:"networks,omitempty"`
	// Patch is a JSON patch (RFC 6902) on the manifest of the restored machine,
	// applied after every other change.
	Patch json.RawMessage `json:"patch,omitempty"`
	// AllowIncomplete restores what a backup holds that is Incomplete or Failed;
	// what is missing becomes a warning.
	AllowIncomplete bool `json:"allowIncomplete,omitempty"`
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
	if r.MAC == "" {
		r.MAC = MACAuto
	}
	if r.Start == "" {
		r.Start = StartAuto
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
	for _, check := range []func() error{r.validateInPlace, r.validatePolicies, r.validateMaps, r.validatePatch} {
		if err := check(); err != nil {
			return err
		}
	}
	if err := validSource(r.From); err != nil {
		return err
	}
	return validName("target", r.Target, 253)
}

func (r RestoreRequest) validateInPlace() error {
	switch {
	case !r.InPlace && r.Stop:
		return invalid("stopping the machine (stop) is for a restore in place only")
	case !r.InPlace && r.DeleteOldVolumes:
		return invalid("deleting the old volumes is for a restore in place only: another one has none")
	case !r.InPlace:
		return nil
	case r.ToName != "" || r.ToNamespace != r.Backup.Namespace:
		return invalid("a restore in place keeps the machine's name and namespace: give either in-place, or a target name or namespace")
	case r.CreateNamespace:
		return invalid("a restore in place is into a namespace that exists: there is none to create")
	case r.NewIdentity:
		return invalid("a restore in place brings the same machine back: it keeps its identity")
	case r.AllowIncomplete:
		return invalid("a restore in place needs a whole backup: what there is of one that is not goes beside the machine, under another name")
	case r.DeleteOldVolumes && r.Start == StartNo:
		return invalid("the old volumes are deleted only after the restored machine was seen running, so it must be allowed to start")
	}
	return nil
}

func (r RestoreRequest) validatePolicies() error {
	switch r.MAC {
	case MACAuto, MACKeep, MACNew:
	default:
		return invalid("MAC policy %q is none of %s, %s, %s", r.MAC, MACAuto, MACKeep, MACNew)
	}
	switch r.Start {
	case StartAuto, StartYes, StartNo:
	default:
		return invalid("start policy %q is none of %s, %s, %s", r.Start, StartAuto, StartYes, StartNo)
	}
	return nil
}

func (r RestoreRequest) validateMaps() error {
	for _, from := range slices.Sorted(maps.Keys(r.StorageClasses)) {
		if err := validName("mapped StorageClass", from, 253); err != nil {
			return err
		}
		if err := validName("StorageClass mapped to", r.StorageClasses[from], 253); err != nil {
			return err
		}
	}
	for _, from := range slices.Sorted(maps.Keys(r.Networks)) {
		for _, name := range []string{from, r.Networks[from]} {
			if _, err := ParseRef(name, r.ToNamespace); err != nil {
				return invalid("network %q in a mapping is neither NAME nor NAMESPACE/NAME", name)
			}
		}
	}
	return nil
}

func (r RestoreRequest) validatePatch() error {
	if len(r.Patch) == 0 {
		return nil
	}
	var operations []struct {
		Op   string `json:"op"`
		Path string `json:"path"`
	}
	if err := json.Unmarshal(r.Patch, &operations); err != nil {
		return invalid("the patch is not a JSON patch (a list of operations, RFC 6902): %v", err)
	}
	for i, o := range operations {
		switch o.Op {
		case "add", "remove", "replace", "move", "copy", "test":
		default:
			return invalid("operation %d of the patch: %q is none of add, remove, replace, move, copy, test", i+1, o.Op)
		}
		if o.Path != "" && !strings.HasPrefix(o.Path, "/") {
			return invalid("operation %d of the patch: path %q does not begin with /", i+1, o.Path)
		}
	}
	return nil
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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Folders of the files on the backup target.
const (
	HarvesterBackupPrefix = "harvester/vmbackups/"
	HarvesterImagePrefix  = "harvester/vmimages/"
	RecordPrefix          = "vmbackup/"
)

const (
	harvesterSuffix = ".cfg"
	recordSuffix    = ".json"
)

// FileKind says what a file on the backup target is.
type FileKind string

// The kinds of files.
const (
	FileHarvesterBackup FileKind = "harvester-backup"
	// FileHarvesterFlat is a backup written by an early Harvester, harvester/vmbackups/<ns>-<name>.cfg.
	// Where the namespace ends is known only from the content, so the Ref of such
	// a key has the whole stem as its name and no namespace.
	FileHarvesterFlat  FileKind = "harvester-backup-flat"
	FileHarvesterImage FileKind = "harvester-image"
	FileRecord         FileKind = "record"
)

// HarvesterBackupKey is where Harvester keeps the description of a backup.
func HarvesterBackupKey(ref vmbackup.Ref) string {
	return HarvesterBackupPrefix + ref.Namespace + "/" + ref.Name + harvesterSuffix
}

// HarvesterImageKey is where Harvester keeps the description of a VirtualMachineImage.
func HarvesterImageKey(ref vmbackup.Ref) string {
	return HarvesterImagePrefix + ref.Namespace + "/" + ref.Name + harvesterSuffix
}

// RecordKey is where the tool keeps its own Record of a backup.
func RecordKey(ref vmbackup.Ref) string {
	return RecordPrefix + ref.Namespace + "/" + ref.Name + recordSuffix
}

// ParseKey says what the file at a key is and of which object. It is not ok for
// a key that neither the tool nor Harvester would have written.
func ParseKey(key string) (kind FileKind, ref vmbackup.Ref, ok bool) {
	for _, f := range []struct {
		kind           FileKind
		prefix, suffix string
	}{
		{FileHarvesterBackup, HarvesterBackupPrefix, harvesterSuffix},
		{FileHarvesterImage, HarvesterImagePrefix, harvesterSuffix},
		{FileRecord, RecordPrefix, recordSuffix},
	} {
		rest, found := strings.CutPrefix(key, f.prefix)
		if !found {
			continue
		}
		rest, found = strings.CutSuffix(rest, f.suffix)
		if !found {
			return "", vmbackup.Ref{}, false
		}
		namespace, name, nested := strings.Cut(rest, "/")
		if !nested {
			if f.kind == FileHarvesterBackup && isName(rest) {
				return FileHarvesterFlat, vmbackup.Ref{Name: rest}, true
			}
			return "", vmbackup.Ref{}, false
		}
		if !isNamespace(namespace) || !isName(name) {
			return "", vmbackup.Ref{}, false
		}
		return f.kind, vmbackup.Ref{Namespace: namespace, Name: name}, true
	}
	return "", vmbackup.Ref{}, false
}

// isName reports whether s is the name of a Kubernetes object (RFC 1123 subdomain).
func isName(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }

// isNamespace reports whether s is the name of a namespace (RFC 1123 label).
func isNamespace(s string) bool { return len(validation.IsDNS1123Label(s)) == 0 }

// storeName is the form of names in Longhorn's backup store.
var storeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// IsStoreName reports whether s can be one segment of a path in the backup store.
func IsStoreName(s string) bool {
	return len(s) <= validation.DNS1123SubdomainMaxLength && storeName.MatchString(s) && !strings.Contains(s, "..")
}

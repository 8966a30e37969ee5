// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// LabelValue is what stands in a label for a value: the value itself when it is a
// valid label value, else a hash of it. Stores apply it to the labels of entries
// and of ListOptions, so that callers need not.
func LabelValue(value string) string {
	if len(validation.IsValidLabelValue(value)) == 0 {
		return value
	}
	return "sha256-" + digest(value, 40)
}

// labelsOf are the entry's labels as they are stored: with its kind, values as LabelValue makes them.
func labelsOf(e Entry) map[string]string {
	labels := make(map[string]string, len(e.Labels)+1)
	for key, value := range e.Labels {
		labels[key] = LabelValue(value)
	}
	labels[LabelKind] = string(e.Kind)
	return labels
}

// wanted are the labels that an entry of the listing must have.
func (o ListOptions) wanted() map[string]string {
	want := make(map[string]string, len(o.Labels)+1)
	for key, value := range o.Labels {
		want[key] = LabelValue(value)
	}
	if o.Kind != "" {
		want[LabelKind] = string(o.Kind)
	}
	return want
}

// check refuses an entry that no store could keep.
func check(e Entry) error {
	if e.Kind != KindBackup && e.Kind != KindRestore {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "journal entry %s: kind %q is neither %s nor %s", e.Ref, e.Kind, KindBackup, KindRestore)
	}
	if e.Ref.Namespace == "" || e.Ref.Name == "" {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "journal entry %s %q: namespace and name are needed", e.Kind, e.Ref)
	}
	return nil
}

func errMissing(kind Kind, ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "no record of %s %s in the cluster", kind, ref)
}

func errTaken(kind Kind, ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "a record of %s %s is in the cluster already", kind, ref)
}

func errStale(kind Kind, ref vmbackup.Ref) error {
	return vmbackup.Errorf(vmbackup.ReasonConflict, "record of %s %s was changed by somebody else", kind, ref).
		WithHint("another process may be at work on it: follow it with: kubectl vmbackup watch %s -n %s", watchName(kind, ref), ref.Namespace)
}

func watchName(kind Kind, ref vmbackup.Ref) string {
	if kind == KindRestore {
		return "restore/" + ref.Name
	}
	return ref.Name
}

// SecretName is the name of the Secret that holds an entry of a Secrets store, in
// ref's namespace. A name too long for a Secret ends in its hash.
func SecretName(kind Kind, ref vmbackup.Ref) string {
	full := fmt.Sprintf("vmbackup-%s-%s", kind, ref.Name)
	const limit, hashed = validation.DNS1123SubdomainMaxLength, 16
	if len(full) <= limit {
		return full
	}
	return strings.TrimRight(full[:limit-hashed-1], "-.") + "-" + digest(ref.Name, hashed)
}

func digest(s string, digits int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:digits]
}

func clone(e Entry) Entry {
	e.Labels = maps.Clone(e.Labels)
	e.Data = append([]byte(nil), e.Data...)
	return e
}

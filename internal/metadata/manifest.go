// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Meta is the part of an object's metadata that a backup keeps.
type Meta struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Manifest is a Kubernetes object, read as far as a backup needs it.
type Manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   Meta   `json:"metadata"`
	// Fields are the other top-level fields as they were: spec, data, type.
	Fields map[string]json.RawMessage `json:"-"`
}

// Sanitize returns the manifest as a backup keeps it: apiVersion, kind, name,
// namespace, labels and annotations, and every other top-level field but status,
// unread. Whatever the API server sets or another controller's life hangs on
// (UID, resourceVersion, generation, times, ownerReferences, finalizers,
// managedFields, selfLink) is gone, so that a restored object is owned by nobody
// and waits for nobody. Sanitizing twice changes nothing.
func Sanitize(manifest []byte) (json.RawMessage, error) {
	m, err := ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	return m.JSON()
}

// ParseManifest reads a manifest and drops what Sanitize drops. The error is
// InvalidRequest and names the field.
func ParseManifest(manifest []byte) (*Manifest, error) {
	if len(manifest) > FileLimit {
		return nil, invalidManifest(fmt.Errorf("%d bytes are more than %d", len(manifest), FileLimit))
	}
	if err := scan(manifest, shapeOf(reflect.TypeFor[Manifest]())); err != nil {
		return nil, invalidManifest(err)
	}
	return parseManifest(manifest)
}

// parseManifest reads a manifest that has been scanned.
func parseManifest(manifest []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(manifest, m); err != nil {
		return nil, invalidManifest(err)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(manifest, &m.Fields); err != nil {
		return nil, invalidManifest(err)
	}
	if err := checkFields(m.Fields); err != nil {
		return nil, invalidManifest(err)
	}
	for _, known := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(m.Fields, known)
	}
	switch {
	case m.APIVersion == "":
		return nil, invalidManifest(fmt.Errorf("apiVersion is missing"))
	case m.Kind == "":
		return nil, invalidManifest(fmt.Errorf("kind is missing"))
	case !isName(m.Metadata.Name):
		return nil, invalidManifest(fmt.Errorf("metadata.name %q is no name of Kubernetes", m.Metadata.Name))
	case m.Metadata.Namespace != "" && !isNamespace(m.Metadata.Namespace):
		return nil, invalidManifest(fmt.Errorf("metadata.namespace %q is no name of a namespace", m.Metadata.Namespace))
	}
	return m, nil
}

// checkFields refuses top-level fields of which a reader that does not mind case,
// as encoding/json, would take one for the other.
func checkFields(fields map[string]json.RawMessage) error {
	folded := map[string]string{"status": "status"}
	for field := range fields {
		fold := strings.ToLower(strings.ToUpper(field))
		if other, found := folded[fold]; found && other != field {
			return fmt.Errorf("fields %q and %q differ in case only", field, other)
		}
		folded[fold] = field
	}
	return nil
}

func invalidManifest(err error) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "manifest: %w", err)
}

// JSON writes the manifest: apiVersion, kind and metadata first, then the other
// fields by name.
func (m *Manifest) JSON() (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	write := func(key string, value any) error {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("field %s: %w", key, err)
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
		return nil
	}
	for _, f := range []struct {
		key   string
		value any
	}{{"apiVersion", m.APIVersion}, {"kind", m.Kind}, {"metadata", m.Metadata}} {
		if err := write(f.key, f.value); err != nil {
			return nil, invalidManifest(err)
		}
	}
	keys := make([]string, 0, len(m.Fields))
	for key := range m.Fields {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := write(key, m.Fields[key]); err != nil {
			return nil, invalidManifest(err)
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Group is the API group of the manifest, empty for the core group.
func (m *Manifest) Group() string {
	group, _, found := strings.Cut(m.APIVersion, "/")
	if !found {
		return ""
	}
	return group
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// What capture calls them, which it reads from a machine.
const (
	AnnotationRevisionOf = capture.AnnotationRevisionOf
	fieldInstancetype    = capture.FieldInstancetype
	fieldPreference      = capture.FieldPreference
)

// planRevisions decides the names of the revisions that a backup holds, by the field
// of the machine, and makes their manifests.
func planRevisions(restore *restoreRecord, record *metadata.Record, n *renaming) error {
	vm := &unstructured.Unstructured{}
	if err := vm.UnmarshalJSON(record.VM); err != nil {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in backup %s cannot be read: %w", n.backup, err)
	}
	n.revisions = map[string]string{}
	for _, raw := range record.Others {
		m, err := metadata.ParseManifest(raw)
		if err != nil {
			return fmt.Errorf("an object of backup %s: %w", n.backup, err)
		}
		field := m.Metadata.Annotations[AnnotationRevisionOf]
		if m.APIVersion != "apps/v1" || m.Kind != "ControllerRevision" || n.revisions[field] != "" || field != fieldInstancetype && field != fieldPreference {
			continue
		}
		name := restore.revisionName(field)
		manifest, err := restoredObject(raw, name, n)
		if err != nil {
			return err
		}
		n.revisions[field], restore.Revisions = name, append(restore.Revisions, manifest)
		if pinned, _, _ := unstructured.NestedString(vm.Object, "spec", field, "revisionName"); pinned == "" {
			restore.Unpin = append(restore.Unpin, field)
		}
	}
	return nil
}

// revisions points the machine at its own revisions, and at none where the backup
// holds none: those of the source are not the restored machine's.
func (e *editor) revisions(n *renaming) {
	for _, field := range []string{fieldInstancetype, fieldPreference} {
		matcher := e.at("spec", field)
		if matcher == nil {
			continue
		}
		if name := n.revisions[field]; name != "" {
			matcher["revisionName"] = name
			continue
		}
		what := "nothing was recorded of it"
		if pinned, _ := matcher["revisionName"].(string); pinned != "" {
			what = fmt.Sprintf("the backup does not hold revision %s of the source machine", pinned)
		}
		delete(matcher, "revisionName")
		e.warn("%s %v is taken as it is in this cluster now: %s", field, matcher["name"], what)
	}
}

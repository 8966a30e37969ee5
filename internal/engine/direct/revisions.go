// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// An instance type and a preference shape a machine by what they said when the
// machine was made. KubeVirt keeps that content in a ControllerRevision, which the
// machine owns, and reads nothing else from then on. A backup holds the revision, so
// that the machine comes back the same when its instance type has changed meanwhile
// or is not in the cluster at all.

// AnnotationRevisionOf says, in a backup, which field of the machine's spec a
// ControllerRevision belongs to: instancetype or preference.
const AnnotationRevisionOf = vmbackup.Group + "/revision-of"

// Fields of a machine's spec that name something with a revision.
const (
	fieldInstancetype = "instancetype"
	fieldPreference   = "preference"
)

// revisionRef is the revision that a machine uses for one of the fields.
type revisionRef struct {
	// field is instancetype or preference, object the name of what it refers to.
	field, object string
	// name is the ControllerRevision, empty where KubeVirt has not recorded one.
	name string
}

// revisionsOf finds the revisions that a machine uses. One that its spec names
// counts before the one that KubeVirt has noted in its status, as for KubeVirt
// itself; older versions of KubeVirt wrote it into the spec.
func revisionsOf(vm *kubevirtv1.VirtualMachine) []revisionRef {
	var refs []revisionRef
	add := func(field, object, pinned string, noted *kubevirtv1.InstancetypeStatusRef) {
		ref := revisionRef{field: field, object: object, name: pinned}
		if pinned == "" && noted != nil && noted.ControllerRevisionRef != nil && (noted.Name == "" || noted.Name == object) {
			ref.name = noted.ControllerRevisionRef.Name
		}
		refs = append(refs, ref)
	}
	if m := vm.Spec.Instancetype; m != nil {
		add(fieldInstancetype, m.Name, m.RevisionName, vm.Status.InstancetypeRef)
	}
	if m := vm.Spec.Preference; m != nil {
		add(fieldPreference, m.Name, m.RevisionName, vm.Status.PreferenceRef)
	}
	return refs
}

// captureRevisions reads the revisions that a machine uses. What is not there is a warning.
func (e *Engine) captureRevisions(ctx context.Context, c *capture) (warnings []string, err error) {
	vm, refs := c.vm, revisionsOf(c.vm)
	found := make([]*appsv1.ControllerRevision, len(refs))
	group, gctx := errgroup.WithContext(ctx)
	for i, ref := range refs {
		if ref.name == "" {
			continue
		}
		group.Go(func() error {
			revision, err := e.clients.Core.AppsV1().ControllerRevisions(vm.Namespace).Get(gctx, ref.name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			found[i] = revision
			return kube.Error(err, "read", "ControllerRevision "+vm.Namespace+"/"+ref.name)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, ref := range refs {
		switch {
		case ref.name == "":
			warnings = append(warnings, fmt.Sprintf("KubeVirt has not recorded what the %s %q says for this machine: the backup holds its name alone, and a restored machine takes it as it is then", ref.field, ref.object))
			continue
		case found[i] == nil:
			warnings = append(warnings, fmt.Sprintf("ControllerRevision %q, which records the %s %q of the machine, does not exist: the backup holds its name alone, and a restored machine takes it as it is then", ref.name, ref.field, ref.object))
			continue
		}
		revision := found[i].DeepCopy()
		revision.APIVersion, revision.Kind = "apps/v1", "ControllerRevision"
		if revision.Annotations == nil {
			revision.Annotations = map[string]string{}
		}
		revision.Annotations[AnnotationRevisionOf] = ref.field
		manifest, err := sanitized(revision)
		if err != nil {
			return nil, fmt.Errorf("manifest of ControllerRevision %s: %w", ref.name, err)
		}
		c.revisions = append(c.revisions, manifest)
		if ref.field == fieldInstancetype {
			c.instanceType = ref.object
		} else {
			c.preference = ref.object
		}
	}
	return warnings, nil
}

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

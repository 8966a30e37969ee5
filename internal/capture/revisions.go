// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
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
	FieldInstancetype = "instancetype"
	FieldPreference   = "preference"
)

// RevisionRef is the revision that a machine uses for one of the fields.
type RevisionRef struct {
	// Field is instancetype or preference, Object the name of what it refers to.
	Field, Object string
	// Name is the ControllerRevision, empty where KubeVirt has not recorded one.
	Name string
}

// RevisionsOf finds the revisions that a machine uses. One that its spec names
// counts before the one that KubeVirt has noted in its status, as for KubeVirt
// itself; older versions of KubeVirt wrote it into the spec.
func RevisionsOf(vm *kubevirtv1.VirtualMachine) []RevisionRef {
	var refs []RevisionRef
	add := func(field, object, pinned string, noted *kubevirtv1.InstancetypeStatusRef) {
		ref := RevisionRef{Field: field, Object: object, Name: pinned}
		if pinned == "" && noted != nil && noted.ControllerRevisionRef != nil && (noted.Name == "" || noted.Name == object) {
			ref.Name = noted.ControllerRevisionRef.Name
		}
		refs = append(refs, ref)
	}
	if m := vm.Spec.Instancetype; m != nil {
		add(FieldInstancetype, m.Name, m.RevisionName, vm.Status.InstancetypeRef)
	}
	if m := vm.Spec.Preference; m != nil {
		add(FieldPreference, m.Name, m.RevisionName, vm.Status.PreferenceRef)
	}
	return refs
}

// revisions reads the revisions that a machine uses. What is not there is a warning.
func (e reader) revisions(ctx context.Context, c *Machine) (warnings []string, err error) {
	vm, refs := c.VM, RevisionsOf(c.VM)
	found := make([]*appsv1.ControllerRevision, len(refs))
	group, gctx := errgroup.WithContext(ctx)
	for i, ref := range refs {
		if ref.Name == "" {
			continue
		}
		group.Go(func() error {
			revision, err := e.clients.Core.AppsV1().ControllerRevisions(vm.Namespace).Get(gctx, ref.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			found[i] = revision
			return kube.Error(err, "read", "ControllerRevision "+vm.Namespace+"/"+ref.Name)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, ref := range refs {
		switch {
		case ref.Name == "":
			warnings = append(warnings, fmt.Sprintf("KubeVirt has not recorded what the %s %q says for this machine: the backup holds its name alone, and a restored machine takes it as it is then", ref.Field, ref.Object))
			continue
		case found[i] == nil:
			warnings = append(warnings, fmt.Sprintf("ControllerRevision %q, which records the %s %q of the machine, does not exist: the backup holds its name alone, and a restored machine takes it as it is then", ref.Name, ref.Field, ref.Object))
			continue
		}
		revision := found[i].DeepCopy()
		revision.APIVersion, revision.Kind = "apps/v1", "ControllerRevision"
		if revision.Annotations == nil {
			revision.Annotations = map[string]string{}
		}
		revision.Annotations[AnnotationRevisionOf] = ref.Field
		manifest, err := Sanitized(revision)
		if err != nil {
			return nil, fmt.Errorf("manifest of ControllerRevision %s: %w", ref.Name, err)
		}
		c.Revisions = append(c.Revisions, manifest)
		if ref.Field == FieldInstancetype {
			c.InstanceType = ref.Object
		} else {
			c.Preference = ref.Object
		}
	}
	return warnings, nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// notedDeadline is how long KubeVirt may take to note a machine's revisions.
const notedDeadline = time.Minute

var errNotedDeadline = errors.New("KubeVirt has not noted the revisions in time")

// hasBelongings reports whether the restored machine owns more than itself.
func (r *restoreRecord) hasBelongings() bool { return len(r.Revisions) > 0 || r.StateClaim != "" }

// checkBelongings refuses revisions that are not those of the restored machine, and a
// claim of its state that the restore does not make.
func (r *restoreRecord) checkBelongings() error {
	fields := []string{fieldInstancetype, fieldPreference}
	names := map[string]bool{}
	for _, field := range fields {
		names[r.revisionName(field)] = true
	}
	for i, raw := range r.Revisions {
		m, clean, err := manifestIn(raw, r.Restore.Metadata.Namespace)
		switch {
		case err != nil:
			return fmt.Errorf("revisions[%d]: %w", i, err)
		case m.APIVersion != "apps/v1" || m.Kind != "ControllerRevision" || !names[m.Metadata.Name]:
			return fmt.Errorf("revisions[%d]: %s %s %q is no revision of the machine, or there twice", i, m.APIVersion, m.Kind, m.Metadata.Name)
		}
		delete(names, m.Metadata.Name)
		r.Revisions[i] = clean
	}
	for i, field := range r.Unpin {
		if !slices.Contains(fields, field) {
			return fmt.Errorf("unpin[%d] %q names no revision", i, field)
		}
	}
	if r.StateClaim != "" && !slices.ContainsFunc(r.Claims, func(c corev1.PersistentVolumeClaim) bool { return c.Name == r.StateClaim }) {
		return fmt.Errorf("stateClaim %q is no claim of the restore", r.StateClaim)
	}
	return nil
}

// revisionName is the name of the machine's revision for a field. One of the
// operation's own never meets the revision of a machine that is there or just goes.
func (r *restoreRecord) revisionName(field string) string {
	return shorten(r.Restore.Spec.TargetName+"-"+field+"-"+r.Operation, 253)
}

// ensureBelongings makes the objects that the machine owns and that KubeVirt looks
// for: they go when it goes, as those of the source did.
func (r *restoreRun) ensureBelongings(ctx context.Context) error {
	ref := vmbackup.Ref{Namespace: r.namespace(), Name: r.restore().Spec.TargetName}
	raw, err := r.engine.clients.VMs.Get(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	vm := &metav1.PartialObjectMetadata{}
	if err := json.Unmarshal(raw, vm); err != nil {
		return fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	owner := *metav1.NewControllerRef(vm, kubevirtv1.VirtualMachineGroupVersionKind)
	for _, raw := range r.record.Revisions {
		if err := r.ensureRevision(ctx, raw, owner); err != nil {
			return err
		}
	}
	if r.record.StateClaim != "" {
		if err := r.ownState(ctx, owner); err != nil {
			return err
		}
	}
	return r.unpin(ctx)
}

func (r *restoreRun) ensureRevision(ctx context.Context, raw json.RawMessage, owner metav1.OwnerReference) error {
	revision := &appsv1.ControllerRevision{}
	if err := json.Unmarshal(raw, revision); err != nil {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "a ControllerRevision of restore %s cannot be read: %w", r.restore().Ref(), err)
	}
	revision.OwnerReferences = []metav1.OwnerReference{owner}
	client := r.engine.clients.Core.AppsV1().ControllerRevisions(r.namespace())
	_, err := client.Create(ctx, revision, metav1.CreateOptions{FieldManager: kube.FieldManager})
	if apierrors.IsAlreadyExists(err) {
		have, readErr := client.Get(ctx, revision.Name, metav1.GetOptions{})
		err = r.own(have, readErr, "ControllerRevision "+revision.Name)
	}
	return kube.Error(err, "create", "ControllerRevision "+r.namespace()+"/"+revision.Name)
}

// ownState gives the machine its persistent state. A claim that nobody owns would
// outlive it, and be taken by the next machine of this name.
func (r *restoreRun) ownState(ctx context.Context, owner metav1.OwnerReference) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": []metav1.OwnerReference{owner}}})
	if err != nil {
		return err
	}
	_, err = r.engine.clients.Core.CoreV1().PersistentVolumeClaims(r.namespace()).Patch(ctx, r.record.StateClaim, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
	return kube.Error(err, "give its machine", "PersistentVolumeClaim "+r.namespace()+"/"+r.record.StateClaim)
}

// unpin takes the revisions' names out of the machine's spec again where the source
// had none there, once KubeVirt has noted them in the status. A name that stays in
// the spec counts more than the instance type beside it, so that whoever changes the
// instance type later would change nothing.
func (r *restoreRun) unpin(ctx context.Context) error {
	if len(r.record.Unpin) == 0 {
		return nil
	}
	vm := vmbackup.Ref{Namespace: r.namespace(), Name: r.restore().Spec.TargetName}
	waiting, cancel := context.WithTimeoutCause(ctx, notedDeadline, errNotedDeadline)
	defer cancel()
	one := kube.One(r.engine.clients.KubeVirt.KubevirtV1().VirtualMachines(vm.Namespace), vm.Name)
	var pinned []string
	err := kube.WaitFor(waiting, one, "KubeVirt to note the revisions of VirtualMachine "+vm.String(), func(m *kubevirtv1.VirtualMachine) (bool, error) {
		pinned = pinnedIn(m, r.record.Unpin)
		return noted(m, pinned), nil
	})
	if errors.Is(context.Cause(waiting), errNotedDeadline) {
		r.warn(fmt.Sprintf("KubeVirt has not noted the revisions of VirtualMachine %s in %s, so they stay in its specification (%s): remove them there before you change the instance type or the preference",
			vm, notedDeadline, "spec."+strings.Join(r.record.Unpin, ".revisionName, spec.")+".revisionName"))
		return nil
	}
	if err != nil || len(pinned) == 0 {
		return err
	}
	spec := map[string]any{}
	for _, field := range pinned {
		spec[field] = map[string]any{"revisionName": nil}
	}
	patch, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return err
	}
	return kube.Error(r.engine.clients.VMs.Patch(ctx, vm.Namespace, vm.Name, patch), "change", "VirtualMachine "+vm.String())
}

// pinnedIn are those of the fields that name a revision in the machine's spec.
func pinnedIn(vm *kubevirtv1.VirtualMachine, fields []string) []string {
	var pinned []string
	for _, ref := range capture.RevisionsOf(&kubevirtv1.VirtualMachine{Spec: vm.Spec}) {
		if ref.Name != "" && slices.Contains(fields, ref.Field) {
			pinned = append(pinned, ref.Field)
		}
	}
	return pinned
}

// noted reports whether the machine's status names the revisions that its spec names
// in the fields.
func noted(vm *kubevirtv1.VirtualMachine, fields []string) bool {
	is := func(matcher string, status *kubevirtv1.InstancetypeStatusRef) bool {
		return status != nil && status.ControllerRevisionRef != nil && status.ControllerRevisionRef.Name == matcher
	}
	for _, field := range fields {
		if field == fieldInstancetype && !is(vm.Spec.Instancetype.RevisionName, vm.Status.InstancetypeRef) ||
			field == fieldPreference && !is(vm.Spec.Preference.RevisionName, vm.Status.PreferenceRef) {
			return false
		}
	}
	return true
}

// warn tells a warning now and keeps it with the restore.
func (r *restoreRun) warn(message string) {
	r.restore().Status.Warnings = append(r.restore().Status.Warnings, message)
	r.events.Warning(message)
}

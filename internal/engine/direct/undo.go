// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// AnnotationGivenUp is on a machine for the moment in which a restore of it is given
// up: it changes the machine's version, so that a run which is about to exchange the
// machine's disks cannot.
const AnnotationGivenUp = vmbackup.Group + "/given-up"

// undo takes back what a restore has done. It removes only what carries the
// restore's token; every step observes before it acts.
type undo struct {
	*restoreRun
	// fence is true where another process may still be at the restore.
	fence bool
}

func (u undo) steps() []flow.Step {
	if u.engine.delegate != nil {
		return u.engine.delegate.Undo(&Delegated{u.restoreRun})
	}
	machine := flow.Step{ID: "machine", Title: "Remove the halted machine", Ensure: u.removeMachine}
	if u.record.InPlace != nil {
		machine = flow.Step{ID: "machine", Title: "Give the machine back as it was", Ensure: u.returnMachine}
	}
	return []flow.Step{
		machine,
		{ID: "snapshots", Title: "Remove the composed snapshots", Ensure: u.removeSnapshots},
		{ID: "volumes", Title: "Remove the new volumes", Ensure: u.removeClaims},
		{ID: "objects", Title: "Remove restored secrets and config maps", Ensure: u.removeObjects},
	}
}

// tooLate refuses to undo a restore whose machine has its restored disks already and
// may have written to them, and says what can be done.
func (u undo) tooLate(ctx context.Context) error {
	if u.engine.delegate != nil {
		return u.engine.delegate.TooLate(ctx, &Delegated{u.restoreRun})
	}
	ref := u.machineRef()
	m, err := u.engine.readMachine(ctx, ref)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil
	}
	if err != nil || !m.swappedBy(u.record.Operation) {
		return err
	}
	resume := fmt.Sprintf("end the restore with: kubectl vmbackup resume restore/%s -n %s", u.restore().Metadata.Name, ref.Namespace)
	if u.record.InPlace != nil {
		if back := u.record.goBack(); back != "" {
			resume += "; or go back to the old volumes, with the machine off, with: " + back
		}
		return vmbackup.Errorf(vmbackup.ReasonConflict, "it is too late to cancel restore %s: VirtualMachine %s has its restored disks already; nothing was changed", u.restore().Ref(), ref).WithHint("%s", resume)
	}
	vmi, err := u.engine.instance(ctx, ref)
	if err != nil || vmi == nil && m.runs().Strategy == kubevirtv1.RunStrategyHalted {
		return err
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "it is too late to cancel restore %s: VirtualMachine %s has all its data and was started; nothing was changed", u.restore().Ref(), ref).
		WithHint("%s; or delete the machine if it is not wanted", resume)
}

// removeMachine deletes the machine that the restore has made, which is off.
func (u undo) removeMachine(ctx context.Context) error {
	if err := u.tooLate(ctx); err != nil {
		return err
	}
	ref := u.machineRef()
	m, err := u.engine.readMachine(ctx, ref)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound || err == nil && !m.swappedBy(u.record.Operation) {
		return nil // there is none, or it is somebody else's
	}
	if err != nil {
		return err
	}
	client := u.engine.clients.KubeVirt.KubevirtV1().VirtualMachines(ref.Namespace)
	version := m.ResourceVersion
	err = client.Delete(ctx, ref.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &m.UID, ResourceVersion: &version}})
	if err != nil && !apierrors.IsNotFound(err) {
		return kube.Error(err, "delete", "VirtualMachine "+ref.String())
	}
	return kube.WaitGone[*kubevirtv1.VirtualMachine](ctx, kube.One(client, ref.Name), "VirtualMachine "+ref.String()+" to be gone", m.UID)
}

// returnMachine has the machine of a restore in place run as it did before. Its disks
// are the old ones: once they are exchanged, it is too late.
func (u undo) returnMachine(ctx context.Context) error {
	if err := u.tooLate(ctx); err != nil {
		return err
	}
	ref, ip := u.machineRef(), u.record.InPlace
	m, err := u.machine(ctx)
	switch reason := vmbackup.ReasonOf(err); {
	case reason == vmbackup.ReasonNotFound || reason == vmbackup.ReasonSourceMismatch:
		return nil // there is nothing to give back
	case err != nil:
		return err
	}
	stopped := ip.Stopping && m.runs().Strategy == kubevirtv1.RunStrategyHalted && ip.Was.Strategy != kubevirtv1.RunStrategyHalted
	if stopped && ip.OldState != "" {
		if err := u.engine.moveState(ctx, ref, u.record.StateClaim, ip.OldState); err != nil {
			return err
		}
	}
	marked := m.Annotations[AnnotationGivenUp] != ""
	if !stopped && !u.fence && !marked {
		return nil
	}
	for _, annotation := range []any{u.record.Operation, nil} {
		state := m.runs()
		if stopped && annotation == nil {
			state = ip.Was
		}
		patch, err := state.runPatch(m, map[string]any{AnnotationGivenUp: annotation})
		if err != nil {
			return err
		}
		if err := u.engine.clients.VMs.Patch(ctx, ref.Namespace, ref.Name, patch); err != nil {
			return kube.Error(err, "give back", "VirtualMachine "+ref.String())
		}
		if m, err = u.machine(ctx); err != nil {
			return err
		}
	}
	if !stopped || ip.Was.Strategy != kubevirtv1.RunStrategyManual || !ip.Was.Ran {
		return nil
	}
	if err := u.engine.clients.VMs.Start(ctx, ref.Namespace, ref.Name); err != nil && !apierrors.IsConflict(err) { // it runs already
		return kube.Error(err, "start", "VirtualMachine "+ref.String())
	}
	return nil
}

// removeClaims deletes the claims that the restore has made, unless a machine has
// them among its disks.
func (u undo) removeClaims(ctx context.Context) error {
	client := u.engine.clients.Core.CoreV1().PersistentVolumeClaims(u.namespace())
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: LabelOperation + "=" + u.record.Operation})
	if err != nil {
		return kube.Error(err, "list", "PersistentVolumeClaims in namespace "+u.namespace())
	}
	claims := slices.DeleteFunc(list.Items, func(c corev1.PersistentVolumeClaim) bool {
		return !slices.ContainsFunc(u.record.Claims, func(made corev1.PersistentVolumeClaim) bool { return made.Name == c.Name })
	})
	if len(claims) == 0 {
		return nil
	}
	used, err := u.engine.usersOf(ctx, u.namespace(), "", func(name string) bool {
		return slices.ContainsFunc(claims, func(c corev1.PersistentVolumeClaim) bool { return c.Name == name })
	})
	if err != nil {
		return err
	}
	if len(used) > 0 {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "the volumes of restore %s are in use: %v; they were left as they are", u.restore().Ref(), used).
			WithHint("detach them there, then run the same command again")
	}
	for i := range claims {
		err := client.Delete(ctx, claims[i].Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claims[i].UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "PersistentVolumeClaim "+u.namespace()+"/"+claims[i].Name)
		}
	}
	for i := range claims {
		err := kube.WaitGone[*corev1.PersistentVolumeClaim](ctx, kube.One(client, claims[i].Name), "PersistentVolumeClaim "+claims[i].Name+" to be gone", claims[i].UID)
		if err != nil {
			return err
		}
	}
	return nil
}

// removeObjects deletes the Secrets, config maps and revisions that the restore has made.
func (u undo) removeObjects(ctx context.Context) error {
	core := u.engine.clients.Core
	for _, list := range []struct {
		kind    string
		objects []json.RawMessage
		get     func(name string) (metav1.Object, error)
		remove  func(name string, options metav1.DeleteOptions) error
	}{
		{
			"Secret", u.record.Secrets,
			func(name string) (metav1.Object, error) {
				return core.CoreV1().Secrets(u.namespace()).Get(ctx, name, metav1.GetOptions{})
			},
			func(name string, options metav1.DeleteOptions) error {
				return core.CoreV1().Secrets(u.namespace()).Delete(ctx, name, options)
			},
		},
		{
			"ConfigMap", u.record.ConfigMaps,
			func(name string) (metav1.Object, error) {
				return core.CoreV1().ConfigMaps(u.namespace()).Get(ctx, name, metav1.GetOptions{})
			},
			func(name string, options metav1.DeleteOptions) error {
				return core.CoreV1().ConfigMaps(u.namespace()).Delete(ctx, name, options)
			},
		},
		{
			"ControllerRevision", u.record.Revisions,
			func(name string) (metav1.Object, error) {
				return core.AppsV1().ControllerRevisions(u.namespace()).Get(ctx, name, metav1.GetOptions{})
			},
			func(name string, options metav1.DeleteOptions) error {
				return core.AppsV1().ControllerRevisions(u.namespace()).Delete(ctx, name, options)
			},
		},
	} {
		for _, raw := range list.objects {
			m, err := metadata.ParseManifest(raw)
			if err != nil {
				return err
			}
			name := m.Metadata.Name
			have, err := list.get(name)
			if apierrors.IsNotFound(err) || err == nil && have.GetLabels()[LabelOperation] != u.record.Operation {
				continue
			}
			if err == nil {
				err = list.remove(name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.GetUID()))})
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return kube.Error(err, "delete", list.kind+" "+u.namespace()+"/"+name)
			}
		}
	}
	return nil
}

// giveBack gives the machine back as it was when a restore in place has failed before
// its disks were exchanged: a failed restore must not leave it off. The error says
// how the machine is now.
func (r *restoreRun) giveBack(ctx context.Context, cause error) error {
	u := undo{restoreRun: r}
	if vmbackup.ReasonOf(u.tooLate(ctx)) == vmbackup.ReasonConflict {
		return cause // its disks are exchanged, and the error says what can be done
	}
	failure := vmbackup.AsError(cause, vmbackup.ReasonInternal)
	r.events.Warning(fmt.Sprintf("the restore has failed; VirtualMachine %s is given back as it was", r.machineRef()))
	for _, step := range u.steps() {
		if err := r.bear(ctx, step.Ensure); err != nil {
			return vmbackup.Errorf(failure.Reason, "%w; and VirtualMachine %s could not be given back as it was: %w", cause, r.machineRef(), err).
				WithHint("give it back with: kubectl vmbackup cancel restore/%s -n %s", r.restore().Metadata.Name, r.namespace())
		}
	}
	told := vmbackup.Errorf(failure.Reason, "%w; VirtualMachine %s is as it was before, and what the restore had made is removed", cause, r.machineRef())
	if failure.Hint != "" {
		return told.WithHint("%s", failure.Hint)
	}
	return told
}

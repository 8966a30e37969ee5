// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// AnnotationStopped is on a machine that a restore has stopped before its record
// could be written, and says how it ran.
const AnnotationStopped = vmbackup.Group + "/stopped"

// annotationRemovedClaims lists the claims that Harvester deletes with the machine:
// what somebody has chosen for one deletion is not for the restored machine's.
const annotationRemovedClaims = "harvesterhci.io/removedPersistentVolumeClaims"

// PutBack makes the machine that the delegate has made the one that it is to be, off,
// in one update. The annotations keep are those by which the delegate knows it. Once it was put back, nothing is done.
//
// An instance that was there is of the machine as the delegate made it, and goes:
// ran is true where its guest had been running already.
func (d *Delegated) PutBack(ctx context.Context, keep []string) (ran bool, err error) {
	ref := d.Machine()
	m, err := d.run.engine.readMachine(ctx, ref)
	if err != nil || d.IsPutBack(&m.VirtualMachine) {
		return false, err
	}
	if ip := d.run.record.InPlace; ip != nil && m.UID != ip.UID {
		return false, vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "VirtualMachine %s is another one by now than when the restore was planned", ref)
	}
	vmi, err := d.run.engine.instance(ctx, ref)
	if err != nil {
		return false, err
	}
	owner := *metav1.NewControllerRef(m, kubevirtv1.VirtualMachineGroupVersionKind)
	for _, raw := range d.run.record.Revisions {
		if err := d.run.ensureRevision(ctx, raw, owner); err != nil {
			return false, err
		}
	}
	manifest, err := d.merged(m, keep)
	if err != nil {
		return false, err
	}
	// A conflict is tried again by the step: nothing was changed then.
	if err := d.run.engine.clients.VMs.Update(ctx, ref.Namespace, ref.Name, manifest, false); err != nil {
		return false, kube.Error(err, "update", "VirtualMachine "+ref.String())
	}
	if vmi == nil {
		return false, nil
	}
	// Deleted rather than waited for: KubeVirt may take it for the instance of the
	// machine as it is now.
	err = d.run.engine.clients.KubeVirt.KubevirtV1().VirtualMachineInstances(ref.Namespace).Delete(ctx, ref.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(vmi.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsForbidden(err) {
		return false, kube.Error(err, "end", "VirtualMachineInstance "+ref.String())
	}
	d.hurry(ctx, vmi)
	one := kube.One(d.run.engine.clients.KubeVirt.KubevirtV1().VirtualMachineInstances(ref.Namespace), ref.Name)
	if err := kube.WaitGone[*kubevirtv1.VirtualMachineInstance](ctx, one, "the first instance of VirtualMachine "+ref.String()+" to be gone", vmi.UID); err != nil {
		return false, err
	}
	return vmi.Status.Phase == kubevirtv1.Running, nil
}

// hurry shortens the time that the pod of an instance has for ending, where its guest
// has not run: there is nothing to shut down. Who may not do that waits.
func (d *Delegated) hurry(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) {
	if vmi.Status.Phase == kubevirtv1.Running {
		return
	}
	pods := d.run.engine.clients.Core.CoreV1().Pods(vmi.Namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: kubevirtv1.CreatedByLabel + "=" + string(vmi.UID)})
	if err != nil {
		return
	}
	soon := int64(1)
	for i := range list.Items {
		pod := &list.Items[i]
		// What comes of it is seen at the instance.
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &soon, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	}
}

// SetClaims gives the restored claims the names that the delegate has for them, by
// the volume's name.
func (d *Delegated) SetClaims(claims map[string]string) error {
	renamed := map[string]string{}
	volumes := d.run.restore().Status.Volumes
	for i := range volumes {
		if claim := claims[volumes[i].Name]; claim != "" {
			renamed[volumes[i].PVC], volumes[i].PVC = claim, claim
		}
	}
	if ip := d.run.record.InPlace; ip != nil {
		for i := range ip.Old {
			if claim := renamed[ip.Old[i].Replaced]; claim != "" {
				ip.Old[i].Replaced = claim
			}
		}
	}
	e := editor{}
	if err := json.Unmarshal(d.run.record.VM, &e.root); err != nil {
		return err
	}
	e.volumes(&renaming{claims: renamed})
	e.inAnnotation(e.at("metadata", "annotations"), annotationClaimTemplates, func(list []map[string]any) {
		for _, template := range list {
			rename(template, "metadata", "name", renamed)
		}
	})
	manifest, err := json.Marshal(e.root)
	d.run.record.VM = manifest
	return err
}

// merged is the live machine with what it is to be.
func (d *Delegated) merged(m *liveMachine, keep []string) (json.RawMessage, error) {
	e := editor{}
	if err := json.Unmarshal(d.run.record.VM, &e.root); err != nil {
		return nil, err
	}
	// A network interface keeps the address that it was given here, where it has none of its own.
	live := map[string]string{}
	for _, i := range m.Spec.Template.Spec.Domain.Devices.Interfaces {
		live[i.Name] = i.MacAddress
	}
	for _, i := range e.list("spec", "template", "spec", "domain", "devices", "interfaces") {
		name, _ := i["name"].(string)
		if set, _ := i["macAddress"].(string); set == "" && live[name] != "" {
			i["macAddress"] = live[name]
		}
	}
	annotations := e.at("metadata", "annotations")
	for _, key := range keep {
		if _, found := m.Annotations[key]; found {
			delete(annotations, key)
		}
	}
	starts := d.RunStrategy()
	if !d.EndsRunning() {
		starts = kubevirtv1.RunStrategyAlways // the delegate starts it once whatever it is to be
	}
	annotations[harvester.RunStrategyAnnotation] = string(starts)
	if d.InPlace() {
		owned, _ := m.object["metadata"].(map[string]any)
		if have, _ := owned["annotations"].(map[string]any); have != nil {
			delete(have, AnnotationStopped)
		}
	}
	spec := e.at("spec")
	delete(spec, "running")
	spec["runStrategy"] = string(kubevirtv1.RunStrategyHalted)
	manifest, err := json.Marshal(e.root)
	if err != nil {
		return nil, err
	}
	return m.exchanged(manifest)
}

// Settle has the machine run, or not, as it was asked for. The delegate has started it.
func (d *Delegated) Settle(ctx context.Context) error {
	if d.EndsRunning() {
		return d.run.start(ctx)
	}
	m, err := d.run.engine.readMachine(ctx, d.Machine())
	if err != nil {
		return err
	}
	vmi, err := d.run.engine.instance(ctx, d.Machine())
	if err != nil {
		return err
	}
	if m.runs().Strategy != kubevirtv1.RunStrategyHalted && (m.runs().Strategy != d.RunStrategy() || vmi != nil) {
		if err := d.halt(ctx, m, nil); err != nil {
			return err
		}
	}
	if err := d.run.awaitOff(ctx, vmi, "start"); err != nil || d.RunStrategy() == kubevirtv1.RunStrategyHalted {
		return err
	}
	patch, err := d.run.engine.startPatch(ctx, d.RunStrategy())
	if err != nil {
		return err
	}
	return kube.Error(d.run.engine.clients.VMs.Patch(ctx, m.Namespace, m.Name, patch), "change", "VirtualMachine "+d.Machine().String())
}

func (d *Delegated) halt(ctx context.Context, m *liveMachine, annotations map[string]any) error {
	patch, err := runState{Strategy: kubevirtv1.RunStrategyHalted}.runPatch(m, annotations)
	if err != nil {
		return err
	}
	return kube.Error(d.run.engine.clients.VMs.Patch(ctx, m.Namespace, m.Name, patch), "stop", "VirtualMachine "+d.Machine().String())
}

// Stop turns the machine of a restore in place off, as the request allows. How it ran
// is written to it: there is no record yet. start has it run as it did.
func (d *Delegated) Stop(ctx context.Context) (start func(context.Context) error, err error) {
	ip := d.run.record.InPlace
	nothing := func(context.Context) error { return nil }
	m, err := d.run.engine.machineOf(ctx, d.run.record)
	if err != nil {
		return nothing, err
	}
	vmi, err := d.run.engine.instance(ctx, d.Machine())
	if err != nil {
		return nothing, err
	}
	if !runs(vmi) && m.runs().Strategy == kubevirtv1.RunStrategyHalted {
		return nothing, nil
	}
	if !ip.Stop {
		return nothing, vmRunning(d.Machine(), ", which it did not when the restore was planned").WithHint("run the same command with --stop")
	}
	was := m.runs()
	was.Ran = runs(vmi)
	ip.Was, ip.Stopping = was, true
	d.run.record.RunStrategy, d.run.record.StartByHand = ip.strategy(), ip.startsByHand()
	note, err := json.Marshal(was)
	if err != nil {
		return nothing, err
	}
	start = func(ctx context.Context) error { return d.startAsBefore(ctx, was) }
	if err := d.halt(ctx, m, map[string]any{AnnotationStopped: string(note)}); err != nil {
		return nothing, err
	}
	if d.run.events == nil {
		d.run.events = flow.NewEvents(vmbackup.NopSink{}, "", d.run.engine.clock)
	}
	if err := d.run.awaitOff(ctx, vmi, "start"); err != nil {
		if ctx.Err() == nil {
			return nothing, errors.Join(err, start(ctx))
		}
		return nothing, err // the same command finds the note
	}
	return start, nil
}

func (d *Delegated) startAsBefore(ctx context.Context, was runState) error {
	m, err := d.run.engine.machineOf(ctx, d.run.record)
	if err != nil {
		return err
	}
	patch, err := was.runPatch(m, map[string]any{AnnotationStopped: nil, harvester.RunStrategyAnnotation: string(was.Strategy)})
	if err != nil {
		return err
	}
	if err := d.run.engine.clients.VMs.Patch(ctx, m.Namespace, m.Name, patch); err != nil {
		return kube.Error(err, "start", "VirtualMachine "+d.Machine().String())
	}
	if was.Strategy == kubevirtv1.RunStrategyManual && was.Ran {
		return kube.Error(d.run.engine.clients.VMs.Start(ctx, m.Namespace, m.Name), "start", "VirtualMachine "+d.Machine().String())
	}
	return nil
}

// wasBefore is how a machine ran before a restore has stopped it that was then cut off.
func (m *liveMachine) wasBefore() runState {
	was := m.runs()
	if note, found := m.Annotations[AnnotationStopped]; found && was.Strategy == kubevirtv1.RunStrategyHalted {
		var stopped runState
		if json.Unmarshal([]byte(note), &stopped) == nil && knownStrategy(stopped.Strategy) && stopped.Strategy != "" {
			return stopped
		}
	}
	return was
}

// NoteOldVolumes keeps with the restore which claims were replaced.
func (d *Delegated) NoteOldVolumes() {
	status := &d.run.restore().Status
	status.VM, status.OldVolumes = d.Machine().String(), nil
	if d.InPlace() {
		for _, c := range d.run.record.InPlace.replaced() {
			status.OldVolumes = append(status.OldVolumes, c.Claim)
		}
	}
}

// ownSecrets parts the backup's Secrets into those that the engine restores, and the
// names of those that a delegate does.
func (e *Engine) ownSecrets(record *metadata.Record, n *renaming) (own []json.RawMessage, delegated map[string]string, err error) {
	if e.delegate == nil {
		return record.Secrets, nil, nil
	}
	delegated = e.delegate.Secrets(record, n.to, n.inPlace)
	for _, raw := range record.Secrets {
		m, err := metadata.ParseManifest(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("a Secret of backup %s: %w", n.backup, err)
		}
		if delegated[m.Metadata.Name] == "" {
			own = append(own, raw)
		}
	}
	return own, delegated, nil
}

// delegatedRights are the rights that a restore needs whose volumes and machine
// somebody else makes.
func delegatedRights(restore *restoreRecord) []right {
	namespace := restore.Restore.Spec.TargetNamespace
	rights := []right{
		{"list", "kubevirt.io", "virtualmachines", namespace},
		{"watch", "kubevirt.io", "virtualmachines", namespace},
		{"update", "kubevirt.io", "virtualmachines", namespace},
		{"patch", "kubevirt.io", "virtualmachines", namespace},
		{"list", "kubevirt.io", "virtualmachineinstances", namespace},
		{"watch", "kubevirt.io", "virtualmachineinstances", namespace},
	}
	for _, verb := range []string{"create", "list", "watch", "patch"} {
		rights = append(rights, right{verb, harvester.Group, harvester.RestoreResource, namespace})
	}
	if len(restore.Revisions) > 0 {
		rights = append(rights, right{"create", "apps", "controllerrevisions", namespace})
	}
	if ip := restore.InPlace; ip != nil && ip.DeleteOld {
		rights = append(rights, right{"delete", "", "persistentvolumeclaims", namespace}, right{"watch", "", "persistentvolumeclaims", namespace})
	}
	return slices.Clip(rights)
}

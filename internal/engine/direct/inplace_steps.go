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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// stopMargin is how long a machine may take to be off beyond the time that its guest
// has for shutting down.
const stopMargin = 2 * time.Minute

var errStopDeadline = errors.New("the machine is not off in time")

// inPlaceSteps are the steps of a restore in place, in order. The data comes first:
// the machine is off only for the exchange, and one whose data cannot be restored is
// never stopped.
func (r *restoreRun) inPlaceSteps() []flow.Step {
	steps := r.makesClasses(r.recallsImages(nil))
	if r.record.Backup.Spec.Type == vmbackup.TypeBackup {
		steps = append(steps, flow.Step{ID: "sync", Title: "See the backups in Longhorn", Ensure: r.ensureBackups})
	}
	steps = append(steps,
		flow.Step{ID: "snapshots", Title: "Compose the snapshots from their handles", Ensure: r.ensureSnapshots},
		flow.Step{ID: "volumes", Title: "Create the new volumes beside the old ones", Ensure: r.ensureNewClaims},
		flow.Step{ID: "data", Title: "Restore the volumes' data", Ensure: r.followData, Waits: true},
		flow.Step{ID: "cleanup", Title: "Remove the composed snapshots", Ensure: r.removeSnapshots},
		flow.Step{ID: "objects", Title: "Restore secrets and config maps", Ensure: r.ensureObjects},
		flow.Step{ID: "stop", Title: "Stop the machine", Ensure: r.stop},
		flow.Step{ID: "machine", Title: "Exchange the machine's disks and specification", Ensure: r.swap},
	)
	if len(r.record.Unpin) > 0 {
		steps = append(steps, flow.Step{ID: "belongings", Title: "Have KubeVirt note the instance type of then", Ensure: r.unpin})
	}
	title := "Start the machine as it ran before"
	if !r.record.InPlace.starts() {
		title = "Leave the machine off"
	}
	steps = append(steps, flow.Step{ID: "start", Title: title, Ensure: r.startAgain})
	if r.record.InPlace.DeleteOld && r.record.InPlace.starts() {
		steps = append(steps, flow.Step{ID: "old-volumes", Title: "Delete the old volumes", Ensure: r.deleteOld})
	}
	return steps
}

func (r *restoreRun) machineRef() vmbackup.Ref {
	return vmbackup.Ref{Namespace: r.namespace(), Name: r.restore().Spec.TargetName}
}

// machine reads the machine, which must still be the one that was planned for.
func (r *restoreRun) machine(ctx context.Context) (*liveMachine, error) {
	return r.engine.machineOf(ctx, r.record)
}

// machineOf reads the machine of a restore in place, which must still be the same one.
func (e *Engine) machineOf(ctx context.Context, record *restoreRecord) (*liveMachine, error) {
	ref := vmbackup.Ref{Namespace: record.Restore.Spec.TargetNamespace, Name: record.Restore.Spec.TargetName}
	m, err := e.readMachine(ctx, ref)
	if err == nil && m.UID != record.InPlace.UID {
		err = vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "VirtualMachine %s is another one by now than when the restore was planned; it was left as it is", ref)
	}
	return m, err
}

// ensureNewClaims creates the new claims; from then on the restore can be followed.
func (r *restoreRun) ensureNewClaims(ctx context.Context) error {
	if r.record.DataRestored {
		return nil
	}
	if err := r.ensureClaims(ctx); err != nil {
		return err
	}
	r.restore().Status.VM = r.machineRef().String()
	return r.save(ctx)
}

// stop turns the machine off and waits until it is. How it ran is written down
// before: who comes next must know it.
func (r *restoreRun) stop(ctx context.Context) error {
	m, err := r.machine(ctx)
	if err != nil || m.swappedBy(r.record.Operation) {
		return err
	}
	vmi, err := r.engine.instance(ctx, r.machineRef())
	if err != nil {
		return err
	}
	ip := r.record.InPlace
	if was := m.runs(); was.Strategy != kubevirtv1.RunStrategyHalted {
		if (runs(vmi) || was.Strategy == kubevirtv1.RunStrategyAlways) && !ip.Stop {
			return vmRunning(r.machineRef(), ", which it did not when the restore was planned").WithHint("stop it, or let a new restore stop it with --stop")
		}
		was.Ran = runs(vmi)
		ip.Was, ip.Stopping = was, true
		r.record.RunStrategy, r.record.StartByHand = ip.strategy(), ip.startsByHand()
		if err := r.save(ctx); err != nil {
			return err
		}
		patch, err := runState{Strategy: kubevirtv1.RunStrategyHalted}.runPatch(m, nil)
		if err != nil {
			return err
		}
		if err := r.engine.clients.VMs.Patch(ctx, m.Namespace, m.Name, patch); err != nil {
			return kube.Error(err, "stop", "VirtualMachine "+r.machineRef().String())
		}
	}
	return r.awaitOff(ctx, vmi, "stop")
}

// awaitOff waits until nothing of the machine runs, for as long as its guest may take,
// and tells so in the step given.
func (r *restoreRun) awaitOff(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, step string) error {
	grace := 180 * time.Second // KubeVirt's own
	if vmi != nil && vmi.Spec.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*vmi.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	vm := r.machineRef()
	waiting, cancel := context.WithTimeoutCause(ctx, grace+stopMargin, errStopDeadline)
	defer cancel()
	client := r.engine.clients.KubeVirt.KubevirtV1()
	if vmi != nil {
		r.events.Step(step, vmbackup.StateRunning, fmt.Sprintf("waiting until the guest has shut down; it has %s for it", grace))
	}
	err := kube.WaitGone[*kubevirtv1.VirtualMachineInstance](waiting, kube.One(client.VirtualMachineInstances(vm.Namespace), vm.Name), "VirtualMachine "+vm.String()+" to be off", "")
	if err == nil {
		// Its status is what the start is judged by: it must not be that of the run that has ended.
		err = kube.WaitFor(waiting, kube.One(client.VirtualMachines(vm.Namespace), vm.Name), "KubeVirt to see VirtualMachine "+vm.String()+" off",
			func(m *kubevirtv1.VirtualMachine) (bool, error) { return !m.Status.Ready && !m.Status.Created, nil })
	}
	if errors.Is(context.Cause(waiting), errStopDeadline) {
		return vmbackup.Errorf(vmbackup.ReasonTimeout, "VirtualMachine %s is not off %s after it was told to stop; its disks are the old ones", vm, grace+stopMargin).
			WithHint("end it with: virtctl stop %s -n %s --force --grace-period 0; then go on with: kubectl vmbackup resume restore/%s -n %s; or give it up with 'cancel', which starts the machine as it was", vm.Name, vm.Namespace, r.restore().Metadata.Name, vm.Namespace)
	}
	return err
}

// swap gives the machine its disks and specification of then, in one update that
// succeeds only on the machine as it was looked at.
func (r *restoreRun) swap(ctx context.Context) error {
	m, err := r.machine(ctx)
	if err != nil {
		return err
	}
	if !m.swappedBy(r.record.Operation) {
		if err := r.exchange(ctx, m); err != nil {
			return err
		}
	}
	status := &r.restore().Status
	status.VM, status.OldVolumes = r.machineRef().String(), nil
	for _, c := range r.record.InPlace.replaced() {
		status.OldVolumes = append(status.OldVolumes, c.Claim)
	}
	return r.save(ctx)
}

func (r *restoreRun) exchange(ctx context.Context, m *liveMachine) error {
	vm := r.machineRef()
	vmi, err := r.engine.instance(ctx, vm)
	if err != nil {
		return err
	}
	if vmi != nil || m.runs().Strategy != kubevirtv1.RunStrategyHalted {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "somebody has started VirtualMachine %s after the restore had stopped it; its disks are the old ones", vm).
			WithHint("stop it again and exchange its disks with: kubectl vmbackup resume restore/%s -n %s", r.restore().Metadata.Name, vm.Namespace)
	}
	if err := r.sameDisks(m); err != nil {
		return err
	}
	owner := *metav1.NewControllerRef(m, kubevirtv1.VirtualMachineGroupVersionKind)
	for _, raw := range r.record.Revisions {
		if err := r.ensureRevision(ctx, raw, owner); err != nil {
			return err
		}
	}
	if r.record.StateClaim != "" {
		if err := r.ownState(ctx, owner); err != nil {
			return err
		}
		if err := r.engine.moveState(ctx, vm, r.record.InPlace.OldState, r.record.StateClaim); err != nil {
			return err
		}
	}
	manifest, err := m.exchanged(r.record.VM)
	if err != nil {
		return err
	}
	// Written right before: whoever gives the restore up has marked it, and this run
	// must not exchange anything any more. Should both meet in between, the machine's
	// version decides, which a cancellation changes.
	if err := r.save(ctx); err != nil {
		return err
	}
	return kube.Error(r.engine.clients.VMs.Update(ctx, vm.Namespace, vm.Name, manifest, false), "update", "VirtualMachine "+vm.String())
}

// sameDisks refuses a machine whose disks somebody has changed since the restore was planned.
func (r *restoreRun) sameDisks(m *liveMachine) error {
	var now, planned []string
	for _, c := range capture.ReferencesOf(&m.VirtualMachine).Claims {
		now = append(now, c.Claim)
	}
	for _, c := range r.record.InPlace.Old {
		if c.Claim != r.record.InPlace.OldState {
			planned = append(planned, c.Claim)
		}
	}
	slices.Sort(now)
	slices.Sort(planned)
	if slices.Equal(now, planned) {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "somebody has changed the disks of VirtualMachine %s since the restore was planned: they were %s and are %s", r.machineRef(), strings.Join(planned, ", "), strings.Join(now, ", ")).
		WithHint("look at the machine, then start a new restore")
}

// moveState has KubeVirt find one claim as the machine's persistent state, and not the other.
func (e *Engine) moveState(ctx context.Context, vm vmbackup.Ref, from, to string) error {
	for _, change := range []struct {
		claim string
		value any
	}{{from, nil}, {to, vm.Name}} {
		if change.claim == "" {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{labelPersistentState: change.value}}})
		if err != nil {
			return err
		}
		_, err = e.clients.Core.CoreV1().PersistentVolumeClaims(vm.Namespace).Patch(ctx, change.claim, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "label", "PersistentVolumeClaim "+vm.Namespace+"/"+change.claim)
		}
	}
	return nil
}

// startAgain starts the machine as it ran before, if it did.
func (r *restoreRun) startAgain(ctx context.Context) error {
	err := r.start(ctx)
	if err != nil && ctx.Err() == nil {
		if back := r.record.goBack(); back != "" {
			failure := vmbackup.AsError(err, vmbackup.ReasonInternal)
			return failure.WithHint("%s", strings.TrimPrefix(failure.Hint+"; the old volumes are untouched: go back to them, with the machine off, with: "+back, "; "))
		}
	}
	if err == nil && !r.record.InPlace.DeleteOld && len(r.restore().Status.OldVolumes) > 0 {
		r.events.Step("start", vmbackup.StateRunning, "the old volumes are kept; remove them, when they are not needed any more, with: "+removeOldCommand(r.namespace(), r.restore().Status.OldVolumes))
	}
	return err
}

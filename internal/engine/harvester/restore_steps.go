// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Steps implements direct.Delegate. Harvester makes the machine before its claims are
// bound, without most of what makes it this machine. It is put right at once, off, so
// that its guest boots once only, and as what it is: Harvester starts it when the
// claims are bound.
func (r *restoreDelegate) Steps(d *direct.Delegated) []flow.Step {
	run := &restoreSteps{restoreDelegate: r, d: d}
	made := "Harvester creates the volumes and the machine"
	if d.InPlace() {
		made = "Harvester creates the volumes and exchanges the machine's disks"
	}
	steps := []flow.Step{
		{ID: "volumes", Title: made, Ensure: run.awaitMachine},
		{ID: "machine", Title: "Give the machine back what Harvester leaves out", Ensure: run.putBack},
		{ID: "data", Title: "Restore the volumes' data", Ensure: run.followData, Waits: true},
	}
	if d.HasRevisions() {
		steps = append(steps, flow.Step{ID: "belongings", Title: "Have KubeVirt note the instance type of then", Ensure: d.Unpin})
	}
	title := "See the machine run as it is to"
	if !d.EndsRunning() {
		title = "Turn the machine off again"
	}
	steps = append(steps, flow.Step{ID: "start", Title: title, Ensure: run.settle})
	if d.DeletesOldVolumes() {
		steps = append(steps, flow.Step{ID: "old-volumes", Title: "Delete the old volumes", Ensure: d.DeleteOldVolumes})
	}
	return steps
}

// Follow implements direct.Delegate.
func (r *restoreDelegate) Follow(ctx context.Context, d *direct.Delegated) error {
	return (&restoreSteps{restoreDelegate: r, d: d}).watchData(ctx)
}

// Begin implements direct.Delegate: Harvester restores in place only what is off.
func (r *restoreDelegate) Begin(ctx context.Context, d *direct.Delegated) (func(context.Context) error, error) {
	if !d.InPlace() {
		return func(context.Context) error { return nil }, nil
	}
	return d.Stop(ctx)
}

// restoreSteps are the steps of one run.
type restoreSteps struct {
	*restoreDelegate
	d *direct.Delegated
	// object is Harvester's, as it was read last.
	object *hv.VirtualMachineRestore
}

func (r *restoreSteps) namespace() string { return r.d.Machine().Namespace }

// read reads Harvester's object.
func (r *restoreSteps) read(ctx context.Context) error {
	ref := r.d.Restore().Ref()
	object, err := r.engine.clients.Harvester.Restores(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return kube.Error(err, "read", restoreName(ref))
	}
	r.object = object
	return nil
}

// beginLimit is how long Harvester may take to make the machine: nothing of it waits
// for data.
const beginLimit = 5 * time.Minute

var errBeginLimit = errors.New("Harvester has not made the machine in time")

// awaitMachine waits until Harvester has made the machine, or given it its new disks.
func (r *restoreSteps) awaitMachine(ctx context.Context) error {
	if err := r.read(ctx); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, beginLimit, errBeginLimit)
	defer cancel()
	side := r.aside(waiting, "volumes", r.tellErrors)
	defer side.stop()
	vm := r.d.Machine()
	one := kube.One(r.engine.clients.KubeVirt.KubevirtV1().VirtualMachines(vm.Namespace), vm.Name)
	err := kube.WaitFor(waiting, one, "Harvester to make VirtualMachine "+vm.String(), func(m *kubevirtv1.VirtualMachine) (bool, error) {
		if r.d.IsPutBack(m) || r.made(m) {
			return true, nil
		}
		if !r.d.InPlace() && m.Annotations[hv.LastRestoreAnnotation] == "" {
			return false, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "VirtualMachine %s appeared since the restore was planned, and is not its own; it was left as it is", vm).
				WithHint("rename or remove it; then give the restore up with 'cancel' and start a new one")
		}
		return false, nil
	})
	if errors.Is(context.Cause(waiting), errBeginLimit) && ctx.Err() == nil {
		return r.stuck(beginLimit, side.last())
	}
	if err != nil {
		return err
	}
	return r.read(ctx)
}

// made reports whether Harvester has made the machine for this restore.
func (r *restoreSteps) made(m *kubevirtv1.VirtualMachine) bool {
	return m.Annotations[hv.LastRestoreAnnotation] == r.object.Name+"-"+string(r.object.UID)
}

// stuck is the error for a restore at which Harvester does not come further. It may
// yet, so that the restore is not called failed.
func (r *restoreSteps) stuck(after time.Duration, why string) error {
	ref := r.d.Restore().Ref()
	if why == "" {
		why = "it does not say why"
	}
	return vmbackup.Errorf(vmbackup.ReasonTimeout, "Harvester has not come further with restore %s in %s: %s; the backup is untouched", ref, after, why).
		WithHint("%s; Harvester tries again by itself: once the cause is mended, go on with: kubectl vmbackup resume restore/%s -n %s; or give it up with 'cancel'", remedy(why), ref.Name, ref.Namespace)
}

// putBack makes the machine what it is to be.
func (r *restoreSteps) putBack(ctx context.Context) error {
	claims := map[string]string{}
	for _, v := range r.object.Status.VolumeRestores {
		claims[v.VolumeName] = v.PersistentVolumeClaim.ObjectMeta.Name
	}
	if err := r.d.SetClaims(claims); err != nil {
		return err
	}
	ran, err := r.d.PutBack(ctx, []string{hv.RestoreNameAnnotation, hv.LastRestoreAnnotation, hv.ClaimTemplatesAnnotation})
	if err != nil {
		return err
	}
	if ran {
		r.d.Warn(fmt.Sprintf("the guest of VirtualMachine %s had been started by Harvester before the machine was put right, and is started once more", r.d.Machine()))
	}
	r.d.NoteOldVolumes()
	r.d.Events().Step("machine", vmbackup.StateRunning, "labels, annotations, instance type, preference and run strategy are the backup's again")
	return r.d.Save(ctx)
}

// settle has the machine run, or not, as it was asked for.
func (r *restoreSteps) settle(ctx context.Context) error {
	err := r.d.Settle(ctx)
	if err != nil && ctx.Err() == nil {
		if back := r.d.GoBack(); back != "" {
			failure := vmbackup.AsError(err, vmbackup.ReasonInternal)
			return failure.WithHint("%s; the old volumes are untouched: go back to them, with the machine off, with: %s", failure.Hint, back)
		}
	}
	return err
}

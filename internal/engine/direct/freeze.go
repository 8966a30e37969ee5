// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"math"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// guest is the machine's guest while its volumes are snapshotted.
type guest struct {
	run     *backupRun
	running bool
	// frozen is true once the guest has agreed to stand still.
	frozen   bool
	frozenAt time.Time
	// until is when the guest has thawed itself for sure.
	until time.Time
	// cutAt is when the last snapshot was cut and the thaw began, thawed when the
	// guest runs again: a thaw that is slow or fails comes after the snapshots.
	cutAt, thawed time.Time
	warnings      []string
}

// freeze freezes the guest's file systems as the backup's quiesce policy says.
// The guest thaws itself at the deadline, also when this program is gone by then.
func (r *backupRun) freeze(ctx context.Context) (*guest, error) {
	backup := r.backup()
	vm := vmbackup.Ref{Namespace: backup.Metadata.Namespace, Name: backup.Spec.VM}
	g := &guest{run: r}
	if err := r.holdRound(ctx); err != nil {
		return nil, err
	}
	vmi, err := r.engine.clients.KubeVirt.KubevirtV1().VirtualMachineInstances(vm.Namespace).Get(ctx, vm.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return g, nil // nothing runs that could be frozen
	case err != nil:
		return nil, kube.Error(err, "read", "VirtualMachineInstance "+vm.String())
	case vmi.IsFinal():
		return g, nil
	}
	g.running = true
	if backup.Spec.Quiesce == vmbackup.QuiesceSkip {
		return g, nil
	}
	require := backup.Spec.Quiesce == vmbackup.QuiesceRequire
	if !agentConnected(vmi) {
		if require {
			return nil, vmbackup.Errorf(vmbackup.ReasonFreezeFailed, "the guest agent of VirtualMachine %s does not answer, and --quiesce=require was asked for; no snapshot was taken", vm).
				WithHint("start qemu-guest-agent in the guest, or take a crash-consistent backup with --quiesce=auto")
		}
		return g, nil // the plan has warned
	}
	r.events.Step("snapshot", vmbackup.StateRunning, "freezing the guest's file systems")
	// From here on the guest may be frozen, whatever the answer is.
	g.frozenAt = r.engine.clock()
	err = r.engine.clients.VMs.Freeze(ctx, vm.Namespace, vm.Name, r.state.FreezeTimeout)
	g.until = r.engine.clock().Add(r.state.FreezeTimeout)
	if err != nil {
		_ = g.unfreeze(ctx) // the guest thaws itself at its deadline
		if ctx.Err() != nil || r.freezeAgain(err, require) {
			return nil, kube.Error(err, "freeze", "VirtualMachine "+vm.String())
		}
		if require {
			return nil, vmbackup.Errorf(vmbackup.ReasonFreezeFailed, "the guest of VirtualMachine %s could not be frozen, and --quiesce=require was asked for; no snapshot was taken and the guest was told to thaw: %w", vm, err).
				WithHint("see the guest agent's log in the guest, or take a crash-consistent backup with --quiesce=auto")
		}
		g.warnings = append(g.warnings, fmt.Sprintf("the guest could not be frozen, so the backup is crash consistent: %v", err))
		return g, nil
	}
	g.frozen = true
	return g, nil
}

// thaw thaws the guest, once, even when ctx has ended.
func (g *guest) thaw(ctx context.Context) {
	if !g.frozen || !g.thawed.IsZero() {
		return
	}
	g.cutAt = g.run.engine.clock()
	err := g.unfreeze(ctx)
	g.thawed = g.run.engine.clock()
	if err != nil {
		g.run.warn(fmt.Sprintf("the guest could not be thawed and thaws itself %s after it was frozen: %v", g.run.state.FreezeTimeout, err))
		g.thawed = g.frozenAt.Add(g.run.state.FreezeTimeout)
	}
	g.run.events.Step("snapshot", vmbackup.StateRunning, fmt.Sprintf("guest thawed after %.2f s", g.thawed.Sub(g.frozenAt).Seconds()))
}

// freezeAgain reports whether a freeze that failed is worth another round: the API
// server is away, rather than the guest unable. Where a consistent backup is wanted
// but not required, KubeVirt's own API is not waited for as long.
func (r *backupRun) freezeAgain(err error, require bool) bool {
	if !kube.Away(err) {
		return false
	}
	now := r.engine.clock()
	if r.freezeMissed.IsZero() {
		r.freezeMissed = now
	}
	return require || now.Sub(r.freezeMissed) < startGrace
}

// unfreeze tells the guest to thaw until it obeys or has thawed itself.
func (g *guest) unfreeze(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), g.until)
	defer cancel()
	backup := g.run.backup()
	delays := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Cap: 2 * time.Second, Steps: math.MaxInt32}
	told := false
	for {
		try, stop := context.WithTimeout(ctx, thawDeadline)
		err := g.run.engine.clients.VMs.Unfreeze(try, backup.Metadata.Namespace, backup.Spec.VM)
		stop()
		if err == nil || apierrors.IsNotFound(err) { // who is gone stands still no more
			return nil
		}
		if !told {
			told = true
			g.run.events.Step("snapshot", vmbackup.StateRunning, fmt.Sprintf("the guest is not thawed yet, trying until it thaws itself at %s: %v", g.until.Local().Format(time.TimeOnly), err))
		}
		if pause(ctx, delays.Step()) != nil {
			return err
		}
	}
}

// consistency is what the snapshots promise, and how long the guest stood still
// in seconds.
func (g *guest) consistency() (vmbackup.Consistency, float64) {
	switch {
	case !g.running:
		return vmbackup.ConsistencyOffline, 0
	case !g.frozen:
		return vmbackup.ConsistencyCrash, 0
	}
	// The guest stands still no longer than its own deadline.
	stood := min(g.thawed.Sub(g.frozenAt), g.run.state.FreezeTimeout)
	if g.cutAt.Sub(g.frozenAt) >= g.run.state.FreezeTimeout {
		// That deadline came first: the last snapshots were cut after it.
		return vmbackup.ConsistencyCrash, stood.Seconds()
	}
	return vmbackup.ConsistencyApplication, stood.Seconds()
}

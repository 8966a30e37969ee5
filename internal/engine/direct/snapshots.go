// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// snapshotDeadline is how long a round of snapshots may take. Longhorn cuts
	// one in a second or two; one that it cannot cut in minutes it will not cut.
	snapshotDeadline = 5 * time.Minute
	// thawDeadline is how long one request to thaw may take; KubeVirt gives up sooner.
	thawDeadline = 15 * time.Second
	// snapshotPatience is when a round is slow enough to ask the CSI snapshots why.
	snapshotPatience = 5 * time.Second
)

// ensureSnapshots takes one round of snapshots of all volumes: guest frozen, all
// VolumeSnapshots created at once, guest thawed as soon as Longhorn has cut the
// last one. A round that an earlier run did not finish is thrown away, since its
// disks would be of different moments.
func (r *backupRun) ensureSnapshots(ctx context.Context) error {
	if err := r.awaitOtherRound(ctx); err != nil {
		return err
	}
	if r.state.cut() {
		return nil
	}
	broken := r.state.Attempt
	if err := r.beginRound(ctx); err != nil {
		return err
	}
	if broken > 0 {
		if err := r.removeRounds(ctx, broken); err != nil {
			return err
		}
	}
	err := r.takeRound(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		r.giveRoundUp(ctx)
	case vmbackup.ReasonOf(err) == vmbackup.ReasonConflict, vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound:
		return errors.Join(err, r.discardRound(ctx))
	}
	return err
}

// takeRound takes the round of snapshots that the record announces.
func (r *backupRun) takeRound(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotDeadline, errSnapshotDeadline)
	defer cancel()

	// The watch is open before the guest stands still: only what must happen
	// inside the window happens there.
	cuts := newCuts(r.backup())
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.watchCuts(gctx, cuts) })
	if err := cuts.opened(gctx); err != nil {
		return r.snapshotError(ctx, group.Wait(), cuts)
	}

	guest, err := r.freeze(ctx)
	if err != nil {
		cancel()
		_ = group.Wait()
		return err
	}
	defer guest.thaw(ctx)
	group.Go(func() error { return r.createSnapshots(gctx, cuts) })
	group.Go(func() error { return r.explainSlowness(gctx, cuts) })
	err = group.Wait()
	guest.thaw(ctx)
	if err != nil {
		return r.snapshotError(ctx, err, cuts)
	}
	r.warnAll(guest.warnings)

	status := &r.backup().Status
	status.Consistency, status.FreezeSeconds = guest.consistency()
	if guest.frozen && status.Consistency != vmbackup.ConsistencyApplication {
		if r.backup().Spec.Quiesce == vmbackup.QuiesceRequire {
			return vmbackup.Errorf(vmbackup.ReasonFreezeFailed, "the guest thawed itself after %s, before the last snapshot was cut, and --quiesce=require was asked for; nothing was uploaded that counts as a backup", r.state.FreezeTimeout).
				WithHint("run again with a longer --freeze-timeout")
		}
		r.warn(fmt.Sprintf("the guest thawed itself after %s, before the last snapshot was cut: the backup is crash consistent", r.state.FreezeTimeout))
	}
	r.state.Snapshots, r.state.FrozenUntil = cuts.names(), nil
	for i := range status.Volumes {
		v := &status.Volumes[i]
		v.VolumeSnapshot = snapshotName(r.backup(), v, r.state.Attempt)
		v.State = vmbackup.StateRunning
		if r.backup().Spec.Type == vmbackup.TypeSnapshot {
			v.SnapshotHandle = "snap://" + v.LonghornVolume + "/" + r.state.Snapshots[v.Name]
		}
	}
	return r.save(ctx)
}

// removeRounds removes what broken rounds have left, in the cluster and in Longhorn.
func (r *backupRun) removeRounds(ctx context.Context, rounds int) error {
	err := r.engine.removeSnapshots(ctx, r.record, rounds, func(snapshots []string) error {
		if !r.state.remember(snapshots) {
			return nil
		}
		return r.save(ctx)
	})
	if err != nil {
		return err
	}
	return r.removeLeftovers(ctx)
}

// warn tells a warning and keeps it with the backup.
func (r *backupRun) warn(message string) {
	r.backup().Status.Warnings = append(r.backup().Status.Warnings, message)
	r.events.Warning(message)
}

func (r *backupRun) warnAll(messages []string) {
	for _, m := range messages {
		r.warn(m)
	}
}

var errSnapshotDeadline = vmbackup.Errorf(vmbackup.ReasonSnapshotFailed, "no snapshot in %s", snapshotDeadline)

// snapshotError tells a round that failed by itself from one that was interrupted.
func (r *backupRun) snapshotError(ctx context.Context, err error, c *cuts) error {
	if !errors.Is(context.Cause(ctx), errSnapshotDeadline) {
		return err
	}
	why := c.why()
	if why == "" {
		why = "the CSI snapshot controllers gave no reason"
	}
	return vmbackup.Errorf(vmbackup.ReasonSnapshotFailed, "volumes %s of VirtualMachine %s were not snapshotted in %s: %s", strings.Join(c.missing(), ", "), r.backup().Spec.VM, snapshotDeadline, why).
		WithHint("the machine is untouched and runs on; check that snapshot-controller, csi-snapshotter and Longhorn's CSI plugin run, then create a new backup")
}

// watchCuts follows Longhorn's snapshots of the volumes until all are cut.
func (r *backupRun) watchCuts(ctx context.Context, c *cuts) error {
	snapshots := kube.Select(r.engine.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace),
		metav1.ListOptions{LabelSelector: "longhornvolume in (" + strings.Join(longhornVolumes(r.backup()), ",") + ")"})
	return kube.WatchAll(ctx, snapshots, "the snapshots of Longhorn", func(list []*longhornv1.Snapshot) (bool, error) {
		for _, volume := range c.see(list) {
			r.events.Volume("snapshot", volume, vmbackup.StateRunning, 0, 0, r.state.Estimates[volume], "snapshot taken")
		}
		return c.done(), nil
	})
}

// createSnapshots creates the VolumeSnapshots of all volumes side by side.
func (r *backupRun) createSnapshots(ctx context.Context, c *cuts) error {
	backup := r.backup()
	client := r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshots(backup.Metadata.Namespace)
	// All at once: the guest waits.
	var group errgroup.Group
	for i := range backup.Status.Volumes {
		v := &backup.Status.Volumes[i]
		group.Go(func() error {
			want := &snapshotv1.VolumeSnapshot{
				ObjectMeta: metav1.ObjectMeta{
					Name: snapshotName(backup, v, r.state.Attempt), Namespace: backup.Metadata.Namespace,
					Labels:      r.labels(),
					Annotations: map[string]string{AnnotationVolume: v.Name, LabelBackup: backup.Metadata.Name},
				},
				Spec: snapshotv1.VolumeSnapshotSpec{
					VolumeSnapshotClassName: &r.state.Class,
					Source:                  snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &v.PVC},
				},
			}
			made, err := client.Create(ctx, want, metav1.CreateOptions{FieldManager: kube.FieldManager})
			if err != nil {
				return kube.Error(err, "create", "VolumeSnapshot "+want.Namespace+"/"+want.Name)
			}
			snapshot := longhornSnapshot(string(made.UID))
			c.expect(v.Name, snapshot)
			r.cutNow(ctx, v, snapshot)
			return nil
		})
	}
	return group.Wait()
}

// cutNow asks Longhorn for the snapshot under the name that the CSI driver will
// ask for in a moment, and then finds. The snapshot controllers are slow by
// default (five requests a second), and the guest stands still meanwhile. It is a
// shortcut: where it fails, for want of the right to it for example, the driver's
// own request counts.
func (r *backupRun) cutNow(ctx context.Context, v *vmbackup.BackupVolume, name string) {
	snapshot := &longhornv1.Snapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: kube.LonghornNamespace},
		Spec: longhornv1.SnapshotSpec{
			Volume: v.LonghornVolume, CreateSnapshot: true,
			Labels: map[string]string{"type": longhornType(r.backup().Spec.Type)},
		},
	}
	_, _ = r.engine.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace).Create(ctx, snapshot, metav1.CreateOptions{FieldManager: kube.FieldManager})
}

// labels are the labels of every object of the backup.
func (r *backupRun) labels() map[string]string {
	return map[string]string{LabelOperation: r.record.Operation, LabelManagedBy: kube.FieldManager}
}

func (r *backupRun) selector() string { return LabelOperation + "=" + r.record.Operation }

// explainSlowness looks at the VolumeSnapshots when a round takes long, and tells
// their errors: they are retried by themselves, but the user should know.
func (r *backupRun) explainSlowness(ctx context.Context, c *cuts) error {
	patience := time.NewTimer(snapshotPatience)
	defer patience.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-c.all:
		return nil
	case <-patience.C:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.all:
			cancel()
		case <-ctx.Done():
		}
	}()
	told := map[string]bool{}
	snapshots := kube.Select(r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshots(r.backup().Metadata.Namespace), metav1.ListOptions{LabelSelector: r.selector()})
	err := kube.WatchAll(ctx, snapshots, "the VolumeSnapshots", func(list []*snapshotv1.VolumeSnapshot) (bool, error) {
		for _, s := range list {
			if s.Status == nil || s.Status.Error == nil || s.Status.Error.Message == nil {
				continue
			}
			message := *s.Status.Error.Message
			c.explain(message)
			if !told[s.Name+message] {
				told[s.Name+message] = true
				r.events.Volume("snapshot", s.Annotations[AnnotationVolume], vmbackup.StatePending, 0, 0, 0, message)
			}
		}
		return false, nil
	})
	if ctx.Err() != nil {
		return nil // the round is over; its own result counts
	}
	return err
}

// verifySnapshots waits until every VolumeSnapshot of a backup of type snapshot is
// ready to use.
func (r *backupRun) verifySnapshots(ctx context.Context) error {
	status := &r.backup().Status
	snapshots := kube.Select(r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshots(r.backup().Metadata.Namespace), metav1.ListOptions{LabelSelector: r.selector()})
	err := kube.WatchAll(ctx, snapshots, "the VolumeSnapshots of backup "+r.backup().Ref().String(), func(list []*snapshotv1.VolumeSnapshot) (bool, error) {
		ready := map[string]bool{}
		for _, s := range list {
			ready[s.Name] = s.Status != nil && s.Status.ReadyToUse != nil && *s.Status.ReadyToUse
		}
		all := true
		for i := range status.Volumes {
			v := &status.Volumes[i]
			if !ready[v.VolumeSnapshot] {
				all = false
				continue
			}
			if v.State != vmbackup.StateReady {
				v.State, v.Progress = vmbackup.StateReady, 100
				r.events.Volume("verify", v.Name, v.State, 100, 0, 0, "ready to use")
			}
		}
		return all, nil
	})
	return err
}

func longhornVolumes(b *vmbackup.Backup) []string {
	names := make([]string, len(b.Status.Volumes))
	for i, v := range b.Status.Volumes {
		names[i] = v.LonghornVolume
	}
	return names
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// deleteDeadline is how long Longhorn may take to remove a backup's blocks.
const deleteDeadline = 10 * time.Minute

// deletePlan is the engine's own part of a vmbackup.DeletePlan.
type deletePlan struct {
	record    *metadata.Record
	journaled bool
	// version is the record's in the journal.
	version string
	// snapshots are Longhorn's snapshots that the backup made, by name.
	snapshots []string
}

// PlanDelete says what deleting a backup removes. A backup that never got ready
// can be deleted too.
func (e *Engine) PlanDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	plan, err := e.planDelete(ctx, req)
	return plan, preflight(err)
}

func (e *Engine) planDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	record, err := e.records.Record(ctx, req.Backup, req.From)
	if err != nil {
		return nil, err
	}
	backup := &record.Backup
	foundOn(backup, req.Target)
	own := &deletePlan{record: record}
	plan := &vmbackup.DeletePlan{Request: req, Backup: backup, State: own}
	remove := func(api, kind, namespace, name, note string) {
		plan.Objects = append(plan.Objects, vmbackup.PlannedObject{Action: vmbackup.ActionDelete, APIVersion: api, Kind: kind, Namespace: namespace, Name: name, Note: note})
	}

	state := loadState(record)
	if record.Operation != "" {
		uids, existing, err := e.madeSnapshots(ctx, record, state.Attempt)
		if err != nil {
			return nil, err
		}
		for _, s := range existing {
			remove(snapshotAPI, "VolumeSnapshot", s.Namespace, s.Name, "and its VolumeSnapshotContent")
		}
		for _, uid := range uids {
			own.snapshots = append(own.snapshots, longhornSnapshot(uid))
		}
	}
	for _, name := range slices.Concat(state.Leftovers, slices.Collect(maps.Values(state.Snapshots))) {
		if !slices.Contains(own.snapshots, name) {
			own.snapshots = append(own.snapshots, name)
		}
	}
	slices.Sort(own.snapshots)
	if !req.KeepData {
		planDataDeletion(plan, own, remove)
	}
	entry, err := e.journal.Get(ctx, journal.KindBackup, req.Backup)
	switch {
	case err == nil:
		own.journaled, own.version = true, entry.Version
		remove("v1", "Secret", req.Backup.Namespace, journal.SecretName(journal.KindBackup, req.Backup), "the backup's record")
	case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
		return nil, err
	}
	return plan, nil
}

// planDataDeletion lists what holds the backup's data: Longhorn's backups and
// snapshots, and the files on the target.
func planDataDeletion(plan *vmbackup.DeletePlan, own *deletePlan, remove func(api, kind, namespace, name, note string)) {
	backup := plan.Backup
	if backup.Spec.Type == vmbackup.TypeBackup {
		for i := range backup.Status.Volumes {
			v := &backup.Status.Volumes[i]
			note := fmt.Sprintf("volume %s, on target %s", v.Name, backup.Spec.Target)
			if v.LonghornBackup == "" {
				remove(longhornAPI, "Backup", kube.LonghornNamespace, "(of "+v.LonghornVolume+")", note+", if it was begun")
				continue
			}
			remove(longhornAPI, "Backup", kube.LonghornNamespace, v.LonghornBackup, note)
			plan.Bytes += v.UploadedBytes
		}
		plan.Warnings = append(plan.Warnings, "blocks that other backups of the same volumes share stay on the target")
		for _, key := range []string{metadata.HarvesterBackupKey(plan.Request.Backup), metadata.RecordKey(plan.Request.Backup)} {
			remove("", vmbackup.KindFile, "", key, "on target "+backup.Spec.Target)
		}
	}
	for _, name := range own.snapshots {
		remove(longhornAPI, "Snapshot", kube.LonghornNamespace, name, "")
	}
}

// Delete removes what the plan names, the record last: an interrupted deletion is
// run again by the same command.
func (e *Engine) Delete(ctx context.Context, plan *vmbackup.DeletePlan, opts vmbackup.RunOptions) error {
	own, ok := plan.State.(*deletePlan)
	if !ok {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "the plan to delete backup %s was not made by this engine", plan.Request.Backup)
	}
	ref := plan.Request.Backup
	d := &deletion{engine: e, plan: plan, own: own}
	steps := []flow.Step{{ID: "snapshots", Title: "Remove the CSI snapshots", Ensure: d.snapshots}}
	if !plan.Request.KeepData {
		if plan.Backup.Spec.Type == vmbackup.TypeBackup {
			steps = append(steps,
				flow.Step{ID: "backups", Title: "Remove the Longhorn backups and their data", Ensure: d.backups},
				flow.Step{ID: "files", Title: "Remove the description from the target", Ensure: d.files})
		}
		steps = append(steps, flow.Step{ID: "longhorn-snapshots", Title: "Remove Longhorn's snapshots", Ensure: d.longhornSnapshots})
	}
	steps = append(steps, flow.Step{ID: "record", Title: "Remove the record", Ensure: d.record})

	events := flow.NewEvents(sinkOf(opts), "delete/"+ref.String(), e.clock)
	d.events = events
	events.Plan(flow.Statuses(steps), "delete backup "+ref.String())
	err := flow.Run(ctx, newPatience(events, "run the same command again").steps(steps), false, events, nil)
	phase := vmbackup.PhaseReady
	if err != nil {
		phase = vmbackup.PhaseFailed
	}
	events.Result(phase, err, "deleted")
	return err
}

// deletion is one run of a deletion.
type deletion struct {
	engine *Engine
	events *flow.Events
	plan   *vmbackup.DeletePlan
	own    *deletePlan
}

func (d *deletion) snapshots(ctx context.Context) error {
	if d.own.record.Operation == "" {
		return nil
	}
	state := loadState(d.own.record)
	return d.engine.removeSnapshots(ctx, d.own.record, state.Attempt, func(snapshots []string) error {
		if !d.own.journaled || !state.remember(snapshots) {
			return nil
		}
		state.store(d.own.record)
		entry, err := entryOf(d.own.record)
		if err != nil {
			return err
		}
		entry.Version = d.own.version
		entry, err = d.engine.journal.Update(ctx, entry)
		d.own.version = entry.Version
		return err
	})
}

// backups deletes Longhorn's Backups, which removes their data, and then sees on
// the target that they are gone.
func (d *deletion) backups(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, deleteDeadline, errDeleteDeadline)
	defer cancel()
	err := d.removeBackups(ctx)
	if errors.Is(context.Cause(ctx), errDeleteDeadline) {
		return errDeleteDeadline
	}
	return err
}

var errDeleteDeadline = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn has not removed the backups in %s; the rest of the backup is as it was", deleteDeadline).
	WithHint("look at the target in Longhorn: kubectl get backuptargets.longhorn.io -n %s; then run the same command again", kube.LonghornNamespace)

func (d *deletion) removeBackups(ctx context.Context) error {
	backup := d.plan.Backup
	store, err := d.engine.target(ctx, backup.Spec.Target)
	if err != nil {
		return err
	}
	if err := d.engine.relist(ctx, backup, store, func(message string) { d.events.Step("backups", vmbackup.StateRunning, message) }); err != nil {
		return err
	}
	client := d.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	list, err := client.List(ctx, d.engine.backupsOf(backup))
	if err != nil {
		return kube.Error(err, "list", "Backups of Longhorn")
	}
	var removed []longhornv1.Backup
	for _, b := range list.Items {
		if !d.owns(&b) {
			continue
		}
		if err := client.Delete(ctx, b.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "Longhorn Backup "+b.Name)
		}
		removed = append(removed, b)
	}
	for _, b := range removed {
		if err := kube.WaitGone[*longhornv1.Backup](ctx, kube.One(client, b.Name), "Longhorn Backup "+b.Name+" to be gone", b.UID); err != nil {
			return err
		}
	}
	for _, v := range backup.Status.Volumes {
		if v.LonghornBackup == "" {
			continue
		}
		key := target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)
		_, err := store.Stat(ctx, key)
		if err == nil {
			return vmbackup.Errorf(vmbackup.ReasonInternal, "Longhorn says that backup %s of volume %s is deleted, but %s still holds %s", v.LonghornBackup, v.Name, store, key).
				WithHint("the backup's description is kept; run the same command again once Longhorn has listed the target anew")
		}
		if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			return err
		}
	}
	return nil
}

// relist has Longhorn list backups again that are on the target and that it does
// not know: deleting nothing is not deleting.
func (e *Engine) relist(ctx context.Context, backup *vmbackup.Backup, store target.Store, say func(string)) error {
	there := *backup
	there.Status.Volumes = nil
	for _, v := range backup.Status.Volumes {
		if v.LonghornBackup == "" {
			continue
		}
		switch _, err := store.Stat(ctx, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)); {
		case err == nil:
			there.Status.Volumes = append(there.Status.Volumes, v)
		case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
			return err
		}
	}
	if len(there.Status.Volumes) == 0 {
		return nil
	}
	return e.awaitListed(ctx, &there, say, func(*longhornv1.Backup) bool { return true })
}

// owns reports whether a Longhorn Backup belongs to the deleted backup.
func (d *deletion) owns(b *longhornv1.Backup) bool {
	if slices.ContainsFunc(d.plan.Backup.Status.Volumes, func(v vmbackup.BackupVolume) bool { return v.LonghornBackup == b.Name }) {
		return true
	}
	return slices.ContainsFunc(d.own.snapshots, func(name string) bool { return isOf(b, name) })
}

func (d *deletion) files(ctx context.Context) error {
	store, err := d.engine.target(ctx, d.plan.Backup.Spec.Target)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, key := range []string{metadata.HarvesterBackupKey(d.plan.Request.Backup), metadata.RecordKey(d.plan.Request.Backup)} {
		group.Go(func() error { return store.Delete(ctx, key) })
	}
	return group.Wait()
}

// longhornSnapshots asks Longhorn to remove its snapshots. It merges them when it
// sees fit, and nobody waits for that.
func (d *deletion) longhornSnapshots(ctx context.Context) error {
	for _, name := range d.own.snapshots {
		err := d.engine.clients.Longhorn.LonghornV1beta2().Snapshots(kube.LonghornNamespace).Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "Longhorn Snapshot "+name)
		}
	}
	return nil
}

func (d *deletion) record(ctx context.Context) error {
	if !d.own.journaled {
		return nil
	}
	return d.engine.journal.Delete(ctx, journal.KindBackup, d.plan.Request.Backup)
}

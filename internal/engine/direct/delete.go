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

// Delete removes what the plan names, the record last: an interrupted deletion is
// run again by the same command.
func (e *Engine) Delete(ctx context.Context, plan *vmbackup.DeletePlan, opts vmbackup.RunOptions) error {
	own, ok := plan.State.(*deletePlan)
	if !ok {
		return vmbackup.Errorf(vmbackup.ReasonInternal, "the plan to delete backup %s was not made by this engine", plan.Request.Backup)
	}
	ref := plan.Request.Backup
	events := flow.NewEvents(sinkOf(opts), "delete/"+ref.String(), e.clock)
	d := &deletion{engine: e, events: events, request: plan.Request, own: own, fate: fateDelete}
	var steps []flow.Step
	if own.journaled {
		steps = append(steps, flow.Step{ID: "mark", Title: "Mark the backup as being deleted", Ensure: d.mark})
	}
	steps = append(steps, d.removal(plan.Backup.Spec.Type)...)
	if e.forgets(plan.Request, plan.Backup) {
		steps = append(steps, flow.Step{ID: "forget", Title: "Have Harvester forget the backup", Ensure: d.forget})
	}
	steps = append(steps, flow.Step{ID: "record", Title: "Remove the record", Ensure: d.record})
	events.Plan(flow.Statuses(steps), "delete backup "+ref.String())
	err := flow.Run(ctx, newPatience(events, "run the same command again").steps(steps), false, events, nil)
	phase := vmbackup.PhaseReady
	if err != nil {
		phase = vmbackup.PhaseFailed
	}
	events.Result(phase, err, "deleted")
	return err
}

// deletion is one run of the removal of what a backup has made.
type deletion struct {
	engine  *Engine
	events  *flow.Events
	request vmbackup.DeleteRequest
	own     *deletePlan
	// fate is why it is removed.
	fate fate
}

func (d *deletion) backup() *vmbackup.Backup { return &d.own.record.Backup }

// removal are the steps that remove everything but the record, the description
// after the data: as long as something is there, it can be found.
func (d *deletion) removal(kind vmbackup.BackupType) []flow.Step {
	steps := []flow.Step{{ID: "snapshots", Title: "Remove the CSI snapshots", Ensure: d.snapshots}}
	if d.request.KeepData {
		return steps
	}
	if kind == vmbackup.TypeBackup {
		steps = append(steps,
			flow.Step{ID: "backups", Title: "Remove the Longhorn backups and see their data gone", Ensure: d.backups},
			flow.Step{ID: "files", Title: "Remove the description from the target", Ensure: d.files})
	}
	return append(steps, flow.Step{ID: "longhorn-snapshots", Title: "Remove Longhorn's snapshots", Ensure: d.longhornSnapshots})
}

// mark writes into the record that the backup goes, before anything of it does.
// From then on it is not taken for whole, a run of it stops, and a deletion that is
// killed goes on where it stood when it is asked for again.
func (d *deletion) mark(ctx context.Context) error {
	for {
		entry, err := d.engine.journal.Get(ctx, journal.KindBackup, d.request.Backup)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound && d.fate == fateDelete {
			return nil // somebody else was faster; what is left of it is removed
		}
		if err != nil {
			return err
		}
		if entry.Labels[LabelOperation] != journal.LabelValue(d.own.record.Operation) {
			return vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s is another one by now than the one that was shown; nothing was removed", d.request.Backup).
				WithHint("look at it, and run the same command again")
		}
		marked, err := d.markedEntry(entry)
		if err != nil {
			return err
		}
		marked, err = d.engine.journal.Update(ctx, marked)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonConflict {
			continue // a run of the backup has written meanwhile; it stops at the mark
		}
		if d.own.readable {
			d.own.version = marked.Version
		}
		return err
	}
}

// markedEntry is the entry with the mark. The plan's view of the backup becomes the
// entry's, which may be newer.
func (d *deletion) markedEntry(entry journal.Entry) (journal.Entry, error) {
	record, err := metadata.DecodeJournal(entry.Ref, entry.Data)
	if err != nil {
		// It cannot be read, and stays as it is below its mark.
		entry.Labels = d.fate.marked(entry.Labels)
		return entry, nil //nolint:nilerr // what cannot be read can be marked
	}
	if d.fate == fateDelete && !d.request.KeepData {
		d.tellDeletion(&record.Backup)
	}
	foundOn(&record.Backup, d.request.Target)
	state := loadState(record)
	state.Fate = d.fate
	state.store(record)
	d.own.record, d.own.readable = record, true
	marked, err := entryOf(record)
	marked.Version = entry.Version
	return marked, err
}

// tellDeletion has the backup say what became of it, should the deletion be
// interrupted and not be run again.
func (d *deletion) tellDeletion(b *vmbackup.Backup) {
	status := &b.Status
	if status.Phase == vmbackup.PhaseFailed || status.Phase == vmbackup.PhaseCanceled {
		return
	}
	status.Phase, status.Ready = vmbackup.PhaseIncomplete, false
	status.Error = vmbackup.Errorf(vmbackup.ReasonDataLost, "the deletion of backup %s has begun and is not done; its data is not whole any more", b.Ref()).
		WithHint("finish it with: kubectl vmbackup delete %s -n %s", b.Metadata.Name, b.Metadata.Namespace)
}

func (d *deletion) snapshots(ctx context.Context) error {
	names, _, err := d.engine.snapshotsMade(ctx, d.own.record)
	if err != nil {
		return err
	}
	names = append(names, d.own.snapshots...)
	slices.Sort(names)
	d.own.snapshots = slices.Compact(names)
	if d.own.record.Operation == "" {
		return nil
	}
	return d.engine.removeSnapshots(ctx, d.own.record, loadState(d.own.record).Attempt, func(snapshots []string) error { return d.remember(ctx, snapshots) })
}

// remember records Longhorn's snapshots that only what goes now leads to.
func (d *deletion) remember(ctx context.Context, snapshots []string) error {
	state := loadState(d.own.record)
	if d.own.version == "" || !state.remember(snapshots) {
		return nil
	}
	state.store(d.own.record)
	entry, err := entryOf(d.own.record)
	if err != nil {
		return err
	}
	entry.Version = d.own.version
	if entry, err = d.engine.journal.Update(ctx, entry); err != nil {
		return err
	}
	d.own.version = entry.Version
	return nil
}

// backups deletes Longhorn's Backups, which removes their data, and then sees on
// the target that they are gone.
func (d *deletion) backups(ctx context.Context) error {
	say := func(message string) { d.events.Step("backups", vmbackup.StateRunning, message) }
	list, err := d.engine.uploads(ctx, d.engine.backupsOf(d.backup()), d.owns)
	if err != nil {
		return err
	}
	if err := d.engine.awaitRemovable(ctx, list, say); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, deleteDeadline, errDeleteDeadline)
	defer cancel()
	err = d.removeBackups(ctx)
	var left *dataLeft
	for try := 0; try < lateLimit && errors.As(err, &left); try++ {
		late, stop := context.WithTimeout(ctx, lateDeadline)
		again := d.removeLate(late, left.volumes)
		over := late.Err() != nil && ctx.Err() == nil
		stop()
		if again != nil && over {
			break // Longhorn does not list it; what is left is the error
		}
		err = again
	}
	if errors.Is(context.Cause(ctx), errDeleteDeadline) {
		return errDeleteDeadline
	}
	return err
}

var errDeleteDeadline = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn has not removed the backups in %s; the rest of the backup is as it was", deleteDeadline).
	WithHint("look at the target in Longhorn: kubectl get backuptargets.longhorn.io -n %s; then run the same command again", kube.LonghornNamespace)

func (d *deletion) removeBackups(ctx context.Context) error {
	backup := d.backup()
	store, err := d.engine.target(ctx, backup.Spec.Target)
	if err != nil {
		return err
	}
	if err := d.engine.relist(ctx, backup, store, func(message string) { d.events.Step("backups", vmbackup.StateRunning, message) }); err != nil {
		return err
	}
	client := d.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	removed, err := d.engine.uploads(ctx, d.engine.backupsOf(backup), d.owns)
	if err != nil {
		return err
	}
	gone := map[string]vmbackup.BackupVolume{}
	for _, v := range backup.Status.Volumes {
		if v.LonghornBackup != "" {
			gone[v.LonghornBackup] = v
		}
	}
	for _, b := range removed {
		if volume := volumeOf(&b); volume != "" {
			gone[b.Name] = vmbackup.BackupVolume{LonghornVolume: volume, LonghornBackup: b.Name}
		}
		if err := d.engine.deleteUpload(ctx, &b); err != nil {
			return err
		}
	}
	for _, b := range removed {
		if err := kube.WaitGone[*longhornv1.Backup](ctx, kube.One(client, b.Name), "Longhorn Backup "+b.Name+" to be gone", b.UID); err != nil {
			return err
		}
	}
	return d.seeGone(ctx, store, slices.Collect(maps.Values(gone)))
}

const (
	// lateLimit is how often data that comes back is removed.
	lateLimit = 3
	// lateDeadline is how long Longhorn may take to list it and to remove it.
	lateDeadline = 2 * time.Minute
)

// dataLeft says which backups lie on the target although Longhorn has deleted them.
type dataLeft struct {
	error
	volumes []vmbackup.BackupVolume
}

func (e *dataLeft) Unwrap() error { return e.error }

// removeLate removes what came to the target after its deletion: Longhorn stops
// following an upload whose Backup is deleted (backup_controller.go) and does not end
// it, and the upload writes the backup's file last.
func (d *deletion) removeLate(ctx context.Context, volumes []vmbackup.BackupVolume) error {
	late := *d.backup()
	late.Status.Volumes = volumes
	store, err := d.engine.target(ctx, late.Spec.Target)
	if err != nil {
		return err
	}
	d.events.Step("backups", vmbackup.StateRunning, "an upload that was under way has ended after its deletion; removing what it wrote")
	if err := d.engine.relist(ctx, &late, store, func(message string) { d.events.Step("backups", vmbackup.StateRunning, message) }); err != nil {
		return err
	}
	client := d.engine.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace)
	for _, v := range volumes {
		if err := client.Delete(ctx, v.LonghornBackup, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "Longhorn Backup "+v.LonghornBackup)
		}
	}
	for _, v := range volumes {
		if err := kube.WaitGone[*longhornv1.Backup](ctx, kube.One(client, v.LonghornBackup), "Longhorn Backup "+v.LonghornBackup+" to be gone", ""); err != nil {
			return err
		}
	}
	return d.seeGone(ctx, store, volumes)
}

// volumeOf is the Longhorn volume that a backup is of.
func volumeOf(b *longhornv1.Backup) string {
	if b.Status.VolumeName != "" {
		return b.Status.VolumeName
	}
	return b.Labels["backup-volume"]
}

// seeGone looks on the target itself: what Longhorn says of its deletion is not enough.
func (d *deletion) seeGone(ctx context.Context, store target.Store, volumes []vmbackup.BackupVolume) error {
	var left dataLeft
	for _, v := range volumes {
		key := target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)
		switch _, err := store.Stat(ctx, key); {
		case err == nil:
			left.volumes = append(left.volumes, v)
			left.error = vmbackup.Errorf(vmbackup.ReasonInternal, "Longhorn says that it has deleted the data of backup %s, but %s still holds %s", d.request.Backup, store, key).
				WithHint("the backup's description is kept; run the same command again once Longhorn has listed the target anew")
		case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
			return err
		}
	}
	if left.error != nil {
		return &left
	}
	if len(volumes) > 0 {
		d.events.Step("backups", vmbackup.StateRunning, fmt.Sprintf("gone from %s: the data of %d volumes (blocks that other backups share stay)", store, len(volumes)))
	}
	return nil
}

// relistPause is after how long the target is looked at again for what Longhorn does
// not list: it may be gone by then, as an earlier run has asked for.
const relistPause = 20 * time.Second

// relist has Longhorn list backups again that are on the target and that it does
// not know: deleting nothing is not deleting.
func (e *Engine) relist(ctx context.Context, backup *vmbackup.Backup, store target.Store, say func(string)) error {
	for {
		there, err := stored(ctx, backup, store)
		if err != nil || len(there.Status.Volumes) == 0 {
			return err
		}
		waiting, cancel := context.WithTimeout(ctx, relistPause)
		err = e.awaitListed(waiting, there, say, func(*longhornv1.Backup) bool { return true })
		over := waiting.Err() != nil
		cancel()
		if err == nil || !over || ctx.Err() != nil {
			return err
		}
	}
}

// stored is the backup with those of its volumes alone whose data is on the target.
func stored(ctx context.Context, backup *vmbackup.Backup, store target.Store) (*vmbackup.Backup, error) {
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
			return nil, err
		}
	}
	return &there, nil
}

// owns reports whether a Longhorn Backup belongs to the deleted backup.
func (d *deletion) owns(b *longhornv1.Backup) bool {
	if slices.ContainsFunc(d.backup().Status.Volumes, func(v vmbackup.BackupVolume) bool { return v.LonghornBackup == b.Name }) {
		return true
	}
	return slices.ContainsFunc(d.own.snapshots, func(name string) bool { return isOf(b, name) })
}

func (d *deletion) files(ctx context.Context) error {
	store, err := d.engine.target(ctx, d.backup().Spec.Target)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, key := range descriptionKeys(d.request.Backup) {
		group.Go(func() error { return store.Delete(ctx, key) })
	}
	return group.Wait()
}

// longhornSnapshots asks Longhorn to remove its snapshots. It merges them when it
// sees fit, and nobody waits for that.
func (d *deletion) longhornSnapshots(ctx context.Context) error {
	for _, name := range d.own.snapshots {
		if err := d.engine.removeLonghornSnapshot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (d *deletion) record(ctx context.Context) error {
	if !d.own.journaled {
		return nil
	}
	return d.engine.journal.Delete(ctx, journal.KindBackup, d.request.Backup)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"
	"slices"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// roundMargin is how long a round may take beside the freeze, and roundSlack how
	// much of that must be left when the freeze begins.
	roundMargin = 3 * time.Second
	roundSlack  = time.Second
	// giveUpDeadline is how long a run that ends may take to record it.
	giveUpDeadline = 5 * time.Second
)

// roundTakes is how long a round of snapshots may be under way: as long as the guest
// is frozen at most.
func (r *backupRun) roundTakes() time.Duration {
	if r.backup().Spec.Quiesce == vmbackup.QuiesceSkip {
		return roundMargin
	}
	return r.state.FreezeTimeout + roundMargin
}

// beginRound records a round before anything is touched: two rounds never share a
// name, of two runs at once one learns here that it is not alone, and whoever comes
// while the guest is frozen knows it.
func (r *backupRun) beginRound(ctx context.Context) error {
	r.state.Attempt++
	if err := r.recordRound(ctx); err != nil {
		r.state.Attempt-- // nobody knows of it
		return err
	}
	r.ownRound = true
	return nil
}

// holdRound records the round anew where what came before has used its time up: it
// is called right before the freeze.
func (r *backupRun) holdRound(ctx context.Context) error {
	if until := r.state.FrozenUntil; until != nil && until.Sub(r.engine.clock()) >= r.roundTakes()-roundMargin+roundSlack {
		return nil
	}
	return r.recordRound(ctx)
}

func (r *backupRun) recordRound(ctx context.Context) error {
	until := r.engine.clock().UTC().Add(r.roundTakes())
	r.state.FrozenUntil = &until
	return r.save(ctx)
}

// giveRoundUp records that an interrupted round is over and its guest thawed, so that
// the next run need not wait for it. Where it fails, that one waits.
func (r *backupRun) giveRoundUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpDeadline)
	defer cancel()
	r.state.FrozenUntil = nil
	_ = r.save(ctx)
}

// awaitOtherRound waits while a round of another run may be under way: until that one
// has recorded it, and this run goes on from there, or until its guest has thawed
// itself, and the round is a broken one.
func (r *backupRun) awaitOtherRound(ctx context.Context) error {
	until := r.state.FrozenUntil
	if r.ownRound || r.state.cut() || until == nil {
		return nil
	}
	// The other machine's clock may be wrong, and its round takes no longer for that.
	left := min(until.Sub(r.engine.clock()), r.roundTakes())
	if left <= 0 {
		return nil
	}
	r.events.Step("snapshot", vmbackup.StateRunning, fmt.Sprintf(
		"an earlier run may have the guest frozen for %s more; waiting until it has its snapshots, or the guest has thawed itself", left.Round(time.Second)))
	waiting, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	err := r.engine.journal.Watch(waiting, journal.KindBackup, r.backup().Ref(), func(entry journal.Entry) (bool, error) {
		record, err := metadata.DecodeJournal(entry.Ref, entry.Data)
		if err != nil {
			return false, err
		}
		state := loadState(record)
		if !state.cut() && state.FrozenUntil != nil && !record.Backup.Status.Phase.Done() {
			return false, nil
		}
		return true, r.adopt(entry)
	})
	switch {
	case ctx.Err() != nil || err != nil && waiting.Err() == nil:
		return err
	case r.backup().Status.Phase.Done():
		return vmbackup.Errorf(vmbackup.ReasonConflict, "another run has ended backup %s", r.backup().Ref())
	}
	return nil
}

// discardRound removes the objects of this run's own round when another run, or a
// deletion, has overtaken it: that one has looked for them before they were made,
// perhaps. What the other one has made is of another round and is not touched.
func (r *backupRun) discardRound(ctx context.Context) error {
	entry, err := r.engine.journal.Get(ctx, journal.KindBackup, r.backup().Ref())
	if err == nil {
		record, err := metadata.DecodeJournal(entry.Ref, entry.Data)
		if err != nil {
			return err
		}
		if state := loadState(record); state.Attempt == r.state.Attempt && state.Fate == "" {
			return nil // it counts
		}
	} else if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		return err
	}
	client := r.engine.clients.Snapshot.SnapshotV1().VolumeSnapshots(r.backup().Metadata.Namespace)
	var cut, contents []string
	for i := range r.backup().Status.Volumes {
		name := snapshotName(r.backup(), &r.backup().Status.Volumes[i], r.state.Attempt)
		made, err := client.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && made.Labels[LabelOperation] != r.record.Operation {
			continue
		}
		if err == nil {
			err = client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(made.UID))})
			cut, contents = append(cut, longhornSnapshot(string(made.UID))), append(contents, "snapcontent-"+string(made.UID))
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "delete", "VolumeSnapshot "+r.backup().Metadata.Namespace+"/"+name)
		}
		if err := kube.WaitGone[*snapshotv1.VolumeSnapshot](ctx, kube.One(client, name), "VolumeSnapshot "+name+" to be gone", ""); err != nil {
			return err
		}
	}
	if err := r.engine.removeContents(ctx, contents); err != nil {
		return err
	}
	say := func(message string) { r.events.Step("snapshot", vmbackup.StateRunning, message) }
	ofRound := func(b *longhornv1.Backup) bool {
		return slices.ContainsFunc(cut, func(name string) bool { return isOf(b, name) })
	}
	if err := r.engine.removeUploads(ctx, r.engine.backupsOf(r.backup()), ofRound, say); err != nil {
		return err
	}
	for _, name := range cut {
		if err := r.engine.removeLonghornSnapshot(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/image"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreRecord is the journal's data of a restore: every object that it makes,
// decided once, so that a later run makes the same ones.
type restoreRecord struct {
	Restore   vmbackup.Restore `json:"restore"`
	Operation string           `json:"operation"`
	Backup    vmbackup.Backup  `json:"backup"`
	// Class is the VolumeSnapshotClass of the composed snapshots.
	Class string `json:"class"`
	// StorageClasses are those of the volumes that the cluster lacked.
	StorageClasses []storagev1.StorageClass `json:"storageClasses,omitempty"`
	// Images are those below the volumes that the cluster lacked.
	Images []image.Recall `json:"images,omitempty"`

	VM json.RawMessage `json:"vm"`
	// RunStrategy is put back once the disks are there.
	RunStrategy kubevirtv1.VirtualMachineRunStrategy `json:"runStrategy"`
	// StartByHand starts a machine whose run strategy is Manual.
	StartByHand bool                           `json:"startByHand,omitempty"`
	Claims      []corev1.PersistentVolumeClaim `json:"claims"`
	Secrets     []json.RawMessage              `json:"secrets,omitempty"`
	ConfigMaps  []json.RawMessage              `json:"configMaps,omitempty"`
	// Revisions are the ControllerRevisions that the machine owns.
	Revisions []json.RawMessage `json:"revisions,omitempty"`
	// Unpin are the fields of the machine whose revision goes out of its spec again.
	Unpin []string `json:"unpin,omitempty"`
	// StateClaim is the restored claim of the machine's persistent state.
	StateClaim string `json:"stateClaim,omitempty"`
	// InPlace is what a restore in place remembers of the machine that it changes.
	InPlace *inPlaceRecord `json:"inPlace,omitempty"`
	// Fate is what somebody has decided about the restore.
	Fate fate `json:"fate,omitempty"`
	// Delegate is who makes volumes and machine in place of the engine, and DelegateState
	// what he keeps here.
	Delegate      string          `json:"delegate,omitempty"`
	DelegateState json.RawMessage `json:"delegateState,omitempty"`
	// DataRestored is true once every volume was seen restored.
	DataRestored bool `json:"dataRestored,omitempty"`

	// createNamespace is true where the namespace, and with it the record's own
	// place, is still to be made.
	createNamespace bool
}

// snapshotName is the name of a volume's composed VolumeSnapshot and VolumeSnapshotContent.
func (r *restoreRecord) snapshotName(v *vmbackup.RestoreVolume) string {
	return shorten("vmbackup-"+r.Operation+"-"+v.Name, 253)
}

func (r *restoreRecord) encode() ([]byte, error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if err := json.NewEncoder(w).Encode(r); err != nil {
		return nil, fmt.Errorf("record of restore %s: %w", r.Restore.Ref(), err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("record of restore %s: %w", r.Restore.Ref(), err)
	}
	return packed.Bytes(), nil
}

// entry is the journal's entry of the record.
func (r *restoreRecord) entry() (journal.Entry, error) {
	data, err := r.encode()
	if err != nil {
		return journal.Entry{}, err
	}
	return journal.Entry{
		Kind: journal.KindRestore, Ref: r.Restore.Ref(), Data: data,
		Labels: r.Fate.marked(map[string]string{
			journal.LabelVM: r.Restore.Spec.TargetName, journal.LabelPhase: string(r.Restore.Status.Phase), LabelOperation: r.Operation,
		}),
	}, nil
}

// StartRestore writes the record, which takes the name.
func (e *Engine) StartRestore(ctx context.Context, plan *vmbackup.RestorePlan) (*vmbackup.Restore, error) {
	record, ok := plan.State.(*restoreRecord)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "the plan of restore %s was not made by this engine", plan.Restore.Ref())
	}
	now := e.clock().UTC()
	status := &record.Restore.Status
	status.Phase, status.StartedAt = vmbackup.PhaseRunning, &now
	status.Steps = flow.Statuses((&restoreRun{operation: operation{engine: e}, record: record}).steps())
	entry, err := record.entry()
	if err != nil {
		return nil, err
	}
	if record.createNamespace {
		if err := e.beginNamespace(ctx, record); err != nil {
			return nil, err
		}
	}
	unbegin := func(context.Context) error { return nil }
	if e.delegate != nil {
		if unbegin, err = e.delegate.Begin(ctx, &Delegated{&restoreRun{operation: operation{engine: e}, record: record}}); err != nil {
			return nil, err
		}
		if entry, err = record.entry(); err != nil { // with what he has noted
			return nil, err
		}
	}
	if err := e.begin(ctx, entry); err != nil {
		if back := unbegin(context.WithoutCancel(ctx)); back != nil {
			err = errors.Join(err, back)
		}
		if vmbackup.ReasonOf(err) == vmbackup.ReasonAlreadyExists {
			return nil, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "there is a restore %s already; nothing was changed", record.Restore.Ref()).
				WithHint("look at it with: kubectl vmbackup describe restore/%s -n %s", record.Restore.Metadata.Name, record.Restore.Metadata.Namespace)
		}
		return nil, err
	}
	return &record.Restore, nil
}

// restoreRun is one run of a restore, from wherever it stands.
type restoreRun struct {
	operation
	record *restoreRecord
}

func (r *restoreRun) restore() *vmbackup.Restore { return &r.record.Restore }

func (r *restoreRun) namespace() string { return r.record.Restore.Metadata.Namespace }

// steps are the steps of a restore, in order.
func (r *restoreRun) steps() []flow.Step {
	if r.engine != nil && r.engine.delegate != nil {
		return r.delegatedSteps()
	}
	if r.record.InPlace != nil {
		return r.inPlaceSteps()
	}
	steps := r.makesClasses(r.recallsImages(nil))
	if r.record.Backup.Spec.Type == vmbackup.TypeBackup {
		steps = append(steps, flow.Step{ID: "sync", Title: "See the backups in Longhorn", Ensure: r.ensureBackups})
	}
	steps = append(steps,
		flow.Step{ID: "snapshots", Title: "Compose the snapshots from their handles", Ensure: r.ensureSnapshots},
		flow.Step{ID: "objects", Title: "Restore secrets and config maps", Ensure: r.ensureObjects},
		flow.Step{ID: "volumes", Title: "Create the volumes", Ensure: r.ensureClaims},
		flow.Step{ID: "machine", Title: "Create the machine, halted", Ensure: r.ensureMachine},
	)
	if r.record.hasBelongings() {
		steps = append(steps, flow.Step{ID: "belongings", Title: "Give the machine its instance type and its state of then", Ensure: r.ensureBelongings})
	}
	steps = append(steps,
		flow.Step{ID: "data", Title: "Restore the volumes' data", Ensure: r.followData, Waits: true},
		flow.Step{ID: "cleanup", Title: "Remove the composed snapshots", Ensure: r.removeSnapshots},
	)
	title := "Start the machine"
	if r.record.RunStrategy == kubevirtv1.RunStrategyHalted {
		title = "Leave the machine off"
	}
	return append(steps, flow.Step{ID: "start", Title: title, Ensure: r.start})
}

// RunRestore takes a started restore to its end.
func (e *Engine) RunRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	entry, err := e.entry(ctx, journal.KindRestore, ref)
	if err != nil {
		return nil, err
	}
	record, err := decodeRestore(ref, entry.Data)
	if err != nil {
		return nil, err
	}
	restore := &record.Restore
	run := &restoreRun{operation: e.operation(flow.NewEvents(sinkOf(opts), "restore/"+ref.String(), e.clock), entry), record: record}
	run.operation.adopt = run.adopt
	if restore.Status.Phase.Done() {
		run.events.Plan(nil, "restore "+ref.String()+" has ended already")
		run.events.Result(restore.Status.Phase, asErr(restore.Status.Error), "")
		return restore, ended(restore.Status.Phase, restore.Status.Error)
	}
	if record.Fate != "" {
		return restore, preflight(record.Fate.stops(journal.KindRestore, ref))
	}
	steps := run.patience.steps(run.steps())
	run.events.Plan(flow.Statuses(steps), fmt.Sprintf("restore backup %s as VirtualMachine %s/%s (%d volumes)",
		restore.Spec.Backup, restore.Spec.TargetNamespace, restore.Spec.TargetName, len(restore.Status.Volumes)))
	for _, w := range restore.Status.Warnings {
		run.events.Warning(w)
	}
	running, heard := run.heed(ctx, journal.KindRestore, ref)
	err = heard(flow.Run(running, steps, opts.NoWait, run.events, run.note))
	if err != nil && record.InPlace != nil && record.Delegate == "" && !interrupted(ctx, err) {
		err = run.giveBack(ctx, err)
	}
	return restore, run.finish(ctx, err)
}

// note keeps a step's state with the restore; save writes it.
func (r *restoreRun) note(s vmbackup.StepStatus) {
	steps := r.restore().Status.Steps
	for i := range steps {
		if steps[i].ID == s.ID {
			steps[i] = s
		}
	}
}

// adopt makes what another run has recorded this run's own.
func (r *restoreRun) adopt(entry journal.Entry) error {
	record, err := decodeRestore(entry.Ref, entry.Data)
	if err != nil {
		return err
	}
	*r.record, r.last = *record, entry
	return nil
}

// save writes the record to the journal.
func (r *restoreRun) save(ctx context.Context) error {
	entry, err := r.record.entry()
	if err != nil {
		return err
	}
	return r.update(ctx, entry)
}

func (r *restoreRun) finish(ctx context.Context, err error) error {
	status := &r.restore().Status
	end := ending{&status.Phase, &status.Ready, &status.CompletedAt, &status.Error}
	err = r.operation.finish(ctx, err, end, journal.KindRestore, r.restore().Ref(), r.save)
	if r.elsewhere && r.record.Delegate == "" {
		// The other run has removed the composed snapshots, and this one may have made them anew.
		err = errors.Join(err, r.removeSnapshots(ctx))
	}
	return err
}

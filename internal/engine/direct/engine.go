// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package direct makes backups and restores by doing every step itself on
// KubeVirt, the CSI snapshot API and Longhorn, with nothing installed in the
// cluster.
package direct

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Driver is the name of Longhorn's CSI driver.
const Driver = capture.Driver

// parallel is how many requests the engine has under way at once.
const parallel = 8

// Labels and annotations of the objects that the engine makes.
const (
	// LabelOperation carries the operation's token: the objects of one backup or restore.
	LabelOperation = vmbackup.Group + "/operation"
	// LabelBackup carries the backup's name.
	LabelBackup = vmbackup.Group + "/backup"
	// AnnotationVolume carries the volume's name in the virtual machine.
	AnnotationVolume = vmbackup.Group + "/volume"
	// AnnotationRestoredFrom carries namespace/name of the backup on a restored object.
	AnnotationRestoredFrom = vmbackup.Group + "/restored-from"
	// LabelManagedBy is Kubernetes' recommended label, set to kube.FieldManager.
	LabelManagedBy = "app.kubernetes.io/managed-by"
)

// Records finds backups, wherever they lie.
type Records interface {
	// Record is the full record of one backup.
	Record(ctx context.Context, ref vmbackup.Ref, source vmbackup.Source) (*metadata.Record, error)
	// Backups lists; what could not be read comes back as warnings.
	Backups(ctx context.Context, opts vmbackup.ListOptions) ([]vmbackup.Backup, []string, error)
}

// OpenTarget opens a backup target of Longhorn by the name of its BackupTarget.
type OpenTarget func(ctx context.Context, name string) (target.Store, error)

// Engine is the direct engine.
type Engine struct {
	clients *kube.Clients
	journal journal.Store
	records Records
	open    OpenTarget
	clock   vmbackup.Clock
	// started are journal entries, by operation, that this engine has written a
	// moment ago: the run that follows need not read them.
	started sync.Map
	// stores are the targets that are open already, by name.
	stores sync.Map
	// delegate makes the volumes and machines of restores; nil for the engine itself.
	delegate Delegate
	// discoverer makes objects of backups on the target; nil for nobody.
	discoverer Discoverer
}

var _ vmbackup.Engine = (*Engine)(nil)

// New makes an engine that works with the rights of clients.
func New(clients *kube.Clients, store journal.Store, records Records, open OpenTarget, clock vmbackup.Clock) *Engine {
	return &Engine{clients: clients, journal: store, records: records, open: open, clock: clock}
}

// openTarget opens a backup target, if Longhorn can use it now.
func (e *Engine) openTarget(ctx context.Context, name string) (target.Store, error) {
	store, err := e.open(ctx, name)
	if err == nil {
		e.stores.Store(name, store)
	}
	return store, err
}

// target is a backup target that the plan may have opened already: Longhorn was
// asked about it then, and from then on the target itself answers.
func (e *Engine) target(ctx context.Context, name string) (target.Store, error) {
	if open, found := e.stores.Load(name); found {
		return open.(target.Store), nil
	}
	return e.openTarget(ctx, name)
}

// Name is "direct".
func (e *Engine) Name() string { return vmbackup.EngineDirect }

// newOperation makes the token of an operation: 12 hex digits, fit for names and labels.
func newOperation() string {
	token := make([]byte, 6)
	// Read never fails (crypto/rand).
	_, _ = rand.Read(token)
	return hex.EncodeToString(token)
}

// sinkOf returns the sink of the options, never nil.
func sinkOf(opts vmbackup.RunOptions) vmbackup.Sink {
	if opts.Sink == nil {
		return vmbackup.NopSink{}
	}
	return opts.Sink
}

// detached reports whether the run ended because it was asked not to wait.
func detached(err error) bool { return errors.Is(err, flow.ErrDetached) }

// interrupted reports whether err says only that the run was ended from outside:
// the work in the cluster goes on, and so may the next run.
func interrupted(ctx context.Context, err error) bool {
	if detached(err) || ctx.Err() != nil {
		return true
	}
	switch vmbackup.ReasonOf(err) {
	case vmbackup.ReasonTimeout, vmbackup.ReasonCanceled, vmbackup.ReasonConflict, vmbackup.ReasonEngineUnavailable, vmbackup.ReasonTargetUnavailable, vmbackup.ReasonTargetEmpty:
		return true
	}
	return false
}

// preflight marks every error of a plan as one that refused before any change.
func preflight(err error) error {
	if err == nil {
		return nil
	}
	return vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
}

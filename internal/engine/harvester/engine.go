// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package harvester makes backups and restores by asking Harvester's own
// controllers for them, with the objects that its UI makes too, and follows what
// they do. Its objects are the record: whoever sees them can follow and go on.
package harvester

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Annotations on Harvester's objects, for what they cannot hold themselves.
const (
	AnnotationOperation = hv.AnnotationOperation
	AnnotationVersion   = hv.AnnotationVersion
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

// Engine leaves the work to Harvester's controllers.
type Engine struct {
	clients *kube.Clients
	// direct is the other engine, which knows what it has under way, and removes what
	// Harvester leaves behind.
	direct  *direct.Engine
	records Records
	open    OpenTarget
	clock   vmbackup.Clock
	// version is that of the tool, noted on what it makes.
	version string
	// settleAfter is how long a view that is not Ready has to last before it is
	// believed, and failAfter the same for an error that Harvester may get over.
	settleAfter, failAfter time.Duration
	// started are the backups that this engine has just started, by operation: the run
	// that follows need not read their machines again.
	started sync.Map
}

// New makes an engine that works with the rights of clients.
func New(clients *kube.Clients, other *direct.Engine, records Records, open OpenTarget, clock vmbackup.Clock, version string) *Engine {
	return &Engine{
		clients: clients, direct: other, records: records, open: open, clock: clock, version: version,
		settleAfter: settleAfter, failAfter: failAfter,
	}
}

// Name is "harvester".
func (e *Engine) Name() string { return vmbackup.EngineHarvester }

// Recorded reports whether Harvester keeps a backup of that name. In a cluster
// without Harvester it keeps none.
func (e *Engine) Recorded(ctx context.Context, ref vmbackup.Ref) (bool, error) {
	_, err := e.clients.Harvester.Backups(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, kube.Error(err, "read", what(ref))
}

// newOperation makes the token of an operation: 12 hex digits.
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

// preflight marks every error of a plan as one that refused before any change.
func preflight(err error) error {
	if err == nil {
		return nil
	}
	return vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
}

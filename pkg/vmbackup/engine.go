// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"context"
	"strings"
	"time"
)

// Engine makes backups and restores. Its methods observe before they act and may
// be run again after an interrupt: a second run goes on where the first stopped.
// Every error carries a Reason; those of the Plan methods are preflight errors.
type Engine interface {
	// Name is the engine's name for --engine and for status.
	Name() string
	// PlanBackup checks the request and says what would be done. It changes nothing.
	PlanBackup(ctx context.Context, req BackupRequest) (*BackupPlan, error)
	// StartBackup records the planned backup, so that it can be followed and
	// resumed from anywhere. It returns AlreadyExists when the name is taken by another backup.
	StartBackup(ctx context.Context, plan *BackupPlan) (*Backup, error)
	// RunBackup takes a started backup to its end, from wherever it stands. The
	// backup is returned with the error too, as far as it came.
	RunBackup(ctx context.Context, ref Ref, opts RunOptions) (*Backup, error)
	// PlanRestore checks the request and says what would be done. It changes nothing.
	PlanRestore(ctx context.Context, req RestoreRequest) (*RestorePlan, error)
	// StartRestore records the planned restore.
	StartRestore(ctx context.Context, plan *RestorePlan) (*Restore, error)
	// RunRestore takes a started restore to its end, from wherever it stands. The
	// restore is returned with the error too, as far as it came.
	RunRestore(ctx context.Context, ref Ref, opts RunOptions) (*Restore, error)
	// PlanDelete says what deleting a backup would remove. It changes nothing.
	PlanDelete(ctx context.Context, req DeleteRequest) (*DeletePlan, error)
	// Delete removes what the plan names and checks on the target that it is gone.
	Delete(ctx context.Context, plan *DeletePlan, opts RunOptions) error
	// CancelBackup gives up a backup that has not ended: a run of it stops, on whatever
	// machine it is, the guest thaws, and what the backup has made is removed. Its
	// record stays, as Canceled. The backup is returned with the error too.
	CancelBackup(ctx context.Context, ref Ref, opts RunOptions) (*Backup, error)
	// CancelRestore is CancelBackup for a restore. A machine that has its restored
	// disks in place, or was started, is left alone: a preflight Conflict.
	CancelRestore(ctx context.Context, ref Ref, opts RunOptions) (*Restore, error)
	// DeleteRestore removes the record of a restore that has ended, and nothing else.
	DeleteRestore(ctx context.Context, ref Ref) error
	// Observe fills in how far a running backup is by now, which its record does
	// not tell. It changes nothing in the cluster.
	Observe(ctx context.Context, backup *Backup) error
	// FollowBackup tells the progress of a backup that somebody else runs, until
	// its uploads have ended or ctx ends. It changes nothing in the cluster.
	FollowBackup(ctx context.Context, ref Ref, sink Sink) error
	// FollowRestore tells the progress of a restore that somebody else runs,
	// until its data is there or ctx ends. It changes nothing in the cluster.
	FollowRestore(ctx context.Context, ref Ref, sink Sink) error
}

// RunOptions say how an operation is run.
type RunOptions struct {
	// Sink gets the events; nil for none.
	Sink Sink
	// NoWait ends the run, without an error, where all that is left is to wait
	// for work that the cluster does by itself. Running again takes it to its end.
	NoWait bool
}

// Source is a place where backups are found.
type Source string

// The sources of a Catalog.
const (
	SourceCluster Source = "cluster" // the tool's records in the cluster
	SourceTarget  Source = "target"  // the files on the backup target
	SourceAll     Source = "all"     // both, merged by namespace and name
)

// FoundOn names the sources that a view of a backup comes from: "cluster,target".
func FoundOn(sources ...Source) string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = string(s)
	}
	return strings.Join(names, ",")
}

// ListOptions narrows a listing.
type ListOptions struct {
	// Namespace is empty for all namespaces.
	Namespace string
	// Selector is a label selector over the virtual machine's labels as backed up.
	Selector string
	// VM is the name of the virtual machine; empty for all.
	VM     string
	Source Source
	// Limit is the most objects to return; 0 for all.
	Limit int
}

// Catalog finds backups and restores.
type Catalog interface {
	// Backups lists, newest first. Parts that could not be read come back as
	// warnings, so that one bad file does not hide the rest.
	Backups(ctx context.Context, opts ListOptions) (backups []Backup, warnings []string, err error)
	// Backup returns one backup, or NotFound.
	Backup(ctx context.Context, ref Ref, source Source) (*Backup, error)
	// Restores lists, newest first. Parts that could not be looked at come back as warnings.
	Restores(ctx context.Context, opts ListOptions) (restores []Restore, warnings []string, err error)
	// Restore returns one restore, or NotFound.
	Restore(ctx context.Context, ref Ref) (*Restore, error)
	// WatchBackups lists from the cluster's records and calls changed with the
	// list, and again with the whole list after every change, until changed
	// returns an error, which it returns, or ctx ends.
	WatchBackups(ctx context.Context, opts ListOptions, changed func([]Backup) error) error
	// WatchRestores is WatchBackups for restores.
	WatchRestores(ctx context.Context, opts ListOptions, changed func([]Restore) error) error
	// WatchBackup calls changed with each new view until it returns true or ctx ends.
	WatchBackup(ctx context.Context, ref Ref, changed func(*Backup) (done bool)) error
	// WatchRestore calls changed with each new view until it returns true or ctx ends.
	WatchRestore(ctx context.Context, ref Ref, changed func(*Restore) (done bool)) error
}

// Clock tells the time; tests inject their own.
type Clock func() time.Time

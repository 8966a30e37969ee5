// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// probeFolder is where a check writes. It is no folder of a namespace, and none that
// Longhorn or Harvester look at.
const probeFolder = metadata.RecordPrefix + ".check/"

// probeDeadline is for removing a probe after the check itself was interrupted.
const probeDeadline = 10 * time.Second

// Check implements vmbackup.Targets.
func (t *Targets) Check(ctx context.Context, name string) (*vmbackup.TargetCheck, error) {
	bt, err := t.read(ctx, name)
	if err != nil {
		return nil, err
	}
	store, err := t.connectTo(ctx, bt)
	if err != nil {
		return nil, err
	}
	c := CheckStore(ctx, store, t.clock)
	c.Metadata.Name = name
	s := &c.Status
	s.Longhorn = vmbackup.TargetAvailable
	if !bt.Status.Available {
		s.Longhorn, s.LonghornMessage = vmbackup.TargetUnavailable, kube.Unavailable(bt)
	}
	switch {
	case s.Usable && !bt.Status.Available:
		s.Warnings = append(s.Warnings, fmt.Sprintf("this machine can use the target and Longhorn cannot: %s; compare what the cluster's nodes reach (names, routes, proxy, certificates) with this machine, then have Longhorn look again with: kubectl vmbackup target sync %s", s.LonghornMessage, name))
	case !s.Usable && bt.Status.Available:
		s.Warnings = append(s.Warnings, "Longhorn can use the target and this machine cannot: volumes are backed up, but the machines' descriptions are written by this machine, so that backups from here do not succeed")
	}
	return c, nil
}

// CheckStore uses a target: it lists, writes a small file, reads it back and deletes
// it. Nothing that lies there is touched.
func CheckStore(ctx context.Context, store target.Store, clock vmbackup.Clock) *vmbackup.TargetCheck {
	c := &vmbackup.TargetCheck{APIVersion: vmbackup.APIVersion, Kind: vmbackup.KindTargetCheck, Spec: vmbackup.TargetContentsSpec{URL: store.String()}}
	s := &c.Status
	key := probeFolder + rand.Text()
	content := []byte(rand.Text())
	written := false
	for _, step := range []struct {
		id, title string
		run       func() error
	}{
		{"list", "List what lies there", func() (err error) {
			s.Empty, err = target.Empty(ctx, store)
			return err
		}},
		{"write", "Write a file", func() error {
			written = true // perhaps, also when the answer was lost
			return store.Put(ctx, key, content)
		}},
		{"read", "Read it back", func() error { return readBack(ctx, store, key, content) }},
		{"delete", "Delete it", func() error {
			if err := store.Delete(ctx, key); err != nil {
				return err
			}
			written = false
			return gone(ctx, store, key)
		}},
	} {
		done := vmbackup.TargetStep{ID: step.id, Title: step.title, State: vmbackup.StateSkipped}
		if s.Error == nil {
			began := clock()
			err := step.run()
			done.State, done.Seconds = vmbackup.StateReady, clock().Sub(began).Seconds()
			if err != nil {
				s.Error = vmbackup.AsError(err, vmbackup.ReasonInternal)
				done.State, done.Message = vmbackup.StateFailed, s.Error.Message
			}
		}
		s.Steps = append(s.Steps, done)
	}
	if written {
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeDeadline)
		defer cancel()
		if err := store.Delete(cleaning, key); err != nil {
			s.Warnings = append(s.Warnings, "the file "+key+" may be left on the target; it harms nothing and can be deleted")
		}
	}
	s.Usable = s.Error == nil
	return c
}

func readBack(ctx context.Context, store target.Store, key string, content []byte) error {
	got, err := store.Get(ctx, key, int64(len(content)))
	switch {
	case vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound:
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "backup target %s took a file and does not have it", store).
			WithHint("what the server says is not what it does: look at its own log, and at a proxy or cache in between")
	case err != nil:
		return err
	case !bytes.Equal(got, content):
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "backup target %s gives back another content than was written", store).
			WithHint("do not rely on this target: look at its own log, and at a proxy or cache in between")
	}
	return nil
}

// gone sees that a file was deleted: a server with a lock on its objects may say yes
// and keep them.
func gone(ctx context.Context, store target.Store, key string) error {
	_, err := store.Stat(ctx, key)
	switch {
	case vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound:
		return nil
	case err != nil:
		return err
	}
	return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "backup target %s keeps a file that was deleted", store).
		WithHint("the bucket may have a lock or a retention: then deleted backups go on to take room")
}

// Failure is the error of a check that found the target not to be usable, with what
// Longhorn says beside it; nil when it is.
func Failure(c *vmbackup.TargetCheck) error {
	if c.Status.Error == nil {
		return nil
	}
	failed := *c.Status.Error
	if errors.Is(c.Status.Error, context.Canceled) {
		failed.Reason = vmbackup.ReasonCanceled
	}
	return &failed
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package backuptarget looks after the backup targets of a cluster: how Longhorn and
// Harvester see them, what lies on them, and how they are set.
package backuptarget

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Targets implements vmbackup.Targets over the clients of a cluster.
type Targets struct {
	clients *kube.Clients
	clock   vmbackup.Clock
	open    func(target.Config) (target.Store, error)
	// pause waits, or until ctx ends.
	pause func(ctx context.Context, d time.Duration) error
}

var _ vmbackup.Targets = (*Targets)(nil)

// New returns the targets of a cluster. open opens one as a store.
func New(clients *kube.Clients, clock vmbackup.Clock, open func(target.Config) (target.Store, error)) *Targets {
	return &Targets{clients: clients, clock: clock, open: open, pause: pause}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Names implements vmbackup.Targets.
func (t *Targets) Names(ctx context.Context) ([]string, error) {
	all, err := t.all(ctx)
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	return names, err
}

// all are Longhorn's BackupTargets in the order of Names.
func (t *Targets) all(ctx context.Context) ([]longhornv1.BackupTarget, error) {
	list, err := t.clients.Longhorn.LonghornV1beta2().BackupTargets(kube.LonghornNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "Longhorn BackupTargets")
	}
	slices.SortFunc(list.Items, func(a, b longhornv1.BackupTarget) int { return compareNames(a.Name, b.Name) })
	return list.Items, nil
}

// List implements vmbackup.Targets.
func (t *Targets) List(ctx context.Context) ([]vmbackup.Target, error) {
	all, err := t.all(ctx)
	if err != nil {
		return nil, err
	}
	holdings, unseen, err := t.holdings(ctx, "")
	if err != nil {
		return nil, err
	}
	targets := make([]vmbackup.Target, 0, len(all))
	for i := range all {
		view, err := t.view(ctx, &all[i], holdings, unseen)
		if err != nil {
			return nil, err
		}
		targets = append(targets, *view)
	}
	return targets, nil
}

// compareNames puts Longhorn's default target first.
func compareNames(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == vmbackup.DefaultTarget || b != vmbackup.DefaultTarget && a < b:
		return -1
	}
	return 1
}

// Get implements vmbackup.Targets.
func (t *Targets) Get(ctx context.Context, name string) (*vmbackup.Target, error) {
	bt, err := t.read(ctx, name)
	if err != nil {
		return nil, err
	}
	holdings, unseen, err := t.holdings(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.view(ctx, bt, holdings, unseen)
}

// read reads a BackupTarget.
func (t *Targets) read(ctx context.Context, name string) (*longhornv1.BackupTarget, error) {
	bt, err := t.clients.Longhorn.LonghornV1beta2().BackupTargets(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return bt, nil
	}
	err = kube.Error(err, "read", "Longhorn BackupTarget "+name)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "Longhorn has no backup target %q", name).
			WithHint("list those there are with: kubectl vmbackup target show").AsPreflight()
	}
	return nil, err
}

// view is a BackupTarget in the words of the domain.
func (t *Targets) view(ctx context.Context, bt *longhornv1.BackupTarget, holdings map[string]*vmbackup.TargetHoldings, unseen []string) (*vmbackup.Target, error) {
	v := vmbackup.NewTarget(bt.Name)
	v.Spec = vmbackup.TargetSpec{
		URL: target.PlainURL(bt.Spec.BackupTargetURL), Type: target.Type(bt.Spec.BackupTargetURL),
		PollIntervalSeconds: int64(bt.Spec.PollInterval.Seconds()), CredentialSecret: bt.Spec.CredentialSecret,
	}
	s := &v.Status
	switch {
	case bt.Spec.BackupTargetURL == "":
		s.State = vmbackup.TargetNotSet
	case bt.Status.Available:
		s.State = vmbackup.TargetAvailable
	default:
		s.State, s.Message = vmbackup.TargetUnavailable, kube.Unavailable(bt)
	}
	if at := bt.Status.LastSyncedAt.Time; !at.IsZero() {
		at = at.UTC()
		s.LastSyncedAt = &at
	}
	var err error
	if s.Credentials, err = t.credentials(ctx, bt); err != nil {
		return nil, err
	}
	if holdings != nil {
		s.Holds = holdings[bt.Name]
		if s.Holds == nil {
			s.Holds = &vmbackup.TargetHoldings{}
		}
	}
	s.Warnings = append(s.Warnings, unseen...)
	if bt.Name == vmbackup.DefaultTarget {
		setting, err := t.setting(ctx)
		if err != nil {
			return nil, err
		}
		if setting != nil {
			s.Harvester = setting.view
			s.Warnings = append(s.Warnings, setting.warnings(v)...)
		}
	}
	if s.State == vmbackup.TargetAvailable && v.Spec.PollIntervalSeconds == 0 {
		s.Warnings = append(s.Warnings, "Longhorn never looks at the target by itself (poll interval 0): what other clusters back up appears here only after: kubectl vmbackup target sync "+bt.Name)
	}
	return v, nil
}

// credentials tells whether the Secret of a target is there. Its values stay where they are.
func (t *Targets) credentials(ctx context.Context, bt *longhornv1.BackupTarget) (vmbackup.TargetCredentials, error) {
	name := bt.Spec.CredentialSecret
	if name == "" {
		c := vmbackup.TargetCredentials{State: vmbackup.StateSkipped}
		if kind := target.Type(bt.Spec.BackupTargetURL); target.NeedsCredentials(kind) {
			c.State, c.Message = vmbackup.StateFailed, "no Secret is named, and Longhorn uses a target of the type "+kind+" with one only"
		}
		return c, nil
	}
	secret, err := t.clients.Core.CoreV1().Secrets(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		c := vmbackup.TargetCredentials{State: vmbackup.StateReady}
		for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
			if len(secret.Data[key]) > 0 {
				c.Keys = append(c.Keys, key)
			}
		}
		return c, nil
	case apierrors.IsNotFound(err):
		return vmbackup.TargetCredentials{State: vmbackup.StateFailed, Message: fmt.Sprintf("there is no Secret %s/%s", kube.LonghornNamespace, name)}, nil
	case apierrors.IsForbidden(err):
		return vmbackup.TargetCredentials{State: vmbackup.StateUnknown, Message: fmt.Sprintf("Secret %s/%s may not be read", kube.LonghornNamespace, name)}, nil
	}
	return vmbackup.TargetCredentials{}, kube.Error(err, "read", "Secret "+kube.LonghornNamespace+"/"+name)
}

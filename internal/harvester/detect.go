// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// Liveness is whether controllers work on what is created.
type Liveness string

// What is known of Harvester's controllers.
const (
	// Alive: one of them renews its lease.
	Alive Liveness = "alive"
	// Dead: nobody renews the lease; what is created stays as it is.
	Dead Liveness = "dead"
	// Unclear: the lease may not be read, or there is none.
	Unclear Liveness = "unclear"
)

// Presence is what is known of Harvester in a cluster.
type Presence struct {
	// Served: the API server has its kinds of backups and restores.
	Served bool
	// Controllers is whether they work; Why says what that rests on.
	Controllers Liveness
	Why         string
	// Version is Harvester's own, e.g. v1.8.2; empty when it may not be read.
	Version string
}

// Usable says whether a backup or restore can be left to Harvester. Controllers of
// which nothing is known are given the benefit: not every user may look at their lease.
func (p *Presence) Usable() bool { return p.Served && p.Controllers != Dead }

// The lease that Harvester's controllers hold while they run.
const (
	leaseNamespace = "kube-system"
	leaseName      = "harvester-controllers"
	leasePath      = "/apis/coordination.k8s.io/v1/namespaces/" + leaseNamespace + "/leases/" + leaseName
)

// observation is how long a lease that looks expired is looked at. Its holder
// renews it every two seconds; the clocks of this machine and of the cluster may differ.
const observation = 7 * time.Second

// Detector finds out whether a cluster is Harvester's.
type Detector struct {
	// Discovery is of the cluster, with a REST client that can read any path.
	Discovery discovery.DiscoveryInterface
	// Settings are Harvester's.
	Settings Settings
	// Now is the time of this machine.
	Now func() time.Time
	// Pause waits between two looks at the lease, or until ctx ends.
	Pause func(ctx context.Context, d time.Duration) error
}

// NewDetector looks at a cluster by its clients and the clock of this machine.
func NewDetector(d discovery.DiscoveryInterface, settings Settings) *Detector {
	return &Detector{Discovery: d, Settings: settings, Now: time.Now, Pause: pause}
}

// pause waits, or returns ctx's error when that ends first.
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

// Detect looks for Harvester. A cluster without it is no error. It takes up to
// seven seconds when the controllers seem dead, and three requests else.
func (d *Detector) Detect(ctx context.Context) (*Presence, error) {
	p := &Presence{Controllers: Unclear}
	served, err := d.served()
	if err != nil || !served {
		return p, err
	}
	p.Served = true
	if p.Controllers, p.Why, err = d.controllers(ctx); err != nil {
		return nil, err
	}
	version, err := d.Settings.Get(ctx, ServerVersionSetting, metav1.GetOptions{})
	switch {
	case err == nil:
		p.Version = version.Effective()
	case !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read the setting %s: %w", ServerVersionSetting, err)
	}
	return p, nil
}

// served looks for the kinds in discovery: there they are whatever rights the user has.
func (d *Detector) served() (bool, error) {
	resources, err := d.Discovery.ServerResourcesForGroupVersion(GroupVersion().String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask which kinds of %s the cluster serves: %w", GroupVersion(), err)
	}
	found := map[string]bool{}
	for _, r := range resources.APIResources {
		found[r.Name] = true
	}
	return found[BackupResource] && found[RestoreResource], nil
}

// controllers judges by the lease. One that looks expired is observed: it may only
// be that the clocks differ.
func (d *Detector) controllers(ctx context.Context) (Liveness, string, error) {
	first, err := d.lease(ctx)
	if apierrors.IsForbidden(err) {
		return Unclear, "the lease " + leaseNamespace + "/" + leaseName + " may not be read", nil
	}
	if apierrors.IsNotFound(err) {
		return Unclear, "there is no lease " + leaseNamespace + "/" + leaseName, nil
	}
	if err != nil {
		return "", "", fmt.Errorf("read the lease %s/%s: %w", leaseNamespace, leaseName, err)
	}
	holder := text(first.Spec.HolderIdentity)
	if d.fresh(first) {
		return Alive, "held by " + holder, nil
	}
	const step = time.Second
	for waited := time.Duration(0); waited < observation; waited += step {
		if err := d.Pause(ctx, step); err != nil {
			return "", "", err
		}
		now, err := d.lease(ctx)
		if err != nil {
			return "", "", fmt.Errorf("read the lease %s/%s: %w", leaseNamespace, leaseName, err)
		}
		if text(now.Spec.HolderIdentity) != "" && !first.Spec.RenewTime.Equal(now.Spec.RenewTime) {
			return Alive, "held by " + text(now.Spec.HolderIdentity), nil
		}
	}
	if holder == "" {
		return Dead, "nobody holds the lease " + leaseNamespace + "/" + leaseName, nil
	}
	if first.Spec.RenewTime == nil {
		return Dead, holder + " holds the lease and never renewed it", nil
	}
	return Dead, fmt.Sprintf("the lease of %s was renewed last at %s", holder, first.Spec.RenewTime.UTC().Format(time.RFC3339)), nil
}

// fresh says whether the lease holds by the clock of this machine.
func (d *Detector) fresh(l *coordinationv1.Lease) bool {
	if text(l.Spec.HolderIdentity) == "" || l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return false
	}
	until := l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second)
	return d.Now().Before(until)
}

// lease is read as JSON: a typed client of its group would be the only use of it.
func (d *Detector) lease(ctx context.Context) (*coordinationv1.Lease, error) {
	result := d.Discovery.RESTClient().Get().AbsPath(leasePath).SetHeader("Accept", "application/json").Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	raw, err := result.Raw()
	if err != nil {
		return nil, err
	}
	l := &coordinationv1.Lease{}
	if err := json.Unmarshal(raw, l); err != nil {
		return nil, err
	}
	return l, nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

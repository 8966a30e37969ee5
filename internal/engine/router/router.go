// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package router chooses who does the work: Harvester's controllers, where a cluster
// has them and they can do what is asked for, or the direct engine. What exists
// already goes to whoever keeps its record, whatever the choice is for what is new.
package router

import (
	"context"
	"fmt"
	"sync"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/harvester"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Auto leaves the choice to the router. The other choices are the names of the engines.
const Auto = "auto"

// Choices are the values that a choice may have.
func Choices() []string { return []string{Auto, vmbackup.EngineHarvester, vmbackup.EngineDirect} }

// Router is vmbackup.Engine over both engines.
type Router struct {
	direct    *direct.Engine
	harvester *harvester.Engine
	choice    string
	lookup    kube.Lookup
	detect    func(context.Context) (*hv.Presence, error)

	mu sync.Mutex
	// served is whether the cluster has Harvester's kinds, and presence all that is
	// known of Harvester there; nil until somebody has to know.
	served   *bool
	presence *hv.Presence
	// keepers are the engines of what was started or planned here.
	keepers sync.Map
}

var _ vmbackup.Engine = (*Router)(nil)

// backups is the half of an engine that is about backups.
type backups interface {
	PlanBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error)
	StartBackup(ctx context.Context, plan *vmbackup.BackupPlan) (*vmbackup.Backup, error)
	RunBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error)
	PlanDelete(ctx context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error)
	Delete(ctx context.Context, plan *vmbackup.DeletePlan, opts vmbackup.RunOptions) error
	CancelBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error)
	FollowBackup(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error
}

// New makes a router. detect finds out about Harvester; it is called when a choice
// depends on it, and not before.
func New(d *direct.Engine, h *harvester.Engine, choice string, lookup kube.Lookup, detect func(context.Context) (*hv.Presence, error)) *Router {
	d.DiscoveredBy(h)
	return &Router{direct: d, harvester: h, choice: choice, lookup: lookup, detect: detect}
}

// Name is the choice.
func (r *Router) Name() string { return r.choice }

// look finds out about Harvester, once.
func (r *Router) look(ctx context.Context) (*hv.Presence, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.presence != nil {
		return r.presence, nil
	}
	p, err := r.detect(ctx)
	if err != nil {
		return nil, vmbackup.AsError(kube.Error(err, "look for", "Harvester"), vmbackup.ReasonEngineUnavailable).AsPreflight()
	}
	r.presence, r.served = p, &p.Served
	return p, nil
}

// serves reports whether the cluster has Harvester's kinds: one request, once.
func (r *Router) serves(ctx context.Context) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served != nil {
		return *r.served, nil
	}
	served, err := r.lookup.Serves(ctx, hv.GroupVersion().WithResource(hv.BackupResource))
	if err != nil {
		return false, kube.Error(err, "ask for the kinds of", hv.Group)
	}
	r.served = &served
	return served, nil
}

// keeper is the engine that keeps the record of a backup. What neither keeps is the
// direct engine's: it knows the backups on the target too.
func (r *Router) keeper(ctx context.Context, ref vmbackup.Ref) (backups, error) {
	if engine, found := r.keepers.Load(ref); found {
		return engine.(backups), nil
	}
	served, err := r.serves(ctx)
	if err != nil || !served {
		return r.direct, err
	}
	// The tool's own record goes first: Harvester finds on the target what the tool
	// has written there, and has an object of it too.
	own, err := r.direct.Recorded(ctx, ref)
	if err != nil || own {
		return r.direct, err
	}
	theirs, err := r.harvester.Recorded(ctx, ref)
	if err == nil && theirs {
		return r.harvester, nil
	}
	return r.direct, err
}

// chosen is the engine for something new, and why it is not the one that goes first.
func (r *Router) chosen(ctx context.Context) (engine backups, why string, err error) {
	if r.choice == vmbackup.EngineDirect {
		return r.direct, "", nil
	}
	p, err := r.look(ctx)
	if err != nil {
		return nil, "", err
	}
	switch {
	case p.Usable():
		return r.harvester, "", nil
	case r.choice == vmbackup.EngineHarvester:
		what := "the cluster does not have Harvester's kinds"
		if p.Served {
			what = "Harvester's controllers do not work: " + p.Why
		}
		return nil, "", vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "nothing can be left to Harvester: %s", what).AsPreflight().
			WithHint("leave the choice to the tool with --engine %s, or do without Harvester with --engine %s", Auto, vmbackup.EngineDirect)
	case p.Served:
		return r.direct, fmt.Sprintf("Harvester's controllers do not work (%s), so this is done without them", p.Why), nil
	}
	return r.direct, "", nil
}

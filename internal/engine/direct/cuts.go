// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"slices"
	"sync"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// cuts keeps account of one round of snapshots: which Longhorn snapshot each
// volume waits for and which are cut. Two goroutines meet here, the one that
// creates the VolumeSnapshots and the one that watches Longhorn.
type cuts struct {
	// open is closed once the watch has seen the snapshots that were there before.
	open chan struct{}
	// all is closed once every volume has its snapshot.
	all chan struct{}

	mu sync.Mutex
	// expected are Longhorn's snapshots by the volume's name.
	expected map[string]string
	cut      map[string]bool // by Longhorn's snapshot
	told     map[string]bool // by the volume's name
	volumes  []string
	isOpen   bool
	finished bool
	reason   string
}

func newCuts(backup *vmbackup.Backup) *cuts {
	c := &cuts{
		open: make(chan struct{}), all: make(chan struct{}),
		expected: map[string]string{}, cut: map[string]bool{}, told: map[string]bool{},
	}
	for _, v := range backup.Status.Volumes {
		c.volumes = append(c.volumes, v.Name)
	}
	return c
}

// opened waits until the watch is open.
func (c *cuts) opened(ctx context.Context) error {
	select {
	case <-c.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// expect says which snapshot the volume waits for.
func (c *cuts) expect(volume, snapshot string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected[volume] = snapshot
	c.settle()
}

// see takes Longhorn's snapshots and returns the volumes whose snapshot was cut since the last time.
func (c *cuts) see(list []*longhornv1.Snapshot) (cutNow []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		if isCut(s) && s.Name != "" {
			c.cut[s.Name] = true
		}
		if s.Status.Error != "" {
			c.reason = s.Status.Error
		}
	}
	for _, v := range c.volumes {
		if c.cut[c.expected[v]] && !c.told[v] {
			c.told[v] = true
			cutNow = append(cutNow, v)
		}
	}
	if !c.isOpen {
		c.isOpen = true
		close(c.open)
	}
	c.settle()
	return cutNow
}

// isCut reports whether the engine has taken the snapshot. Longhorn says so in
// requestedTime, which it sets once the engine has answered; before 1.12 only the
// creation time tells, which follows with the engine's next poll, seconds later.
func isCut(s *longhornv1.Snapshot) bool {
	return s.Status.RequestedTime != "" || s.Status.CreationTime != "" || s.Status.ReadyToUse
}

// settle closes all when nothing is missing; mu is held.
func (c *cuts) settle() {
	if c.finished {
		return
	}
	for _, v := range c.volumes {
		if !c.cut[c.expected[v]] {
			return
		}
	}
	c.finished = true
	close(c.all)
}

func (c *cuts) done() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finished
}

// names are Longhorn's snapshots by the volume's name.
func (c *cuts) names() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make(map[string]string, len(c.expected))
	for v, s := range c.expected {
		names[v] = s
	}
	return names
}

// missing are the volumes without a snapshot, by name.
func (c *cuts) missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for _, v := range c.volumes {
		if !c.cut[c.expected[v]] {
			names = append(names, v)
		}
	}
	slices.Sort(names)
	return names
}

func (c *cuts) explain(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reason = reason
}

func (c *cuts) why() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

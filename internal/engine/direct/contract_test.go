// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"slices"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/engine/enginetest"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// contract is the cluster as the suite of all engines sees it.
type contract struct{ c *cluster }

func (k contract) Engine() vmbackup.Engine {
	k.c.anew()
	return k.c.engine
}

func (k contract) VM() vmbackup.Ref { return web }
func (k contract) Other() string    { return "other" }

// Writes are those to the cluster and the target, and those of records that came about.
func (k contract) Writes() []string { return k.c.writes() }

func (k contract) Uploads() int {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	return k.c.backups
}

func (k contract) Left() []string {
	var left []string
	for _, resource := range []string{"volumesnapshots", "volumesnapshotcontents", "backups", "snapshots"} {
		for _, name := range k.c.names(resource) {
			left = append(left, resource+" "+name)
		}
	}
	if k.c.vms.standsStill(web) {
		left = append(left, "a frozen guest")
	}
	return append(left, k.c.files()...)
}

func (k contract) Machine(ref vmbackup.Ref) map[string]any {
	if !k.c.has("virtualmachines", ref.Namespace, ref.Name) {
		return nil
	}
	return k.c.machine(ref)
}

func (k contract) Objects() []string {
	var objects []string
	for _, resource := range []string{"configmaps", "controllerrevisions", "persistentvolumeclaims", "secrets", "virtualmachines", "volumesnapshotcontents", "volumesnapshots"} {
		var names []string
		for _, o := range k.c.all(resource) {
			m := accessor(k.c.t, o)
			names = append(names, resource+" "+m.GetNamespace()+"/"+m.GetName())
		}
		slices.Sort(names)
		objects = append(objects, names...)
	}
	return objects
}

func (k contract) Hold() (release func()) {
	set := func(held bool) {
		k.c.mu.Lock()
		defer k.c.mu.Unlock()
		k.c.restoreHeld = held
	}
	set(true)
	return func() { set(false) }
}

// What the tool relies on, whoever does the work.
func TestContract(t *testing.T) {
	enginetest.Backups(t, func(t *testing.T, test func(*testing.T, enginetest.Cluster)) {
		inBubble(t, func(t *testing.T, c *cluster) { test(t, contract{c}) })
	})
}

func TestRestoreContract(t *testing.T) {
	enginetest.Restores(t, func(t *testing.T, test func(*testing.T, enginetest.RestoreCluster)) {
		inBubble(t, func(t *testing.T, c *cluster) { test(t, contract{c}) })
	})
}

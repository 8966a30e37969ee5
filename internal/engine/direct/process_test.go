// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"sync"
	"time"

	snapshotfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	snapshotscheme "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/scheme"
	longhornfake "github.com/longhorn/longhorn-manager/k8s/pkg/client/clientset/versioned/fake"
	longhornscheme "github.com/longhorn/longhorn-manager/k8s/pkg/client/clientset/versioned/scheme"
	authv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	corefake "k8s.io/client-go/kubernetes/fake"
	corescheme "k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	kubevirtscheme "kubevirt.io/client-go/kubevirt/scheme"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// mishap is what happens to a process at one of its requests that change something.
type mishap string

const (
	// dieBefore ends the process with the request unsent, dieAfter with it done and
	// its answer unread.
	dieBefore mishap = "killed before"
	dieAfter  mishap = "killed after"
	// outage takes the API server away from the request on, blip lets it do the
	// request and lose the answer.
	outage mishap = "API server away"
	blip   mishap = "answer lost"
	// stall holds the process at the request until it is woken, as a machine that sleeps.
	stall mishap = "stalled"
)

// outageTakes is how long an outage lasts.
const outageTakes = 30 * time.Second

var errDead = errors.New("the process is dead")

// process is an engine that can be killed at any of its requests: afterwards no
// request of it reaches anything. It counts those that change something.
type process struct {
	c      *cluster
	engine *Engine
	died   chan struct{}

	mu      sync.Mutex
	at      int
	until   string // or at the first change of this kind
	mishap  mishap
	changes []string
	dying   bool
	dead    bool
	back    time.Time // when the API server is back
	watches []watch.Interface
	ending  []func()
	wake    chan struct{}
}

// process starts a process that meets its mishap at its n-th change; with 0 it lives.
func (c *cluster) process(at int, f mishap) *process {
	p := &process{c: c, at: at, mishap: f, died: make(chan struct{}), wake: make(chan struct{})}
	core, snapshot, longhorn := &corefake.Clientset{}, &snapshotfake.Clientset{}, &longhornfake.Clientset{}
	virt := &kubevirtFake{core: kubevirtCore{fake: &clienttesting.Fake{}}}
	p.serve(&core.Fake, corescheme.Scheme)
	p.serve(&snapshot.Fake, snapshotscheme.Scheme)
	p.serve(&longhorn.Fake, longhornscheme.Scheme)
	p.serve(virt.core.fake, kubevirtscheme.Scheme)
	records, files := mortalJournal{c.journal, p}, mortalStore{c.store, p}
	open := func(context.Context, string) (target.Store, error) { return files, nil }
	clients := &kube.Clients{Core: core, Snapshot: snapshot, Longhorn: longhorn, KubeVirt: virt, VMs: mortalMachines{c.vms, p}, Lookup: lookup{c}}
	c.t.Cleanup(p.bury)
	p.engine = New(clients, records, catalog.New(records, catalog.Target{Name: vmbackup.DefaultTarget, Open: open}, DecodeRestore), open, time.Now)
	return p
}

// live runs a command in the process until it ends, or the process dies.
func (p *process) live(command func(context.Context, *Engine) error) error {
	ctx, cancel := context.WithCancel(p.c.t.Context())
	done := make(chan error, 1)
	go func() { done <- command(ctx, p.engine) }()
	p.ending = append(p.ending, func() {
		// What a dead process still runs reaches nothing, and must not outlive the test.
		cancel()
		<-done //nolint:errcheck // its end is of no interest any more
	})
	select {
	case err := <-done:
		done <- err
		return err
	case <-p.died:
		return errDead
	}
}

// bury waits for what is left of the process.
func (p *process) bury() {
	for _, end := range p.ending {
		end()
	}
	p.ending = nil
}

// request does one request of the process.
func (p *process) request(changes bool, what string, target bool, do func() error) error {
	mine, err := p.before(changes, what, target)
	if err != nil {
		return err
	}
	if mine && p.mishap == stall {
		<-p.wake
	}
	err = do()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case mine && p.mishap == dieAfter:
		p.die()
		return errDead
	case mine && p.mishap == blip && !target:
		return refused()
	}
	return err
}

// before reports whether this is the request at which the process meets its mishap.
func (p *process) before(changes bool, what string, target bool) (mine bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead || p.dying && changes {
		return false, errDead
	}
	if changes {
		p.changes = append(p.changes, what)
		mine = len(p.changes) == p.at || what == p.until
		// Of what is done side by side, only the first gets through: what such a
		// process leaves is always the same.
		p.dying = p.dying || what == p.until && p.mishap == dieAfter
	}
	switch {
	case mine && p.mishap == dieBefore:
		p.die()
		return true, errDead
	case mine && p.mishap == outage && !target:
		p.back = time.Now().Add(outageTakes)
		for _, w := range p.watches {
			w.Stop()
		}
		p.watches = nil
	}
	if !target && time.Now().Before(p.back) {
		return false, refused()
	}
	return mine, nil
}

// die is called with mu held.
func (p *process) die() {
	if p.dead {
		return // of two requests at once that it may die at
	}
	p.dead = true
	close(p.died)
}

func (p *process) serve(fake *clienttesting.Fake, scheme *runtime.Scheme) {
	fake.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		var object runtime.Object
		err := p.request(changes(a), a.GetVerb()+" "+a.GetResource().Resource, false, func() (err error) {
			object, err = p.c.request(a, scheme)
			return err
		})
		return true, object, err
	})
	fake.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		var w watch.Interface
		err := p.request(false, "", false, func() (err error) {
			w, err = p.c.watch(a.(clienttesting.WatchActionImpl))
			return err
		})
		if err == nil {
			p.mu.Lock()
			p.watches = append(p.watches, w)
			p.mu.Unlock()
		}
		return true, w, err
	})
}

// changes reports whether a request changes anything.
func changes(a clienttesting.Action) bool {
	switch a := a.(type) {
	case clienttesting.CreateActionImpl:
		_, review := a.Object.(*authv1.SelfSubjectRulesReview)
		return !review && len(a.CreateOptions.DryRun) == 0
	case clienttesting.UpdateActionImpl:
		return len(a.UpdateOptions.DryRun) == 0
	case clienttesting.PatchActionImpl:
		return len(a.PatchOptions.DryRun) == 0
	}
	return a.GetVerb() == "delete" || a.GetVerb() == "delete-collection"
}

// mortalMachines are the machines as a process sees them.
type mortalMachines struct {
	vms kube.VirtualMachines
	p   *process
}

func (m mortalMachines) Get(ctx context.Context, namespace, name string) (raw []byte, err error) {
	err = m.p.request(false, "", false, func() (err error) {
		raw, err = m.vms.Get(ctx, namespace, name)
		return err
	})
	return raw, err
}

func (m mortalMachines) Create(ctx context.Context, namespace string, manifest []byte, dryRun bool) (raw []byte, err error) {
	err = m.p.request(!dryRun, "create virtualmachines", false, func() (err error) {
		raw, err = m.vms.Create(ctx, namespace, manifest, dryRun)
		return err
	})
	return raw, err
}

func (m mortalMachines) Patch(ctx context.Context, namespace, name string, patch []byte) error {
	return m.p.request(true, "patch virtualmachines", false, func() error { return m.vms.Patch(ctx, namespace, name, patch) })
}

func (m mortalMachines) Update(ctx context.Context, namespace, name string, manifest []byte, dryRun bool) error {
	return m.p.request(!dryRun, "update virtualmachines", false, func() error { return m.vms.Update(ctx, namespace, name, manifest, dryRun) })
}

func (m mortalMachines) Start(ctx context.Context, namespace, name string) error {
	return m.p.request(true, "start virtualmachines", false, func() error { return m.vms.Start(ctx, namespace, name) })
}

func (m mortalMachines) Freeze(ctx context.Context, namespace, name string, deadline time.Duration) error {
	return m.p.request(true, "freeze", false, func() error { return m.vms.Freeze(ctx, namespace, name, deadline) })
}

func (m mortalMachines) Unfreeze(ctx context.Context, namespace, name string) error {
	return m.p.request(true, "unfreeze", false, func() error { return m.vms.Unfreeze(ctx, namespace, name) })
}

// mortalJournal is the journal as a process sees it.
type mortalJournal struct {
	journal.Store
	p *process
}

func (j mortalJournal) Create(ctx context.Context, e journal.Entry) (made journal.Entry, err error) {
	err = j.p.request(true, "create record", false, func() (err error) {
		made, err = j.Store.Create(ctx, e)
		return err
	})
	return made, err
}

func (j mortalJournal) Get(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) (e journal.Entry, err error) {
	err = j.p.request(false, "", false, func() (err error) {
		e, err = j.Store.Get(ctx, kind, ref)
		return err
	})
	return e, err
}

func (j mortalJournal) Update(ctx context.Context, e journal.Entry) (made journal.Entry, err error) {
	err = j.p.request(true, "update record", false, func() (err error) {
		made, err = j.Store.Update(ctx, e)
		return err
	})
	return made, err
}

func (j mortalJournal) Delete(ctx context.Context, kind journal.Kind, ref vmbackup.Ref) error {
	return j.p.request(true, "delete record", false, func() error { return j.Store.Delete(ctx, kind, ref) })
}

// mortalStore is the target as a process sees it; it stays when the API server goes.
type mortalStore struct {
	target.Store
	p *process
}

func (s mortalStore) Put(ctx context.Context, key string, content []byte) error {
	return s.p.request(true, "put file", true, func() error { return s.Store.Put(ctx, key, content) })
}

func (s mortalStore) Get(ctx context.Context, key string, limit int64) (content []byte, err error) {
	err = s.p.request(false, "", true, func() (err error) {
		content, err = s.Store.Get(ctx, key, limit)
		return err
	})
	return content, err
}

func (s mortalStore) Delete(ctx context.Context, key string) error {
	return s.p.request(true, "delete file", true, func() error { return s.Store.Delete(ctx, key) })
}

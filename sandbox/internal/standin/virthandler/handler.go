// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package virthandler is the stand-in for KubeVirt's node agent, virt-handler,
// and for the virt-launcher in each launcher pod. It brings VMIs from Scheduled
// to Running and, at their deletion, to Succeeded, keeps their status, and
// answers virt-api's requests. It runs no guests; package guest keeps their state.
package virthandler

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	virtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

// Port is where virt-api finds the stand-in on the instance's loopback interface.
const Port = 9445

// Common names in the certificates between virt-api and virt-handler.
const (
	ServerName = "kubevirt.io:system:node:virt-handler"
	ClientName = "kubevirt.io:system:client:virt-handler"
)

// kubevirtNamespace is where virt-api looks for the virt-handler pod.
const kubevirtNamespace = "kubevirt"

var vmiResource = schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "virtualmachineinstances"}

// ReadyFile appears when the stand-in serves.
func ReadyFile(env *component.Env) string { return env.Path("run", "virthandler.ready") }

// JournalDir holds the journals of all guests, <namespace>/<vm>/freezes.jsonl.
func JournalDir(env *component.Env) string { return env.Path("guests") }

// Handler is the stand-in.
type Handler struct {
	env      *component.Env
	core     kubernetes.Interface
	cluster  dynamic.Interface // the stand-in's own rights
	vmis     dynamic.Interface // as KubeVirt's handler, whose status updates the webhooks let through
	disks    *standin.Disks
	store    cache.Store
	pods     cache.Indexer // the launcher pods
	queue    workqueue.TypedRateLimitingInterface[string]
	recorder record.EventRecorder
	clock    clock.WithDelayedExecution

	mu     sync.Mutex
	guests map[string]*guest.Guest // by namespace/name
	// ended holds the guests that turned themselves off, by the VMI's UID, until the VMI says so.
	ended map[string]virtv1.VirtualMachineInstancePhase
}

// Run runs the stand-in until ctx ends.
func Run(ctx context.Context, env *component.Env) error {
	h, err := newHandler(env)
	if err != nil {
		return err
	}
	return h.run(ctx)
}

func newHandler(env *component.Env) (*Handler, error) {
	cfg, err := env.AdminConfig()
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = "sandbox-virt-handler-stand-in"
	core, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	cluster, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	handlerConfig, err := handlerConfig(env)
	if err != nil {
		return nil, err
	}
	vmis, err := dynamic.NewForConfig(handlerConfig)
	if err != nil {
		return nil, err
	}
	return &Handler{
		env:     env,
		core:    core,
		cluster: cluster,
		vmis:    vmis,
		disks:   standin.NewDisks(cluster, env),
		clock:   clock.RealClock{},
		guests:  map[string]*guest.Guest{},
		ended:   map[string]virtv1.VirtualMachineInstancePhase{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 10*time.Second)),
	}, nil
}

// handlerConfig authenticates as KubeVirt's handler account.
func handlerConfig(env *component.Env) (*rest.Config, error) {
	path, err := env.Kubeconfig("system:serviceaccount:"+kubevirtNamespace+":kubevirt-handler",
		"system:serviceaccounts", "system:serviceaccounts:"+kubevirtNamespace)
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100
	cfg.UserAgent = "sandbox-virt-handler-stand-in"
	return cfg, nil
}

func (h *Handler) run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: h.core.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	h.recorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "virt-handler", Host: component.NodeName})

	factory := dynamicinformer.NewDynamicSharedInformerFactory(h.cluster, 0)
	informer := factory.ForResource(vmiResource).Informer()
	h.store = informer.GetStore()
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			h.queue.Add(key)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, object any) { enqueue(object) },
		DeleteFunc: enqueue,
	}); err != nil {
		return err
	}
	podFactory, podInformer, err := h.watchLaunchers()
	if err != nil {
		return err
	}
	podFactory.Start(ctx.Done())
	defer podFactory.Shutdown()
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced, podInformer.HasSynced) {
		return ctx.Err()
	}

	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2)
	group.Go(func() { failed <- h.serve(ctx) })
	group.Go(func() { failed <- h.serveControl(ctx) })
	const workers = 8
	for range workers {
		group.Go(func() { h.work(ctx) })
	}
	defer h.queue.ShutDown()
	defer h.detachGuests()
	if err := h.registerPod(ctx); err != nil {
		return fmt.Errorf("register the virt-handler pod: %w", err)
	}
	if err := h.releaseOrphans(ctx); err != nil {
		return fmt.Errorf("release the volumes of guests that are gone: %w", err)
	}
	if err := h.beat(ctx, true); err != nil {
		return err
	}
	if err := os.WriteFile(ReadyFile(h.env), nil, 0o600); err != nil {
		return err
	}
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case err := <-failed:
			return err
		case <-ticker.C:
			if err := h.beat(ctx, true); err != nil && ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "heartbeat: %v\n", err)
			}
		case <-ctx.Done():
			return h.leave(context.WithoutCancel(ctx))
		}
	}
}

// leave tells that the node takes no more VMIs, as virt-handler does when it ends.
func (h *Handler) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return h.beat(ctx, false)
}

func (h *Handler) work(ctx context.Context) {
	for {
		key, stop := h.queue.Get()
		if stop {
			return
		}
		again, err := h.sync(ctx, key)
		switch {
		case err != nil && ctx.Err() == nil:
			fmt.Fprintf(os.Stderr, "VMI %s: %v\n", key, err)
			h.queue.AddRateLimited(key)
		case again > 0:
			h.queue.Forget(key)
			h.queue.AddAfter(key, again)
		default:
			h.queue.Forget(key)
		}
		h.queue.Done(key)
	}
}

// lookup returns a VMI of the watch cache, decoded; nil if there is none.
func (h *Handler) lookup(key string) (*unstructured.Unstructured, *virtv1.VirtualMachineInstance, error) {
	object, exists, err := h.store.GetByKey(key)
	if err != nil || !exists {
		return nil, nil, err
	}
	raw, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil, nil, fmt.Errorf("unexpected %T in the cache of VMIs", object)
	}
	vmi := &virtv1.VirtualMachineInstance{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw.Object, vmi); err != nil {
		return nil, nil, fmt.Errorf("decode: %w", err)
	}
	return raw, vmi, nil
}

// startGuest returns the guest of a VMI, made or taken over from the journal when it is not there.
func (h *Handler) startGuest(vmi *virtv1.VirtualMachineInstance) (*guest.Guest, error) {
	key := vmi.Namespace + "/" + vmi.Name
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.guests[key]; g != nil && g.Key().UID == string(vmi.UID) {
		return g, nil
	} else if g != nil {
		if err := g.Stop(); err != nil {
			return nil, err
		}
	}
	g, err := guest.Start(
		guest.Key{Namespace: vmi.Namespace, Name: vmi.Name, UID: string(vmi.UID)},
		guest.NewJournal(JournalDir(h.env), vmi.Namespace, vmi.Name),
		h.clock, func() { h.queue.Add(key) })
	if err != nil {
		return nil, err
	}
	h.guests[key] = g
	return g, nil
}

// guest returns the running guest called key (namespace/name), or nil.
func (h *Handler) guest(key string) *guest.Guest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guests[key]
}

// stopGuest ends a guest, if it is there.
func (h *Handler) stopGuest(key string) error {
	h.mu.Lock()
	g := h.guests[key]
	delete(h.guests, key)
	h.mu.Unlock()
	if g == nil {
		return nil
	}
	return g.Stop()
}

func (h *Handler) detachGuests() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.guests {
		g.Detach()
	}
}

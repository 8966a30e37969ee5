// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package standin holds the small stand-ins for the parts of a cluster that
// need a kernel or a machine of their own: kubelet and scheduler, the iSCSI
// block device, and (for KubeVirt) virt-handler and the guest. None of them
// does the work of a part that really runs.
package standin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// heartbeat is how often the node's lease is renewed; a node is lost after 40 s without.
const heartbeat = 10 * time.Second

// kubeletVersion is told in the node's status: that of the control plane.
const kubeletVersion = "v1.35.4"

// Kubelet is the stand-in for kubelet and scheduler. It registers the one
// node, binds every pod to it, and reports the pods as running and ready. It
// runs no containers: pods are objects only, except Longhorn's instance
// pods, whose command it starts as a process.
type Kubelet struct {
	client  kubernetes.Interface
	env     *component.Env
	pods    cache.Indexer
	queue   workqueue.TypedRateLimitingInterface[string]
	runner  *podRunner
	readyAt string
}

// RunKubelet runs the stand-in until ctx ends.
func RunKubelet(ctx context.Context, env *component.Env) error {
	cfg, err := env.AdminConfig()
	if err != nil {
		return err
	}
	cfg.UserAgent = "sandbox-kubelet-stand-in"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	k := &Kubelet{
		client: client,
		env:    env,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 5*time.Second)),
		readyAt: env.Path("run", "kubelet.ready"),
	}
	if k.runner, err = newPodRunner(env, k.queue.Add); err != nil {
		return err
	}
	return k.run(ctx)
}

func (k *Kubelet) run(ctx context.Context) error {
	if err := k.registerNode(ctx); err != nil {
		return fmt.Errorf("register the node: %w", err)
	}
	factory := informers.NewSharedInformerFactory(k.client, 0)
	informer := factory.Core().V1().Pods().Informer()
	k.pods = informer.GetIndexer()
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			k.queue.Add(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, object any) { enqueue(object) },
		DeleteFunc: enqueue,
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	go func() {
		<-ctx.Done()
		k.queue.ShutDown()
	}()
	if err := os.WriteFile(k.readyAt, nil, 0o600); err != nil {
		return err
	}
	const workers = 4
	for range workers {
		go k.work(ctx)
	}
	return k.beat(ctx)
}

func (k *Kubelet) work(ctx context.Context) {
	for {
		key, stop := k.queue.Get()
		if stop {
			return
		}
		if err := k.syncPod(ctx, key); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "pod %s: %v\n", key, err)
			k.queue.AddRateLimited(key)
		} else {
			k.queue.Forget(key)
		}
		k.queue.Done(key)
	}
}

// registerNode makes the node, its lease and its CSINode.
func (k *Kubelet) registerNode(ctx context.Context) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: component.NodeName,
		Labels: map[string]string{
			corev1.LabelHostname:   component.NodeName,
			corev1.LabelOSStable:   runtime.GOOS,
			corev1.LabelArchStable: runtime.GOARCH,
		},
	}}
	_, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := k.renewLease(ctx); err != nil {
		return err
	}
	if err := k.reportNode(ctx); err != nil {
		return err
	}
	node, err = k.client.CoreV1().Nodes().Get(ctx, component.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	// What the node registrar of Longhorn's CSI plugin would have the kubelet write.
	csiNode := &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{
			Name: component.NodeName,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID,
			}},
		},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
			Name: "driver.longhorn.io", NodeID: component.NodeName, TopologyKeys: []string{corev1.LabelHostname},
		}}},
	}
	_, err = k.client.StorageV1().CSINodes().Create(ctx, csiNode, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// reportNode writes the node's status as a healthy kubelet does.
func (k *Kubelet) reportNode(ctx context.Context) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		node, err := k.client.CoreV1().Nodes().Get(ctx, component.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now := metav1.Now()
		capacity := corev1.ResourceList{
			corev1.ResourceCPU:              resource.MustParse("32"),
			corev1.ResourceMemory:           resource.MustParse("64Gi"),
			corev1.ResourcePods:             resource.MustParse("250"),
			corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		}
		// Others extend the capacity with their devices.
		for name, quantity := range node.Status.Capacity {
			if _, own := capacity[name]; !own {
				capacity[name] = quantity
			}
		}
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
		node.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "127.0.0.1"},
			{Type: corev1.NodeHostName, Address: component.NodeName},
		}
		node.Status.NodeInfo = corev1.NodeSystemInfo{
			KubeletVersion:          kubeletVersion,
			KernelVersion:           kernelRelease(),
			OSImage:                 "kubectl-vmbackup sandbox",
			OperatingSystem:         runtime.GOOS,
			Architecture:            runtime.GOARCH,
			ContainerRuntimeVersion: "none://stand-in",
		}
		healthy := []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "the kubelet stand-in runs"},
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory"},
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure"},
			{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID"},
		}
		for i := range healthy {
			healthy[i].LastHeartbeatTime, healthy[i].LastTransitionTime = now, now
			for _, old := range node.Status.Conditions {
				if old.Type == healthy[i].Type && old.Status == healthy[i].Status {
					healthy[i].LastTransitionTime = old.LastTransitionTime
				}
			}
		}
		node.Status.Conditions = healthy
		_, err = k.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
}

func (k *Kubelet) renewLease(ctx context.Context) error {
	leases := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NewMicroTime(time.Now())
	holder, seconds := component.NodeName, int32(40)
	lease, err := leases.Get(ctx, component.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: component.NodeName},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &now,
			},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec.RenewTime = &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// beat renews the lease and repeats the node's status until ctx ends.
func (k *Kubelet) beat(ctx context.Context) error {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := errors.Join(k.renewLease(ctx), k.reportNode(ctx)); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "node heartbeat: %v\n", err)
		}
	}
}

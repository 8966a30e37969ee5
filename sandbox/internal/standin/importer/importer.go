// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package importer is the stand-in for KubeVirt's containerized data importer,
// so that VMs with DataVolumes start. It makes the PVC of a DataVolume and
// reports it as populated, for the sources that need no import: blank, and a
// VolumeSnapshot of the same namespace, which the CSI driver restores. It
// downloads, uploads and converts nothing; other sources stay Pending and say why.
package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// populatedFor on a PVC says that it holds the data of the DataVolume of that
// name; the importer then takes the PVC as it is, and makes it the DataVolume's.
// Restores set it.
const populatedFor = "cdi.kubevirt.io/storage.populatedFor"

// ReadyFile appears when the stand-in works.
func ReadyFile(env *component.Env) string { return env.Path("run", "importer.ready") }

func dataVolumes() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "cdi.kubevirt.io", Version: "v1beta1", Resource: "datavolumes"}
}

func claims() schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
}

type importer struct {
	client dynamic.Interface
	store  cache.Store // DataVolumes
	claims cache.Store
	queue  workqueue.TypedRateLimitingInterface[string]
}

// Run runs the stand-in until ctx ends.
func Run(ctx context.Context, env *component.Env) error {
	cfg, err := env.AdminConfig()
	if err != nil {
		return err
	}
	cfg.UserAgent = "sandbox-importer-stand-in"
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	i := &importer{client: client, queue: workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 10*time.Second))}
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	// A PVC has the name of its DataVolume, so either concerns the same key.
	enqueue := func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			i.queue.Add(key)
		}
	}
	var synced []cache.InformerSynced
	for resource, store := range map[schema.GroupVersionResource]*cache.Store{dataVolumes(): &i.store, claims(): &i.claims} {
		informer := factory.ForResource(resource).Informer()
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    enqueue,
			UpdateFunc: func(_, object any) { enqueue(object) },
			DeleteFunc: enqueue,
		}); err != nil {
			return err
		}
		*store = informer.GetStore()
		synced = append(synced, informer.HasSynced)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	if err := os.WriteFile(ReadyFile(env), nil, 0o600); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, i.queue.ShutDown)
	defer stop()
	i.work(ctx)
	return nil
}

func (i *importer) work(ctx context.Context) {
	for {
		key, stop := i.queue.Get()
		if stop {
			return
		}
		if err := i.sync(ctx, key); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "DataVolume %s: %v\n", key, err)
			i.queue.AddRateLimited(key)
		} else {
			i.queue.Forget(key)
		}
		i.queue.Done(key)
	}
}

func find(store cache.Store, key string) (*unstructured.Unstructured, error) {
	object, exists, err := store.GetByKey(key)
	if err != nil || !exists {
		return nil, err
	}
	found, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("unexpected %T in a cache", object)
	}
	return found, nil
}

// sync brings one DataVolume forward: PVC made, PVC bound, done.
func (i *importer) sync(ctx context.Context, key string) error {
	volume, err := find(i.store, key)
	if err != nil || volume == nil || volume.GetDeletionTimestamp() != nil {
		return err
	}
	claim, err := find(i.claims, key)
	if err != nil {
		return err
	}
	if claim == nil {
		made, err := newClaim(volume)
		if err != nil {
			return i.report(ctx, volume, "Pending", err.Error())
		}
		_, err = i.client.Resource(claims()).Namespace(volume.GetNamespace()).Create(ctx, made, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create its PVC: %w", err)
		}
		return i.report(ctx, volume, "Pending", "the PVC was created")
	}
	if err := i.adopt(ctx, volume, claim); err != nil {
		return err
	}
	phase, message := outcome(volume, claim)
	return i.report(ctx, volume, phase, message)
}

// adopt makes a PVC that is populated for the DataVolume the DataVolume's own.
func (i *importer) adopt(ctx context.Context, volume, claim *unstructured.Unstructured) error {
	if metav1.GetControllerOf(claim) != nil || claim.GetAnnotations()[populatedFor] != volume.GetName() {
		return nil
	}
	owned := claim.DeepCopy()
	owned.SetOwnerReferences(append(owned.GetOwnerReferences(), *metav1.NewControllerRef(volume, volume.GroupVersionKind())))
	_, err := i.client.Resource(claims()).Namespace(claim.GetNamespace()).Update(ctx, owned, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // its change brings it here again
	}
	if err != nil {
		return fmt.Errorf("adopt its PVC: %w", err)
	}
	return nil
}

// outcome is the phase of a DataVolume whose PVC exists.
func outcome(volume, claim *unstructured.Unstructured) (phase, message string) {
	if !metav1.IsControlledBy(claim, volume) && claim.GetAnnotations()[populatedFor] != volume.GetName() {
		return "Pending", fmt.Sprintf("PVC %s exists and belongs to something else", claim.GetName())
	}
	if bound, _, _ := unstructured.NestedString(claim.Object, "status", "phase"); bound != "Bound" {
		return "PVCBound", "the PVC is " + bound
	}
	return "Succeeded", ""
}

// newClaim is the PVC of a DataVolume. An error says why there is none.
func newClaim(volume *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	spec, found, err := unstructured.NestedMap(volume.Object, "spec", "storage")
	if err == nil && !found {
		spec, found, err = unstructured.NestedMap(volume.Object, "spec", "pvc")
	}
	if err != nil || !found {
		return nil, errors.New("spec.storage or spec.pvc is needed")
	}
	source, _, err := unstructured.NestedMap(volume.Object, "spec", "source")
	if err != nil {
		return nil, fmt.Errorf("spec.source: %w", err)
	}
	_, blank := source["blank"]
	snapshot, ofSnapshot := source["snapshot"].(map[string]any)
	switch {
	case blank:
	case ofSnapshot && (snapshot["namespace"] == nil || snapshot["namespace"] == volume.GetNamespace()):
		spec["dataSource"] = map[string]any{
			"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot["name"],
		}
	default:
		return nil, errors.New("the sandbox has a stand-in for the importer, which takes a blank source or a VolumeSnapshot of the same namespace")
	}
	// What a storage profile would fill in.
	if spec["accessModes"] == nil {
		spec["accessModes"] = []any{"ReadWriteOnce"}
	}
	if spec["volumeMode"] == nil {
		spec["volumeMode"] = "Block"
	}
	claim := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": spec}}
	claim.SetNamespace(volume.GetNamespace())
	claim.SetName(volume.GetName())
	claim.SetLabels(volume.GetLabels())
	claim.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(volume, volume.GroupVersionKind())})
	return claim, nil
}

// report writes phase and conditions when they changed.
func (i *importer) report(ctx context.Context, volume *unstructured.Unstructured, phase, message string) error {
	ready := "False"
	status := map[string]any{"phase": phase, "claimName": volume.GetName()}
	if phase == "Succeeded" {
		ready = "True"
		status["progress"] = "100.0%"
	}
	status["conditions"] = []any{
		map[string]any{"type": "Ready", "status": ready, "message": message},
		map[string]any{"type": "Bound", "status": ready},
		map[string]any{"type": "Running", "status": "False"},
	}
	if old, _, _ := unstructured.NestedMap(volume.Object, "status"); equality.Semantic.DeepEqual(old, status) {
		return nil
	}
	updated := volume.DeepCopy()
	updated.Object["status"] = status
	_, err := i.client.Resource(dataVolumes()).Namespace(volume.GetNamespace()).Update(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

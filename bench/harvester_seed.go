// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// The kinds that a listing of Harvester's backups reads.
var (
	vmBackups       = schema.GroupVersionResource{Group: "harvesterhci.io", Version: "v1beta1", Resource: "virtualmachinebackups"}
	longhornBackups = schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "backups"}
)

// seedWorkers create objects at the same time; more make an API server on two cores no faster.
const seedWorkers = 16

// seedBackups makes n copies of a backup that Harvester has made, each with copies of
// its Longhorn backups. Nothing may run that would act on them.
func seedBackups(ctx context.Context, config *rest.Config, namespace, name string, n int) error {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	template, err := client.Resource(vmBackups).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("the backup to copy: %w", err)
	}
	volumes, _, err := unstructured.NestedSlice(template.Object, "status", "volumeBackups")
	if err != nil {
		return fmt.Errorf("the backup to copy: %w", err)
	}
	below := map[string]*unstructured.Unstructured{}
	for _, v := range volumes {
		uploaded, _, _ := unstructured.NestedString(v.(map[string]any), "longhornBackupName")
		if below[uploaded], err = client.Resource(longhornBackups).Namespace(longhornNamespace).Get(ctx, uploaded, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("the Longhorn backup to copy: %w", err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(seedWorkers)
	for i := range n {
		g.Go(func() error { return copyBackup(gctx, client, template, below, i) })
	}
	return g.Wait()
}

func copyBackup(ctx context.Context, client dynamic.Interface, template *unstructured.Unstructured, below map[string]*unstructured.Unstructured, i int) error {
	b := fresh(template, fmt.Sprintf("copy-%05d", i))
	volumes, _, err := unstructured.NestedSlice(b.Object, "status", "volumeBackups")
	if err != nil {
		return err
	}
	for _, v := range volumes {
		volume := v.(map[string]any)
		uploaded, _, _ := unstructured.NestedString(volume, "longhornBackupName")
		l := fresh(below[uploaded], fmt.Sprintf("%s-%05d", uploaded, i))
		status := l.Object["status"]
		delete(l.Object, "status")
		if l, err = client.Resource(longhornBackups).Namespace(longhornNamespace).Create(ctx, l, metav1.CreateOptions{}); err != nil {
			return err
		}
		l.Object["status"] = status
		if _, err := client.Resource(longhornBackups).Namespace(longhornNamespace).UpdateStatus(ctx, l, metav1.UpdateOptions{}); err != nil {
			return err
		}
		volume["longhornBackupName"] = l.GetName()
	}
	if err := unstructured.SetNestedSlice(b.Object, volumes, "status", "volumeBackups"); err != nil {
		return err
	}
	_, err = client.Resource(vmBackups).Namespace(b.GetNamespace()).Create(ctx, b, metav1.CreateOptions{})
	return err
}

// fresh is a copy of an object under a name of its own, as it can be created.
func fresh(o *unstructured.Unstructured, name string) *unstructured.Unstructured {
	c := o.DeepCopy()
	c.SetName(name)
	c.SetUID("")
	c.SetResourceVersion("")
	c.SetFinalizers(nil)
	c.SetOwnerReferences(nil)
	c.SetManagedFields(nil)
	c.SetCreationTimestamp(metav1.Time{})
	c.SetDeletionTimestamp(nil)
	c.SetGeneration(0)
	return c
}

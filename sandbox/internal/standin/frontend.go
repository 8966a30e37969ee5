// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package standin

import (
	"context"
	"fmt"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// longhornNamespace is where Longhorn keeps its objects.
const longhornNamespace = "longhorn-system"

// frontendResync is how long a volume may keep its block device after a failed patch.
const frontendResync = 2 * time.Second

func longhornResource(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: plural}
}

// RunFrontend stands in for the iSCSI initiator of the kernel: it gives every
// Longhorn volume the empty frontend, so that Longhorn attaches it (engine and
// replicas run, snapshots and backups work) without making a block device.
// The webhook refuses the empty frontend in a new volume and takes it in an
// update, so this watches and updates.
func RunFrontend(ctx context.Context, env *component.Env) error {
	cfg, err := env.AdminConfig()
	if err != nil {
		return err
	}
	cfg.UserAgent = "sandbox-frontend-stand-in"
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	volumes := client.Resource(longhornResource("volumes")).Namespace(longhornNamespace)
	withoutDevice := func(object any) {
		volume, ok := object.(*unstructured.Unstructured)
		if !ok {
			return
		}
		frontend, _, _ := unstructured.NestedString(volume.Object, "spec", "frontend")
		if frontend == "" || volume.GetDeletionTimestamp() != nil {
			return
		}
		patch := []byte(`{"spec":{"frontend":""}}`)
		_, err := volumes.Patch(ctx, volume.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "volume %s: clear the frontend: %v\n", volume.GetName(), err)
		}
	}
	// The resync brings a volume back whose patch failed, e.g. while the webhook was restarting.
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, frontendResync, longhornNamespace, nil)
	informer := factory.ForResource(longhornResource("volumes")).Informer()
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    withoutDevice,
		UpdateFunc: func(_, object any) { withoutDevice(object) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	if err := os.WriteFile(env.Path("run", "frontend.ready"), nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
)

const longhornNamespace = "longhorn-system"

// Resources that the tests look at.
var (
	namespaces      = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	secrets         = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	configMaps      = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	claims          = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumes         = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
	storageClasses  = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}
	roleBindings    = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}
	clusterRoles    = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}
	clusterBindings = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
	machines        = schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "virtualmachines"}
	instances       = schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "virtualmachineinstances"}
	snapshots       = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	contents        = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotcontents"}
	snapshotClasses = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotclasses"}
	longhornBackups = schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "backups"}
	longhornCuts    = schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "snapshots"}
	backupTargets   = schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "backuptargets"}
)

// waitDeadline is how long the cluster may take to reach a state, beside several
// other sandboxes on a small machine.
const waitDeadline = 6 * time.Minute

// cluster is the sandbox's API server as its administrator sees it.
type cluster struct {
	config *rest.Config
	client dynamic.Interface
}

func newCluster(t *testing.T, kubeconfig string) *cluster {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{config: config, client: client}
}

func (c *cluster) in(resource schema.GroupVersionResource, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return c.client.Resource(resource)
	}
	return c.client.Resource(resource).Namespace(namespace)
}

// get returns an object, which must exist.
func (c *cluster) get(t *testing.T, resource schema.GroupVersionResource, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	object, err := c.in(resource, namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("%s %s/%s: %v", resource.Resource, namespace, name, err)
	}
	return object
}

// list returns the objects of a namespace, or of the cluster, with the labels.
func (c *cluster) list(t *testing.T, resource schema.GroupVersionResource, namespace, selector string) []unstructured.Unstructured {
	t.Helper()
	list, err := c.in(resource, namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatalf("%s in namespace %q: %v", resource.Resource, namespace, err)
	}
	return list.Items
}

// create creates an object.
func (c *cluster) create(t *testing.T, resource schema.GroupVersionResource, object map[string]any) {
	t.Helper()
	o := &unstructured.Unstructured{Object: object}
	if _, err := c.in(resource, o.GetNamespace()).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create %s %s/%s: %v", resource.Resource, o.GetNamespace(), o.GetName(), err)
	}
}

// patch merges JSON into an object.
func (c *cluster) patch(ctx context.Context, t *testing.T, resource schema.GroupVersionResource, namespace, name, patch string) {
	t.Helper()
	if _, err := c.in(resource, namespace).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatalf("patch %s %s/%s: %v", resource.Resource, namespace, name, err)
	}
}

// remove deletes an object and waits until it is gone.
func (c *cluster) remove(t *testing.T, resource schema.GroupVersionResource, namespace, name string) {
	t.Helper()
	err := c.in(resource, namespace).Delete(t.Context(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatalf("delete %s %s/%s: %v", resource.Resource, namespace, name, err)
	}
	c.wait(t, resource, namespace, name, "gone", func(o *unstructured.Unstructured) bool { return o == nil })
}

// wait watches an object until it is as wanted; nil is an object that does not exist.
func (c *cluster) wait(t *testing.T, resource schema.GroupVersionResource, namespace, name, what string, is func(*unstructured.Unstructured) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitDeadline)
	defer cancel()
	one := fields.OneTermEqualSelector("metadata.name", name).String()
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = one
			return c.in(resource, namespace).List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = one
			return c.in(resource, namespace).Watch(ctx, options)
		},
	}
	var last *unstructured.Unstructured
	there := func(store cache.Store) (bool, error) {
		return len(store.List()) == 0 && is(nil), nil
	}
	_, err := watchtools.UntilWithSync(ctx, source, &unstructured.Unstructured{}, there, func(e watch.Event) (bool, error) {
		o, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			return false, fmt.Errorf("event %s of %T", e.Type, e.Object)
		}
		if e.Type == watch.Deleted {
			last = nil
			return is(nil), nil
		}
		last = o
		return is(o), nil
	})
	if err != nil {
		state := any("it does not exist")
		if last != nil {
			state = last.Object["status"]
		}
		t.Fatalf("%s %s/%s is not %s: %v; its state: %v", resource.Resource, namespace, name, what, err, state)
	}
}

// namespace makes a namespace with a name of its own, which is deleted at the end.
func (c *cluster) namespace(t *testing.T, prefix string) string {
	t.Helper()
	name := prefix + "-" + strings.ToLower(rand.Text()[:6])
	c.makeNamespace(t, name)
	return name
}

// makeNamespace makes a namespace, which is deleted at the end.
func (c *cluster) makeNamespace(t *testing.T, name string) {
	t.Helper()
	c.create(t, namespaces, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := c.in(namespaces, "").Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// text is the string at a path of an object, empty where there is none.
func text(o *unstructured.Unstructured, path ...string) string {
	if o == nil {
		return ""
	}
	value, _, err := unstructured.NestedString(o.Object, path...)
	if err != nil {
		return ""
	}
	return value
}

// printable is the state of a machine as kubectl shows it.
func printable(state string) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool { return text(o, "status", "printableStatus") == state }
}

// world is what every object that an operation could touch asks for, by the
// object. Controllers write status, finalizers and their own annotations when they
// like, so that of their objects the rest counts.
func (c *cluster) world(t *testing.T, inNamespaces ...string) map[string]string {
	t.Helper()
	versions := map[string]string{}
	note := func(resource schema.GroupVersionResource, namespace string, version func(*unstructured.Unstructured) string) {
		for _, o := range c.list(t, resource, namespace, "") {
			versions[resource.Resource+"/"+o.GetNamespace()+"/"+o.GetName()] = version(&o)
		}
	}
	exact := (*unstructured.Unstructured).GetResourceVersion
	asked := func(o *unstructured.Unstructured) string {
		return asJSON([]any{o.GetUID(), o.GetLabels(), o.GetDeletionTimestamp(), o.Object["spec"]})
	}
	exists := func(o *unstructured.Unstructured) string { return string(o.GetUID()) }
	for _, namespace := range inNamespaces {
		note(secrets, namespace, exact)
		note(configMaps, namespace, exact)
		for _, resource := range []schema.GroupVersionResource{claims, snapshots, machines} {
			note(resource, namespace, asked)
		}
	}
	note(namespaces, "", exists)
	note(contents, "", asked)
	note(snapshotClasses, "", exact)
	note(longhornBackups, longhornNamespace, exists)
	note(longhornCuts, longhornNamespace, exists)
	return versions
}

// compareWorlds tells what has changed.
func compareWorlds(before, after map[string]string) error {
	var changes []error
	for _, name := range slices.Sorted(maps.Keys(after)) {
		switch was, found := before[name]; {
		case !found:
			changes = append(changes, fmt.Errorf("%s was made", name))
		case was != after[name]:
			changes = append(changes, fmt.Errorf("%s was changed", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, found := after[name]; !found {
			changes = append(changes, fmt.Errorf("%s was removed", name))
		}
	}
	return errors.Join(changes...)
}

// namesOf are the names of objects, for messages.
func namesOf(objects []unstructured.Unstructured) string {
	names := make([]string, 0, len(objects))
	for _, o := range objects {
		names = append(names, o.GetName())
	}
	return strings.Join(names, ", ")
}

// phase says whether an object is in a phase.
func phase(want string) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool { return text(o, "status", "phase") == want }
}

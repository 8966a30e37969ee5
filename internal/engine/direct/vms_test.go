// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// machines is kube.VirtualMachines on the test's API server: the manifests stay as
// they were sent, the typed clients see the same machines.
type machines struct {
	api *apiServer

	mu  sync.Mutex
	raw map[vmbackup.Ref]map[string]any
	// frozen says since when a guest stands still, and thaws it at its deadline.
	frozen map[vmbackup.Ref]*time.Timer
	// freezeTakes and thawTakes are how long the calls take.
	freezeTakes, thawTakes time.Duration
}

func newMachines(api *apiServer) *machines {
	m := &machines{api: api, raw: map[vmbackup.Ref]map[string]any{}, frozen: map[vmbackup.Ref]*time.Timer{}}
	api.after = append(api.after, func(verb, _ string, object runtime.Object) {
		if vm, ok := object.(*kubevirtv1.VirtualMachine); ok && verb == "delete" {
			m.mu.Lock()
			defer m.mu.Unlock()
			delete(m.raw, vmbackup.Ref{Namespace: vm.Namespace, Name: vm.Name})
		}
	})
	return m
}

var virtualMachines = schema.GroupResource{Group: "kubevirt.io", Resource: "virtualmachines"}

func (m *machines) Get(ctx context.Context, namespace, name string) ([]byte, error) {
	if err := m.api.note("get", "virtualmachines", namespace, name, false); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	object, found := m.raw[vmbackup.Ref{Namespace: namespace, Name: name}]
	if !found {
		return nil, apierrors.NewNotFound(virtualMachines, name)
	}
	typed, err := m.typed(namespace, name)
	if err != nil {
		return nil, err
	}
	current := &unstructured.Unstructured{Object: maps.Clone(object)}
	current.Object["metadata"] = maps.Clone(object["metadata"].(map[string]any))
	current.SetResourceVersion(typed.ResourceVersion)
	return json.Marshal(current.Object)
}

func (m *machines) typed(namespace, name string) (*kubevirtv1.VirtualMachine, error) {
	object, err := m.api.get(objectKey{"virtualmachines", namespace, name}, virtualMachines)
	if err != nil {
		return nil, err
	}
	return object.(*kubevirtv1.VirtualMachine), nil
}

// current refuses a change of a machine that is not the one, or at the version, that it is meant for.
func (m *machines) current(namespace, name, uid, version string) error {
	typed, err := m.typed(namespace, name)
	if err != nil {
		return err
	}
	if uid != "" && uid != string(typed.UID) || version != "" && version != typed.ResourceVersion {
		return apierrors.NewConflict(virtualMachines, name, errors.New("the object has been modified"))
	}
	return nil
}

func (m *machines) Update(_ context.Context, namespace, name string, manifest []byte, dryRun bool) error {
	if err := m.api.note("update", "virtualmachines", namespace, name, dryRun); err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(manifest); err != nil {
		return err
	}
	if object.GetResourceVersion() == "" {
		return errors.New("a machine is replaced whatever its version is")
	}
	if err := m.current(namespace, name, string(object.GetUID()), object.GetResourceVersion()); err != nil || dryRun {
		return err
	}
	typed := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(manifest, typed); err != nil {
		return err
	}
	before, err := m.typed(namespace, name)
	if err != nil {
		return err
	}
	typed.Status = before.Status
	if _, done := m.api.putOver("virtualmachines", typed, object.GetResourceVersion()); !done {
		return apierrors.NewConflict(virtualMachines, name, errors.New("the object has been modified"))
	}
	m.mu.Lock()
	m.raw[vmbackup.Ref{Namespace: namespace, Name: name}] = object.Object
	m.mu.Unlock()
	return nil
}

func (m *machines) Start(_ context.Context, namespace, name string) error {
	if err := m.api.note("start", "virtualmachines", namespace, name, false); err != nil {
		return err
	}
	m.run(vmbackup.Ref{Namespace: namespace, Name: name}, true)
	edit(m.api, "virtualmachines", namespace, name, func(vm *kubevirtv1.VirtualMachine) { vm.Status.Ready, vm.Status.Created = true, true })
	return nil
}

func (m *machines) Create(_ context.Context, namespace string, manifest []byte, dryRun bool) ([]byte, error) {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(manifest); err != nil {
		return nil, err
	}
	if err := m.api.note("create", "virtualmachines", namespace, object.GetName(), dryRun); err != nil {
		return nil, err
	}
	if object.GetNamespace() != namespace {
		return nil, fmt.Errorf("namespace %q in the manifest, %q in the request", object.GetNamespace(), namespace)
	}
	ref := vmbackup.Ref{Namespace: namespace, Name: object.GetName()}
	m.mu.Lock()
	_, taken := m.raw[ref]
	m.mu.Unlock()
	if taken {
		return nil, apierrors.NewAlreadyExists(virtualMachines, ref.Name)
	}
	if dryRun {
		return manifest, nil
	}
	if err := m.add(object.Object); err != nil {
		return nil, err
	}
	return m.Get(context.Background(), ref.Namespace, ref.Name) //nolint:forbidigo // the request's own end does not matter here
}

// add brings a machine in, as somebody else made it.
func (m *machines) add(manifest map[string]any) error {
	raw, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	typed := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(raw, typed); err != nil {
		return err
	}
	stored := m.api.put("virtualmachines", typed).(*kubevirtv1.VirtualMachine)
	object := &unstructured.Unstructured{Object: maps.Clone(manifest)}
	object.SetUID(stored.UID)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.raw[vmbackup.Ref{Namespace: stored.Namespace, Name: stored.Name}] = object.Object
	return nil
}

// remove takes a machine away.
func (m *machines) remove(ref vmbackup.Ref) {
	m.mu.Lock()
	delete(m.raw, ref)
	m.mu.Unlock()
	m.api.vanish("virtualmachines", ref.Namespace, ref.Name)
}

func (m *machines) Patch(_ context.Context, namespace, name string, patch []byte) error {
	if err := m.api.note("patch", "virtualmachines", namespace, name, false); err != nil {
		return err
	}
	patch, err := m.precondition(namespace, name, patch)
	if err != nil {
		return err
	}
	m.mu.Lock()
	object, found := m.raw[vmbackup.Ref{Namespace: namespace, Name: name}]
	if !found {
		m.mu.Unlock()
		return apierrors.NewNotFound(virtualMachines, name)
	}
	err = mergeInto(&object, patch)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	edit(m.api, "virtualmachines", namespace, name, func(vm *kubevirtv1.VirtualMachine) {
		err = mergeInto(vm, patch)
	})
	return err
}

// precondition holds a patch against the machine that it is meant for, and takes that out of it.
func (m *machines) precondition(namespace, name string, patch []byte) ([]byte, error) {
	var p map[string]any
	if err := json.Unmarshal(patch, &p); err != nil {
		return nil, err
	}
	metadata, _ := p["metadata"].(map[string]any)
	uid, _ := metadata["uid"].(string)
	version, _ := metadata["resourceVersion"].(string)
	delete(metadata, "uid")
	delete(metadata, "resourceVersion")
	if err := m.current(namespace, name, uid, version); err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

func (m *machines) Freeze(ctx context.Context, namespace, name string, deadline time.Duration) error {
	ref := vmbackup.Ref{Namespace: namespace, Name: name}
	// KubeVirt freezes first and answers then: whoever gives up waiting leaves a frozen guest behind.
	m.mu.Lock()
	m.frozen[ref] = time.AfterFunc(deadline, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.frozen, ref)
	})
	takes := m.freezeTakes
	m.mu.Unlock()
	if err := m.api.note("freeze", "virtualmachines", namespace, name, false); err != nil {
		return err
	}
	return sleep(ctx, takes)
}

func (m *machines) Unfreeze(ctx context.Context, namespace, name string) error {
	if err := m.api.note("unfreeze", "virtualmachines", namespace, name, false); err != nil {
		return err
	}
	m.mu.Lock()
	takes := m.thawTakes
	m.mu.Unlock()
	if err := sleep(ctx, takes); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ref := vmbackup.Ref{Namespace: namespace, Name: name}
	if timer := m.frozen[ref]; timer != nil {
		timer.Stop()
		delete(m.frozen, ref)
	}
	return nil
}

// standsStill reports whether a guest is frozen.
func (m *machines) standsStill(ref vmbackup.Ref) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen[ref] != nil
}

// run brings a machine's instance in, with or without a guest agent that answers.
func (m *machines) run(ref vmbackup.Ref, agent bool) {
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name}}
	vmi.Status.Phase = kubevirtv1.Running
	if agent {
		vmi.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceAgentConnected, Status: "True"}}
	}
	m.api.put("virtualmachineinstances", vmi)
}

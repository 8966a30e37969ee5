// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	clienttesting "k8s.io/client-go/testing"
	kubevirtv1 "kubevirt.io/api/core/v1"
	kubevirtclient "kubevirt.io/client-go/kubevirt"
	kubevirtscheme "kubevirt.io/client-go/kubevirt/scheme"
	kubevirttyped "kubevirt.io/client-go/kubevirt/typed/core/v1"
)

// kubevirtFake is the part of KubeVirt's typed client that the engine uses, on the
// test's API server. KubeVirt's own fake would bring k8s.io/apiserver in.
type kubevirtFake struct {
	kubevirtclient.Interface
	core kubevirtCore
}

type kubevirtCore struct {
	kubevirttyped.KubevirtV1Interface
	fake *clienttesting.Fake
}

func newKubevirtFake(s *apiServer) *kubevirtFake {
	f := &kubevirtFake{core: kubevirtCore{fake: &clienttesting.Fake{}}}
	s.serve(f.core.fake, kubevirtscheme.Scheme)
	return f
}

func (f *kubevirtFake) KubevirtV1() kubevirttyped.KubevirtV1Interface { return f.core }

func (f kubevirtCore) VirtualMachines(namespace string) kubevirttyped.VirtualMachineInterface {
	return vmClient{typed: gentype.NewFakeClientWithList(f.fake, namespace, kubevirtResource("virtualmachines"), kubevirtKind("VirtualMachine"),
		func() *kubevirtv1.VirtualMachine { return &kubevirtv1.VirtualMachine{} },
		func() *kubevirtv1.VirtualMachineList { return &kubevirtv1.VirtualMachineList{} },
		func(to, from *kubevirtv1.VirtualMachineList) { to.ListMeta = from.ListMeta },
		func(l *kubevirtv1.VirtualMachineList) []*kubevirtv1.VirtualMachine {
			return gentype.ToPointerSlice(l.Items)
		},
		func(l *kubevirtv1.VirtualMachineList, items []*kubevirtv1.VirtualMachine) {
			l.Items = gentype.FromPointerSlice(items)
		})}
}

func (f kubevirtCore) VirtualMachineInstances(namespace string) kubevirttyped.VirtualMachineInstanceInterface {
	return vmiClient{typed: gentype.NewFakeClientWithList(f.fake, namespace, kubevirtResource("virtualmachineinstances"), kubevirtKind("VirtualMachineInstance"),
		func() *kubevirtv1.VirtualMachineInstance { return &kubevirtv1.VirtualMachineInstance{} },
		func() *kubevirtv1.VirtualMachineInstanceList { return &kubevirtv1.VirtualMachineInstanceList{} },
		func(to, from *kubevirtv1.VirtualMachineInstanceList) { to.ListMeta = from.ListMeta },
		func(l *kubevirtv1.VirtualMachineInstanceList) []*kubevirtv1.VirtualMachineInstance {
			return gentype.ToPointerSlice(l.Items)
		},
		func(l *kubevirtv1.VirtualMachineInstanceList, items []*kubevirtv1.VirtualMachineInstance) {
			l.Items = gentype.FromPointerSlice(items)
		})}
}

func kubevirtResource(name string) schema.GroupVersionResource {
	return kubevirtv1.SchemeGroupVersion.WithResource(name)
}

func kubevirtKind(name string) schema.GroupVersionKind {
	return kubevirtv1.SchemeGroupVersion.WithKind(name)
}

type vmClient struct {
	kubevirttyped.VirtualMachineInterface
	typed *gentype.FakeClientWithList[*kubevirtv1.VirtualMachine, *kubevirtv1.VirtualMachineList]
}

func (c vmClient) List(ctx context.Context, opts metav1.ListOptions) (*kubevirtv1.VirtualMachineList, error) {
	return c.typed.List(ctx, opts)
}

func (c vmClient) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	return c.typed.Delete(ctx, name, opts)
}

func (c vmClient) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	return c.typed.Watch(ctx, opts)
}

type vmiClient struct {
	kubevirttyped.VirtualMachineInstanceInterface
	typed *gentype.FakeClientWithList[*kubevirtv1.VirtualMachineInstance, *kubevirtv1.VirtualMachineInstanceList]
}

func (c vmiClient) List(ctx context.Context, opts metav1.ListOptions) (*kubevirtv1.VirtualMachineInstanceList, error) {
	return c.typed.List(ctx, opts)
}

func (c vmiClient) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	return c.typed.Watch(ctx, opts)
}

func (c vmiClient) Get(ctx context.Context, name string, opts metav1.GetOptions) (*kubevirtv1.VirtualMachineInstance, error) {
	return c.typed.Get(ctx, name, opts)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package seed fills an instance with the virtual machines of the demonstration.
package seed

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/longhorndisk"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/watchfor"
)

//go:embed demo.yaml
var demo []byte

// What is written to every disk: bytes that follow from the disk's name, at
// its start and across its middle, so that a restored disk is recognised and
// most of it is a hole.
const (
	startSize  = 6 << 20
	middleSize = 1<<20 + 12345
)

// Disk is a seeded disk and what it holds.
type Disk struct {
	Namespace, Name string
	SHA256          string // of the full content
}

// Run makes the namespaces, disks and virtual machines, waits until they run,
// and returns the disks with their checksums. Run again, it changes nothing.
func Run(ctx context.Context, cfg *rest.Config, env *component.Env, out io.Writer) ([]Disk, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	applier, err := manifest.NewApplier(cfg)
	if err != nil {
		return nil, err
	}
	objects, err := manifest.Decode(demo)
	if err != nil {
		return nil, err
	}
	var machines, claims, others []*unstructured.Unstructured
	for _, o := range objects {
		switch o.GetKind() {
		case "VirtualMachine":
			machines = append(machines, o)
		case "PersistentVolumeClaim":
			claims = append(claims, o)
			others = append(others, o)
		default:
			others = append(others, o)
		}
	}
	fmt.Fprintln(out, "namespaces, secrets and disks ...")
	if err := applier.Create(ctx, others...); err != nil {
		return nil, err
	}
	disks := standin.NewDisks(client, env)
	fresh, err := withoutMachines(ctx, client, machines)
	if err != nil {
		return nil, err
	}
	if fresh {
		fmt.Fprintf(out, "contents of %d disks ...\n", len(claims))
		if err := fill(ctx, disks, claims); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(out, "%d virtual machines ...\n", len(machines))
	if err := applier.Create(ctx, machines...); err != nil {
		return nil, err
	}
	for _, vm := range machines {
		if err := waitMachine(ctx, client, vm); err != nil {
			return nil, err
		}
	}
	return checksums(ctx, disks, claims)
}

// withoutMachines says whether the disks may still be written: no machine has them yet.
func withoutMachines(ctx context.Context, client dynamic.Interface, machines []*unstructured.Unstructured) (bool, error) {
	for _, vm := range machines {
		_, err := client.Resource(virtualMachines()).Namespace(vm.GetNamespace()).Get(ctx, vm.GetName(), metav1.GetOptions{})
		if err == nil {
			return false, nil
		}
		if !apierrors.IsNotFound(err) {
			return false, err
		}
	}
	return true, nil
}

// fill writes all disks side by side: most of the time is Longhorn's attaching and detaching.
func fill(ctx context.Context, disks *standin.Disks, claims []*unstructured.Unstructured) error {
	var group sync.WaitGroup
	errs := make([]error, len(claims))
	for n, claim := range claims {
		group.Go(func() { errs[n] = fillOne(ctx, disks, claim.GetNamespace(), claim.GetName()) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func fillOne(ctx context.Context, disks *standin.Disks, namespace, name string) error {
	seed := longhorndisk.Random(namespace + "/" + name)
	if err := disks.Write(ctx, namespace, name, seed, 0, startSize); err != nil {
		return err
	}
	const middle = 40<<20 + 777
	return disks.Write(ctx, namespace, name, seed, middle, middleSize)
}

func waitMachine(ctx context.Context, client dynamic.Interface, vm *unstructured.Unstructured) error {
	want := "Running"
	if strategy, _, _ := unstructured.NestedString(vm.Object, "spec", "runStrategy"); strategy == "Halted" {
		want = "Stopped"
	}
	_, err := watchfor.State(ctx, client, watchfor.Object{
		Resource: virtualMachines(), Namespace: vm.GetNamespace(), Name: vm.GetName(),
	}, func(o *unstructured.Unstructured) (bool, string, error) {
		status, _, _ := unstructured.NestedString(o.Object, "status", "printableStatus")
		return status == want, fmt.Sprintf("is %q, not yet %q", status, want), nil
	})
	return err
}

func checksums(ctx context.Context, disks *standin.Disks, claims []*unstructured.Unstructured) ([]Disk, error) {
	var result []Disk
	for _, claim := range claims {
		sum, err := disks.SHA256(ctx, claim.GetNamespace(), claim.GetName())
		if err != nil {
			return nil, err
		}
		result = append(result, Disk{Namespace: claim.GetNamespace(), Name: claim.GetName(), SHA256: sum})
	}
	slices.SortFunc(result, func(a, b Disk) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	return result, nil
}

func virtualMachines() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "virtualmachines"}
}

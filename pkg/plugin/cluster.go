// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// cluster is what commands ask a cluster themselves, beside engine and catalog.
type cluster interface {
	// machines are the names of a namespace's virtual machines.
	machines(ctx context.Context, namespace, selector string) ([]string, error)
	// namespaces are the names of all namespaces.
	namespaces(ctx context.Context) ([]string, error)
	// events are the events of a namespace.
	events(ctx context.Context, namespace string) ([]corev1.Event, error)
	// machineUID is the UID of a virtual machine; empty where there is none.
	machineUID(ctx context.Context, ref vmbackup.Ref) (string, error)
	// macUsers says by address which virtual machine of the cluster has one of those MAC
	// addresses; known is false where this user may not list all machines.
	macUsers(ctx context.Context, macs []string) (users map[string]vmbackup.Ref, known bool, err error)
	// versions are those of Kubernetes, and of KubeVirt, Longhorn and Harvester where they may be read.
	versions(ctx context.Context) (*serverVersion, error)
}

// kubeCluster is a cluster over the clients of its API server.
type kubeCluster struct{ clients *kube.Clients }

func (c kubeCluster) machines(ctx context.Context, namespace, selector string) ([]string, error) {
	list, err := c.clients.KubeVirt.KubevirtV1().VirtualMachines(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, kube.Error(err, "list", "VirtualMachines in namespace "+namespace)
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	return names, nil
}

func (c kubeCluster) namespaces(ctx context.Context) ([]string, error) {
	list, err := c.clients.Core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "namespaces")
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		names[i] = list.Items[i].Name
	}
	return names, nil
}

func (c kubeCluster) events(ctx context.Context, namespace string) ([]corev1.Event, error) {
	list, err := c.clients.Core.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "events in namespace "+namespace)
	}
	return list.Items, nil
}

func (c kubeCluster) machineUID(ctx context.Context, ref vmbackup.Ref) (string, error) {
	machine, err := c.clients.KubeVirt.KubevirtV1().VirtualMachines(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	return string(machine.UID), nil
}

func (c kubeCluster) macUsers(ctx context.Context, macs []string) (users map[string]vmbackup.Ref, known bool, err error) {
	users = map[string]vmbackup.Ref{}
	if len(macs) == 0 {
		return users, true, nil
	}
	const page = 250 // a machine's object has some 10 KiB
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := c.clients.KubeVirt.KubevirtV1().VirtualMachines(metav1.NamespaceAll).List(ctx, options)
		switch {
		case apierrors.IsForbidden(err):
			return nil, false, nil
		case err != nil:
			return nil, false, kube.Error(err, "list", "VirtualMachines in all namespaces")
		}
		for i := range list.Items {
			vm := &list.Items[i]
			if vm.Spec.Template == nil {
				continue
			}
			for _, nic := range vm.Spec.Template.Spec.Domain.Devices.Interfaces {
				if slices.ContainsFunc(macs, func(mac string) bool { return strings.EqualFold(mac, nic.MacAddress) }) {
					users[strings.ToLower(nic.MacAddress)] = vmbackup.Ref{Namespace: vm.Namespace, Name: vm.Name}
				}
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return users, true, nil
		}
	}
}

func (c kubeCluster) versions(ctx context.Context) (*serverVersion, error) {
	info, err := c.clients.Core.Discovery().ServerVersion()
	if err != nil {
		return nil, kube.Error(err, "ask for the version of", "the API server")
	}
	v := &serverVersion{Kubernetes: info.GitVersion}
	// KubeVirt's and Longhorn's versions need rights that a user may lack.
	if list, err := c.clients.KubeVirt.KubevirtV1().KubeVirts(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 1}); err == nil && len(list.Items) > 0 {
		v.KubeVirt = list.Items[0].Status.ObservedKubeVirtVersion
	}
	if setting, err := c.clients.Longhorn.LonghornV1beta2().Settings(kube.LonghornNamespace).Get(ctx, "current-longhorn-version", metav1.GetOptions{}); err == nil {
		v.Longhorn = setting.Value
	}
	if found, err := harvester.NewDetector(c.clients.Core.Discovery(), c.clients.Harvester.Settings()).Detect(ctx); err == nil && found.Served {
		v.Harvester = &harvesterVersion{Version: found.Version, Controllers: found.Controllers, Why: found.Why}
	}
	return v, nil
}

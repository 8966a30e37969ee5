// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/http"

	snapshotv1client "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/typed/volumesnapshot/v1"
	longhornv1client "github.com/longhorn/longhorn-manager/k8s/pkg/client/clientset/versioned/typed/longhorn/v1beta2"
	"k8s.io/client-go/discovery"
	appsv1client "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorizationv1client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	storagev1client "k8s.io/client-go/kubernetes/typed/storage/v1"
	"k8s.io/client-go/rest"
	kubevirtv1client "kubevirt.io/client-go/kubevirt/typed/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
)

// The parts of the clientsets that the tool uses. A whole clientset has every
// group and version, and the linker must keep all of them: 9 MB of the plugin.
type (
	// Core is the part of Kubernetes' clientset.
	Core interface {
		CoreV1() corev1client.CoreV1Interface
		AppsV1() appsv1client.AppsV1Interface
		StorageV1() storagev1client.StorageV1Interface
		AuthorizationV1() authorizationv1client.AuthorizationV1Interface
		Discovery() discovery.DiscoveryInterface
	}
	// Snapshot is the part of external-snapshotter's.
	Snapshot interface {
		SnapshotV1() snapshotv1client.SnapshotV1Interface
	}
	// Longhorn is the part of Longhorn's.
	Longhorn interface {
		LonghornV1beta2() longhornv1client.LonghornV1beta2Interface
	}
	// Virt is the part of KubeVirt's.
	Virt interface {
		KubevirtV1() kubevirtv1client.KubevirtV1Interface
	}
)

// groups implements the parts over one connection.
type groups struct {
	core          *corev1client.CoreV1Client
	apps          *appsv1client.AppsV1Client
	storage       *storagev1client.StorageV1Client
	authorization *authorizationv1client.AuthorizationV1Client
	discovery     *discovery.DiscoveryClient
	snapshot      *snapshotv1client.SnapshotV1Client
	longhorn      *longhornv1client.LonghornV1beta2Client
	kubevirt      *kubevirtv1client.KubevirtV1Client
	harvester     *harvester.Client
}

func (g *groups) CoreV1() corev1client.CoreV1Interface                       { return g.core }
func (g *groups) AppsV1() appsv1client.AppsV1Interface                       { return g.apps }
func (g *groups) StorageV1() storagev1client.StorageV1Interface              { return g.storage }
func (g *groups) Discovery() discovery.DiscoveryInterface                    { return g.discovery }
func (g *groups) SnapshotV1() snapshotv1client.SnapshotV1Interface           { return g.snapshot }
func (g *groups) LonghornV1beta2() longhornv1client.LonghornV1beta2Interface { return g.longhorn }
func (g *groups) KubevirtV1() kubevirtv1client.KubevirtV1Interface           { return g.kubevirt }
func (g *groups) AuthorizationV1() authorizationv1client.AuthorizationV1Interface {
	return g.authorization
}

func newGroups(config *rest.Config, client *http.Client) (*groups, error) {
	g := &groups{}
	for _, c := range []struct {
		of   string
		make func() error
	}{
		{"core", func() (err error) { g.core, err = corev1client.NewForConfigAndClient(config, client); return err }},
		{"apps", func() (err error) { g.apps, err = appsv1client.NewForConfigAndClient(config, client); return err }},
		{"storage.k8s.io", func() (err error) { g.storage, err = storagev1client.NewForConfigAndClient(config, client); return err }},
		{"authorization.k8s.io", func() (err error) {
			g.authorization, err = authorizationv1client.NewForConfigAndClient(config, client)
			return err
		}},
		{"discovery", func() (err error) {
			g.discovery, err = discovery.NewDiscoveryClientForConfigAndClient(config, client)
			return err
		}},
		{"snapshot.storage.k8s.io", func() (err error) {
			g.snapshot, err = snapshotv1client.NewForConfigAndClient(config, client)
			return err
		}},
		{"longhorn.io", func() (err error) {
			g.longhorn, err = longhornv1client.NewForConfigAndClient(config, client)
			return err
		}},
		{"kubevirt.io", func() (err error) {
			g.kubevirt, err = kubevirtv1client.NewForConfigAndClient(config, client)
			return err
		}},
		{harvester.Group, func() (err error) { g.harvester, err = harvester.NewClient(config, client); return err }},
	} {
		if err := c.make(); err != nil {
			return nil, fmt.Errorf("client of %s: %w", c.of, err)
		}
	}
	return g, nil
}

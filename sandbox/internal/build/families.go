// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"slices"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// Family is a Go module of its own under sandbox/modules: its programs share
// dependencies that conflict with those of the other families.
type Family struct {
	// Name is the directory under sandbox/modules.
	Name string
	// Profile is the only one that needs the family; empty is every one.
	Profile string `json:",omitempty"`
	// Programs are built in this order.
	Programs []Program
	// Extracts are copied out of the module cache, so that an instance needs no module cache.
	Extracts []Extract
}

// Program is one binary.
type Program struct {
	// Name of the binary in <entry>/bin.
	Name string
	// Package is its main package.
	Package string
	// Variables are set by the linker (-X), as the upstream release builds do.
	Variables []string
}

// Extract is a file or directory of a module that an instance needs.
type Extract struct {
	// Package is any package of the module.
	Package string
	// Path is below the module's root.
	Path string
	// To is below <entry>/share.
	To string
	// Template strips Helm's {{ }} parts.
	Template bool
}

// Names of the families.
const (
	ControlPlane        = "control-plane"
	LonghornManager     = "longhorn-manager"
	LonghornEngine      = "longhorn-engine"
	InstanceManager     = "longhorn-instance-manager"
	BackingImageManager = "backing-image-manager"
	CSIAndS3            = "csi-s3"
	KubeVirt            = "kubevirt"
	Harvester           = "harvester"
)

// Versions that are told to programs at link time; the pins are in the go.mod files.
const (
	kubernetesVersion = "v1.35.4"
	longhornVersion   = "v1.12.0"
)

// Families is the table of everything that "sandbox build" can make.
func Families() []Family {
	kubernetes := []string{
		"k8s.io/component-base/version.gitVersion=" + kubernetesVersion,
		"k8s.io/component-base/version.gitMajor=1",
		"k8s.io/component-base/version.gitMinor=35",
		"k8s.io/component-base/version.gitTreeState=clean",
	}
	return []Family{
		{
			Name: ControlPlane,
			Programs: []Program{
				{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"},
				{Name: "kube-apiserver", Package: "k8s.io/kubernetes/cmd/kube-apiserver", Variables: kubernetes},
				{Name: "kube-controller-manager", Package: "k8s.io/kubernetes/cmd/kube-controller-manager", Variables: kubernetes},
				{Name: "snapshot-controller", Package: "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller"},
				{Name: "csi-snapshotter", Package: "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter"},
			},
			Extracts: []Extract{{
				Package: "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned",
				Path:    "config/crd",
				To:      "snapshot-crds",
			}},
		},
		{
			Name: LonghornManager,
			Programs: []Program{{
				Name:      "longhorn-manager",
				Package:   "github.com/longhorn/longhorn-manager",
				Variables: []string{"github.com/longhorn/longhorn-manager/meta.Version=" + longhornVersion},
			}},
			Extracts: []Extract{{
				Package:  "github.com/longhorn/longhorn-manager",
				Path:     "k8s/crds.yaml",
				To:       "crds.yaml",
				Template: true,
			}},
		},
		{
			Name:     LonghornEngine,
			Programs: []Program{{Name: "longhorn", Package: "github.com/longhorn/longhorn-engine"}},
		},
		{
			Name:     InstanceManager,
			Programs: []Program{{Name: "longhorn-instance-manager", Package: "github.com/longhorn/longhorn-instance-manager"}},
		},
		{
			Name:     BackingImageManager,
			Programs: []Program{{Name: "backing-image-manager", Package: "github.com/longhorn/backing-image-manager"}},
		},
		{
			Name: CSIAndS3,
			Programs: []Program{
				{Name: "csi-provisioner", Package: "github.com/kubernetes-csi/external-provisioner/v5/cmd/csi-provisioner"},
				{Name: "versitygw", Package: "github.com/versity/versitygw/cmd/versitygw"},
				{Name: "grpc_health_probe", Package: "github.com/grpc-ecosystem/grpc-health-probe"},
			},
		},
		{
			Name: KubeVirt,
			Programs: []Program{
				{Name: "virt-api", Package: "kubevirt.io/kubevirt/cmd/virt-api"},
				{Name: "virt-controller", Package: "kubevirt.io/kubevirt/cmd/virt-controller"},
				{Name: "kubevirt-manifests", Package: "./cmd/kubevirt-manifests"},
			},
			Extracts: []Extract{{
				Package: "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1",
				Path:    "artifacts/networks-crd.yaml",
				To:      "networks-crd.yaml",
			}},
		},
		{
			Name:     Harvester,
			Profile:  component.Harvester,
			Programs: []Program{{Name: "harvester", Package: "./cmd/harvester"}},
			Extracts: []Extract{{
				Package: "github.com/harvester/harvester/pkg/config",
				Path:    "deploy/charts/harvester-crd/templates",
				To:      "crds",
			}},
		},
	}
}

// FamiliesOf is the part of the table that instances of a profile need.
func FamiliesOf(profile string) []Family {
	return slices.DeleteFunc(Families(), func(f Family) bool {
		return f.Profile != "" && f.Profile != profile
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cluster says which components make an instance's cluster, with
// which flags, and in which order they depend on each other.
package cluster

import (
	"context"
	"embed"
	"slices"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/kubevirt"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
)

//go:embed objects/*.yaml
var objects embed.FS

// Names of components that others start after.
const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	clusterObjects    = "cluster-objects"
	kubelet           = "kubelet"
	longhornObjects   = "longhorn-objects"
	longhornManager   = "longhorn-manager"
	longhornReady     = "longhorn-ready"
	csiPlugin         = "longhorn-csi-plugin"
)

// Components is everything that runs inside the instance's namespaces.
func Components(env *component.Env) ([]component.Component, error) {
	control, err := controlPlane(env)
	if err != nil {
		return nil, err
	}
	snapshots, err := csi(env)
	if err != nil {
		return nil, err
	}
	machines, err := kubevirt.Components(env, controllerManager, clusterObjects, kubelet)
	if err != nil {
		return nil, err
	}
	set := slices.Concat(control, longhorn(env), snapshots, machines)
	if env.Profile != component.Harvester {
		return set, nil
	}
	platform, err := harvester.Components(env, harvester.After{
		Objects: []string{clusterObjects, longhornObjects, kubevirt.Objects},
		Storage: longhornReady,
	})
	return append(set, platform...), err
}

// task is a component that runs once to success.
func task(name, about string, run func(context.Context) error, after ...string) component.Component {
	return component.Component{Name: name, Role: component.Task, About: about, After: after, Run: run}
}

// applier is made at use: the API server is not there before.
func applier(env *component.Env) (*manifest.Applier, error) {
	cfg, err := env.AdminConfig()
	if err != nil {
		return nil, err
	}
	return manifest.NewApplier(cfg)
}

// applyEmbedded applies one of the embedded manifests.
func applyEmbedded(ctx context.Context, env *component.Env, name string) error {
	data, err := objects.ReadFile("objects/" + name)
	if err != nil {
		return err
	}
	a, err := applier(env)
	if err != nil {
		return err
	}
	return a.ApplyYAML(ctx, data)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
)

const etcdURL = "http://127.0.0.1:2379"

// controllerManagerPort is not the usual one: Longhorn's instance-manager, which has
// the node's network to itself in a real cluster, gives the ports from 10000 to 30000
// to its engines and replicas, and one that is taken stops an engine for good.
const controllerManagerPort = 9257

// controlPlane is etcd, kube-apiserver, kube-controller-manager and the
// kubelet stand-in with the objects that a new cluster has.
func controlPlane(env *component.Env) ([]component.Component, error) {
	controllerManagerConfig, err := env.Kubeconfig("system:kube-controller-manager")
	if err != nil {
		return nil, err
	}
	return []component.Component{
		{
			Name:  etcd,
			Role:  component.Real,
			About: "etcd",
			Path:  env.Binary(build.ControlPlane, "etcd"),
			Args: []string{
				"--data-dir=" + env.Path("etcd"),
				"--listen-client-urls=" + etcdURL,
				"--advertise-client-urls=" + etcdURL,
				"--listen-peer-urls=http://127.0.0.1:2380",
				// The data lives as long as the instance, and nothing survives a crash anyway.
				"--unsafe-no-fsync",
				"--log-level=warn",
			},
			Ready: component.HTTPReady(etcdURL + "/health"),
		},
		{
			Name:  apiServer,
			Role:  component.Real,
			About: "kube-apiserver (RBAC, aggregation)",
			After: []string{etcd},
			Path:  env.Binary(build.ControlPlane, "kube-apiserver"),
			Args:  apiServerArgs(env),
			Ready: component.HTTPReady(env.APIServerURL() + "/readyz"),
		},
		{
			Name:  controllerManager,
			Role:  component.Real,
			About: "kube-controller-manager",
			After: []string{apiServer},
			Path:  env.Binary(build.ControlPlane, "kube-controller-manager"),
			Args: []string{
				"--kubeconfig=" + controllerManagerConfig,
				"--authentication-kubeconfig=" + controllerManagerConfig,
				"--authorization-kubeconfig=" + controllerManagerConfig,
				"--bind-address=127.0.0.1",
				fmt.Sprintf("--secure-port=%d", controllerManagerPort),
				"--use-service-account-credentials=true",
				"--service-account-private-key-file=" + env.Path("pki", "service-account.key"),
				"--root-ca-file=" + env.Path("pki", "ca.crt"),
				"--cluster-signing-cert-file=" + env.Path("pki", "ca.crt"),
				"--cluster-signing-key-file=" + env.Path("pki", "ca.key"),
				"--requestheader-client-ca-file=" + env.Path("pki", "ca.crt"),
				"--leader-elect=false",
			},
			Ready: component.HTTPReady(fmt.Sprintf("https://127.0.0.1:%d/healthz", controllerManagerPort)),
		},
		task(clusterObjects, "snapshot CRDs, storage classes and namespaces", func(ctx context.Context) error {
			if err := createFiles(ctx, env, env.Share(build.ControlPlane, "snapshot-crds")); err != nil {
				return err
			}
			return applyEmbedded(ctx, env, "cluster.yaml")
		}, apiServer),
		{
			Name:  kubelet,
			Role:  component.StandIn,
			About: "kubelet and scheduler: the node, pods, and the programs of Longhorn's instance pods",
			After: []string{controllerManager, clusterObjects},
			Path:  env.Executable,
			Args:  []string{"standin", "kubelet", "--dir", env.Dir},
			Ready: component.FileReady(env.Path("run", "kubelet.ready")),
			Prepare: func(context.Context) error {
				return removeIfThere(env.Path("run", "kubelet.ready"))
			},
		},
	}, nil
}

func apiServerArgs(env *component.Env) []string {
	pki := func(name string) string { return env.Path("pki", name) }
	return []string{
		"--etcd-servers=" + etcdURL,
		// Minutes in production: here a client whose place in a list or watch has
		// expired meets that within a test.
		"--etcd-compaction-interval=30s",
		"--bind-address=" + component.APIServerHost,
		"--secure-port=6443",
		"--advertise-address=127.0.0.1",
		// An endpoint on a loopback address is refused, and nothing in here goes by the Service.
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + pki("ca.crt"),
		"--tls-cert-file=" + pki("kube-apiserver.crt"),
		"--tls-private-key-file=" + pki("kube-apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("service-account.pub"),
		"--service-account-signing-key-file=" + pki("service-account.key"),
		"--requestheader-client-ca-file=" + pki("ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + pki("front-proxy-client.key"),
		"--profiling=false",
		// More than one instance shares a machine: keep the caches small.
		"--default-watch-cache-size=50",
	}
}

// createFiles creates the objects of a YAML file, or of all YAML files of a directory.
func createFiles(ctx context.Context, env *component.Env, root string) error {
	a, err := applier(env)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" || entry.Name() == "kustomization.yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		decoded, err := manifest.Decode(data)
		if err != nil {
			return err
		}
		return a.Create(ctx, decoded...)
	})
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

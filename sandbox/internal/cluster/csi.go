// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net"
	"os"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// csiSocket is where Longhorn's CSI driver listens; the sidecars find it there.
const csiSocket = "/run/csi/csi.sock"

// csi is Longhorn's CSI driver with its sidecars, and the snapshot controller.
func csi(env *component.Env) ([]component.Component, error) {
	kubeconfig, err := env.Kubeconfig("system:serviceaccount:longhorn-system:longhorn-service-account",
		"system:serviceaccounts", "system:serviceaccounts:longhorn-system", "system:authenticated")
	if err != nil {
		return nil, err
	}
	snapshotController, err := env.Kubeconfig("system:serviceaccount:kube-system:snapshot-controller",
		"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")
	if err != nil {
		return nil, err
	}
	// As longhorn-manager deploys them, without leader election, as each runs once.
	sidecar := []string{"--v=2", "--csi-address=" + csiSocket, "--kubeconfig=" + kubeconfig, "--timeout=1m50s", "--kube-api-qps=50", "--kube-api-burst=100"}
	namespaced := []string{"POD_NAMESPACE=" + longhornNamespace, "NAMESPACE=" + longhornNamespace}
	return []component.Component{
		{
			Name:  "snapshot-controller",
			Role:  component.Real,
			About: "external-snapshotter's snapshot-controller",
			After: []string{clusterObjects},
			Path:  env.Binary(build.ControlPlane, "snapshot-controller"),
			Args:  []string{"--v=2", "--kubeconfig=" + snapshotController, "--http-endpoint=127.0.0.1:8081"},
			Ready: component.TCPReady("127.0.0.1:8081"),
		},
		{
			Name:    csiPlugin,
			Role:    component.Real,
			About:   "Longhorn's CSI driver",
			After:   []string{longhornManager},
			Path:    env.Binary(build.LonghornManager, "longhorn-manager"),
			Args:    []string{"csi", "--nodeid", component.NodeName, "--endpoint", "unix://" + csiSocket, "--manager-url", longhornManagerURL},
			Env:     append([]string{"CSI_ENDPOINT=unix://" + csiSocket}, namespaced...),
			Prepare: func(context.Context) error { return removeIfThere(csiSocket) },
			Ready:   socketReady(csiSocket),
		},
		{
			Name:  "csi-provisioner",
			Role:  component.Real,
			About: "external-provisioner for Longhorn's driver",
			After: []string{csiPlugin},
			Path:  env.Binary(build.CSIAndS3, "csi-provisioner"),
			Args:  append([]string{"--default-fstype=ext4", "--immediate-topology=false", "--http-endpoint=127.0.0.1:8082"}, sidecar...),
			Env:   namespaced,
			Ready: component.TCPReady("127.0.0.1:8082"),
		},
		{
			Name:  "csi-snapshotter",
			Role:  component.Real,
			About: "external-snapshotter's sidecar for Longhorn's driver",
			After: []string{csiPlugin, clusterObjects},
			Path:  env.Binary(build.ControlPlane, "csi-snapshotter"),
			Args:  append([]string{"--http-endpoint=127.0.0.1:8083"}, sidecar...),
			Env:   namespaced,
			Ready: component.TCPReady("127.0.0.1:8083"),
		},
	}, nil
}

// socketReady probes whether something accepts connections at a unix socket.
func socketReady(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := os.Stat(path); err != nil {
			return err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

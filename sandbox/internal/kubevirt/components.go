// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kubevirt

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/importer"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/virthandler"
)

// Ports on the instance's loopback interface.
const (
	apiPort        = 9443
	controllerPort = 9444
)

const apiURL = "https://127.0.0.1:9443"

// Objects is the component after which KubeVirt's kinds are defined.
const Objects = objectsTask

// Names of the components.
const (
	objectsTask  = "kubevirt-objects"
	virtAPI      = "virt-api"
	virtControl  = "virt-controller"
	virtHandler  = "virt-handler"
	dataImporter = "cdi"
	registerTask = "kubevirt-api"
)

// Components is KubeVirt: what it needs, its two controllers, the stand-in of
// its node agent, and its registration at kube-apiserver, after which VMs can
// be created. after names the components that must be ready first
// (kube-apiserver with its namespaces, and the kubelet).
func Components(env *component.Env, after ...string) ([]component.Component, error) {
	if err := writeCertificates(env); err != nil {
		return nil, err
	}
	apiConfig, err := accountKubeconfig(env, "kubevirt-apiserver")
	if err != nil {
		return nil, err
	}
	controllerConfig, err := accountKubeconfig(env, "kubevirt-controller")
	if err != nil {
		return nil, err
	}
	return []component.Component{
		{
			Name:  objectsTask,
			Role:  component.Task,
			About: "KubeVirt's CRDs, roles and configuration",
			After: after,
			Run:   func(ctx context.Context) error { return Install(ctx, env) },
		},
		inOwnNamespace(env, component.Component{
			Name:  virtAPI,
			Role:  component.Real,
			About: "KubeVirt's virt-api: webhooks and the subresource API",
			After: []string{objectsTask},
			Path:  env.Binary(build.KubeVirt, "virt-api"),
			Args: []string{
				"--kubeconfig=" + apiConfig,
				"--listen=127.0.0.1",
				"--port=" + strconv.Itoa(apiPort),
				"--console-server-port=" + strconv.Itoa(virthandler.Port),
				"--subresources-only",
				"--tls-cert-file=" + env.Path("pki", "virt-api.crt"),
				"--tls-key-file=" + env.Path("pki", "virt-api.key"),
				"--handler-cert-file=" + env.Path("pki", "virt-handler-client.crt"),
				"--handler-key-file=" + env.Path("pki", "virt-handler-client.key"),
				"-v=2",
			},
			Ready: component.HTTPReady(apiURL + "/apis/subresources.kubevirt.io/v1/healthz"),
		}),
		inOwnNamespace(env, component.Component{
			Name:  virtControl,
			Role:  component.Real,
			About: "KubeVirt's virt-controller",
			After: []string{objectsTask},
			Path:  env.Binary(build.KubeVirt, "virt-controller"),
			Args: []string{
				"--kubeconfig=" + controllerConfig,
				"--listen=127.0.0.1",
				"--port=" + strconv.Itoa(controllerPort),
				// No image is ever pulled.
				"--launcher-image=quay.io/kubevirt/virt-launcher:v1.7.0",
				"--exporter-image=quay.io/kubevirt/virt-exportserver:v1.7.0",
				"--prom-cert-file=" + env.Path("pki", "virt-controller.crt"),
				"--prom-key-file=" + env.Path("pki", "virt-controller.key"),
				"-v=2",
			},
			Ready: leads(fmt.Sprintf("https://127.0.0.1:%d/leader", controllerPort)),
		}),
		{
			Name:    virtHandler,
			Role:    component.StandIn,
			About:   "virt-handler, virt-launcher and the guests: phases, freezes, attached volumes",
			After:   []string{objectsTask},
			Path:    env.Executable,
			Args:    []string{"standin", "virthandler", "--dir", env.Dir},
			Prepare: removed(virthandler.ReadyFile(env)),
			Ready:   component.FileReady(virthandler.ReadyFile(env)),
		},
		{
			Name:    dataImporter,
			Role:    component.StandIn,
			About:   "the containerized data importer, for DataVolumes that are blank or from a snapshot",
			After:   []string{objectsTask},
			Path:    env.Executable,
			Args:    []string{"standin", "importer", "--dir", env.Dir},
			Prepare: removed(importer.ReadyFile(env)),
			Ready:   component.FileReady(importer.ReadyFile(env)),
		},
		{
			Name:  registerTask,
			Role:  component.Task,
			About: "KubeVirt's webhooks and aggregated API at kube-apiserver",
			After: []string{virtAPI, virtControl, virtHandler, dataImporter},
			Run:   func(ctx context.Context) error { return Register(ctx, env) },
		},
	}, nil
}

// removed takes a file away that tells of readiness, before a start.
func removed(path string) func(context.Context) error {
	return func(context.Context) error {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
}

// accountKubeconfig is for one of KubeVirt's service accounts. Its webhooks
// and roles go by that name; nothing more is granted than KubeVirt's own roles do.
func accountKubeconfig(env *component.Env, account string) (string, error) {
	return env.Kubeconfig("system:serviceaccount:"+Namespace+":"+account,
		"system:serviceaccounts", "system:serviceaccounts:"+Namespace)
}

// writeCertificates makes the certificates that KubeVirt's operator would rotate.
func writeCertificates(env *component.Env) error {
	if _, err := os.Stat(env.Path("pki", "virt-controller.crt")); err == nil {
		return nil
	}
	ca, err := env.Authority()
	if err != nil {
		return err
	}
	dir := env.Path("pki")
	// The names in the certificates between virt-api and virt-handler are KubeVirt's protocol.
	if err := ca.WriteServer(dir, "virt-api", "virt-api.kubevirt.pod.cluster.local",
		"virt-api", "virt-api.kubevirt.svc", "localhost", "127.0.0.1"); err != nil {
		return err
	}
	if err := ca.WriteClient(dir, "virt-handler-client", virthandler.ClientName); err != nil {
		return err
	}
	if err := ca.WriteServer(dir, "virt-handler", virthandler.ServerName, "127.0.0.1"); err != nil {
		return err
	}
	return ca.WriteServer(dir, "virt-controller", "virt-controller.kubevirt.pod.cluster.local", "localhost", "127.0.0.1")
}

// inOwnNamespace gives a program its own view of the service account files, as
// a pod has: KubeVirt reads there which namespace it is installed in, and the
// instance's files are Longhorn's.
func inOwnNamespace(env *component.Env, c component.Component) component.Component {
	dir := env.Path("run", "kubevirt-account")
	c.Prepare = func(context.Context) error {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.WriteFile(dir+"/namespace", []byte(Namespace), 0o644)
	}
	const mount = `mount --bind "$0" /run/secrets/kubernetes.io/serviceaccount && exec "$@"`
	c.Args = append([]string{"--mount", "--", "sh", "-c", mount, dir, c.Path}, c.Args...)
	c.Path = "/usr/bin/unshare"
	return c
}

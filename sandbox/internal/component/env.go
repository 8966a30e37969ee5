// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/pki"
)

// Names and addresses that hold in every instance: each has its own mount,
// process and network namespaces, so nothing collides.
const (
	// RoutableIP is an address on the loopback interface of every instance, seen inside
	// of it only, for programs that refuse loopback addresses: Longhorn's webhook as the
	// source of an image, kube-apiserver as a pod that it proxies to.
	RoutableIP = "10.200.0.1"
	// NodeName is the one node of an instance.
	NodeName = "sandbox-node"
	// APIServerHost and APIServerPort are where kube-apiserver listens inside the namespaces.
	APIServerHost = "127.0.0.1"
	// APIServerPort is the port of kube-apiserver inside the namespaces.
	APIServerPort = 6443
)

// Env is what the components of one instance share. All paths are the same
// inside and outside the instance's namespaces.
type Env struct {
	// Name is the instance's name.
	Name string `json:"name"`
	// Profile says what runs in the instance: Default or Harvester.
	Profile string `json:"profile"`
	// Dir is the instance's state directory.
	Dir string `json:"dir"`
	// Executable is the sandbox program itself, for stand-ins ("sandbox standin ...").
	Executable string `json:"executable"`
	// Families maps a module family (control-plane, longhorn-manager, kubevirt, ...) to its
	// entry in the build cache: programs in <entry>/bin, extracted files in <entry>/share.
	Families map[string]string `json:"families"`
	// APIHostPort is where the host reaches kube-apiserver on 127.0.0.1.
	APIHostPort int `json:"apiHostPort"`
	// S3Port is where the S3 server answers on 127.0.0.1, on the host and inside.
	S3Port int `json:"s3Port"`
	// S3Bucket is the bucket of the backup target.
	S3Bucket string `json:"s3Bucket"`
	// S3From is the instance that owns the S3 server; empty when it is this one.
	S3From string `json:"s3From,omitempty"`
}

// APIServerURL is kube-apiserver's address inside the namespaces.
func (e *Env) APIServerURL() string {
	return fmt.Sprintf("https://%s:%d", APIServerHost, APIServerPort)
}

// Binary is the path of a program that "sandbox build" made, e.g. Binary("kubevirt", "virt-api").
func (e *Env) Binary(family, name string) string {
	return filepath.Join(e.Families[family], "bin", name)
}

// Share is the path of a file that "sandbox build" extracted for a family.
func (e *Env) Share(family string, elem ...string) string {
	return filepath.Join(append([]string{e.Families[family], "share"}, elem...)...)
}

// Path is a path below the instance's state directory.
func (e *Env) Path(elem ...string) string {
	return filepath.Join(append([]string{e.Dir}, elem...)...)
}

// Authority is the instance's certificate authority. It signs client and
// server certificates and front-proxy certificates alike; kube-apiserver trusts it for all of them.
func (e *Env) Authority() (*pki.Authority, error) {
	return pki.Load(e.Path("pki"), "ca")
}

// Kubeconfig writes (once) a kubeconfig for the inside of the namespaces whose
// client certificate carries user and groups, and returns its path. The file
// name derives from the user name.
func (e *Env) Kubeconfig(user string, groups ...string) (string, error) {
	path := e.Path("pki", pki.FileName(user)+".kubeconfig")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	ca, err := e.Authority()
	if err != nil {
		return "", err
	}
	data, err := ca.Kubeconfig(e.Name, e.APIServerURL(), user, groups...)
	if err != nil {
		return "", err
	}
	return path, writeFileAtomic(path, data, 0o600)
}

// AdminConfig is a client configuration with system:masters for use inside the namespaces.
func (e *Env) AdminConfig() (*rest.Config, error) {
	path, err := e.Kubeconfig("sandbox-admin", "system:masters")
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = 100, 200
	cfg.UserAgent = "sandbox"
	// The definitions of others are full of formats that the API server warns about.
	cfg.WarningHandler = rest.NoWarnings{}
	return cfg, nil
}

// writeFileAtomic lets no reader see half a file.
func writeFileAtomic(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Chmod(mode); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

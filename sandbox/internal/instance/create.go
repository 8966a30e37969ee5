// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/pki"
)

// Bucket is the S3 bucket of the backup target.
const Bucket = "vmbackup"

// create lays out the state directory of a new instance. apiPort is already held by the caller.
func (i *Instance) create(o UpOptions, apiPort int) (*component.Env, error) {
	if err := i.remove(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(i.Dir, 0o700); err != nil {
		return nil, err
	}
	owner := "The state of a sandbox instance of kubectl-vmbackup. Remove it with \"sandbox down\".\n"
	if err := os.WriteFile(i.path(ownerFile), []byte(owner), 0o600); err != nil {
		return nil, err
	}
	for _, dir := range []string{"logs", "pki", "run", "rootfs", "longhorn", "etcd", "s3/" + Bucket, "bin"} {
		if err := os.MkdirAll(i.path(dir), 0o700); err != nil {
			return nil, err
		}
	}
	env := &component.Env{
		Name:        i.Name,
		Profile:     o.Profile,
		Dir:         i.Dir,
		Executable:  i.path("bin", "sandbox"),
		Families:    o.Families,
		APIHostPort: apiPort,
		S3Bucket:    Bucket,
	}
	// The program that runs "up" may be a temporary one ("go run") or be rebuilt meanwhile.
	if err := copySelf(env.Executable); err != nil {
		return nil, err
	}
	if err := i.shareOrCreateS3(env, o.S3From); err != nil {
		return nil, err
	}
	if err := i.createPKI(env); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	return env, i.writeEnv(env)
}

func (i *Instance) shareOrCreateS3(env *component.Env, from *Instance) error {
	if from == nil {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.S3Port = port
		// Upper case letters and digits, as S3 keys are; 26 of them carry 130 bits.
		return component.WriteS3Credentials(env, component.S3Credentials{
			AccessKeyID:     "SANDBOX" + rand.Text()[:13],
			SecretAccessKey: rand.Text() + rand.Text(),
		})
	}
	running, err := from.Running()
	if err != nil {
		return err
	}
	if !running {
		return fmt.Errorf("share the S3 server of instance %s: %w", from.Name, ErrNotRunning)
	}
	other, err := from.Env()
	if err != nil {
		return err
	}
	if other.S3From != "" {
		return fmt.Errorf("instance %s shares the S3 server of %s: name that one", from.Name, other.S3From)
	}
	credentials, err := component.ReadS3Credentials(other)
	if err != nil {
		return err
	}
	env.S3Port, env.S3From = other.S3Port, from.Name
	return component.WriteS3Credentials(env, credentials)
}

func (i *Instance) createPKI(env *component.Env) error {
	dir := i.path("pki")
	ca, err := pki.Create(dir, "ca", "sandbox-"+i.Name)
	if err != nil {
		return err
	}
	if err := pki.WriteServiceAccountKey(dir, "service-account"); err != nil {
		return err
	}
	err = ca.WriteServer(dir, "kube-apiserver", "kube-apiserver",
		"127.0.0.1", "localhost", "10.96.0.1", component.NodeName,
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return err
	}
	if err := ca.WriteClient(dir, "front-proxy-client", "front-proxy-client"); err != nil {
		return err
	}
	kubeconfig, err := i.ClientKubeconfig(env, "admin", "system:masters")
	if err != nil {
		return err
	}
	return os.WriteFile(i.Kubeconfig(), kubeconfig, 0o600)
}

// ClientKubeconfig signs a client certificate for a user and returns a kubeconfig for use on the host.
func (i *Instance) ClientKubeconfig(env *component.Env, user string, groups ...string) ([]byte, error) {
	ca, err := env.Authority()
	if err != nil {
		return nil, err
	}
	return ca.Kubeconfig(i.Name, fmt.Sprintf("https://127.0.0.1:%d", env.APIHostPort), user, groups...)
}

func copySelf(target string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}

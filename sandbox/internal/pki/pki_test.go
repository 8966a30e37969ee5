// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestKubeconfigOfAUser(t *testing.T) {
	dir := t.TempDir()
	if _, err := Create(dir, "ca", "sandbox-test"); err != nil {
		t.Fatal(err)
	}
	ca, err := Load(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	data, err := ca.Kubeconfig("test", "https://127.0.0.1:12345", "alice", "dev", "ops")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.Load(data)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.CurrentContext != "alice" || cfg.Contexts["alice"].Cluster != "sandbox-test" {
		t.Errorf("contexts %v, current %q", cfg.Contexts, cfg.CurrentContext)
	}
	cluster := cfg.Clusters["sandbox-test"]
	if cluster.Server != "https://127.0.0.1:12345" || string(cluster.CertificateAuthorityData) != string(ca.CertPEM()) {
		t.Errorf("cluster %+v", cluster)
	}
	user := cfg.AuthInfos["alice"]
	pair, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	if err != nil {
		t.Fatal(err)
	}
	if pair.Leaf.Subject.CommonName != "alice" || !slices.Equal(pair.Leaf.Subject.Organization, []string{"dev", "ops"}) {
		t.Errorf("certificate of %v", pair.Leaf.Subject)
	}
	if err := verify(ca, pair.Leaf, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if err := verify(ca, pair.Leaf, "", x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("a user's certificate can serve")
	}
}

func TestServerCertificate(t *testing.T) {
	ca, err := Create(t.TempDir(), "ca", "sandbox-test")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.Server("api", "127.0.0.1", "kubernetes.default.svc")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for host, good := range map[string]bool{"127.0.0.1": true, "kubernetes.default.svc": true, "example.com": false} {
		if err := verify(ca, pair.Leaf, host, x509.ExtKeyUsageServerAuth); (err == nil) != good {
			t.Errorf("for %s: %v", host, err)
		}
	}
	other, err := Create(t.TempDir(), "ca", "sandbox-other")
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(other, pair.Leaf, "127.0.0.1", x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("another instance's authority vouches for it")
	}
}

func verify(ca *Authority, cert *x509.Certificate, host string, usage x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestFileName(t *testing.T) {
	if got, want := FileName("system:serviceaccount:ns:../x"), "system_serviceaccount_ns_.._x"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

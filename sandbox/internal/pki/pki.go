// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pki is the small certificate authority of a sandbox instance.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// lifetime of every certificate: longer than any sandbox, and renewed with each new one.
const lifetime = 365 * 24 * time.Hour

// Authority signs certificates. Its key never leaves the state directory.
type Authority struct {
	cert    *x509.Certificate
	certPEM []byte
	key     crypto.Signer
}

// Create makes a new authority and writes <dir>/<name>.crt and <dir>/<name>.key.
func Create(dir, name, commonName string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(pkix.Name{CommonName: commonName})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority %s: %w", commonName, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := writePair(dir, name, encodeCert(der), keyPEM); err != nil {
		return nil, err
	}
	return Load(dir, name)
}

// Load reads an authority that Create wrote.
func Load(dir, name string) (*Authority, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("authority %s in %s is not PEM", name, dir)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("authority %s: key cannot sign", name)
	}
	return &Authority{cert: cert, certPEM: certPEM, key: signer}, nil
}

// CertPEM is the authority's own certificate, for client trust and caBundle fields.
func (a *Authority) CertPEM() []byte { return a.certPEM }

// Client signs a client certificate for a user and its groups and returns certificate and key as PEM.
func (a *Authority) Client(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	template, err := newTemplate(pkix.Name{CommonName: user, Organization: groups})
	if err != nil {
		return nil, nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(template)
}

// Server signs a certificate that serves (and may call as a client, as KubeVirt's
// handlers do) under commonName for the given host names and IP addresses.
func (a *Authority) Server(commonName string, hosts ...string) (certPEM, keyPEM []byte, err error) {
	template, err := newTemplate(pkix.Name{CommonName: commonName})
	if err != nil {
		return nil, nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.sign(template)
}

// WriteClient is Client written to <dir>/<name>.crt and <dir>/<name>.key.
func (a *Authority) WriteClient(dir, name, user string, groups ...string) error {
	certPEM, keyPEM, err := a.Client(user, groups...)
	if err != nil {
		return err
	}
	return writePair(dir, name, certPEM, keyPEM)
}

// WriteServer is Server written to <dir>/<name>.crt and <dir>/<name>.key.
func (a *Authority) WriteServer(dir, name, commonName string, hosts ...string) error {
	certPEM, keyPEM, err := a.Server(commonName, hosts...)
	if err != nil {
		return err
	}
	return writePair(dir, name, certPEM, keyPEM)
}

// Kubeconfig signs a client certificate for user and groups and returns a
// kubeconfig for server whose one context is named after the user.
func (a *Authority) Kubeconfig(cluster, server, user string, groups ...string) ([]byte, error) {
	certPEM, keyPEM, err := a.Client(user, groups...)
	if err != nil {
		return nil, err
	}
	name := "sandbox-" + cluster
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: a.certPEM}
	cfg.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: certPEM, ClientKeyData: keyPEM}
	cfg.Contexts[user] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	cfg.CurrentContext = user
	return clientcmd.Write(*cfg)
}

// WriteServiceAccountKey writes the key pair that signs service account tokens:
// <dir>/<name>.key and <dir>/<name>.pub.
func WriteServiceAccountKey(dir, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return errors.Join(
		os.WriteFile(filepath.Join(dir, name+".key"), keyPEM, 0o600),
		os.WriteFile(filepath.Join(dir, name+".pub"), pub, 0o644),
	)
}

// FileName turns a user name such as system:serviceaccount:ns:name into a file name.
func FileName(user string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '@':
			return r
		default:
			return '_'
		}
	}, user)
}

func (a *Authority) sign(template *x509.Certificate) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return encodeCert(der), keyPEM, nil
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(lifetime),
	}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writePair(dir, name string, certPEM, keyPEM []byte) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, name+".crt"), certPEM, 0o644),
		os.WriteFile(filepath.Join(dir, name+".key"), keyPEM, 0o600),
	)
}

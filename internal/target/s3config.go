// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"golang.org/x/net/http/httpproxy"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Keys of the Secret of a BackupTarget on S3, as Longhorn knows them.
const (
	keyAccessKey   = "AWS_ACCESS_KEY_ID"
	keySecretKey   = "AWS_SECRET_ACCESS_KEY"
	keyEndpoints   = "AWS_ENDPOINTS"
	keyCert        = "AWS_CERT"
	keyVirtualHost = "VIRTUAL_HOSTED_STYLE"
	keyHTTPProxy   = "HTTP_PROXY"
	keyHTTPSProxy  = "HTTPS_PROXY"
	keyNoProxy     = "NO_PROXY"
)

// amazon is the endpoint when the Secret names none; the client makes it the
// region's own.
const amazon = "s3.amazonaws.com"

// s3Config is a BackupTarget on S3 as Longhorn reads it.
type s3Config struct {
	bucket, region       string
	accessKey, secretKey string
	endpoint             string // for messages
	host                 string
	secure               bool
	lookup               minio.BucketLookupType
	cert                 []byte
	proxy                httpproxy.Config
}

// s3ConfigOf reads s3://<bucket>@<region>/<path> (or s3://<bucket>/<path>) and the
// Secret's data.
func s3ConfigOf(u *url.URL, creds map[string][]byte) (*s3Config, error) {
	c := &s3Config{bucket: u.Host, cert: creds[keyCert]}
	if u.User != nil {
		c.bucket, c.region = u.User.Username(), u.Host
	}
	if c.bucket == "" || u.Path == "" {
		return nil, invalidURL("S3 is named as s3://<bucket>@<region>/<path>/ or s3://<bucket>/<path>/")
	}
	if err := s3utils.CheckValidBucketName(c.bucket); err != nil {
		return nil, invalidURL("bucket " + c.bucket + ": " + err.Error())
	}
	value := func(key string) string { return strings.TrimSpace(string(creds[key])) }
	c.accessKey, c.secretKey = value(keyAccessKey), value(keySecretKey)
	if c.accessKey == "" || c.secretKey == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonForbidden, "backup target %s: its Secret holds no pair of %s and %s", plainURL(u), keyAccessKey, keySecretKey).
			WithHint("Longhorn may take its rights from the machines it runs on, which this client cannot; give the Secret of the BackupTarget access keys").AsPreflight()
	}
	c.endpoint, c.host, c.secure = "https://"+amazon, amazon, true
	c.lookup = minio.BucketLookupAuto
	if endpoint := value(keyEndpoints); endpoint != "" {
		e, err := url.Parse(endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || strings.Trim(e.Path, "/") != "" || e.User != nil || e.RawQuery != "" {
			return nil, c.invalid(u, keyEndpoints, "it must be one http:// or https:// URL of a host without a path")
		}
		c.endpoint, c.host, c.secure = e.Scheme+"://"+e.Host, e.Host, e.Scheme == "https"
		c.lookup = minio.BucketLookupPath
	}
	switch value(keyVirtualHost) {
	case "true":
		c.lookup = minio.BucketLookupDNS
	case "false":
		c.lookup = minio.BucketLookupPath
	}
	c.proxy = httpproxy.Config{HTTPProxy: value(keyHTTPProxy), HTTPSProxy: value(keyHTTPSProxy), NoProxy: value(keyNoProxy)}
	for key, proxy := range map[string]string{keyHTTPProxy: c.proxy.HTTPProxy, keyHTTPSProxy: c.proxy.HTTPSProxy} {
		if _, err := url.Parse(proxy); err != nil && proxy != "" {
			return nil, c.invalid(u, key, "it is no URL")
		}
	}
	return c, nil
}

// invalid says what is wrong with a key of the Secret, never what it holds.
func (c *s3Config) invalid(u *url.URL, key, why string) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "backup target %s: %s in its Secret: %s", plainURL(u), key, why).AsPreflight()
}

// transport makes the connections: with Longhorn's certificate authority beside
// the machine's own, through the Secret's proxy or, when it names none, through
// that of the environment, since the client may stand in another network than
// Longhorn.
func (c *s3Config) transport() (http.RoundTripper, error) {
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   4,
		// A file of a target is what its bytes are; nothing is unpacked on the way.
		DisableCompression: true,
		Proxy:              http.ProxyFromEnvironment,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:  true,
	}
	if c.proxy.HTTPProxy != "" || c.proxy.HTTPSProxy != "" {
		proxy := c.proxy.ProxyFunc()
		t.Proxy = func(r *http.Request) (*url.URL, error) { return proxy(r.URL) }
	}
	if len(c.cert) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(c.cert) {
			return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "backup target s3://%s@%s: %s in its Secret holds no PEM certificate", c.bucket, c.region, keyCert).AsPreflight()
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// secrets are the values that must not be repeated, not even when a server or a
// proxy quotes them.
func (c *s3Config) secrets() []string {
	secrets := []string{c.secretKey, c.accessKey}
	for _, proxy := range []string{c.proxy.HTTPProxy, c.proxy.HTTPSProxy} {
		if u, err := url.Parse(proxy); err == nil && u.User != nil {
			if password, set := u.User.Password(); set && password != "" {
				secrets = append(secrets, password)
			}
		}
	}
	return secrets
}

// redact takes secrets out of a message.
func redact(message string, secrets []string) string {
	for _, s := range secrets {
		message = strings.ReplaceAll(message, s, "[redacted]")
	}
	return message
}

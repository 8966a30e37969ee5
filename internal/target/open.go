// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Config says which backup target to open and with what.
type Config struct {
	// URL is Longhorn's: BackupTarget.spec.backupTargetURL. The client reaches
	// s3://<bucket>@<region>/<path>/ by itself, and file:///<dir> or vfs:///<dir>, a
	// directory of this machine.
	URL string
	// Credentials are the data of the Secret that BackupTarget.spec.credentialSecret
	// names: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINTS, AWS_CERT,
	// VIRTUAL_HOSTED_STYLE, HTTP_PROXY, HTTPS_PROXY, NO_PROXY.
	Credentials map[string][]byte
}

// Open returns the store that the configuration names. It sends nothing: whether
// the target answers and the credentials are good is known from the first request.
//
// The error is InvalidRequest for a malformed URL or credential, TargetUnavailable
// when no target is set, StorageUnsupported for a target that only Longhorn can
// reach, Forbidden when there are no access keys.
func Open(cfg Config) (Store, error) {
	return open(cfg, func(connected http.RoundTripper) http.RoundTripper { return connected })
}

// open is Open with something between the client and its connections.
func open(cfg Config, between func(http.RoundTripper) http.RoundTripper) (Store, error) {
	if cfg.URL == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "no backup target is set").
			WithHint("set the URL of Longhorn's BackupTarget (Harvester: the setting backup-target)").AsPreflight()
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, invalidURL("it is no URL")
	}
	switch u.Scheme {
	case "s3":
		return openS3(u, cfg.Credentials, between)
	case "file", "vfs":
		if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return nil, invalidURL("a directory is named as " + u.Scheme + ":///path")
		}
		return NewDirectory(u.Path), nil
	case "nfs", "cifs":
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported,
			"backup target %s is a network file system, which Longhorn mounts in the cluster and this client cannot reach by itself", plainURL(u)).
			WithHint("mount %s on this machine and give the mount point as file:///<mount point>; the data of the backups is not affected", u.Host+u.Path).AsPreflight()
	case "azblob":
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported,
			"backup target %s is on Azure Blob Storage, which this client does not speak", plainURL(u)).
			WithHint("work from the records in the cluster; the data of the backups is not affected").AsPreflight()
	}
	return nil, invalidURL("its scheme is none of s3, nfs, cifs, azblob, file, vfs")
}

func invalidURL(why string) error {
	// The URL itself is not repeated: it may carry a password.
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "URL of the backup target: %s", why).AsPreflight()
}

// plainURL is a URL without a password and without options. The user stays: in
// Longhorn's URLs it is the bucket or the container.
func plainURL(u *url.URL) string {
	plain := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.User != nil {
		plain.User = url.User(u.User.Username())
	}
	return plain.String()
}

// cleanPrefix is a path of a URL as the beginning of keys: empty, or with a
// trailing '/' and without a leading one.
func cleanPrefix(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return ""
	}
	return p + "/"
}

// PlainURL is Longhorn's URL of a target without a password and without options;
// empty for what is no URL, which may be a secret.
func PlainURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return plainURL(u)
}

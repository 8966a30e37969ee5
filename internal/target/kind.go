// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import "net/url"

// Types of targets: the schemes of Longhorn's URLs.
const (
	TypeS3    = "s3"
	TypeNFS   = "nfs"
	TypeCIFS  = "cifs"
	TypeAzure = "azblob"
)

// Type is the type of the target that a URL names; empty for what is no URL.
func Type(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme
}

// NeedsCredentials reports whether Longhorn uses a target of the type with a Secret only.
func NeedsCredentials(kind string) bool {
	return kind == TypeS3 || kind == TypeCIFS || kind == TypeAzure
}

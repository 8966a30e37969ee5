// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// shorten makes a name fit a limit: a longer one keeps its beginning and ends
// with a hash of the whole, so that two long names never meet.
func shorten(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	suffix := "-" + hex.EncodeToString(sum[:5])
	return strings.TrimRight(name[:limit-len(suffix)], "-.") + suffix
}

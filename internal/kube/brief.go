// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import "strings"

// Brief shortens what Longhorn says of a failure, which may quote whole requests and
// logs: how it begins says what failed, and how it ends says why. The object that it
// is from has all of it.
func Brief(message string) string {
	const head, tail = 160, 240
	message = strings.ToValidUTF8(message, "?")
	if len(message) <= head+tail+len("…") {
		return message
	}
	return strings.ToValidUTF8(message[:head], "") + "…" + strings.ToValidUTF8(message[len(message)-tail:], "")
}

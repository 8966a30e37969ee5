// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestBrief(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("ü", 150)} {
		if got := Brief(text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
	got := Brief("failed to backup " + strings.Repeat("ü", 500) + " connection refused")
	if len(got) > 410 || !strings.HasPrefix(got, "failed to backup ü") || !strings.HasSuffix(got, "ü connection refused") || !utf8.ValidString(got) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

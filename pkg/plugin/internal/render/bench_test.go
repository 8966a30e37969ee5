// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"io"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// BenchmarkBackups is a listing of 1,000 backups on a terminal.
func BenchmarkBackups(b *testing.B) {
	var backups []vmbackup.Backup
	for len(backups) < 1000 {
		backups = append(backups, sampleBackups()...)
	}
	o := layouts()["200"]
	o.Colour = true
	for b.Loop() {
		if err := Backups(io.Discard, backups, o); err != nil {
			b.Fatal(err)
		}
	}
}

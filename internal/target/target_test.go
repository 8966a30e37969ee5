// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target_test

import (
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/internal/target/targettest"
)

func TestMemory(t *testing.T) {
	targettest.Run(t, func(*testing.T) target.Store { return target.NewMemory(time.Now) })
}

func TestDirectory(t *testing.T) {
	targettest.Run(t, func(t *testing.T) target.Store { return target.NewDirectory(t.TempDir()) })
}

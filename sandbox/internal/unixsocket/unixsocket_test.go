// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package unixsocket

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPathLongerThanTheKernelTakes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 40))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	if len(path) < 200 {
		t.Fatalf("the path has only %d bytes", len(path))
	}
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	// The socket of a process that died is in the way of the next one.
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: others may connect", info.Mode(), err)
	}
	conn, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
}

func TestNobodyListens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	if _, err := Dial(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v does not name the socket", err)
	}
}

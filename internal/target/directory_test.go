// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build unix

package target_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestDirectoryErrors(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		name, dir string
	}{
		{"Missing", filepath.Join(dir, "not-mounted")},
		{"File", filepath.Join(dir, "file")},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			for call, err := range calls(t.Context(), target.NewDirectory(test.dir)) {
				if e := vmbackup.AsError(err, ""); e == nil || e.Reason != vmbackup.ReasonTargetUnavailable || !strings.Contains(e.Hint, test.dir) {
					t.Errorf("%s: %v, want TargetUnavailable with a hint", call, err)
				}
			}
		})
	}
}

// What is not a plain file below the directory is neither seen nor followed.
func TestDirectoryStaysInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]string{"link": filepath.Join(outside, "secret"), "folder": outside, "inside": "real"} {
		if err := os.Symlink(link, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := target.NewDirectory(dir)
	if err := s.Put(t.Context(), "real", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link", "inside", "pipe"} {
		if got, err := s.Get(t.Context(), key, 100); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("Get(%q) = %q, %v; want NotFound", key, got, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q): %v", key, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, key)); err != nil {
			t.Errorf("Delete(%q) removed what is no file of the target", key)
		}
	}
	for call, err := range map[string]error{
		"Put":    s.Put(t.Context(), "folder/new", []byte("x")),
		"Delete": s.Delete(t.Context(), "folder/secret"),
	} {
		if err == nil {
			t.Errorf("%s went through a link out of the directory", call)
		}
	}
	if got, err := s.Get(t.Context(), "folder/secret", 100); err == nil {
		t.Errorf("Get read %q outside of the directory", got)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v; want it untouched", entries, err)
	}
	var keys []string
	if err := s.List(t.Context(), "", func(o target.Object) error { keys = append(keys, o.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || keys[0] != "real" {
		t.Errorf("List = %q, want only the plain file", keys)
	}
}

// A write that fails leaves the old file and nothing beside it.
func TestDirectoryFailedPut(t *testing.T) {
	dir := t.TempDir()
	s := target.NewDirectory(dir)
	if err := s.Put(t.Context(), "a/b", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", []byte("new")); err == nil {
		t.Error("Put replaced a folder by a file")
	}
	if err := s.Put(t.Context(), "a/b/c", []byte("new")); err == nil {
		t.Error("Put replaced a file by a folder")
	}
	if got, err := s.Get(t.Context(), "a/b", 10); err != nil || string(got) != "old" {
		t.Errorf("Get = %q, %v; want the old file", got, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "vmbackup", ".tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("files left over: %v, %v", left, err)
	}
}

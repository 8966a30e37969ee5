// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func newInstance(t *testing.T) *Instance {
	t.Helper()
	i, err := At(t.TempDir(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", "..", "a/b", "-a", "a-", "UPPER", strings.Repeat("x", 40)} {
		if _, err := At(t.TempDir(), bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for _, good := range []string{"a", "default", "source-2"} {
		if _, err := At(t.TempDir(), good); err != nil {
			t.Error(err)
		}
	}
}

func TestLockExcludesAndEndsWithItsHolders(t *testing.T) {
	i := newInstance(t)
	if running, err := i.Running(); running || err != nil {
		t.Fatalf("running before anything: %v, %v", running, err)
	}
	lock, err := i.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.lock(); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("locked twice: %v", err)
	}
	// A child that inherits the file holds the lock when the parent lets go.
	child := exec.Command("/bin/cat")
	child.ExtraFiles = []*os.File{lock}
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if running, err := i.Running(); !running || err != nil {
		t.Errorf("the child does not hold the lock: %v, %v", running, err)
	}
	stdin.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if running, err := i.Running(); running || err != nil {
		t.Errorf("locked by nobody: %v, %v", running, err)
	}
}

func TestDownRemovesWhatAKilledInstanceLeft(t *testing.T) {
	i := newInstance(t)
	for _, name := range []string{ownerFile, "env.json", "logs/etcd.log", "run/monitor.json"} {
		write(t, i.path(name), "{}")
	}
	// The process is gone and its number belongs to another one.
	write(t, i.path("run", "monitor.json"), `{"pid":1,"started":1}`)
	write(t, i.Dir+".lock", "")
	all, err := List(filepath.Dir(i.Dir))
	if err != nil || len(all) != 1 {
		t.Fatalf("instances: %v, %v", all, err)
	}
	if err := i.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(i.Dir)); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := i.Down(t.Context()); err != nil {
		t.Errorf("down of nothing: %v", err)
	}
}

func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	i := newInstance(t)
	precious := i.path("thesis.tex")
	write(t, precious, "years of work")
	if err := i.Down(t.Context()); err == nil || !strings.Contains(err.Error(), "not the state of a sandbox") {
		t.Errorf("down: %v", err)
	}
	if _, err := i.create(UpOptions{}, 1); err == nil {
		t.Error("created over a foreign directory")
	}
	if all, err := List(filepath.Dir(i.Dir)); err != nil || len(all) != 0 {
		t.Errorf("taken for instances: %v, %v", all, err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestCreateAndShareS3(t *testing.T) {
	first := newInstance(t)
	env, err := first.create(UpOptions{Families: map[string]string{"f": "/entry"}}, 1234)
	if err != nil {
		t.Fatal(err)
	}
	read, err := first.Env()
	if err != nil {
		t.Fatal(err)
	}
	if read.APIHostPort != 1234 || read.S3Port == 0 || read.S3Port != env.S3Port || read.Families["f"] != "/entry" {
		t.Errorf("read back %+v", read)
	}
	second, err := At(filepath.Dir(first.Dir), "second")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.create(UpOptions{S3From: first}, 1235); !errors.Is(err, ErrNotRunning) {
		t.Errorf("shared the S3 server of an instance that does not run: %v", err)
	}
	lock, err := first.lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	shared, err := second.create(UpOptions{S3From: first}, 1235)
	if err != nil {
		t.Fatal(err)
	}
	if shared.S3Port != env.S3Port || shared.S3From != "test" {
		t.Errorf("shares %+v", shared)
	}
	a, errA := os.ReadFile(env.S3CredentialsPath())
	b, errB := os.ReadFile(shared.S3CredentialsPath())
	if errA != nil || errB != nil || string(a) != string(b) {
		t.Error("the credentials differ")
	}
	if info, err := os.Stat(shared.S3CredentialsPath()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the credentials are readable by others: %v", info.Mode())
	}
}

func TestStatusOfNothing(t *testing.T) {
	i := newInstance(t)
	if _, err := i.Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status: %v", err)
	}
	if err := i.Control(t.Context(), "etcd", "stop"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("control: %v", err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build sandbox

// Package test brings real instances up. It needs root, and the programs are
// built at the first run:
//
//	go test -tags sandbox -count=1 -timeout 30m ./test
package test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/instance"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/manifest"
)

// box is a sandbox program with a home of its own.
type box struct {
	t       *testing.T
	program string
	home    string
}

// newBox builds the program. Its home is in the cache directory, because
// Longhorn's data needs a real file system and the temporary directory may be
// in memory.
func newBox(t *testing.T) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes namespaces and mounts")
	}
	cache, err := build.DefaultCache()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp(cache, "test-") //nolint:usetesting // not on tmpfs, see above
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, program: filepath.Join(t.TempDir(), "sandbox"), home: home}
	if out, err := exec.Command("go", "build", "-o", b.program, "../cmd/sandbox").CombinedOutput(); err != nil {
		t.Fatalf("build the sandbox: %v\n%s", err, out)
	}
	after := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := b.command(after, "status", "--name", "one").CombinedOutput()
			t.Logf("status at the end:\n%s", out)
		}
		if out, err := b.command(after, "down", "--all").CombinedOutput(); err != nil {
			t.Errorf("down --all: %v\n%s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *box) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.program, args...)
	cmd.Env = append(os.Environ(), "SANDBOX_HOME="+b.home)
	return cmd
}

// try runs a command and returns both outputs.
func (b *box) try(args ...string) (stdout, stderr string, err error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Minute)
	defer cancel()
	cmd := b.command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

// run is try for commands that must succeed; it returns the standard output without the last newline.
func (b *box) run(args ...string) string {
	b.t.Helper()
	stdout, stderr, err := b.try(args...)
	if err != nil {
		b.t.Fatalf("sandbox %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}

// cluster is a running instance.
type cluster struct {
	*box
	state   *instance.Instance
	env     *component.Env
	client  dynamic.Interface
	applier *manifest.Applier
}

// up brings an instance up.
func (b *box) up(name string, args ...string) *cluster {
	b.t.Helper()
	started := time.Now()
	stdout := b.run(append([]string{"up", "--name", name}, args...)...)
	b.t.Logf("instance %s up after %s", name, time.Since(started).Round(time.Second))
	state, err := instance.At(b.home, name)
	if err != nil {
		b.t.Fatal(err)
	}
	if want := "export KUBECONFIG=" + state.Kubeconfig(); stdout != want {
		b.t.Errorf("up printed %q, want %q", stdout, want)
	}
	env, err := state.Env()
	if err != nil {
		b.t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", state.Kubeconfig())
	if err != nil {
		b.t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	applier, err := manifest.NewApplier(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return &cluster{box: b, state: state, env: env, client: client, applier: applier}
}

// apply applies YAML with %-verbs filled in.
func (c *cluster) apply(yaml string, args ...any) {
	c.t.Helper()
	if err := c.applier.ApplyYAML(c.t.Context(), fmt.Appendf(nil, yaml, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// processes returns the processes that carry an instance's marker, as "pid name".
func processes(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	marker := []byte(instance.Marker + "=" + dir)
	var found []string
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		// A process that ends meanwhile has no environment any more.
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		for variable := range bytes.SplitSeq(environ, []byte{0}) {
			if bytes.Equal(variable, marker) {
				name, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
				found = append(found, e.Name()+" "+strings.TrimSpace(string(name)))
			}
		}
	}
	return found
}

// assertGone waits until nothing of the instance is left but files: no process, no mount, no listener.
func (c *cluster) assertGone() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for left := c.left(); len(left) > 0; left = c.left() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			c.t.Fatalf("left: %v", left)
		}
	}
}

// left is what there is of the instance but files. A process that ends has lost its
// environment, by which it is found, before its sockets are closed.
func (c *cluster) left() []string {
	c.t.Helper()
	left := processes(c.t, c.env.Dir)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		c.t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(c.env.Dir)) {
		left = append(left, "mounts")
	}
	for what, port := range map[string]int{"kube-apiserver": c.env.APIHostPort, "the S3 server": c.env.S3Port} {
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			conn.Close()
			left = append(left, fmt.Sprintf("a listener on the port of %s", what))
		}
	}
	return left
}

func TestInstance(t *testing.T) {
	b := newBox(t)
	c := b.up("one")
	t.Run("components", c.testComponents)
	t.Run("users", c.testUsers)
	t.Run("backup and restore", c.testBackupAndRestore)
	t.Run("stop and start", c.testStopAndStart)
	t.Run("seed", c.testSeed)
	t.Run("second instance", c.testSecondInstance)
	t.Run("killed", c.testKilled)
	t.Run("down", c.testDown)
}

// testKilled kills the monitor: all that it held must go with it, and the next up must start over.
func (c *cluster) testKilled(t *testing.T) {
	c.t = t
	for _, role := range []string{"monitor", "init"} {
		pid, err := c.state.PID(role)
		if err != nil {
			t.Fatal(err)
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.assertGone()
		if _, stderr, err := c.try("status", "--name", "one"); err == nil || !strings.Contains(stderr, "not running") {
			t.Errorf("status after the kill of %s: %v, %s", role, err, stderr)
		}
		*c = *c.up("one")
		if got := c.run("up", "--name", "one"); got != "export KUBECONFIG="+c.state.Kubeconfig() {
			t.Errorf("up of a running instance printed %q", got)
		}
		c.t = t
	}
}

func (c *cluster) testDown(t *testing.T) {
	c.t = t
	c.run("down", "--name", "one")
	c.assertGone()
	left, err := os.ReadDir(c.home)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left in the home: %v", left)
	}
	c.run("down", "--name", "one")
}

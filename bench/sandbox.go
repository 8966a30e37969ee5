// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// sandboxName keeps the benchmark apart from a sandbox that someone works in.
const sandboxName = "bench"

// sandbox is a running sandbox of the benchmark's own.
type sandbox struct {
	program, name string

	progress   io.Writer
	kubeconfig string
	config     *rest.Config
}

// measureSandbox starts a sandbox, measures it and the backups on it, and stops it.
func measureSandbox(ctx context.Context, progress io.Writer, p *programs, r *report) (err error) {
	began := time.Now()
	s := &sandbox{program: p.sandbox, name: sandboxName, progress: progress}
	// A sandbox that is half up must go too; it outlives an interrupt for that long.
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		_, downErr := s.run(cleanup, "down")
		err = errors.Join(err, downErr)
	}()
	if _, err := s.run(ctx, "up"); err != nil {
		return err
	}
	r.add("sandbox start", time.Since(began).Seconds(), "s", "once, components built before")
	if err := s.connect(ctx); err != nil {
		return err
	}
	memory, err := s.memory()
	if err != nil {
		return err
	}
	r.add("sandbox memory", memory, "MiB", "proportional set size of all its processes, before any VM")
	return measureBackups(ctx, p, s, r)
}

// run calls the sandbox program and returns what it printed.
func (s *sandbox) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.program, append([]string{"--name", s.name}, args...)...)
	cmd.Stderr = s.progress
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", strings.Join(args, " "), err)
	}
	return output, nil
}

// connect learns the sandbox's kubeconfig.
func (s *sandbox) connect(ctx context.Context) error {
	output, err := s.run(ctx, "kubeconfig")
	if err != nil {
		return err
	}
	s.config, err = clientcmd.RESTConfigFromKubeConfig(output)
	if err != nil {
		return fmt.Errorf("kubeconfig of the sandbox: %w", err)
	}
	// The client's own limit must not slow down what is measured.
	s.config.QPS, s.config.Burst = -1, -1
	return nil
}

// marker is the variable that every process of an instance has in its
// environment; its value is the instance's state folder.
const marker = "SANDBOX_INSTANCE="

// memory returns the memory of all processes of the sandbox in MiB, a shared
// page counted once.
func (s *sandbox) memory() (float64, error) {
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, path := range environments {
		environment, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile, or not ours to look at
		}
		if !belongsTo(environment, sandboxName) {
			continue
		}
		kib, err := proportionalKiB(filepath.Join(filepath.Dir(path), "smaps_rollup"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		total += kib
	}
	if total == 0 {
		return 0, errors.New("no process of the sandbox was found")
	}
	return total / 1024, nil
}

// belongsTo reports whether an environment, as /proc shows it, is that of a
// process of the instance.
func belongsTo(environment []byte, instance string) bool {
	for variable := range bytes.SplitSeq(environment, []byte{0}) {
		if dir, found := strings.CutPrefix(string(variable), marker); found {
			return filepath.Base(dir) == instance
		}
	}
	return false
}

// proportionalKiB reads Pss from a smaps_rollup file.
func proportionalKiB(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) >= 2 && fields[0] == "Pss:" {
			return strconv.ParseFloat(fields[1], 64)
		}
	}
	// A process that ended while it was read, or a kernel thread, has no memory.
	return 0, nil
}

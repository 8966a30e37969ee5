// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package build makes the programs of a sandbox from their pinned Go modules
// and keeps them in a cache, one entry a family.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Builder builds families into a cache.
type Builder struct {
	// Modules is the directory with one module directory a family (sandbox/modules).
	Modules string
	// Families is what to build; see Families.
	Families []Family
	// Cache holds the entries, <family>-<key>/{bin,share}, and the build logs.
	Cache string
	// Out receives the progress, one line a fact.
	Out io.Writer
}

// DefaultCache is $SANDBOX_CACHE, or kubectl-vmbackup/sandbox in the user's cache directory.
func DefaultCache() (string, error) {
	if dir := os.Getenv("SANDBOX_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "kubectl-vmbackup", "sandbox"), nil
}

// Entries returns the cache entry of every family and marks it as used. It
// fails with ErrNotBuilt when one is missing.
func (b *Builder) Entries(ctx context.Context) (map[string]string, error) {
	toolchain, err := goVersion(ctx)
	if err != nil {
		return nil, err
	}
	entries := map[string]string{}
	now := time.Now()
	for _, f := range b.Families {
		entry, err := b.entry(f, toolchain)
		if err != nil {
			return nil, err
		}
		if err := os.Chtimes(entry, now, now); errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s", ErrNotBuilt, f.Name)
		} else if err != nil {
			return nil, err
		}
		entries[f.Name] = entry
	}
	return entries, nil
}

// ErrNotBuilt says that a family has no entry for its present pins.
var ErrNotBuilt = errors.New(`not built (run "sandbox build")`)

// Build makes what is missing. An entry appears whole or not at all. Entries of
// earlier pins that nobody uses are removed.
func (b *Builder) Build(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(b.Cache, "logs"), 0o755); err != nil {
		return err
	}
	toolchain, err := goVersion(ctx)
	if err != nil {
		return err
	}
	for i, f := range b.Families {
		label := fmt.Sprintf("[%d/%d] %s", i+1, len(b.Families), f.Name)
		entry, err := b.entry(f, toolchain)
		if err != nil {
			return err
		}
		if err := b.ensure(ctx, f, entry, label); err != nil {
			return err
		}
	}
	return nil
}

// ensure builds one family if its entry is missing, alone among all processes.
func (b *Builder) ensure(ctx context.Context, f Family, entry, label string) error {
	lock, err := b.lockFamily(ctx, f, label)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(entry); err == nil {
		fmt.Fprintf(b.Out, "%s: up to date\n", label)
	} else {
		started := time.Now()
		if err := b.buildFamily(ctx, f, entry, label); err != nil {
			return err
		}
		fmt.Fprintf(b.Out, "%s: built in %s\n", label, time.Since(started).Round(time.Second))
	}
	return b.removeUnused(f, entry)
}

func (b *Builder) entry(f Family, toolchain string) (string, error) {
	key, err := Key(f, filepath.Join(b.Modules, f.Name), toolchain)
	if err != nil {
		return "", err
	}
	return filepath.Join(b.Cache, f.Name+"-"+key), nil
}

func (b *Builder) buildFamily(ctx context.Context, f Family, entry, label string) error {
	tmp, err := os.MkdirTemp(b.Cache, ".new-"+f.Name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	for _, p := range f.Programs {
		if err := b.compile(ctx, f, p, filepath.Join(tmp, "bin", p.Name), label); err != nil {
			return err
		}
	}
	for _, e := range f.Extracts {
		if err := b.extract(ctx, f, e, filepath.Join(tmp, "share", e.To)); err != nil {
			return fmt.Errorf("family %s: extract %s: %w", f.Name, e.Path, err)
		}
	}
	if err := os.Rename(tmp, entry); err != nil {
		return fmt.Errorf("family %s: %w", f.Name, err)
	}
	return nil
}

// compile runs "go build" in the family's module and narrates it.
func (b *Builder) compile(ctx context.Context, f Family, p Program, out, label string) error {
	logPath := filepath.Join(b.Cache, "logs", f.Name+"-"+p.Name+".log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()

	flags := []string{"-s", "-w"}
	for _, v := range p.Variables {
		flags = append(flags, "-X", v)
	}
	cmd := b.goCommand(ctx, f, "build", "-ldflags", strings.Join(flags, " "), "-o", out, p.Package)
	output := &outputFollower{log: log}
	cmd.Stdout, cmd.Stderr = output, output

	stop := b.tick(label+": "+p.Name, output)
	err = cmd.Run()
	stop()
	if err != nil {
		return explain(f, p, output.tail(), logPath, err)
	}
	return nil
}

// goCommand is the go tool in the family's module. The module's go.sum is
// complete, so nothing there is decided on the user's machine: no rewriting of
// go.mod, no other toolchain, no workspace.
func (b *Builder) goCommand(ctx context.Context, f Family, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(b.Modules, f.Name)
	cmd.Env = append(os.Environ(),
		"GOFLAGS=-buildvcs=false -mod=readonly", "GOTOOLCHAIN=local", "GOWORK=off", "CGO_ENABLED=1")
	return cmd
}

// tick prints the state of a build at its start and then as long as it lasts.
func (b *Builder) tick(label string, output *outputFollower) (stop func()) {
	const interval = 15 * time.Second
	started := time.Now()
	done, finished := make(chan struct{}), make(chan struct{})
	fmt.Fprintf(b.Out, "%s ...\n", label)
	go func() {
		defer close(finished)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				fmt.Fprintf(b.Out, "%s ... %s, %d modules downloaded\n",
					label, time.Since(started).Round(time.Second), output.downloads())
			}
		}
	}()
	return func() {
		close(done)
		<-finished
		fmt.Fprintf(b.Out, "%s done in %s (%d modules downloaded)\n",
			label, time.Since(started).Round(time.Second), output.downloads())
	}
}

func goVersion(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH")
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("the sandbox needs the go tool: %w", err)
	}
	return strings.Join(strings.Fields(string(out)), " "), nil
}

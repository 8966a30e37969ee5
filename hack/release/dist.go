// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// platform is one os/arch that the plugin is published for, in Go's names,
// which are krew's too.
type platform struct{ OS, Arch string }

func platforms() []platform {
	return []platform{
		{"darwin", "amd64"},
		{"darwin", "arm64"},
		{"linux", "amd64"},
		{"linux", "arm64"},
		{"windows", "amd64"},
	}
}

func findPlatform(name string) (platform, error) {
	for _, p := range platforms() {
		if p.String() == name {
			return p, nil
		}
	}
	return platform{}, fmt.Errorf("platform %q is not published; known are %v", name, platforms())
}

func (p platform) String() string { return p.OS + "/" + p.Arch }

// Bin is the name of the program in the archive.
func (p platform) Bin() string {
	if p.OS == "windows" {
		return "kubectl-vmbackup.exe"
	}
	return "kubectl-vmbackup"
}

// Archive is the file name of the platform's archive.
func (p platform) Archive() string {
	name := "kubectl-vmbackup_" + p.OS + "_" + p.Arch
	if p.OS == "windows" {
		return name + ".zip"
	}
	return name + ".tar.gz"
}

// release builds the archives of one version.
type release struct {
	version, commit string
	dir             string
	out             io.Writer
}

// build writes an archive for each platform, SHA256SUMS, and vmbackup.yaml: the
// krew manifest of these archives, which marks the platforms that were not built.
func (r release) build(ctx context.Context, selected []platform) error {
	license, err := os.ReadFile("LICENSE")
	if err != nil {
		return fmt.Errorf("run from the root of the repository: %w", err)
	}
	digests := unreleased()
	var sums strings.Builder
	for _, p := range selected {
		program, err := r.compile(ctx, p)
		if err != nil {
			return err
		}
		var archive bytes.Buffer
		files := []file{{p.Bin(), 0o755, program}, {"LICENSE", 0o644, license}}
		if err := writeArchive(&archive, p.Archive(), files); err != nil {
			return fmt.Errorf("archive %s: %w", p.Archive(), err)
		}
		if err := os.WriteFile(filepath.Join(r.dir, p.Archive()), archive.Bytes(), 0o644); err != nil {
			return err
		}
		digest := sha256.Sum256(archive.Bytes())
		digests[p] = hex.EncodeToString(digest[:])
		fmt.Fprintf(&sums, "%s  %s\n", digests[p], p.Archive())
		fmt.Fprintf(r.out, "%s  %s (%.1f MiB)\n", digests[p], p.Archive(), float64(archive.Len())/(1<<20))
	}
	if err := os.WriteFile(filepath.Join(r.dir, "SHA256SUMS"), []byte(sums.String()), 0o644); err != nil {
		return err
	}
	manifest, err := renderManifest(r.version, digests)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, pluginName+".yaml"), manifest, 0o644)
}

// compile returns the program for a platform.
func (r release) compile(ctx context.Context, p platform) ([]byte, error) {
	path := filepath.Join(r.dir, p.OS+"_"+p.Arch, p.Bin())
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X main.version="+r.version+" -X main.commit="+r.commit,
		"-o", path, "./cmd/kubectl-vmbackup")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Arch)
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build for %s: %w\n%s", p, err, output)
	}
	return os.ReadFile(path)
}

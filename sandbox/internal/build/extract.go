// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// extract copies a file or directory of a module to a path of the new entry.
func (b *Builder) extract(ctx context.Context, f Family, e Extract, to string) error {
	out, err := b.goCommand(ctx, f, "list", "-f", "{{.Module.Dir}}", e.Package).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return fmt.Errorf("go list %s: %w: %s", e.Package, err, exit.Stderr)
		}
		return err
	}
	root := filepath.Join(strings.TrimSpace(string(out)), e.Path)
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if e.Template {
			data = StripTemplate(data)
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
}

var (
	templateLine  = regexp.MustCompile(`(?m)^\s*\{\{[^}]*\}\}\s*\n`)
	templateValue = regexp.MustCompile(`[ \t]*\{\{[^}]*\}\}`)
)

// StripTemplate removes the actions of a Helm template from YAML: a line that
// is nothing else goes, a value becomes null.
func StripTemplate(data []byte) []byte {
	return templateValue.ReplaceAll(templateLine.ReplaceAll(data, nil), nil)
}

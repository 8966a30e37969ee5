// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// declaredReasons are the values of the constants of type Reason.
func declaredReasons(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Reason" {
			for _, v := range spec.Values {
				text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons = append(reasons, text)
			}
		}
		return true
	})
	return reasons
}

// Every reason is explained, once, in the order of its declaration, and no other is.
func TestReasonsAreExplained(t *testing.T) {
	reasons := declaredReasons(t)
	if len(reasons) < 20 {
		t.Fatalf("found only %q", reasons)
	}
	content, err := os.ReadFile(filepath.Join("..", "..", "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	// A row has the reason, its meaning, what is safe and what to do.
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|( [^|]+\\S \\|){3}$").FindAllStringSubmatch(string(content), -1) {
		explained = append(explained, row[1])
	}
	if !slices.Equal(explained, reasons) {
		t.Errorf("docs/troubleshooting.md explains %q\nwant %q", explained, reasons)
	}
}

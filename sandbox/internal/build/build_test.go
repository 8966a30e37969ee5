// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// newModule makes a module directory with a main package and no dependencies.
func newModule(t *testing.T, modules, name string) {
	t.Helper()
	write(t, filepath.Join(modules, name, "go.mod"), "module sandbox/"+name+"\n\ngo 1.26\n")
	write(t, filepath.Join(modules, name, "main.go"),
		"package main\n\nvar version = \"unset\"\n\nfunc main() { println(version) }\n")
	write(t, filepath.Join(modules, name, "crds", "a.yaml"), "metadata:\n  labels: {{- include \"x\" . }}\n{{ end }}\nkind: A\n")
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func entriesOf(t *testing.T, cache, family string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cache, "*"+family+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestBuildIsCachedAndRebuiltWhenAPinChanges(t *testing.T) {
	modules, cache := t.TempDir(), t.TempDir()
	newModule(t, modules, "tool")
	newModule(t, modules, "other")
	var out bytes.Buffer
	b := &Builder{
		Modules: modules, Cache: cache, Out: &out,
		Families: []Family{
			{
				Name:     "tool",
				Programs: []Program{{Name: "tool", Package: ".", Variables: []string{"main.version=v7"}}},
				Extracts: []Extract{{Package: ".", Path: "crds", To: "crds", Template: true}},
			},
			{Name: "other", Programs: []Program{{Name: "other", Package: "."}}},
		},
	}
	if _, err := b.Entries(t.Context()); err == nil {
		t.Fatal("entries before the first build")
	}
	if err := b.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := b.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(filepath.Join(entries["tool"], "bin", "tool")).CombinedOutput()
	if err != nil || string(said) != "v7\n" {
		t.Fatalf("the program says %q (%v), want the linked version", said, err)
	}
	crd, err := os.ReadFile(filepath.Join(entries["tool"], "share", "crds", "a.yaml"))
	if err != nil || string(crd) != "metadata:\n  labels:\nkind: A\n" {
		t.Fatalf("extracted %q (%v)", crd, err)
	}

	out.Reset()
	if err := b.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "[1/2] tool: up to date\n[2/2] other: up to date\n"; out.String() != want {
		t.Errorf("second build said %q, want %q", out.String(), want)
	}

	write(t, filepath.Join(modules, "tool", "go.mod"), "module sandbox/tool\n\ngo 1.25\n")
	out.Reset()
	if err := b.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "[1/2] tool: built") || !strings.Contains(out.String(), "[2/2] other: up to date") {
		t.Errorf("a changed pin of one family said\n%s", out.String())
	}
	if left := entriesOf(t, cache, "tool"); len(left) != 2 {
		t.Errorf("entries after the change: %v, want the new one and the one used a moment ago", left)
	}
	if left := entriesOf(t, cache, "other"); !slices.Equal(left, []string{entries["other"]}) {
		t.Errorf("the other family was touched: %v", left)
	}
}

func TestOldEntriesGoWhenNobodyUsesThem(t *testing.T) {
	modules, cache := t.TempDir(), t.TempDir()
	newModule(t, modules, "tool")
	b := &Builder{
		Modules: modules, Cache: cache, Out: &bytes.Buffer{},
		Families: []Family{{Name: "tool", Programs: []Program{{Name: "tool", Package: "."}}}},
	}
	names := map[string]string{
		"held":     filepath.Join(cache, "tool-0000000000000001"),
		"unused":   filepath.Join(cache, "tool-0000000000000002"),
		"recent":   filepath.Join(cache, "tool-0000000000000003"),
		"foreign":  filepath.Join(cache, "tool-box-0000000000000004"),
		"unfinish": filepath.Join(cache, ".new-tool-123"),
	}
	longAgo := time.Now().Add(-48 * time.Hour)
	for what, dir := range names {
		write(t, filepath.Join(dir, "bin", "x"), "x")
		if what == "recent" {
			continue
		}
		if err := os.Chtimes(dir, longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
	hold, err := Hold(names["held"])
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, wantKept := range map[string]bool{"held": true, "unused": false, "recent": true, "foreign": true, "unfinish": false} {
		if _, err := os.Stat(names[what]); (err == nil) != wantKept {
			t.Errorf("%s: %v, want kept %v", what, err, wantKept)
		}
	}
	hold.Close()
	if err := b.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(names["held"]); err == nil {
		t.Error("kept after its holder is gone")
	}
}

func TestBuildsOfAFamilyWaitForEachOther(t *testing.T) {
	modules, cache := t.TempDir(), t.TempDir()
	newModule(t, modules, "tool")
	newBuilder := func(out io.Writer) *Builder {
		return &Builder{
			Modules: modules, Cache: cache, Out: out,
			Families: []Family{{Name: "tool", Programs: []Program{{Name: "tool", Package: "."}}}},
		}
	}
	var first, second bytes.Buffer
	lock, err := newBuilder(&first).lockFamily(t.Context(), Family{Name: "tool"}, "")
	if err == nil {
		err = os.MkdirAll(filepath.Join(cache, "logs"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := newBuilder(&second).Build(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("built beside another build: %v", err)
	}
	if !strings.Contains(second.String(), "waiting for another build") {
		t.Errorf("said %q", second.String())
	}
	lock.Close()
	if err := newBuilder(&second).Build(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFailedBuildLeavesNoEntry(t *testing.T) {
	modules, cache := t.TempDir(), t.TempDir()
	newModule(t, modules, "broken")
	write(t, filepath.Join(modules, "broken", "main.go"), "package main\n\nfunc main() { undefined() }\n")
	b := &Builder{
		Modules: modules, Cache: cache, Out: &bytes.Buffer{},
		Families: []Family{{Name: "broken", Programs: []Program{{Name: "broken", Package: "."}}}},
	}
	err := b.Build(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"family broken", "undefined: undefined", filepath.Join(cache, "logs", "broken-broken.log")} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not tell %q", err, want)
		}
	}
	if left := entriesOf(t, cache, "broken"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKeyFollowsFilesTableAndToolchain(t *testing.T) {
	modules := t.TempDir()
	newModule(t, modules, "f")
	dir := filepath.Join(modules, "f")
	family := Family{Name: "f", Programs: []Program{{Name: "p", Package: "."}}}
	keyOf := func(f Family, toolchain string) string {
		t.Helper()
		key, err := Key(f, dir, toolchain)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := keyOf(family, "go1")
	if again := keyOf(family, "go1"); again != first {
		t.Error("the key of unchanged input changed")
	}
	if keyOf(family, "go2") == first {
		t.Error("another toolchain, the same key")
	}
	other := family
	other.Programs = []Program{{Name: "p", Package: ".", Variables: []string{"a.b=c"}}}
	if keyOf(other, "go1") == first {
		t.Error("another table row, the same key")
	}
	write(t, filepath.Join(dir, "sub", "file.go"), "package sub\n")
	second := keyOf(family, "go1")
	if second == first {
		t.Error("a new file, the same key")
	}
	if err := os.Rename(filepath.Join(dir, "sub", "file.go"), filepath.Join(dir, "sub", "renamed.go")); err != nil {
		t.Fatal(err)
	}
	if keyOf(family, "go1") == second {
		t.Error("a renamed file, the same key")
	}
}

func TestOutputFollower(t *testing.T) {
	var log bytes.Buffer
	o := &outputFollower{log: &log}
	for _, part := range []string{"go: downloading a v1\ngo: down", "loading b v2\nerror: x\n", "half"} {
		if _, err := o.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if o.downloads() != 2 {
		t.Errorf("%d downloads, want 2", o.downloads())
	}
	if want := "error: x\nhalf"; o.tail() != want {
		t.Errorf("tail %q, want %q", o.tail(), want)
	}
	if want := "go: downloading a v1\ngo: downloading b v2\nerror: x\nhalf"; log.String() != want {
		t.Errorf("log %q", log.String())
	}
}

func TestRefusedModuleIsNamed(t *testing.T) {
	for output, want := range map[string]string{
		"go: github.com/x/y@v1.2.3: reading https://proxy.example/github.com/x/y/@v/v1.2.3.zip: 403 Forbidden": "module proxy refused github.com/x/y@v1.2.3",
		"main.go:3:2: github.com/x/y@v0.0.0-2025: Get \"https://proxy.example/\": dial tcp: no route":          "module proxy refused github.com/x/y@v0.0.0-2025",
		"./main.go:3:15: undefined: foo": "family f: build p",
	} {
		err := explain(Family{Name: "f"}, Program{Name: "p"}, output, "/log", exec.ErrNotFound)
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), output) {
			t.Errorf("explained as %q, want %q and the output", err, want)
		}
	}
}

// The real table must fit the module directories of the checkout.
func TestFamiliesHaveModules(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Families() {
		for _, file := range []string{"go.mod", "go.sum"} {
			if _, err := os.Stat(filepath.Join("..", "..", "modules", f.Name, file)); err != nil {
				t.Error(err)
			}
		}
		for _, p := range f.Programs {
			if seen[p.Name] {
				t.Errorf("program %s is in the table twice", p.Name)
			}
			seen[p.Name] = true
		}
	}
}

func TestFamiliesOfAProfile(t *testing.T) {
	names := func(profile string) (list []string) {
		for _, f := range FamiliesOf(profile) {
			list = append(list, f.Name)
		}
		return list
	}
	usual, withHarvester := names(component.Default), names(component.Harvester)
	if slices.Contains(usual, Harvester) || !slices.Equal(withHarvester, append(usual, Harvester)) {
		t.Errorf("default: %v, harvester: %v", usual, withHarvester)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// oddStore lists keys that no Store takes, as S3 has them, and counts what is read.
type oddStore struct {
	target.Store
	t    *testing.T
	keys []target.Object
}

func (o *oddStore) List(ctx context.Context, prefix string, each func(target.Object) error) error {
	for _, object := range o.keys {
		if strings.HasPrefix(object.Key, prefix) {
			if err := each(object); err != nil {
				return err
			}
		}
	}
	return o.Store.List(ctx, prefix, each)
}

func (o *oddStore) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if slices.ContainsFunc(o.keys, func(object target.Object) bool { return object.Key == key }) {
		o.t.Errorf("%q was read", key)
	}
	return o.Store.Get(ctx, key, limit)
}

// Files with names that no backup has, or too large for one, are told and not read,
// and the rest of the listing is shown.
func TestOddFilesAreToldAndNotRead(t *testing.T) {
	p := newPlace(t)
	p.onTarget(record("demo/good", "web", 1), "rd")
	p.onTarget(record("other/good", "web", 0), "hd")
	odd := &oddStore{Store: p.store, t: t}
	for _, key := range []string{
		"vmbackup/../kube-system/x.json", "vmbackup/demo/../../x.json", "vmbackup/demo//x.json", "vmbackup/demo/x\x00.json", "vmbackup/demo/\x1b[2J.json",
		"vmbackup/Demo/x.json", "vmbackup/demo/UPPER.json", "vmbackup/demo/a b.json", "vmbackup/x.json", "vmbackup/demo/" + strings.Repeat("x", 300) + ".json",
		"harvester/vmbackups/demo/x/y.cfg", "harvester/vmbackups/-.cfg",
		"vmbackup/README", "harvester/vmbackups/demo/notes.txt", // nobody's
	} {
		odd.keys = append(odd.keys, target.Object{Key: key, Size: 1})
	}
	odd.keys = append(odd.keys, target.Object{Key: "vmbackup/demo/huge.json", Size: 1 << 40})
	c := catalog.New(p.journal, catalog.Target{Name: "default", Open: func(context.Context, string) (target.Store, error) { return odd, nil }}, decodeRestore)

	got, warnings, err := c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceTarget})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"demo/good Ready target", "other/good Ready target"}; !slices.Equal(told(got), want) {
		t.Errorf("listed %q, want %q", told(got), want)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[0], "vmbackup/demo/huge.json: 1099511627776 bytes") || !strings.Contains(warnings[1], "12 files") || !strings.Contains(warnings[1], "and 7 more") {
		t.Errorf("warnings %q", warnings)
	}
	_, warnings, err = c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceTarget, Namespace: "demo"})
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[1], `"vmbackup/demo/\x1b[2J.json"`) || !strings.Contains(warnings[1], "8 files") {
		t.Errorf("of one namespace: %q, %v", warnings, err)
	}
	for _, text := range warnings {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("control characters in %q", text)
		}
	}
}

// A file that grows between the listing and its reading is no reason to read more.
func TestFileLargerThanListed(t *testing.T) {
	p := newPlace(t)
	p.put("vmbackup/demo/a.json", bytes.Repeat([]byte(" "), metadata.FileLimit+1))
	_, err := p.catalog().Backup(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "a"}, vmbackup.SourceTarget)
	if vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged || !strings.Contains(err.Error(), "vmbackup/demo/a.json") {
		t.Errorf("%v", err)
	}
}

// Many large files are read one after the other rather than all at once.
func TestLargeFilesTakeTurns(t *testing.T) {
	p := newPlace(t)
	own, err := metadata.EncodeRecord(record("demo/a", "web", 1))
	if err != nil {
		t.Fatal(err)
	}
	const files = 12
	for i := range files {
		name := fmt.Sprintf("a%d", i)
		content := bytes.ReplaceAll(own, []byte(`"metadata":{"name":"a","namespace":"demo"`), fmt.Appendf(nil, `"metadata":{"name":%q,"namespace":"demo"`, name))
		p.put("vmbackup/demo/"+name+".json", append(content, bytes.Repeat([]byte(" "), 7<<20)...))
	}
	counted := &concurrent{Store: p.store}
	c := catalog.New(p.journal, catalog.Target{Name: "default", Open: func(context.Context, string) (target.Store, error) { return counted, nil }}, decodeRestore)
	got, warnings, err := c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceTarget})
	if err != nil || len(got) != files || len(warnings) > 0 {
		t.Fatalf("%d backups, %q, %v", len(got), warnings, err)
	}
	if most := counted.most.Load(); most > 9 {
		t.Errorf("%d files of 7 MiB were read at once", most)
	}
}

// concurrent counts how many files are read at once.
type concurrent struct {
	target.Store
	now, most atomic.Int32
}

func (c *concurrent) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	n := c.now.Add(1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	defer c.now.Add(-1)
	// All that may run do run.
	runtime.Gosched()
	return c.Store.Get(ctx, key, limit)
}

// An empty target is not one that a backup is missing on.
func TestBackupOnAnEmptyTarget(t *testing.T) {
	p := newPlace(t)
	ref := vmbackup.Ref{Namespace: "demo", Name: "a"}
	if _, err := p.catalog().Record(t.Context(), ref, vmbackup.SourceTarget); vmbackup.ReasonOf(err) != vmbackup.ReasonTargetEmpty {
		t.Errorf("%v", err)
	}
	if _, err := p.catalog().Record(t.Context(), ref, vmbackup.SourceAll); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("asked for anywhere: %v", err)
	}
	p.onTarget(record("demo/b", "web", 1), "rd")
	if _, err := p.catalog().Record(t.Context(), ref, vmbackup.SourceTarget); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("beside another one: %v", err)
	}
}

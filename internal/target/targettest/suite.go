// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package targettest is the contract that every target.Store keeps.
package targettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// limit is more than any file of the suite has.
const limit = 8 << 20

// Run checks a store. Each test gets an empty one from open.
func Run(t *testing.T, open func(t *testing.T) target.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s target.Store)
	}{
		{"PutGetStat", putGetStat},
		{"PutReplaces", putReplaces},
		{"PutKeepsItsOwnCopy", putKeepsItsOwnCopy},
		{"ReadersSeeWholeFiles", readersSeeWholeFiles},
		{"Missing", missing},
		{"Limit", limitIsKept},
		{"Delete", deleteTwice},
		{"ListOrder", listOrder},
		{"ListPrefix", listPrefix},
		{"ListStops", listStops},
		{"ListMany", listMany},
		{"Folders", folders},
		{"BadKeys", badKeys},
		{"Canceled", canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

func putGetStat(t *testing.T, s target.Store) {
	before := time.Now().Add(-time.Minute)
	for key, content := range map[string][]byte{
		"vmbackup/ns/a.json":           []byte(`{"a":1}`),
		"harvester/vmbackups/ns/b.cfg": bytes.Repeat([]byte("0123456789abcdef"), 1<<16),
		"empty":                        {},
		"odd/ünïcode name+%20&=?#.cfg": []byte("x"),
	} {
		put(t, s, key, content)
		got, err := s.Get(t.Context(), key, limit)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("Get(%q) = %d bytes, %v; want %d bytes", key, len(got), err, len(content))
		}
		o, err := s.Stat(t.Context(), key)
		if err != nil || o.Key != key || o.Size != int64(len(content)) {
			t.Errorf("Stat(%q) = %+v, %v; want %d bytes", key, o, err, len(content))
		}
		if o.Modified.Before(before) || o.Modified.After(time.Now().Add(time.Minute)) || o.Modified.Location() != time.UTC {
			t.Errorf("Stat(%q).Modified = %v, want now in UTC", key, o.Modified)
		}
	}
}

func putReplaces(t *testing.T, s target.Store) {
	for _, content := range []string{"first, and longer", "second", ""} {
		put(t, s, "a/b", []byte(content))
		if got, err := s.Get(t.Context(), "a/b", limit); err != nil || string(got) != content {
			t.Errorf("Get = %q, %v; want %q", got, err, content)
		}
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("files %q, want the one", got)
	}
}

func putKeepsItsOwnCopy(t *testing.T, s target.Store) {
	content := []byte("before")
	put(t, s, "a", content)
	copy(content, "after!")
	got, err := s.Get(t.Context(), "a", limit)
	if err != nil || string(got) != "before" {
		t.Fatalf("Get = %q, %v; want what was put", got, err)
	}
	copy(got, "after!")
	if got, err := s.Get(t.Context(), "a", limit); err != nil || string(got) != "before" {
		t.Errorf("Get = %q, %v; want what was put", got, err)
	}
}

func readersSeeWholeFiles(t *testing.T, s target.Store) {
	const key, writers, rounds = "vmbackup/ns/shared.json", 3, 8
	content := func(writer int) []byte { return bytes.Repeat([]byte{byte('a' + writer)}, 1<<16+writer) }
	put(t, s, key, content(0))
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			for range rounds {
				if err := s.Put(t.Context(), key, content(writer)); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	for range writers * rounds {
		got, err := s.Get(t.Context(), key, limit)
		if err != nil || len(got) == 0 || !bytes.Equal(got, content(int(got[0]-'a'))) {
			t.Errorf("Get = %d bytes, %v; want all of one writer", len(got), err)
		}
		if keys := list(t, s, ""); !slices.Equal(keys, []string{key}) {
			t.Errorf("files %q, want only the one", keys)
		}
	}
	group.Wait()
}

func missing(t *testing.T, s target.Store) {
	put(t, s, "a/b/c", []byte("x"))
	for _, key := range []string{"x", "a", "a/b", "a/b/d", "a/b/c/d", "A/b/c"} {
		if _, err := s.Get(t.Context(), key, limit); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("Get(%q): %v, want NotFound", key, err)
		} else if !strings.Contains(err.Error(), key) {
			t.Errorf("Get(%q): %q does not name the file", key, err)
		}
		if _, err := s.Stat(t.Context(), key); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("Stat(%q): %v, want NotFound", key, err)
		}
	}
}

func limitIsKept(t *testing.T, s target.Store) {
	put(t, s, "a", make([]byte, 100))
	if got, err := s.Get(t.Context(), "a", 100); err != nil || len(got) != 100 {
		t.Errorf("Get with the file's size as limit = %d bytes, %v", len(got), err)
	}
	if got, err := s.Get(t.Context(), "a", 99); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
		t.Errorf("Get with a smaller limit = %d bytes, %v; want InvalidRequest", len(got), err)
	}
}

func deleteTwice(t *testing.T, s target.Store) {
	put(t, s, "a/b", []byte("x"))
	put(t, s, "a/bc", []byte("x"))
	put(t, s, "a/b.d/e", []byte("x"))
	for range 2 {
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	for _, key := range []string{"a", "nothing/here"} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%q), which is not there: %v", key, err)
		}
	}
	if got, want := list(t, s, ""), []string{"a/b.d/e", "a/bc"}; !slices.Equal(got, want) {
		t.Errorf("files %q after Delete, want %q", got, want)
	}
}

// keys sort in an order that no walk through folders has by itself.
func listOrder(t *testing.T, s target.Store) {
	want := []string{"a-b/c", "a.cfg", "a/b", "a/b.c/d", "a/b/c", "a0/b", "b"}
	// A folder and a file of one name cannot be in a directory.
	want = slices.DeleteFunc(want, func(key string) bool { return key == "a/b" })
	slices.Sort(want)
	for _, key := range slices.Backward(want) {
		put(t, s, key, []byte(key))
	}
	if got := list(t, s, ""); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	err := s.List(t.Context(), "", func(o target.Object) error {
		if o.Size != int64(len(o.Key)) || o.Modified.IsZero() || o.Modified.Location() != time.UTC {
			t.Errorf("listed %+v, want size %d and a time in UTC", o, len(o.Key))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func listPrefix(t *testing.T, s target.Store) {
	for _, key := range []string{"h/v/ns1/a.cfg", "h/v/ns1/b.cfg", "h/v/ns10/a.cfg", "h/v/ns2/a.cfg", "h/vm", "x"} {
		put(t, s, key, []byte("x"))
	}
	for _, test := range []struct {
		prefix string
		want   []string
	}{
		{"h/v/ns1/", []string{"h/v/ns1/a.cfg", "h/v/ns1/b.cfg"}},
		{"h/v/ns1", []string{"h/v/ns1/a.cfg", "h/v/ns1/b.cfg", "h/v/ns10/a.cfg"}},
		{"h/v/ns1/a", []string{"h/v/ns1/a.cfg"}},
		{"h/v/ns1/a.cfg", []string{"h/v/ns1/a.cfg"}},
		{"h/v/ns1/a.cfg/", nil},
		{"h/v/ns3/", nil},
		{"nothing/", nil},
		{"nothing", nil},
	} {
		if got := list(t, s, test.prefix); !slices.Equal(got, test.want) {
			t.Errorf("files with prefix %q: %q, want %q", test.prefix, got, test.want)
		}
	}
}

func listStops(t *testing.T, s target.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("f/%d", i), []byte("x"))
	}
	stop := errors.New("enough")
	var got []string
	err := s.List(t.Context(), "f/", func(o target.Object) error {
		got = append(got, o.Key)
		if len(got) == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || !slices.Equal(got, []string{"f/0", "f/1"}) {
		t.Errorf("List = %v after %q, want the callback's error after two", err, got)
	}
}

// more files than an answer of S3 holds
func listMany(t *testing.T, s target.Store) {
	const files, workers = 1005, 15
	want := make([]string, files)
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for i := worker; i < files; i += workers {
				want[i] = fmt.Sprintf("many/%d/%04d", i/100, i)
				if err := s.Put(t.Context(), want[i], []byte("x")); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	group.Wait()
	slices.Sort(want)
	if got := list(t, s, "many/"); !slices.Equal(got, want) {
		t.Errorf("%d files listed, want %d in order", len(got), len(want))
	}
}

func badKeys(t *testing.T, s target.Store) {
	put(t, s, "a", []byte("x"))
	for _, key := range []string{
		"", "/", "/a", "a/", "./a", "../a", "..", "a/../a", "a/./b", "a//b", `a\b`, `..\a`, "a\x00b", "a\nb", "a\xffb",
		strings.Repeat("k", 1025), "vmbackup/.tmp/x",
	} {
		_, getErr := s.Get(t.Context(), key, limit)
		_, statErr := s.Stat(t.Context(), key)
		for call, err := range map[string]error{
			"Get": getErr, "Stat": statErr,
			"Put":    s.Put(t.Context(), key, []byte("x")),
			"Delete": s.Delete(t.Context(), key),
		} {
			if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
				t.Errorf("%s(%q): %v, want InvalidRequest", call, key, err)
			}
		}
	}
	for _, prefix := range []string{"/", "../", "a/../", "..", "a//", "\x00"} {
		err := s.List(t.Context(), prefix, func(target.Object) error { return nil })
		if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
			t.Errorf("List(%q): %v, want InvalidRequest", prefix, err)
		}
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("files %q, want the one that was there", got)
	}
}

func canceled(t *testing.T, s target.Store) {
	put(t, s, "a", []byte("x"))
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, test := range []struct {
		ctx    context.Context
		reason vmbackup.Reason
		cause  error
	}{
		{canceled, vmbackup.ReasonCanceled, context.Canceled},
		{late, vmbackup.ReasonTargetUnavailable, context.DeadlineExceeded},
	} {
		_, getErr := s.Get(test.ctx, "a", limit)
		_, statErr := s.Stat(test.ctx, "a")
		for call, err := range map[string]error{
			"Get": getErr, "Stat": statErr,
			"Put":    s.Put(test.ctx, "b", []byte("x")),
			"Delete": s.Delete(test.ctx, "a"),
			"List":   s.List(test.ctx, "", func(target.Object) error { return nil }),
		} {
			if vmbackup.ReasonOf(err) != test.reason || !errors.Is(err, test.cause) {
				t.Errorf("%s: %v (%s), want %s for %v", call, err, vmbackup.ReasonOf(err), test.reason, test.cause)
			}
		}
	}
	if got := list(t, s, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("files %q, want the one that was there", got)
	}
}

func put(t *testing.T, s target.Store, key string, content []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, content); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

func list(t *testing.T, s target.Store, prefix string) []string {
	t.Helper()
	var keys []string
	err := s.List(t.Context(), prefix, func(o target.Object) error {
		keys = append(keys, o.Key)
		return nil
	})
	if err != nil {
		t.Fatalf("List(%q): %v", prefix, err)
	}
	return keys
}

func folders(t *testing.T, s target.Store) {
	for _, key := range []string{"v/a/x/1", "v/a/y/1", "v/a.b/1", "v/b/1", "v/file", "w/c/1", "top"} {
		put(t, s, key, []byte("x"))
	}
	of := func(prefix string) (names []string) {
		t.Helper()
		err := target.Folders(t.Context(), s, prefix, func(name string) error {
			names = append(names, name)
			return nil
		})
		if err != nil {
			t.Errorf("Folders(%q): %v", prefix, err)
		}
		slices.Sort(names)
		// A directory keeps files that are being written in the tool's own folder.
		return slices.DeleteFunc(names, func(name string) bool { return name == "vmbackup" })
	}
	for prefix, want := range map[string][]string{"": {"v", "w"}, "v/": {"a", "a.b", "b"}, "v/a/": {"x", "y"}, "v/b/": nil, "none/": nil, "v/file/": nil} {
		if got := of(prefix); !slices.Equal(got, want) {
			t.Errorf("folders in %q: %q, want %q", prefix, got, want)
		}
	}
	stop := errors.New("enough")
	if err := target.Folders(t.Context(), s, "v/", func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Folders = %v, want the callback's error", err)
	}
	if err := target.Folders(t.Context(), s, "../", func(string) error { return nil }); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
		t.Errorf("Folders of a bad prefix = %v", err)
	}
}

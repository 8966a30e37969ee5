// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package journaltest is the contract that every journal.Store keeps.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Place is an empty journal and two namespaces that exist.
type Place struct {
	Store        journal.Store
	First, Other string
}

// Run runs the contract. open is called once for each test; the place is that
// test's alone.
func Run(t *testing.T, open func(t *testing.T) Place) {
	for name, test := range map[string]func(*testing.T, context.Context, Place){
		"create and get":           createAndGet,
		"create twice":             createTwice,
		"missing":                  missing,
		"kinds do not meet":        kindsDoNotMeet,
		"update":                   update,
		"stale update":             staleUpdate,
		"update after delete":      updateAfterDelete,
		"delete":                   remove,
		"list":                     list,
		"odd labels":               oddLabels,
		"long names":               longNames,
		"caller keeps its memory":  callerKeepsItsMemory,
		"bad entries":              badEntries,
		"watch to the end":         watchToTheEnd,
		"watch sees the deletion":  watchSeesTheDeletion,
		"watch is not of the next": watchIsNotOfTheNext,
		"watch of nothing":         watchOfNothing,
		"watch returns the error":  watchReturnsTheError,
		"watch ends with ctx":      watchEndsWithContext,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			test(t, ctx, open(t))
		})
	}
}

func entry(p Place, name, data string) journal.Entry {
	return journal.Entry{
		Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: p.First, Name: name},
		Labels: map[string]string{journal.LabelVM: "web", journal.LabelPhase: "Running"},
		Data:   []byte(data),
	}
}

func create(t *testing.T, ctx context.Context, p Place, e journal.Entry) journal.Entry {
	t.Helper()
	created, err := p.Store.Create(ctx, e)
	if err != nil {
		t.Fatalf("create %s %s: %v", e.Kind, e.Ref, err)
	}
	return created
}

func wantReason(t *testing.T, err error, want vmbackup.Reason) {
	t.Helper()
	var e *vmbackup.Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Fatalf("error %v (%s), want %s", err, vmbackup.ReasonOf(err), want)
	}
}

func createAndGet(t *testing.T, ctx context.Context, p Place) {
	e := entry(p, "nightly", "\x00binary\xff")
	created := create(t, ctx, p, e)
	if created.Version == "" {
		t.Error("no version")
	}
	got, err := p.Store.Get(ctx, e.Kind, e.Ref)
	if err != nil {
		t.Fatal(err)
	}
	for what, g := range map[string]journal.Entry{"created": created, "read": got} {
		if g.Kind != e.Kind || g.Ref != e.Ref || string(g.Data) != string(e.Data) || g.Version != created.Version {
			t.Errorf("%s %+v, want %+v", what, g, e)
		}
		for key, value := range map[string]string{journal.LabelVM: "web", journal.LabelPhase: "Running", journal.LabelKind: "backup"} {
			if g.Labels[key] != value {
				t.Errorf("%s: label %s=%q, want %q", what, key, g.Labels[key], value)
			}
		}
		if len(g.Labels) != 3 {
			t.Errorf("%s: labels %v", what, g.Labels)
		}
	}
}

func createTwice(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	e.Data = []byte("2")
	_, err := p.Store.Create(ctx, e)
	wantReason(t, err, vmbackup.ReasonAlreadyExists)
	if got, err := p.Store.Get(ctx, e.Kind, e.Ref); err != nil || string(got.Data) != "1" {
		t.Errorf("data %q, error %v; want the first", got.Data, err)
	}
}

func missing(t *testing.T, ctx context.Context, p Place) {
	e := entry(p, "nightly", "1")
	_, err := p.Store.Get(ctx, e.Kind, e.Ref)
	wantReason(t, err, vmbackup.ReasonNotFound)
	if err := p.Store.Delete(ctx, e.Kind, e.Ref); err != nil {
		t.Errorf("delete: %v", err)
	}
	if all, err := p.Store.List(ctx, journal.ListOptions{Namespace: p.First}); err != nil || len(all) != 0 {
		t.Errorf("list %v, error %v; want nothing", all, err)
	}
}

func kindsDoNotMeet(t *testing.T, ctx context.Context, p Place) {
	backup := create(t, ctx, p, entry(p, "nightly", "backup"))
	restore := entry(p, "nightly", "restore")
	restore.Kind = journal.KindRestore
	restore = create(t, ctx, p, restore)
	if err := p.Store.Delete(ctx, journal.KindBackup, backup.Ref); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Store.Get(ctx, journal.KindRestore, restore.Ref); err != nil || string(got.Data) != "restore" {
		t.Errorf("data %q, error %v", got.Data, err)
	}
}

func update(t *testing.T, ctx context.Context, p Place) {
	first := create(t, ctx, p, entry(p, "nightly", "1"))
	next := first
	next.Data, next.Labels = []byte("2"), map[string]string{journal.LabelPhase: "Ready"}
	updated, err := p.Store.Update(ctx, next)
	if err != nil {
		t.Fatal(err)
	}
	if updated.Version == first.Version {
		t.Error("the version did not change")
	}
	got, err := p.Store.Get(ctx, first.Kind, first.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Data) != "2" || got.Labels[journal.LabelPhase] != "Ready" || got.Version != updated.Version {
		t.Errorf("read %+v", got)
	}
	if _, kept := got.Labels[journal.LabelVM]; kept {
		t.Error("a label was kept that the update does not have")
	}
	// The version returned is good for the next update.
	updated.Data = []byte("3")
	if _, err := p.Store.Update(ctx, updated); err != nil {
		t.Error(err)
	}
}

func staleUpdate(t *testing.T, ctx context.Context, p Place) {
	first := create(t, ctx, p, entry(p, "nightly", "1"))
	next := first
	next.Data = []byte("2")
	if _, err := p.Store.Update(ctx, next); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{first.Version, ""} {
		late := first
		late.Data, late.Version = []byte("late"), version
		_, err := p.Store.Update(ctx, late)
		wantReason(t, err, vmbackup.ReasonConflict)
	}
	if got, err := p.Store.Get(ctx, first.Kind, first.Ref); err != nil || string(got.Data) != "2" {
		t.Errorf("data %q, error %v", got.Data, err)
	}
}

func updateAfterDelete(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	if err := p.Store.Delete(ctx, e.Kind, e.Ref); err != nil {
		t.Fatal(err)
	}
	_, err := p.Store.Update(ctx, e)
	wantReason(t, err, vmbackup.ReasonNotFound)
	// An entry of the same name is another one.
	create(t, ctx, p, entry(p, "nightly", "2"))
	_, err = p.Store.Update(ctx, e)
	wantReason(t, err, vmbackup.ReasonConflict)
}

func remove(t *testing.T, ctx context.Context, p Place) {
	e := create(t, ctx, p, entry(p, "nightly", "1"))
	for range 2 {
		if err := p.Store.Delete(ctx, e.Kind, e.Ref); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.Store.Get(ctx, e.Kind, e.Ref)
	wantReason(t, err, vmbackup.ReasonNotFound)
	create(t, ctx, p, entry(p, "nightly", "2"))
}

func list(t *testing.T, ctx context.Context, p Place) {
	for _, e := range []struct {
		kind                journal.Kind
		namespace, name, vm string
	}{
		{journal.KindBackup, p.First, "b", "web"},
		{journal.KindBackup, p.First, "a", "db"},
		{journal.KindBackup, p.Other, "a", "web"},
		{journal.KindRestore, p.First, "a", "web"},
	} {
		create(t, ctx, p, journal.Entry{
			Kind: e.kind, Ref: vmbackup.Ref{Namespace: e.namespace, Name: e.name},
			Labels: map[string]string{journal.LabelVM: e.vm}, Data: []byte("data of " + e.name),
		})
	}
	first, other := p.First, p.Other
	for name, tt := range map[string]struct {
		opts journal.ListOptions
		want []string
	}{
		"backups of a namespace": {journal.ListOptions{Kind: journal.KindBackup, Namespace: first}, []string{"backup " + first + "/a", "backup " + first + "/b"}},
		"another namespace":      {journal.ListOptions{Namespace: other}, []string{"backup " + other + "/a"}},
		"both kinds":             {journal.ListOptions{Namespace: first}, []string{"backup " + first + "/a", "restore " + first + "/a", "backup " + first + "/b"}},
		"by label":               {journal.ListOptions{Kind: journal.KindBackup, Namespace: first, Labels: map[string]string{journal.LabelVM: "web"}}, []string{"backup " + first + "/b"}},
		"no such label":          {journal.ListOptions{Labels: map[string]string{journal.LabelVM: "none"}}, nil},
	} {
		got, err := p.Store.List(ctx, tt.opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var refs []string
		for _, e := range got {
			refs = append(refs, fmt.Sprintf("%s %s", e.Kind, e.Ref))
			if string(e.Data) != "data of "+e.Ref.Name || e.Version == "" {
				t.Errorf("%s: %+v", name, e)
			}
		}
		if strings.Join(refs, ",") != strings.Join(tt.want, ",") {
			t.Errorf("%s: %q, want %q", name, refs, tt.want)
		}
	}
	all, err := p.Store.List(ctx, journal.ListOptions{Kind: journal.KindBackup})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range all {
		seen[e.Ref.String()] = true
	}
	if !seen[first+"/a"] || !seen[first+"/b"] || !seen[other+"/a"] {
		t.Errorf("all namespaces: %v", seen)
	}
}

func oddLabels(t *testing.T, ctx context.Context, p Place) {
	for i, vm := range []string{strings.Repeat("long-", 40) + "name", "", "ends.in-", "sp ace"} {
		e := entry(p, fmt.Sprint("b", i), "1")
		e.Labels[journal.LabelVM] = vm
		create(t, ctx, p, e)
		got, err := p.Store.List(ctx, journal.ListOptions{Namespace: p.First, Labels: map[string]string{journal.LabelVM: vm}})
		if err != nil || len(got) != 1 || got[0].Ref != e.Ref {
			t.Errorf("machine %q: %v, error %v", vm, got, err)
		}
	}
}

func longNames(t *testing.T, ctx context.Context, p Place) {
	// They differ only where a shortened name would be cut.
	stem := strings.Repeat("a", 252)
	for _, name := range []string{stem + "b", stem + "c"} {
		create(t, ctx, p, entry(p, name, name))
	}
	for _, name := range []string{stem + "b", stem + "c"} {
		got, err := p.Store.Get(ctx, journal.KindBackup, vmbackup.Ref{Namespace: p.First, Name: name})
		if err != nil || string(got.Data) != name || got.Ref.Name != name {
			t.Errorf("%s: read %+v, error %v", name[250:], got.Ref, err)
		}
	}
	if all, err := p.Store.List(ctx, journal.ListOptions{Namespace: p.First}); err != nil || len(all) != 2 {
		t.Errorf("%d entries, error %v", len(all), err)
	}
}

func callerKeepsItsMemory(t *testing.T, ctx context.Context, p Place) {
	e := entry(p, "nightly", "1")
	created := create(t, ctx, p, e)
	e.Data[0], e.Labels[journal.LabelVM] = 'x', "x"
	created.Data[0], created.Labels[journal.LabelVM] = 'y', "y"
	got, err := p.Store.Get(ctx, e.Kind, e.Ref)
	if err != nil || string(got.Data) != "1" || got.Labels[journal.LabelVM] != "web" {
		t.Errorf("read %+v, error %v", got, err)
	}
}

func badEntries(t *testing.T, ctx context.Context, p Place) {
	for name, e := range map[string]journal.Entry{
		"no kind":      {Ref: vmbackup.Ref{Namespace: p.First, Name: "x"}},
		"no namespace": {Kind: journal.KindBackup, Ref: vmbackup.Ref{Name: "x"}},
		"no name":      {Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: p.First}},
	} {
		if _, err := p.Store.Create(ctx, e); vmbackup.ReasonOf(err) != vmbackup.ReasonInternal {
			t.Errorf("%s: error %v, want Internal", name, err)
		}
	}
}

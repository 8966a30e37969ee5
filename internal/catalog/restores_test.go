// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func restoreEntry(t *testing.T, name, vm string, to vmbackup.Phase, hours int) journal.Entry {
	t.Helper()
	r := vmbackup.NewRestore(vmbackup.Ref{Namespace: "demo", Name: name})
	began := noon.Add(time.Duration(hours) * time.Hour)
	r.Spec.TargetName, r.Status.Phase, r.Status.StartedAt = vm, to, &began
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return journal.Entry{Kind: journal.KindRestore, Ref: r.Ref(), Labels: map[string]string{journal.LabelVM: vm}, Data: data}
}

func TestRestores(t *testing.T) {
	p := newPlace(t)
	p.inCluster(record("demo/r1", "web", 1)) // a backup of a restore's name
	bad := restoreEntry(t, "bad", "web", vmbackup.PhaseReady, 0)
	bad.Data = []byte("{")
	wrong := restoreEntry(t, "r1", "web", vmbackup.PhaseReady, 0)
	wrong.Ref.Name = "wrong"
	for _, e := range []journal.Entry{
		restoreEntry(t, "r1", "web", vmbackup.PhaseReady, 1), restoreEntry(t, "r2", "web", vmbackup.PhaseRunning, 2),
		restoreEntry(t, "r3", "db", vmbackup.PhaseFailed, 3), bad, wrong,
	} {
		if _, err := p.journal.Create(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		opts vmbackup.ListOptions
		want []string
	}{
		"all":        {vmbackup.ListOptions{}, []string{"r3 Failed", "r2 Running", "r1 Ready", "bad Unknown", "wrong Unknown"}},
		"limit":      {vmbackup.ListOptions{Limit: 1}, []string{"r3 Failed"}},
		"of machine": {vmbackup.ListOptions{VM: "db"}, []string{"r3 Failed"}},
		"elsewhere":  {vmbackup.ListOptions{Namespace: "other"}, nil},
	} {
		tt.opts.Source = vmbackup.SourceCluster
		list, _, err := p.catalog().Restores(t.Context(), tt.opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, r := range list {
			got = append(got, r.Metadata.Name+" "+string(r.Status.Phase))
			if r.Status.Phase == vmbackup.PhaseUnknown && r.Status.Error.Reason != vmbackup.ReasonDataDamaged {
				t.Errorf("%s: error %+v", r.Metadata.Name, r.Status.Error)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	for name, want := range map[string]vmbackup.Reason{"r1": "", "bad": vmbackup.ReasonDataDamaged, "none": vmbackup.ReasonNotFound} {
		if _, err := p.catalog().Restore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: name}); vmbackup.ReasonOf(err) != want {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestWatchBackup(t *testing.T) {
	p := newPlace(t)
	rec := with(record("demo/a", "web", 1), phase(vmbackup.PhaseRunning))
	p.inCluster(rec)
	var seen []vmbackup.Phase
	err := p.catalog().WatchBackup(t.Context(), rec.Backup.Ref(), func(b *vmbackup.Backup) bool {
		seen = append(seen, b.Status.Phase)
		if b.Status.Phase == vmbackup.PhaseReady {
			return true
		}
		e, err := p.journal.Get(t.Context(), journal.KindBackup, b.Ref())
		if err != nil {
			t.Error(err)
			return true
		}
		e.Data, err = metadata.EncodeJournal(with(rec, phase(vmbackup.PhaseReady)))
		if err == nil {
			_, err = p.journal.Update(t.Context(), e)
		}
		if err != nil {
			t.Error(err)
		}
		return err != nil
	})
	if want := []vmbackup.Phase{vmbackup.PhaseRunning, vmbackup.PhaseReady}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("saw %v, error %v; want %v", seen, err, want)
	}
	none := func(*vmbackup.Backup) bool { return true }
	if err := p.catalog().WatchBackup(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "none"}, none); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("watch of nothing: %v", err)
	}
}

func TestWatchRestore(t *testing.T) {
	p := newPlace(t)
	e, err := p.journal.Create(t.Context(), restoreEntry(t, "r1", "web", vmbackup.PhaseRunning, 1))
	if err != nil {
		t.Fatal(err)
	}
	var seen []vmbackup.Phase
	err = p.catalog().WatchRestore(t.Context(), e.Ref, func(r *vmbackup.Restore) bool {
		seen = append(seen, r.Status.Phase)
		e.Data = restoreEntry(t, "r1", "web", vmbackup.PhaseFailed, 1).Data
		if _, err := p.journal.Update(t.Context(), e); err != nil && len(seen) == 1 {
			t.Error(err)
		}
		return r.Status.Phase.Done()
	})
	if want := []vmbackup.Phase{vmbackup.PhaseRunning, vmbackup.PhaseFailed}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("saw %v, error %v; want %v", seen, err, want)
	}
}

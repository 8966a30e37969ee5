// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// place is a cluster and a target.
type place struct {
	t       *testing.T
	journal *journal.Memory
	store   *target.Memory
	opened  int
	openErr error
}

func newPlace(t *testing.T) *place {
	return &place{t: t, journal: journal.NewMemory(), store: target.NewMemory(func() time.Time { return noon })}
}

func (p *place) catalog() *catalog.Catalog {
	open := func(context.Context, string) (target.Store, error) {
		p.opened++
		return p.store, p.openErr
	}
	return catalog.New(p.journal, catalog.Target{Name: "default", Open: open}, decodeRestore)
}

func decodeRestore(_ vmbackup.Ref, data []byte) (*vmbackup.Restore, error) {
	r := &vmbackup.Restore{}
	return r, json.Unmarshal(data, r)
}

// record is a finished backup of machine vm, begun at noon and some hours.
func record(ref, vm string, hours int) *metadata.Record {
	namespace, name, _ := strings.Cut(ref, "/")
	began := noon.Add(time.Duration(hours) * time.Hour)
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: namespace, Name: name})
	b.Metadata.Labels = map[string]string{"app": vm}
	b.Spec = vmbackup.BackupSpec{VM: vm, Type: vmbackup.TypeBackup, Target: "default"}
	b.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseReady, Ready: true, StartedAt: &began, Engine: vmbackup.EngineDirect,
		Volumes: []vmbackup.BackupVolume{{
			Name: "root", PVC: vm + "-root", StorageClass: "longhorn", SizeBytes: 1 << 30, LonghornVolume: "pvc-" + vm, LonghornBackup: "backup-" + name,
			VolumeSnapshot: name + "-volume-" + vm + "-root", SnapshotHandle: "bak://pvc-" + vm + "/backup-" + name, State: vmbackup.StateReady, Progress: 100,
		}},
	}
	return &metadata.Record{
		Backup: *b,
		VM: json.RawMessage(fmt.Sprintf(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":%q,"namespace":%q,"labels":{"app":%q}},
			"spec":{"template":{"spec":{"volumes":[{"name":"root","persistentVolumeClaim":{"claimName":%q}}]}}}}`, vm, namespace, vm, vm+"-root")),
		Claims: []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":%q,"namespace":%q},
			"spec":{"accessModes":["ReadWriteMany"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"longhorn","volumeName":%q}}`, vm+"-root", namespace, "pvc-"+vm))},
	}
}

func with(rec *metadata.Record, change func(*vmbackup.Backup)) *metadata.Record {
	change(&rec.Backup)
	return rec
}

func phase(to vmbackup.Phase) func(*vmbackup.Backup) {
	return func(b *vmbackup.Backup) { b.Status.Phase, b.Status.Ready = to, to == vmbackup.PhaseReady }
}

func (p *place) inCluster(rec *metadata.Record) {
	p.t.Helper()
	data, err := metadata.EncodeJournal(rec)
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = p.journal.Create(p.t.Context(), journal.Entry{
		Kind: journal.KindBackup, Ref: rec.Backup.Ref(), Data: data,
		Labels: map[string]string{journal.LabelVM: rec.Backup.Spec.VM},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) put(key string, content []byte) {
	p.t.Helper()
	if err := p.store.Put(p.t.Context(), key, content); err != nil {
		p.t.Fatal(err)
	}
}

// onTarget puts the files of a backup: r the tool's own, h Harvester's, d the data.
func (p *place) onTarget(rec *metadata.Record, files string) {
	p.t.Helper()
	own, err := metadata.EncodeRecord(rec)
	if err != nil {
		p.t.Fatal(err)
	}
	harvester, err := metadata.EncodeHarvester(rec)
	if err != nil {
		p.t.Fatal(err)
	}
	ref, v := rec.Backup.Ref(), rec.Backup.Status.Volumes[0]
	for _, f := range files {
		switch f {
		case 'r':
			p.put(metadata.RecordKey(ref), own)
		case 'h':
			p.put(metadata.HarvesterBackupKey(ref), harvester)
		case 'f':
			p.put("harvester/vmbackups/"+ref.Namespace+"-"+ref.Name+".cfg", harvester)
		case 'd':
			p.put(target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup), []byte("{}"))
		}
	}
}

// told is the listing in short: ref phase foundOn.
func told(backups []vmbackup.Backup) []string {
	var lines []string
	for _, b := range backups {
		lines = append(lines, fmt.Sprintf("%s %s %s", b.Ref(), b.Status.Phase, b.Status.FoundOn))
		if b.Status.Ready != (b.Status.Phase == vmbackup.PhaseReady) {
			lines = append(lines, "ready differs from the phase")
		}
	}
	return lines
}

func TestBackups(t *testing.T) {
	unavailable := vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "target does not answer")
	const cluster, onTarget, all = vmbackup.SourceCluster, vmbackup.SourceTarget, vmbackup.SourceAll
	tests := map[string]struct {
		fill     func(p *place)
		opts     vmbackup.ListOptions
		want     []string
		warnings []string // each must be in the warning at its place
		reason   vmbackup.Reason
		opened   int
	}{
		"nothing": {opts: vmbackup.ListOptions{Source: all}, opened: 1},
		"cluster never opens the target": {
			fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)); p.openErr = unavailable },
			opts: vmbackup.ListOptions{Source: cluster}, want: []string{"demo/a Ready cluster"},
		},
		"newest first, limited": {
			fill: func(p *place) {
				for i, name := range []string{"demo/a", "demo/b", "other/c"} {
					p.inCluster(record(name, "web", i))
				}
			},
			opts: vmbackup.ListOptions{Source: cluster, Limit: 2}, want: []string{"other/c Ready cluster", "demo/b Ready cluster"},
		},
		"one namespace": {
			fill: func(p *place) {
				p.inCluster(record("demo/a", "web", 1))
				p.inCluster(record("demo-2/a", "web", 1))
				p.onTarget(record("demo-2/b", "web", 1), "rhfd")
				p.onTarget(record("demo/b", "web", 2), "rd")
				p.onTarget(record("demo/c", "web", 3), "fd")
			},
			opts: vmbackup.ListOptions{Source: onTarget, Namespace: "demo"}, want: []string{"demo/b Ready target", "demo/c Ready target"}, opened: 1,
		},
		"machine": {
			fill: func(p *place) {
				p.inCluster(record("demo/a", "web", 1))
				p.inCluster(record("demo/b", "db", 1))
				p.onTarget(record("demo/a", "web", 1), "rd")
				p.onTarget(record("demo/b", "db", 1), "rd")
				p.onTarget(record("demo/c", "db", 2), "hd")
			},
			opts: vmbackup.ListOptions{Source: all, VM: "db"}, want: []string{"demo/b Ready cluster,target", "demo/c Ready target"}, opened: 1,
		},
		"labels of the machine": {
			fill: func(p *place) {
				p.inCluster(record("demo/a", "web", 1))
				p.inCluster(record("demo/b", "db", 1))
				p.onTarget(record("demo/c", "db", 3), "hd")
			},
			opts: vmbackup.ListOptions{Source: all, Selector: "app in (db)"},
			want: []string{"demo/b Unknown cluster", "demo/c Ready target"}, warnings: []string{"none of the cluster's backups is on"}, opened: 1,
		},
		"bad selector": {opts: vmbackup.ListOptions{Source: all, Selector: "app in"}, reason: vmbackup.ReasonInvalidRequest},
		"bad source":   {opts: vmbackup.ListOptions{Source: "moon"}, reason: vmbackup.ReasonInvalidRequest},
		"target sees its parts": {
			fill: func(p *place) {
				p.onTarget(record("demo/own", "web", 3), "rhd")
				p.onTarget(record("demo/harvester", "web", 2), "hd") // dated by its file: noon
				p.onTarget(record("demo/lost", "web", 2), "rh")
				p.onTarget(with(record("demo/running", "web", 1), phase(vmbackup.PhaseRunning)), "rd")
				p.onTarget(with(record("demo/uploading", "web", 0), func(b *vmbackup.Backup) {
					phase(vmbackup.PhaseRunning)(b)
					b.Status.Volumes[0].State = vmbackup.StateRunning
				}), "rd")
				p.onTarget(with(record("demo/started", "web", 0), phase(vmbackup.PhaseRunning)), "r")
				p.onTarget(with(record("demo/failed", "web", -1), phase(vmbackup.PhaseFailed)), "rd")
				p.onTarget(with(record("demo/part", "web", -2), phase(vmbackup.PhaseIncomplete)), "rd")
			},
			opts: vmbackup.ListOptions{Source: onTarget},
			want: []string{
				"demo/own Ready target", "demo/lost Incomplete target", "demo/running Ready target",
				"demo/harvester Ready target", "demo/started Unknown target", "demo/uploading Unknown target", "demo/failed Failed target", "demo/part Incomplete target",
			}, opened: 1,
		},
		"bad files hide nothing": {
			fill: func(p *place) {
				p.onTarget(record("demo/good", "web", 3), "rd")
				p.onTarget(record("demo/half", "web", 2), "hd")
				p.put("vmbackup/demo/half.json", []byte("{"))
				p.put("harvester/vmbackups/demo/bad.cfg", []byte("no JSON"))
				p.put("harvester/vmbackups/README", []byte("not ours"))
				data, _ := metadata.EncodeRecord(record("demo/good", "web", 3))
				p.put("vmbackup/demo/copy.json", data) // says that it is demo/good
			},
			opts:     vmbackup.ListOptions{Source: onTarget},
			want:     []string{"demo/good Ready target", "demo/half Ready target"},
			warnings: []string{"harvester/vmbackups/demo/bad.cfg", "vmbackup/demo/copy.json", "vmbackup/demo/half.json"}, opened: 1,
		},
		"bad record in the cluster hides nothing": {
			fill: func(p *place) {
				p.inCluster(record("demo/a", "web", 1))
				_, err := p.journal.Create(p.t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: vmbackup.Ref{Namespace: "demo", Name: "bad"}, Data: []byte("x")})
				if err != nil {
					p.t.Fatal(err)
				}
				p.onTarget(record("demo/a", "web", 1), "rd")
				p.onTarget(record("demo/bad", "web", 0), "rd")
			},
			opts: vmbackup.ListOptions{Source: all},
			want: []string{"demo/a Ready cluster,target", "demo/bad Ready target"}, warnings: []string{"journal of backup demo/bad"}, opened: 1,
		},
		"cluster wins": {
			fill: func(p *place) {
				p.inCluster(with(record("demo/a", "web", 1), phase(vmbackup.PhaseRunning)))
				p.inCluster(with(record("demo/b", "web", 0), phase(vmbackup.PhaseFailed)))
				p.onTarget(record("demo/a", "web", 1), "rhd")
				p.onTarget(record("demo/b", "web", 0), "fd")
			},
			opts: vmbackup.ListOptions{Source: all}, want: []string{"demo/a Running cluster,target", "demo/b Failed cluster,target"}, opened: 1,
		},
		"gone from its target": {
			fill: func(p *place) {
				for i, name := range []string{"demo/gone", "demo/there", "demo/elsewhere", "demo/snapshot", "demo/running"} {
					p.inCluster(with(record(name, "web", -i), func(b *vmbackup.Backup) {
						switch name {
						case "demo/elsewhere":
							b.Spec.Target = "second"
						case "demo/snapshot":
							b.Spec.Type = vmbackup.TypeSnapshot
						case "demo/running":
							phase(vmbackup.PhaseRunning)(b)
						}
					}))
				}
				p.onTarget(record("demo/there", "web", 0), "hd")
			},
			opts: vmbackup.ListOptions{Source: all},
			want: []string{
				"demo/gone Incomplete cluster", "demo/there Ready cluster,target", "demo/elsewhere Ready cluster",
				"demo/snapshot Ready cluster", "demo/running Running cluster",
			}, opened: 1,
		},
		"an empty target proves nothing": {
			fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)) },
			opts: vmbackup.ListOptions{Source: all}, want: []string{"demo/a Unknown cluster"},
			warnings: []string{"none of the cluster's backups is on backup target memory:"}, opened: 1,
		},
		"target down, both asked": {
			fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)); p.openErr = unavailable },
			opts: vmbackup.ListOptions{Source: all}, want: []string{"demo/a Ready cluster"}, warnings: []string{"target does not answer"}, opened: 1,
		},
		"target down, only it asked": {
			fill: func(p *place) { p.openErr = unavailable },
			opts: vmbackup.ListOptions{Source: onTarget}, reason: vmbackup.ReasonTargetUnavailable, opened: 1,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			if tt.fill != nil {
				tt.fill(p)
			}
			got, warnings, err := p.catalog().Backups(t.Context(), tt.opts)
			if vmbackup.ReasonOf(err) != tt.reason {
				t.Fatalf("error %v, want %q", err, tt.reason)
			}
			if !slices.Equal(told(got), tt.want) {
				t.Errorf("listed %q, want %q", told(got), tt.want)
			}
			if len(warnings) != len(tt.warnings) {
				t.Fatalf("warnings %q, want %q", warnings, tt.warnings)
			}
			for i, want := range tt.warnings {
				if !strings.Contains(warnings[i], want) {
					t.Errorf("warning %q does not say %q", warnings[i], want)
				}
			}
			if p.opened != tt.opened {
				t.Errorf("target opened %d times, want %d", p.opened, tt.opened)
			}
		})
	}
}

func TestLostPartsAreNamed(t *testing.T) {
	p := newPlace(t)
	p.onTarget(with(record("demo/a", "web", 1), func(b *vmbackup.Backup) {
		b.Status.Images = []vmbackup.BackupImage{{Name: "ubuntu", State: vmbackup.StateReady}}
	}), "rd")
	b, err := p.catalog().Backup(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "a"}, vmbackup.SourceTarget)
	if err != nil {
		t.Fatal(err)
	}
	e := b.Status.Error
	if b.Status.Phase != vmbackup.PhaseIncomplete || e == nil || e.Reason != vmbackup.ReasonDataLost || !strings.Contains(e.Message, "backing image ubuntu") {
		t.Errorf("phase %s, error %+v", b.Status.Phase, e)
	}
	if b.Status.Volumes[0].State != vmbackup.StateReady || b.Status.Images[0].State != vmbackup.StateFailed {
		t.Errorf("volume %s, image %s", b.Status.Volumes[0].State, b.Status.Images[0].State)
	}
}

func TestBackupAndRecord(t *testing.T) {
	ref := vmbackup.Ref{Namespace: "demo", Name: "a"}
	unavailable := vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "target does not answer")
	bad := func(p *place) {
		if _, err := p.journal.Create(p.t.Context(), journal.Entry{Kind: journal.KindBackup, Ref: ref, Data: []byte("x")}); err != nil {
			p.t.Fatal(err)
		}
	}
	tests := map[string]struct {
		fill   func(p *place)
		source vmbackup.Source
		want   string // phase foundOn
		reason vmbackup.Reason
		warned string
	}{
		"cluster":               {fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)) }, source: vmbackup.SourceCluster, want: "Ready cluster"},
		"not in the cluster":    {fill: func(p *place) { p.onTarget(record("demo/a", "web", 1), "rd") }, source: vmbackup.SourceCluster, reason: vmbackup.ReasonNotFound},
		"not on the target":     {fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)); p.onTarget(record("demo/b", "web", 1), "rd") }, source: vmbackup.SourceTarget, reason: vmbackup.ReasonNotFound},
		"nowhere":               {source: vmbackup.SourceAll, reason: vmbackup.ReasonNotFound},
		"perhaps on the target": {fill: func(p *place) { p.openErr = unavailable }, source: vmbackup.SourceAll, reason: vmbackup.ReasonTargetUnavailable},
		"on the target":         {fill: func(p *place) { p.onTarget(record("demo/a", "web", 1), "rhd") }, source: vmbackup.SourceAll, want: "Ready target"},
		"Harvester's":           {fill: func(p *place) { p.onTarget(record("demo/a", "web", 1), "hd") }, source: vmbackup.SourceTarget, want: "Ready target"},
		"early Harvester's":     {fill: func(p *place) { p.onTarget(record("demo/a", "web", 1), "fd") }, source: vmbackup.SourceTarget, want: "Ready target"},
		"in both":               {fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)); p.onTarget(record("demo/a", "web", 1), "rd") }, source: vmbackup.SourceAll, want: "Ready cluster,target"},
		"damaged on the target": {fill: func(p *place) { p.put("vmbackup/demo/a.json", []byte("{")) }, source: vmbackup.SourceTarget, reason: vmbackup.ReasonDataDamaged},
		"own damaged": {fill: func(p *place) {
			p.onTarget(record("demo/a", "web", 1), "hd")
			p.put("vmbackup/demo/a.json", []byte("{"))
		}, source: vmbackup.SourceTarget, want: "Ready target", warned: "vmbackup/demo/a.json"},
		"damaged in the cluster":    {fill: func(p *place) { bad(p); p.onTarget(record("demo/a", "web", 1), "rd") }, source: vmbackup.SourceAll, want: "Ready target", warned: "record in the cluster not used"},
		"damaged everywhere":        {fill: bad, source: vmbackup.SourceAll, reason: vmbackup.ReasonDataDamaged},
		"in the cluster, target up": {fill: func(p *place) { p.inCluster(record("demo/a", "web", 1)) }, source: vmbackup.SourceAll, want: "Unknown cluster", warned: "not found on backup target"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			if tt.fill != nil {
				tt.fill(p)
			}
			b, err := p.catalog().Backup(t.Context(), ref, tt.source)
			if vmbackup.ReasonOf(err) != tt.reason {
				t.Fatalf("error %v, want %q", err, tt.reason)
			}
			rec, recErr := p.catalog().Record(t.Context(), ref, tt.source)
			if vmbackup.ReasonOf(recErr) != tt.reason {
				t.Errorf("record: error %v, want %q", recErr, tt.reason)
			}
			if err != nil {
				return
			}
			if got := fmt.Sprintf("%s %s", b.Status.Phase, b.Status.FoundOn); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if got := strings.Join(b.Status.Warnings, "\n"); !strings.Contains(got, tt.warned) {
				t.Errorf("warnings %q do not say %q", got, tt.warned)
			}
			if rec.Backup.Ref() != ref || len(rec.Claims) != 1 || len(rec.VM) == 0 {
				t.Errorf("record %+v", rec)
			}
		})
	}
}

// forbidden is a journal that may not be read.
type forbidden struct{ journal.Store }

var errForbidden = vmbackup.Errorf(vmbackup.ReasonForbidden, "secrets is forbidden")

func (forbidden) List(context.Context, journal.ListOptions) ([]journal.Entry, error) {
	return nil, errForbidden
}

func TestForbiddenJournal(t *testing.T) {
	p := newPlace(t)
	p.onTarget(record("demo/a", "web", 1), "rd")
	open := func(context.Context, string) (target.Store, error) { return p.store, p.openErr }
	c := catalog.New(forbidden{p.journal}, catalog.Target{Name: "default", Open: open}, decodeRestore)
	if _, _, err := c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceCluster}); !errors.Is(err, errForbidden) {
		t.Errorf("cluster: %v", err)
	}
	got, warnings, err := c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceAll})
	if err != nil || len(got) != 1 || len(warnings) != 1 || !strings.Contains(warnings[0], "secrets is forbidden") {
		t.Errorf("all: %q, warnings %q, error %v", told(got), warnings, err)
	}
	p.openErr = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "target does not answer")
	if _, _, err := c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceAll}); vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
		t.Errorf("neither: %v, want Forbidden", err)
	}
	if _, _, err := c.Restores(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceCluster}); !errors.Is(err, errForbidden) {
		t.Errorf("restores: %v", err)
	}
}

// deleting is a journal whose entries are deleted just after they were listed.
type deleting struct{ journal.Store }

func (d deleting) List(ctx context.Context, opts journal.ListOptions) ([]journal.Entry, error) {
	list, err := d.Store.List(ctx, opts)
	for _, e := range list {
		if err == nil {
			err = d.Delete(ctx, e.Kind, e.Ref)
		}
	}
	return list, err
}

func TestDeletedMeanwhileIsNotLost(t *testing.T) {
	p := newPlace(t)
	p.inCluster(record("demo/a", "web", 1))
	open := func(context.Context, string) (target.Store, error) { return p.store, nil }
	c := catalog.New(deleting{p.journal}, catalog.Target{Name: "default", Open: open}, decodeRestore)
	got, _, err := c.Backups(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceAll})
	if err != nil || len(got) != 0 {
		t.Errorf("listed %q, error %v; want nothing", told(got), err)
	}
}

func TestCanceled(t *testing.T) {
	p := newPlace(t)
	for i := range 50 {
		p.onTarget(record(fmt.Sprintf("demo/b%d", i), "web", i), "rd")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, source := range []vmbackup.Source{vmbackup.SourceCluster, vmbackup.SourceTarget, vmbackup.SourceAll} {
		if _, _, err := p.catalog().Backups(ctx, vmbackup.ListOptions{Source: source}); vmbackup.ReasonOf(err) != vmbackup.ReasonCanceled {
			t.Errorf("%s: %v, want Canceled", source, err)
		}
	}
}

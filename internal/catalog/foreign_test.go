// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// others is a Foreign that knows these backups.
type others struct {
	records  []*metadata.Record
	restores []vmbackup.Restore
	err      error
}

func (o others) Backups(_ context.Context, namespace string) ([]vmbackup.Backup, error) {
	var list []vmbackup.Backup
	for _, r := range o.records {
		if namespace == "" || r.Backup.Metadata.Namespace == namespace {
			list = append(list, r.Backup)
		}
	}
	return list, o.err
}

func (o others) Record(_ context.Context, ref vmbackup.Ref) (*metadata.Record, error) {
	if o.err != nil {
		return nil, o.err
	}
	for _, r := range o.records {
		if r.Backup.Ref() == ref {
			return r, nil
		}
	}
	return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "no %s", ref)
}

func (o others) Watch(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Backup) bool) error {
	r, err := o.Record(ctx, ref)
	if err == nil {
		changed(&r.Backup)
	}
	return err
}

func (o others) WatchAll(ctx context.Context, namespace string, changed func([]vmbackup.Backup) error) error {
	list, err := o.Backups(ctx, namespace)
	if err != nil {
		return err
	}
	return changed(list)
}

func (o others) WatchRestores(_ context.Context, _ vmbackup.ListOptions, changed func([]vmbackup.Restore) error) error {
	if o.err != nil {
		return o.err
	}
	return changed(o.restores)
}

func (o others) Restores(context.Context, vmbackup.ListOptions) ([]vmbackup.Restore, error) {
	return o.restores, o.err
}

func (o others) Restore(_ context.Context, ref vmbackup.Ref) (*vmbackup.Restore, error) {
	for i := range o.restores {
		if o.restores[i].Ref() == ref {
			return &o.restores[i], nil
		}
	}
	return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "no %s", ref)
}

func (o others) WatchRestore(ctx context.Context, ref vmbackup.Ref, changed func(*vmbackup.Restore) bool) error {
	r, err := o.Restore(ctx, ref)
	if err == nil {
		changed(r)
	}
	return err
}

// theirs is a backup as a foreign controller knows it.
func theirs(ref string, hours int) *metadata.Record {
	return with(record(ref, "web", hours), func(b *vmbackup.Backup) {
		b.Status.Engine, b.Status.FoundOn = vmbackup.EngineHarvester, "cluster"
	})
}

func TestForeignBackupsAreListed(t *testing.T) {
	for name, test := range map[string]struct {
		fill     func(p *place)
		foreign  others
		opts     vmbackup.ListOptions
		want     []string
		warnings []string
	}{
		"beside the tool's own": {
			fill:    func(p *place) { p.inCluster(record("demo/a", "web", 1)) },
			foreign: others{records: []*metadata.Record{theirs("demo/b", 2), theirs("demo/c", 0)}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceCluster},
			want:    []string{"demo/b Ready cluster", "demo/a Ready cluster", "demo/c Ready cluster"},
		},
		"of one namespace and machine": {
			foreign: others{records: []*metadata.Record{theirs("demo/a", 2), theirs("other/b", 0), with(theirs("demo/c", 1), func(b *vmbackup.Backup) { b.Spec.VM = "db" })}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceCluster, Namespace: "demo", VM: "web"},
			want:    []string{"demo/a Ready cluster"},
		},
		"the tool's record goes first": {
			fill:    func(p *place) { p.inCluster(with(record("demo/a", "web", 1), phase(vmbackup.PhaseRunning))) },
			foreign: others{records: []*metadata.Record{theirs("demo/a", 1)}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceCluster},
			want:    []string{"demo/a Running cluster"},
		},
		"an error hides nothing": {
			fill:    func(p *place) { p.inCluster(record("demo/a", "web", 1)) },
			foreign: others{err: vmbackup.Errorf(vmbackup.ReasonForbidden, "not for you")},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceCluster},
			want:    []string{"demo/a Ready cluster"}, warnings: []string{"not for you"},
		},
		"their file on the target": {
			fill:    func(p *place) { p.onTarget(theirs("demo/a", 1), "hd") },
			foreign: others{records: []*metadata.Record{theirs("demo/a", 1)}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceAll},
			want:    []string{"demo/a Ready cluster,target"},
		},
		"the tool's file tells more": {
			fill:    func(p *place) { p.onTarget(record("demo/a", "web", 1), "rhd") },
			foreign: others{records: []*metadata.Record{with(theirs("demo/a", 1), phase(vmbackup.PhaseRunning))}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceAll},
			want:    []string{"demo/a Ready target"},
		},
		"their file is gone from the target": {
			fill:    func(p *place) { p.onTarget(theirs("demo/a", 1), "hd") },
			foreign: others{records: []*metadata.Record{theirs("demo/a", 1), theirs("demo/b", 0)}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceAll},
			want:    []string{"demo/a Ready cluster,target", "demo/b Incomplete cluster"},
		},
		"the target is empty": {
			foreign: others{records: []*metadata.Record{theirs("demo/a", 1)}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceAll},
			want:    []string{"demo/a Unknown cluster"}, warnings: []string{"none of the cluster's backups is on"},
		},
		"not asked for with the target": {
			fill:    func(p *place) { p.onTarget(record("demo/b", "web", 1), "hd") },
			foreign: others{records: []*metadata.Record{theirs("demo/a", 1)}},
			opts:    vmbackup.ListOptions{Source: vmbackup.SourceTarget},
			want:    []string{"demo/b Ready target"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			if test.fill != nil {
				test.fill(p)
			}
			backups, warnings, err := p.catalog().With(test.foreign).Backups(t.Context(), test.opts)
			if err != nil {
				t.Fatal(err)
			}
			if got := told(backups); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if len(warnings) != len(test.warnings) || len(warnings) > 0 && !strings.Contains(warnings[0], test.warnings[0]) {
				t.Errorf("warnings %q, want %q", warnings, test.warnings)
			}
		})
	}
}

// A record for a restore: the tool's own in the cluster, then its file, then theirs.
func TestForeignRecord(t *testing.T) {
	p := newPlace(t)
	p.inCluster(record("demo/own", "web", 1))
	p.onTarget(record("demo/filed", "web", 1), "rhd")
	foreign := others{records: []*metadata.Record{theirs("demo/own", 1), theirs("demo/filed", 1), theirs("demo/theirs", 1)}}
	c := p.catalog().With(foreign)
	for _, test := range []struct {
		name   string
		source vmbackup.Source
		engine string
	}{
		{"own", vmbackup.SourceAll, vmbackup.EngineDirect},
		{"filed", vmbackup.SourceAll, vmbackup.EngineDirect},
		{"filed", vmbackup.SourceCluster, vmbackup.EngineHarvester},
		{"theirs", vmbackup.SourceAll, vmbackup.EngineHarvester},
		{"theirs", vmbackup.SourceCluster, vmbackup.EngineHarvester},
	} {
		got, err := c.Record(t.Context(), vmbackup.Ref{Namespace: "demo", Name: test.name}, test.source)
		if err != nil || got.Backup.Status.Engine != test.engine {
			t.Errorf("%s from %s: %+v, %v; want that of engine %s", test.name, test.source, got, err, test.engine)
		}
	}
	for source, where := range map[vmbackup.Source]string{vmbackup.SourceTarget: "on the backup target", vmbackup.SourceAll: "in the cluster or on the backup target"} {
		_, err := p.catalog().With(others{}).Record(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "theirs"}, source)
		if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound || !strings.Contains(err.Error(), where) {
			t.Errorf("a backup that nobody has, from %s: %v", source, err)
		}
	}
	forbidden := others{err: vmbackup.Errorf(vmbackup.ReasonForbidden, "not for you")}
	if _, err := p.catalog().With(forbidden).Record(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "theirs"}, vmbackup.SourceCluster); vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
		t.Errorf("theirs may not be read: %v", err)
	}
}

func TestForeignBackupIsWatched(t *testing.T) {
	p := newPlace(t)
	p.inCluster(record("demo/own", "web", 1))
	c := p.catalog().With(others{records: []*metadata.Record{theirs("demo/own", 1), theirs("demo/theirs", 1)}})
	for name, engine := range map[string]string{"own": vmbackup.EngineDirect, "theirs": vmbackup.EngineHarvester} {
		var seen []string
		err := c.WatchBackup(t.Context(), vmbackup.Ref{Namespace: "demo", Name: name}, func(b *vmbackup.Backup) bool {
			seen = append(seen, b.Status.Engine)
			return true
		})
		if err != nil || !slices.Equal(seen, []string{engine}) {
			t.Errorf("%s: %q, %v", name, seen, err)
		}
	}
	var _ catalog.Foreign = others{}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// reads is how many requests to the target run at once: enough to hide the way
// to a remote target, few enough for a small one.
const reads = 16

// readBytes is how many bytes of descriptions are held undecoded at once: usual ones
// are tens of kilobytes, and many large ones must not take the memory.
const readBytes = 4 * metadata.FileLimit

// listing is what lies in the folders of metadata on a target.
type listing struct {
	store target.Store
	// files of a backup, the tool's own before Harvester's.
	files map[vmbackup.Ref][]target.Object
	// flat files by an early Harvester: which backup they are of is in them.
	flat []target.Object
	// odd are the keys of files that should describe a backup and are named as none.
	odd       []string
	namespace string
}

// listTarget lists each folder once.
func (c *Catalog) listTarget(ctx context.Context, namespace string) (*listing, error) {
	store, err := c.target.Open(ctx, c.target.Name)
	if err != nil {
		return nil, err
	}
	l := &listing{store: store, files: map[vmbackup.Ref][]target.Object{}, namespace: namespace}
	for _, prefix := range []string{metadata.RecordPrefix, metadata.HarvesterBackupPrefix} {
		err := store.List(ctx, prefix, func(o target.Object) error {
			kind, ref, ok := metadata.ParseKey(o.Key)
			switch {
			case !ok:
				if namespace == "" || strings.HasPrefix(o.Key, prefix+namespace+"/") {
					l.noteOdd(o.Key)
				}
			case kind == metadata.FileHarvesterFlat:
				if strings.HasPrefix(ref.Name, namespace) {
					l.flat = append(l.flat, o)
				}
			case kind == metadata.FileRecord || kind == metadata.FileHarvesterBackup:
				if namespace == "" || ref.Namespace == namespace {
					l.files[ref] = append(l.files[ref], o)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

// noteOdd notes a file that looks like a description and has no name of one. What
// else lies in the folders is nobody's backup.
func (l *listing) noteOdd(key string) {
	if strings.HasSuffix(key, ".json") || strings.HasSuffix(key, ".cfg") {
		l.odd = append(l.odd, key)
	}
}

// oddities tells the files with odd names, quoted, since a name can hold anything.
func (l *listing) oddities() []string {
	if len(l.odd) == 0 {
		return nil
	}
	slices.Sort(l.odd)
	const most = 5
	named := make([]string, 0, most)
	for _, key := range l.odd[:min(len(l.odd), most)] {
		named = append(named, strconv.QuoteToASCII(shorten(key)))
	}
	if more := len(l.odd) - len(named); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	return []string{fmt.Sprintf("%d files on backup target %s have names that no backup has, and were not read: %s", len(l.odd), l.store, strings.Join(named, ", "))}
}

// shorten keeps the beginning of a key that is too long to be shown.
func shorten(key string) string {
	const longest = 128
	if len(key) <= longest {
		return key
	}
	return strings.ToValidUTF8(key[:longest], "") + "…"
}

// read reads and observes the backups whose refs are not known already. Files
// that cannot be read become warnings.
func (l *listing) read(ctx context.Context, known map[vmbackup.Ref]bool) ([]*found, []string, error) {
	var (
		mu       sync.Mutex
		list     []*found
		warnings []string
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reads)
	room := semaphore.NewWeighted(readBytes)
	add := func(files []target.Object, skip func(vmbackup.Ref) bool) {
		g.Go(func() error {
			weight := largest(files)
			if err := room.Acquire(gctx, weight); err != nil {
				return err
			}
			record, when, bad := readFirst(gctx, l.store, files)
			room.Release(weight)
			if record != nil && !skip(record.Backup.Ref()) {
				observe(gctx, l.store, &record.Backup)
			}
			mu.Lock()
			defer mu.Unlock()
			if record == nil || !skip(record.Backup.Ref()) {
				warnings = append(warnings, bad...)
			}
			if record != nil && !skip(record.Backup.Ref()) {
				list = append(list, &found{record: record, when: when})
			}
			return gctx.Err()
		})
	}
	for ref, files := range l.files {
		if !known[ref] {
			add(files, func(vmbackup.Ref) bool { return false })
		}
	}
	for _, file := range l.flat {
		add([]target.Object{file}, func(ref vmbackup.Ref) bool {
			return known[ref] || l.files[ref] != nil || (l.namespace != "" && ref.Namespace != l.namespace)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, vmbackup.AsError(fmt.Errorf("reading backup target %s: %w", l.store, err), reasonOf(ctx))
	}
	slices.Sort(warnings)
	return list, append(warnings, l.oddities()...), nil
}

// largest is the size of the largest of files that would be read.
func largest(files []target.Object) int64 {
	var most int64
	for _, o := range files {
		if o.Size <= metadata.FileLimit {
			most = max(most, o.Size)
		}
	}
	return most
}

// readFirst reads the first of a backup's files that is good. bad tells of those before it.
func readFirst(ctx context.Context, store target.Store, files []target.Object) (record *metadata.Record, when time.Time, bad []string) {
	for _, o := range files {
		if o.Size > metadata.FileLimit {
			bad = append(bad, tooLarge(o.Key, o.Size).Error())
			continue
		}
		record, err := readFile(ctx, store, o.Key)
		if err == nil {
			for _, text := range bad {
				warn(&record.Backup, text)
			}
			return record, began(&record.Backup, o.Modified), bad
		}
		// A file that went away since the listing was deleted, which is no fault.
		if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			bad = append(bad, err.Error())
		}
	}
	return nil, time.Time{}, bad
}

// tooLarge is the error for a file that no description is as large as.
func tooLarge(key string, size int64) error {
	return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%s: %d bytes are more than the %d that a description may have", key, size, metadata.FileLimit).
		WithHint("the file was not read and not changed; compare it with another copy, or make a new backup")
}

func readFile(ctx context.Context, store target.Store, key string) (*metadata.Record, error) {
	content, err := store.Get(ctx, key, metadata.FileLimit)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonInvalidRequest {
		// The key is one of ParseKey's, so that only its size is refused.
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%w", err)
	}
	if err != nil {
		return nil, err
	}
	decode := metadata.DecodeHarvester
	if kind, _, _ := metadata.ParseKey(key); kind == metadata.FileRecord {
		decode = metadata.DecodeRecord
	}
	record, err := decode(key, content)
	if err != nil {
		return nil, err
	}
	record.Backup.Status.FoundOn = string(vmbackup.SourceTarget)
	return record, nil
}

// onTarget reads one backup from the target, or says NotFound.
func (c *Catalog) onTarget(ctx context.Context, ref vmbackup.Ref) (*metadata.Record, error) {
	store, err := c.target.Open(ctx, c.target.Name)
	if err != nil {
		return nil, err
	}
	flat := metadata.HarvesterBackupPrefix + ref.Namespace + "-" + ref.Name + ".cfg"
	var first error
	var bad []string
	for _, key := range []string{metadata.RecordKey(ref), metadata.HarvesterBackupKey(ref), flat} {
		record, err := readFile(ctx, store, key)
		if err == nil && record.Backup.Ref() == ref {
			for _, text := range bad {
				warn(&record.Backup, text)
			}
			observe(ctx, store, &record.Backup)
			return record, ctx.Err()
		}
		if err == nil || vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			continue
		}
		if first == nil {
			first = err
		}
		bad = append(bad, err.Error())
	}
	if first != nil {
		return nil, first
	}
	return nil, missing(ref, vmbackup.SourceTarget)
}

// observe looks on the target for every part that the file tells of, so that
// Ready is said of what was seen and of nothing else.
func observe(ctx context.Context, store target.Store, b *vmbackup.Backup) {
	said := b.Status.Phase
	if said == vmbackup.PhaseFailed || said == vmbackup.PhaseCanceled || b.Spec.Type != vmbackup.TypeBackup {
		return
	}
	underWay := said == vmbackup.PhasePlanned || said == vmbackup.PhaseRunning
	var lost, unseen []string
	look := func(part, key string, state *vmbackup.State, message *string) {
		// The store has a file of an upload that is under way, too, so that a
		// file is good only for a part that was said to be complete.
		if key == "" || (underWay && *state != vmbackup.StateReady) {
			*state = vmbackup.StateUnknown
			unseen = append(unseen, part)
			return
		}
		_, err := store.Stat(ctx, key)
		switch {
		case err == nil:
			*state = vmbackup.StateReady
		case vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound && !underWay:
			*state, *message = vmbackup.StateFailed, "not on the backup target: "+key
			lost = append(lost, part)
		default:
			*state, *message = vmbackup.StateUnknown, err.Error()
			unseen = append(unseen, part)
		}
	}
	for i := range b.Status.Volumes {
		v := &b.Status.Volumes[i]
		key := ""
		if v.LonghornVolume != "" && v.LonghornBackup != "" {
			key = target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)
		}
		look("volume "+v.Name, key, &v.State, &v.Message)
	}
	for i := range b.Status.Images {
		image := &b.Status.Images[i]
		look("backing image "+image.Name, target.BackingImageConfigKey(image.Name), &image.State, &image.Message)
	}
	b.Status.Phase, b.Status.Ready = vmbackup.PhaseReady, true
	switch {
	case len(lost) > 0:
		b.Status.Phase, b.Status.Ready = vmbackup.PhaseIncomplete, false
		b.Status.Error = vmbackup.Errorf(vmbackup.ReasonDataLost, "backup %s: not on backup target %s any more: %s", b.Ref(), store, strings.Join(lost, ", ")).
			WithHint("do not rely on this backup; look for another one of the machine, or make a new one")
	case len(unseen) > 0:
		b.Status.Phase, b.Status.Ready = vmbackup.PhaseUnknown, false
		warn(b, "not seen on the backup target: "+strings.Join(unseen, ", "))
	case said == vmbackup.PhaseIncomplete:
		b.Status.Phase, b.Status.Ready = said, false // for a reason that cannot be seen here
	}
}

// judge compares the cluster's records with the listing: FoundOn, and no Ready for
// a backup whose description is gone from its target.
//
// A file that is not listed proves something only when the target is the one that
// the backups were written to: when at least one other of them is there. An
// empty or swapped target proves nothing, and leaves the backups Unknown.
func (c *Catalog) judge(ctx context.Context, cluster []*found, l *listing) ([]*found, []string, error) {
	onTarget := maps.Clone(l.files)
	for _, o := range l.flat {
		if record, err := readFile(ctx, l.store, o.Key); err == nil {
			onTarget[record.Backup.Ref()] = []target.Object{o}
		}
	}
	proven := false
	var suspects []int
	for i, f := range cluster {
		b := f.backup()
		switch {
		case b.Spec.Type != vmbackup.TypeBackup || b.Spec.Target != c.target.Name:
		case onTarget[b.Ref()] != nil:
			b.Status.FoundOn, proven = vmbackup.FoundOn(vmbackup.SourceCluster, vmbackup.SourceTarget), true
		case b.Status.Phase == vmbackup.PhaseReady:
			suspects = append(suspects, i)
		}
	}
	var gone []*found
	for _, i := range suspects {
		if cluster[i].foreign {
			doubt(cluster[i].backup(), l.store, proven)
			continue
		}
		// It may have been deleted since its record was read.
		e, err := c.journal.Get(ctx, journal.KindBackup, cluster[i].backup().Ref())
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			gone = append(gone, cluster[i])
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		now, err := ofEntry(e)
		if err != nil {
			return nil, nil, err
		}
		cluster[i] = now
		if now.backup().Status.Phase == vmbackup.PhaseReady {
			doubt(now.backup(), l.store, proven)
		}
	}
	cluster = slices.DeleteFunc(cluster, func(f *found) bool { return slices.Contains(gone, f) })
	if len(suspects) > 0 && !proven {
		return cluster, []string{fmt.Sprintf("none of the cluster's backups is on backup target %s; check that it is the one they were written to", l.store)}, nil
	}
	return cluster, nil, nil
}

// doubt takes back the Ready of a backup whose description is not on the target.
func doubt(b *vmbackup.Backup, store target.Store, proven bool) {
	b.Status.Ready, b.Status.Metadata.State = false, vmbackup.StateUnknown
	if !proven {
		b.Status.Phase = vmbackup.PhaseUnknown
		warn(b, fmt.Sprintf("its description was not found on backup target %s", store))
		return
	}
	b.Status.Phase, b.Status.Metadata.State = vmbackup.PhaseIncomplete, vmbackup.StateFailed
	b.Status.Error = vmbackup.Errorf(vmbackup.ReasonDataLost,
		"backup %s: its description is not on backup target %s any more, so other clusters cannot restore it; the volumes' data was not looked at", b.Ref(), store).
		WithHint("see what is left of it with: kubectl vmbackup verify %s -n %s", b.Metadata.Name, b.Metadata.Namespace)
}

func reasonOf(ctx context.Context) vmbackup.Reason {
	switch ctx.Err() {
	case context.Canceled:
		return vmbackup.ReasonCanceled
	case context.DeadlineExceeded:
		return vmbackup.ReasonTimeout
	}
	return vmbackup.ReasonInternal
}

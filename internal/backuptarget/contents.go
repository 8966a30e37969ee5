// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// undecodedBytes is how much of descriptions is held at once.
const undecodedBytes = 2 * metadata.FileLimit

// Contents reads what lies on a target. It keeps names and numbers of what it has seen,
// some hundred bytes for each backup, and the descriptions only while it looks at them.
// Blocks are neither read nor listed.
//
// What the target does not let be read ends it with the target's error. A file that
// is not what it should be is told, and hides nothing else. Backups that come or go
// meanwhile may be told as incomplete or orphans.
func Contents(ctx context.Context, store target.Store, name string) (*vmbackup.TargetContents, error) {
	c := &vmbackup.TargetContents{
		APIVersion: vmbackup.APIVersion, Kind: vmbackup.KindTargetContents,
		Metadata: vmbackup.ObjectMeta{Name: name}, Spec: vmbackup.TargetContentsSpec{URL: store.String()},
	}
	// The data first: what a description names was there before it.
	x, err := readIndex(ctx, store)
	if err != nil {
		return nil, err
	}
	r := &reader{store: store, index: x, machines: map[vmbackup.Ref]*machine{}, backups: map[vmbackup.Ref]bool{}, images: map[string]bool{}, room: semaphore.NewWeighted(undecodedBytes)}
	_, r.directory = store.(*target.Directory)
	for _, prefix := range []string{metadata.RecordPrefix, metadata.HarvesterBackupPrefix, metadata.HarvesterImagePrefix} {
		if err := r.folder(ctx, prefix); err != nil {
			return nil, err
		}
	}
	r.fill(&c.Status)
	return c, nil
}

// Contents implements vmbackup.Targets.
func (t *Targets) Contents(ctx context.Context, name string) (*vmbackup.TargetContents, error) {
	store, err := t.connect(ctx, name)
	if err != nil {
		return nil, err
	}
	return Contents(ctx, store, name)
}

// reader reads descriptions, several at once.
type reader struct {
	store     target.Store
	index     *index
	directory bool
	room      *semaphore.Weighted

	mu          sync.Mutex
	machines    map[vmbackup.Ref]*machine
	backups     map[vmbackup.Ref]bool // whether something is missing
	images      map[string]bool       // backing images that a description names
	found       []vmbackup.TargetImage
	gaps        []vmbackup.TargetGap
	gapCount    int
	broken      []vmbackup.TargetFile
	brokenCount int
	blocks      bool
}

// machine is a TargetMachine while its backups are counted.
type machine struct {
	backups, incomplete int
	latest, earliest    time.Time
	volumes             map[string]bool
}

// folder reads the descriptions below a prefix while they are listed: as many as are
// read at once are held, and the listing waits for them.
func (r *reader) folder(ctx context.Context, prefix string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(requestsAtOnce)
	err := r.store.List(gctx, prefix, func(o target.Object) error {
		g.Go(func() error { return r.file(gctx, prefix, o) })
		return nil
	})
	// What failed in a task is why the listing ended, not the other way around.
	if waitErr := g.Wait(); waitErr != nil {
		return waitErr
	}
	return err
}

// file looks at one file.
func (r *reader) file(ctx context.Context, prefix string, o target.Object) error {
	kind, ref, known := metadata.ParseKey(o.Key)
	foreign := prefix != metadata.RecordPrefix // Harvester's
	switch harvesterReads(o.Key, r.directory) {
	case readNever:
		if foreign || !known {
			return nil
		}
	case readBlocked:
		r.bad(o.Key, "Harvester expects no such file or folder here", true)
		return nil
	}
	if o.Size > metadata.FileLimit {
		r.bad(o.Key, fmt.Sprintf("%d bytes are more than the %d that a description may have", o.Size, metadata.FileLimit), false)
		return nil
	}
	if err := r.room.Acquire(ctx, o.Size); err != nil {
		return err
	}
	defer r.room.Release(o.Size)
	content, err := r.store.Get(ctx, o.Key, metadata.FileLimit)
	switch vmbackup.ReasonOf(err) {
	case "":
	case vmbackup.ReasonNotFound:
		return nil // deleted since it was listed
	case vmbackup.ReasonInvalidRequest:
		// The key is none that can be asked for, or the file has grown since.
		r.bad(o.Key, err.Error(), foreign)
		return nil
	default:
		return err
	}
	if foreign {
		if reason := chokes(prefix, content); reason != "" {
			r.bad(o.Key, reason, true)
			return nil
		}
	}
	if !known {
		r.bad(o.Key, "its name is none of a description", false)
		return nil
	}
	if kind == metadata.FileHarvesterImage {
		r.image(o.Key, content)
		return nil
	}
	decode := metadata.DecodeHarvester
	if kind == metadata.FileRecord {
		decode = metadata.DecodeRecord
	}
	record, err := decode(o.Key, content)
	if err != nil {
		r.bad(o.Key, strings.TrimPrefix(err.Error(), o.Key+": "), false)
		return nil
	}
	if ref.Namespace != "" && record.Backup.Ref() != ref {
		r.bad(o.Key, "it is of another backup", false)
		return nil
	}
	r.backup(&record.Backup, o.Modified)
	return nil
}

func (r *reader) bad(key, reason string, blocks bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.brokenCount++
	r.blocks = r.blocks || blocks
	if len(r.broken) < vmbackup.MostTold {
		r.broken = append(r.broken, vmbackup.TargetFile{Path: key, Reason: reason, BlocksHarvester: blocks})
	}
}

// backup counts a backup of a machine. Of one that is described by the tool and by
// Harvester the tool's own description counts, which is read first.
func (r *reader) backup(b *vmbackup.Backup, modified time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref := b.Ref()
	var missing []string
	unfinished := b.Status.Phase == vmbackup.PhasePlanned || b.Status.Phase == vmbackup.PhaseRunning
	named := map[string]bool{}
	for _, v := range b.Status.Volumes {
		stored := r.index.volumes[v.LonghornVolume]
		if stored != nil {
			stored.named = true
			named[v.LonghornVolume] = true
			if _, there := stored.backups[v.LonghornBackup]; there {
				stored.backups[v.LonghornBackup] = true
				continue
			}
		}
		switch {
		case unfinished:
		case v.LonghornBackup == "":
			missing = append(missing, "volume "+v.Name+": no Longhorn backup is named")
		default:
			missing = append(missing, "volume "+v.Name+": Longhorn backup "+v.LonghornBackup)
		}
	}
	for _, image := range b.Status.Images {
		r.images[image.Name] = true
		if _, there := r.index.images[image.Name]; !there && !unfinished {
			missing = append(missing, "backing image "+image.Name)
		}
	}
	if _, twice := r.backups[ref]; twice {
		return
	}
	r.backups[ref] = len(missing) > 0
	m := r.machines[vmbackup.Ref{Namespace: ref.Namespace, Name: b.Spec.VM}]
	if m == nil {
		m = &machine{volumes: map[string]bool{}}
		r.machines[vmbackup.Ref{Namespace: strings.Clone(ref.Namespace), Name: strings.Clone(b.Spec.VM)}] = m
	}
	at := modified
	if b.Status.StartedAt != nil {
		at = *b.Status.StartedAt
	}
	m.backups++
	if m.latest.IsZero() || at.After(m.latest) {
		m.latest = at.UTC()
	}
	if m.earliest.IsZero() || at.Before(m.earliest) {
		m.earliest = at.UTC()
	}
	for volume := range named {
		if !m.volumes[volume] {
			m.volumes[strings.Clone(volume)] = true
		}
	}
	if len(missing) == 0 {
		return
	}
	m.incomplete++
	r.gapCount++
	if len(r.gaps) < vmbackup.MostTold {
		r.gaps = append(r.gaps, vmbackup.TargetGap{Backup: ref, Missing: missing})
	}
}

// image notes an image that Harvester has described.
func (r *reader) image(key string, content []byte) {
	described, err := metadata.DecodeHarvesterImage(key, content)
	if err != nil {
		r.bad(key, strings.TrimPrefix(err.Error(), key+": "), false)
		return
	}
	name, err := described.BackingImage()
	if err != nil {
		r.bad(key, err.Error(), false)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[name] = true
	image := vmbackup.TargetImage{Namespace: described.Namespace, Name: described.Name, DisplayName: described.DisplayName, BackingImage: name, State: vmbackup.StateFailed}
	if bytes, there := r.index.images[name]; there {
		image.State, image.Bytes = vmbackup.StateReady, max(bytes, 0)
	}
	r.found = append(r.found, image)
}

// fill sums up, in an order that does not depend on who was read first.
func (r *reader) fill(s *vmbackup.TargetContentsStatus) {
	x := r.index
	s.Machines = make([]vmbackup.TargetMachine, 0, len(r.machines))
	for ref, m := range r.machines {
		t := vmbackup.TargetMachine{Namespace: ref.Namespace, Name: ref.Name, Backups: m.backups, Incomplete: m.incomplete, Latest: &m.latest, Earliest: &m.earliest}
		for volume := range m.volumes {
			t.Bytes += x.volumes[volume].bytes
		}
		s.Machines = append(s.Machines, t)
	}
	slices.SortFunc(s.Machines, func(a, b vmbackup.TargetMachine) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.Images = r.found
	slices.SortFunc(s.Images, func(a, b vmbackup.TargetImage) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	s.Backups, s.Volumes, s.VolumeBackups = len(r.backups), len(x.volumes), x.backups
	s.Incomplete, s.IncompleteCount = r.gaps, r.gapCount
	slices.SortFunc(s.Incomplete, func(a, b vmbackup.TargetGap) int { return cmp.Compare(a.Backup.String(), b.Backup.String()) })
	for _, v := range x.volumes {
		s.Bytes += v.bytes
	}
	for _, bytes := range x.images {
		s.Bytes += max(bytes, 0)
	}
	s.Broken, s.BrokenCount, s.BlocksHarvester = slices.Concat(r.broken, x.broken), r.brokenCount+len(x.broken), r.blocks
	slices.SortFunc(s.Broken, func(a, b vmbackup.TargetFile) int { return cmp.Compare(a.Path, b.Path) })
	r.orphans(s)
}

// orphans are what no description has named.
func (r *reader) orphans(s *vmbackup.TargetContentsStatus) {
	for name, v := range r.index.volumes {
		if !v.named {
			s.OrphanBytes += v.bytes
			s.Orphans = append(s.Orphans, vmbackup.TargetOrphan{Kind: vmbackup.OrphanVolume, Name: name, Claim: v.claim, Backups: len(v.backups), Bytes: v.bytes})
			continue
		}
		for backup, isNamed := range v.backups {
			if !isNamed {
				s.Orphans = append(s.Orphans, vmbackup.TargetOrphan{Kind: vmbackup.OrphanBackup, Name: backup, Volume: name, Claim: v.claim})
			}
		}
	}
	for name, bytes := range r.index.images {
		if !r.images[name] {
			s.OrphanBytes += max(bytes, 0)
			s.Orphans = append(s.Orphans, vmbackup.TargetOrphan{Kind: vmbackup.OrphanImage, Name: name, Bytes: max(bytes, 0)})
		}
	}
	slices.SortFunc(s.Orphans, func(a, b vmbackup.TargetOrphan) int {
		return cmp.Or(-cmp.Compare(a.Bytes, b.Bytes), -cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Name, b.Name))
	})
	s.OrphanCount = len(s.Orphans)
	s.Orphans = s.Orphans[:min(s.OrphanCount, vmbackup.MostTold)]
}

// Troubles are what is not as it should be, for those who see no more than the table.
func Troubles(c *vmbackup.TargetContents) []string {
	s := &c.Status
	var told []string
	few := func(what string, count int, named []string) {
		if count == 0 {
			return
		}
		const most = 3
		if count == 1 {
			what = strings.Replace(what, "backups", "backup", 1)
			what = strings.Replace(strings.Replace(what, "images", "image", 1), "files", "file", 1)
		}
		text := fmt.Sprintf("%d %s: %s", count, what, strings.Join(named[:min(most, len(named))], "; "))
		if count > most {
			text += "; -o json has more"
		}
		told = append(told, text)
	}
	var gaps, files, blocking, lost []string
	for _, g := range s.Incomplete {
		gaps = append(gaps, g.Backup.String()+" lacks "+strings.Join(g.Missing, ", "))
	}
	for _, f := range s.Broken {
		files = append(files, f.Path+": "+f.Reason)
		if f.BlocksHarvester {
			blocking = append(blocking, f.Path)
		}
	}
	for _, i := range s.Images {
		if i.State == vmbackup.StateFailed {
			lost = append(lost, i.Namespace+"/"+i.Name)
		}
	}
	few("incomplete backups", s.IncompleteCount, gaps)
	few("images without their data", len(lost), lost)
	few("files that cannot be read", s.BrokenCount, files)
	if s.BlocksHarvester {
		few("of them keep Harvester from finding anything on this target", len(blocking), blocking)
	}
	return told
}

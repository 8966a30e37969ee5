// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Images writes a table of images in the order given. It writes nothing for none;
// NoneFound says so.
func Images(w io.Writer, images []vmbackup.Image, o Options) error {
	if len(images) == 0 {
		return nil
	}
	if !o.TTY {
		rows := make([][]field, len(images))
		for i := range images {
			rows[i] = imageFields(&images[i], o)
		}
		return plainTable(w, rows, o)
	}
	l := o.look()
	t := newListing(o, len(images))
	counts := map[vmbackup.ImagePhase]int{}
	var bytes int64
	for i := range images {
		image := &images[i]
		s := &image.Status
		counts[s.Phase]++
		bytes += s.SizeBytes
		t.namespace.cells[i], t.name.cells[i] = clean(image.Metadata.Namespace), clean(image.Metadata.Name)
		t.imageStatus(l, i, s)
		t.set(i, "SIZE", sizeOrNone(s.SizeBytes))
		t.set(i, "REPLICAS", replicaCount(s))
		t.set(i, "VIRTUAL", sizeOrNone(s.VirtualSizeBytes))
		t.set(i, "STORAGECLASS", clean(s.StorageClass))
		t.set(i, "SOURCE", clean(string(image.Spec.Source.Type)))
		t.set(i, "USED BY", usedBy(&s.Users))
		t.set(i, "BACKUP", imageBackupWord(s.Backup.State))
		t.set(i, "BACKING IMAGE", clean(s.BackingImage))
		t.set(i, "CHECKSUM", shortSum(s.Checksum))
		t.age.cells[i] = age(s.CreatedAt, o.Now)
		t.messages[i] = shortError(s.Error, firstOf(s.Warnings))
	}
	return t.write(w, l, imageSummary(len(images), counts, bytes))
}

func imageFields(image *vmbackup.Image, o Options) []field {
	s := &image.Status
	var fields []field
	if o.Namespaces {
		fields = append(fields, field{"NAMESPACE", image.Metadata.Namespace})
	}
	fields = append(fields,
		field{"NAME", image.Metadata.Name},
		field{"STATUS", string(s.Phase)},
		field{"PROGRESS", strconv.Itoa(s.Progress) + "%"},
		field{"REPLICAS", replicaCount(s)},
		field{"SIZE", quantityOrNone(s.SizeBytes)},
		field{"VIRTUAL", quantityOrNone(s.VirtualSizeBytes)},
		field{"SOURCE", string(image.Spec.Source.Type)},
		field{"STORAGECLASS", s.StorageClass},
		field{"BACKING-IMAGE", s.BackingImage},
		field{"VOLUMES", strconv.Itoa(len(s.Users.Volumes))},
		field{"VMS", strconv.Itoa(len(s.Users.Machines))},
		field{"BACKUP", imageBackupWord(s.Backup.State)},
		field{"REASON", reason(s.Error)},
		field{"AGE", age(s.CreatedAt, o.Now)},
	)
	if o.Wide {
		fields = append(fields,
			field{"REAL-SIZE", quantityOrNone(s.RealSizeBytes)},
			field{"CHECKSUM", s.Checksum},
			field{"ORIGIN", origin(&image.Spec.Source)},
			field{"ENGINE", s.Engine},
			field{"CREATED", stamp(s.CreatedAt)},
			field{"MESSAGE", message(s.Error)},
		)
	}
	return fields
}

// imageStatus fills the status: symbol and words, and a bar while the image comes in.
func (t *listing) imageStatus(l look, row int, s *vmbackup.ImageStatus) {
	symbol, word, c := l.imagePhase(s.Phase)
	text := symbol + " " + word
	t.state.cells[row], t.state.paint[row] = text, c
	if s.Phase == vmbackup.ImageInProgress {
		tail := " " + padLeft(percentText(float64(s.Progress)), 4)
		t.state.cells[row] = text + " " + look{glyphs: l.glyphs}.bar(float64(s.Progress), t.barCells, plain) + tail
		t.state.drawn[row] = l.paint(c, text) + " " + l.bar(float64(s.Progress), t.barCells, c) + tail
	}
}

// imagePhase is the symbol, the words and the colour of an image's phase.
func (l look) imagePhase(p vmbackup.ImagePhase) (symbol, word string, c colour) {
	switch p {
	case vmbackup.ImageImported:
		return l.ready, "Imported", green
	case vmbackup.ImageInProgress:
		return l.running, "In progress", cyan
	case vmbackup.ImageFailed:
		return l.failed, "Failed", red
	case vmbackup.ImageMissing:
		return l.incomplete, "Missing", yellow
	case vmbackup.ImageDeleting:
		return l.canceled, "Deleting", dim
	}
	return l.unknown, "Unknown", magenta
}

// replicaCount is how many of the wanted replicas are ready, such as 1/3.
func replicaCount(s *vmbackup.ImageStatus) string {
	return fmt.Sprintf("%d/%d", s.ReadyReplicas, s.TotalReplicas)
}

// imageBackupWord says whether an image is on the backup target.
func imageBackupWord(s vmbackup.State) string {
	switch s {
	case "":
		return "none"
	case vmbackup.StateReady:
		return "done"
	}
	return strings.ToLower(string(s))
}

// usedBy counts what rests on an image: 2 VMs, else volumes.
func usedBy(u *vmbackup.ImageUsers) string {
	switch {
	case len(u.Machines) > 0:
		return plural(len(u.Machines), "VM")
	case len(u.Volumes) > 0:
		return plural(len(u.Volumes), "volume")
	case len(u.Claims) > 0:
		return plural(len(u.Claims), "claim")
	}
	return ""
}

// shortSum is enough of a checksum to compare it by eye.
func shortSum(sum string) string {
	sum = clean(sum)
	if len(sum) > 12 {
		return sum[:12]
	}
	return sum
}

// origin is where an image came from, in one piece.
func origin(s *vmbackup.ImageSource) string {
	for _, from := range []string{s.URL, s.Claim, s.Volume, s.Image, s.Backup} {
		if from != "" {
			return from
		}
	}
	return ""
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return clean(list[0])
}

// imageSummary is what stands under a listing: 3 images · 2 imported · 1.2 GiB.
func imageSummary(n int, counts map[vmbackup.ImagePhase]int, bytes int64) []string {
	parts := []string{plural(n, "image")}
	for _, p := range []vmbackup.ImagePhase{
		vmbackup.ImageImported, vmbackup.ImageInProgress, vmbackup.ImageFailed, vmbackup.ImageMissing, vmbackup.ImageDeleting, vmbackup.ImageUnknown,
	} {
		if counts[p] > 0 {
			_, word, _ := look{}.imagePhase(p)
			parts = append(parts, strconv.Itoa(counts[p])+" "+strings.ToLower(word))
		}
	}
	if bytes > 0 {
		parts = append(parts, size(bytes))
	}
	return parts
}

// Image writes one image as a tree, with the cluster's events that explain it.
func Image(w io.Writer, image *vmbackup.Image, events []EventLine, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	s := &image.Status
	symbol, word, c := d.imagePhase(s.Phase)
	status := d.paint(c, symbol+" "+word)
	if s.Phase == vmbackup.ImageInProgress {
		if o.TTY {
			status += " " + d.bar(float64(s.Progress), 20, cyan)
		}
		status += " " + percentText(float64(s.Progress))
	}
	d.line("Image " + d.paint(bold, clean(image.Ref().String())) + "  " + status)

	var nodes []node
	nodes = append(nodes, fact("Title", clean(image.Spec.DisplayName))...)
	nodes = append(nodes, fact("Backing image", clean(s.BackingImage))...)
	class := node{key: "StorageClass", value: clean(s.StorageClass)}
	if s.StorageClass == "" {
		class.value, class.colour = "none", dim
	}
	nodes = append(nodes, class)
	nodes = append(nodes, d.imageSource(&image.Spec.Source))
	nodes = append(nodes, d.imageSizes(s)...)
	nodes = append(nodes, d.imageChecksum(image)...)
	if s.CreatedAt != nil {
		nodes = append(nodes, node{key: "Created", value: moment(s.CreatedAt), note: age(s.CreatedAt, o.Now) + " ago"})
	}
	nodes = append(nodes, fact("Engine", clean(s.Engine))...)
	nodes = append(nodes, d.labels(image.Metadata.Labels)...)
	nodes = append(nodes, d.imageReplicas(s), d.imageBackup(&s.Backup), d.imageUsers(&s.Users))
	nodes = append(nodes, d.ending(s.Warnings, s.Error, events)...)
	d.nodes("", nodes)
	return d.write(w)
}

func (d *describer) imageSource(s *vmbackup.ImageSource) node {
	n := node{key: "Source", value: clean(string(s.Type))}
	for _, f := range []struct{ key, value string }{
		{"URL", s.URL}, {"Claim", s.Claim}, {"Volume", s.Volume}, {"Image", s.Image}, {"Backup", s.Backup},
	} {
		n.children = append(n.children, fact(f.key, clean(f.value))...)
	}
	return n
}

func (d *describer) imageSizes(s *vmbackup.ImageStatus) []node {
	if s.SizeBytes == 0 && s.VirtualSizeBytes == 0 {
		return nil
	}
	n := node{key: "Size", value: size(s.SizeBytes)}
	var more []string
	if s.VirtualSizeBytes > 0 {
		more = append(more, "disk of "+size(s.VirtualSizeBytes))
	}
	if s.RealSizeBytes > 0 {
		more = append(more, size(s.RealSizeBytes)+" in use")
	}
	n.note = strings.Join(more, ", ")
	return []node{n}
}

func (d *describer) imageChecksum(image *vmbackup.Image) []node {
	have, want := image.Status.Checksum, image.Spec.Checksum
	switch {
	case have == "" && want == "":
		return nil
	case have == "":
		return []node{{key: "Checksum", value: clean(want), note: "wanted"}}
	case want == have:
		return []node{{key: "Checksum", value: clean(have), note: "as wanted"}}
	}
	return []node{{key: "Checksum", value: clean(have)}}
}

func (d *describer) imageReplicas(s *vmbackup.ImageStatus) node {
	n := node{key: "Replicas", value: fmt.Sprintf("%d of %d ready", s.ReadyReplicas, s.TotalReplicas)}
	for _, r := range s.Replicas {
		where := clean(r.Disk)
		if r.Node != "" {
			where = clean(r.Node + " " + r.Path)
		}
		replica := node{mark: d.stateText(r.State), value: where, children: d.note(r.Message)}
		if r.State == vmbackup.StateRunning {
			replica.note = percentText(float64(r.Progress))
		}
		n.children = append(n.children, replica)
	}
	return n
}

func (d *describer) imageBackup(b *vmbackup.ImageBackup) node {
	if b.State == "" {
		return node{key: "Backup", value: "none on a backup target that Longhorn knows", colour: dim}
	}
	n := node{key: "Backup", mark: d.stateText(b.State), children: d.note(b.Message)}
	if b.Target != "" {
		n.value = "on target " + clean(b.Target)
	}
	var notes []string
	if b.SizeBytes > 0 {
		notes = append(notes, size(b.SizeBytes))
	}
	if b.CompletedAt != nil {
		notes = append(notes, moment(b.CompletedAt))
	}
	if b.State == vmbackup.StateRunning {
		notes = append(notes, percentText(float64(b.Progress)))
	}
	n.note = strings.Join(notes, ", ")
	n.children = append(n.children, fact("URL", clean(b.URL))...)
	return n
}

func (d *describer) imageUsers(u *vmbackup.ImageUsers) node {
	n := node{key: "Used by"}
	for _, group := range []struct {
		key   string
		names []string
	}{{"Machines", u.Machines}, {"Claims", u.Claims}, {"Volumes", u.Volumes}, {"StorageClasses", u.StorageClasses}} {
		if len(group.names) == 0 {
			continue
		}
		names := node{key: group.key, value: strconv.Itoa(len(group.names))}
		for _, name := range group.names {
			names.children = append(names.children, node{value: clean(name)})
		}
		n.children = append(n.children, names)
	}
	if len(u.Unseen) > 0 {
		n.children = append(n.children, node{value: "not known, for lack of rights: " + clean(strings.Join(u.Unseen, ", ")), colour: yellow})
	}
	if len(n.children) == 0 {
		n.value, n.colour = "nothing", dim
	}
	return n
}

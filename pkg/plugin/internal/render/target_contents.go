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

// TargetContents writes what lies on a backup target: a table of the machines, and
// below it images, gaps, broken files and orphans. On a terminal at most some of each
// are written, with -o wide all that were told.
func TargetContents(w io.Writer, c *vmbackup.TargetContents, o Options) error {
	s := &c.Status
	if err := machines(w, s.Machines, o); err != nil {
		return err
	}
	if !o.TTY {
		return nil
	}
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	if len(s.Machines) > 0 {
		d.line("")
	}
	d.line(d.targetTitle(c.Metadata.Name) + clean(c.Spec.URL))
	nodes := []node{{key: "Holds", value: fmt.Sprintf("%s of %s, %s of %s", plural(s.Backups, "backup"), plural(len(s.Machines), "machine"),
		plural(s.VolumeBackups, "Longhorn backup"), plural(s.Volumes, "volume")), note: sizeOrNone(s.Bytes)}}
	nodes = append(nodes, d.contentsImages(s)...)
	nodes = append(nodes, d.contentsBroken(s)...)
	nodes = append(nodes, d.contentsGaps(s)...)
	nodes = append(nodes, d.contentsOrphans(s)...)
	d.nodes("", nodes)
	return d.write(w)
}

// fewShown is how many of a kind are written without -o wide.
const fewShown = 5

// some are the first of a list of children, and how many more there are.
func (d *describer) some(children []node, count int) []node {
	shown := len(children)
	if !d.options.Wide {
		shown = min(shown, fewShown)
	}
	children = children[:shown]
	if more := count - shown; more > 0 {
		how := "-o json shows them"
		if !d.options.Wide {
			how = "-o wide shows them"
		}
		children = append(children, node{value: fmt.Sprintf("and %d more (%s)", more, how), colour: dim})
	}
	return children
}

func (d *describer) contentsImages(s *vmbackup.TargetContentsStatus) []node {
	if len(s.Images) == 0 {
		return nil
	}
	n := node{key: "Images", value: strconv.Itoa(len(s.Images))}
	for _, i := range s.Images {
		child := node{mark: d.stateMark(i.State), value: clean(i.Namespace + "/" + i.Name), note: clean(i.DisplayName)}
		if i.State == vmbackup.StateFailed {
			child.value += ": the data of its backing image " + clean(i.BackingImage) + " is not here"
		} else if i.Bytes > 0 {
			child.note = strings.TrimSpace(child.note + "  " + size(i.Bytes))
		}
		n.children = append(n.children, child)
	}
	n.children = d.some(n.children, len(s.Images))
	return []node{n}
}

func (d *describer) contentsBroken(s *vmbackup.TargetContentsStatus) []node {
	if s.BrokenCount == 0 {
		return nil
	}
	n := node{key: "Broken files", value: strconv.Itoa(s.BrokenCount), colour: yellow}
	if s.BlocksHarvester {
		n.value, n.colour = n.value+"; Harvester finds nothing on this target while those marked are there", red
	}
	for _, f := range s.Broken {
		mark := d.paint(yellow, d.incomplete)
		if f.BlocksHarvester {
			mark = d.paint(red, d.failed)
		}
		n.children = append(n.children, node{mark: mark, value: clean(f.Path + ": " + f.Reason)})
	}
	n.children = d.some(n.children, s.BrokenCount)
	return []node{n}
}

func (d *describer) contentsGaps(s *vmbackup.TargetContentsStatus) []node {
	if s.IncompleteCount == 0 {
		return nil
	}
	n := node{key: "Incomplete", value: plural(s.IncompleteCount, "backup"), colour: yellow}
	for _, gap := range s.Incomplete {
		n.children = append(n.children, node{mark: d.paint(yellow, d.incomplete), value: clean(gap.Backup.String() + " lacks " + strings.Join(gap.Missing, ", "))})
	}
	n.children = d.some(n.children, s.IncompleteCount)
	return []node{n}
}

func (d *describer) contentsOrphans(s *vmbackup.TargetContentsStatus) []node {
	if s.OrphanCount == 0 {
		return nil
	}
	n := node{key: "Orphans", value: strconv.Itoa(s.OrphanCount) + " that no machine or image names", note: sizeOrNone(s.OrphanBytes)}
	for _, orphan := range s.Orphans {
		child := node{value: orphan.Kind + " " + orphan.Name, note: sizeOrNone(orphan.Bytes)}
		switch {
		case orphan.Volume != "":
			child.value += " of volume " + orphan.Volume
		case orphan.Backups > 0:
			child.value += ", " + plural(orphan.Backups, "backup")
		}
		if orphan.Claim != "" {
			child.value += ", claim " + orphan.Claim
		}
		child.value = clean(child.value)
		n.children = append(n.children, child)
	}
	n.children = d.some(n.children, s.OrphanCount)
	return []node{n}
}

// machines writes the table of machines with backups on a target.
func machines(w io.Writer, all []vmbackup.TargetMachine, o Options) error {
	if len(all) == 0 {
		return nil
	}
	if !o.TTY {
		rows := make([][]field, len(all))
		for i := range all {
			m := &all[i]
			rows[i] = []field{
				{"NAMESPACE", m.Namespace},
				{"NAME", m.Name},
				{"BACKUPS", strconv.Itoa(m.Backups)},
				{"INCOMPLETE", strconv.Itoa(m.Incomplete)},
				{"SIZE", quantityOrNone(m.Bytes)},
				{"LATEST", age(m.Latest, o.Now)},
				{"EARLIEST", age(m.Earliest, o.Now)},
			}
		}
		return plainTable(w, rows, o)
	}
	l := o.look()
	n := len(all)
	blank := func(title string, rank int) *column {
		return &column{title: title, cells: make([]string, n), rank: rank}
	}
	namespace, name, backups := blank("NAMESPACE", 0), blank("MACHINE", 0), blank("BACKUPS", 0)
	bytes, latest, earliest := blank("SIZE", 1), blank("LATEST", 1), blank("EARLIEST", 2)
	namespace.least, namespace.fair, namespace.middle = 8, 20, true
	name.least, name.fair, name.middle = 16, 28, true
	details := make([]string, n)
	for i := range all {
		m := &all[i]
		namespace.cells[i], name.cells[i], backups.cells[i] = clean(m.Namespace), clean(m.Name), strconv.Itoa(m.Backups)
		bytes.cells[i], latest.cells[i], earliest.cells[i] = dash(sizeOrNone(m.Bytes)), dash(age(m.Latest, o.Now)), dash(age(m.Earliest, o.Now))
		if m.Incomplete > 0 {
			details[i] = l.detailLine(fmt.Sprintf("%d incomplete", m.Incomplete), o)
		}
	}
	for _, c := range []*column{backups, bytes, latest, earliest} {
		c.right = true
	}
	chosen, widths := fit([]*column{namespace, name, backups, bytes, latest, earliest}, o.width(), o.Wide)
	return l.table(w, chosen, widths, details, o)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

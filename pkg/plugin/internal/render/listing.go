// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// listing is a table of backups or restores for people while it is filled.
type listing struct {
	options                     Options
	rows                        int
	namespace, name, state, age *column
	middle                      []*column // between state and age, in the order first set
	// messages explain rows; they stand under them, over the whole width.
	messages []string
	barCells int
}

func newListing(o Options, rows int) *listing {
	blank := func(title string) *column { // of rank 0: they stay whatever the width
		return &column{title: title, cells: make([]string, rows)}
	}
	t := &listing{
		options: o, rows: rows,
		namespace: blank("NAMESPACE"),
		name:      blank("NAME"),
		state:     blank("STATUS"),
		age:       blank("AGE"),
		messages:  make([]string, rows),
	}
	t.namespace.least, t.namespace.fair, t.namespace.middle = 8, 20, true
	t.name.least, t.name.fair, t.name.middle = 16, 28, true
	t.age.right = true
	t.state.paint, t.state.drawn = make([]colour, rows), make([]string, rows)
	t.barCells = 6
	switch width := o.width(); {
	case width >= 160:
		t.barCells = 14
	case width >= 110:
		t.barCells = 10
	}
	return t
}

// rankOf is which of the columns in the middle go last when the width shrinks.
func rankOf() []string {
	return []string{
		"", "VM", "SIZE", "LAST RUN", "NEXT RUN", "WHEN", "KEPT", "FAILURES", "REPLICAS", "VIRTUAL", "STORAGECLASS", "USED BY",
		"CONSISTENCY", "BACKUP", "VOLUMES", "FOUND ON", "STEP", "TYPE", "ENGINE", "UPLOADED", "TOOK", "FREEZE", "TARGET", "MODE",
		"SOURCE", "BACKING IMAGE", "CHECKSUM", "CRON", "LAST BACKUP",
	}
}

// set fills a cell of a column in the middle, made when it is first named.
func (t *listing) set(row int, title, value string) {
	at := slices.IndexFunc(t.middle, func(c *column) bool { return c.title == title })
	if at < 0 {
		c := &column{title: title, cells: slices.Repeat([]string{""}, t.rows), rank: max(slices.Index(rankOf(), title), 1)}
		switch title {
		case "VM":
			c.rank, c.least, c.fair = 1, 6, 16
		case "SIZE":
			c.rank, c.right = 1, true
		case "BACKUP", "STEP":
			c.least, c.fair = 16, 24
			c.middle = title == "BACKUP"
		case "STORAGECLASS":
			c.least, c.fair = 12, 24
		case "VOLUMES", "UPLOADED", "TOOK", "FREEZE", "REPLICAS", "VIRTUAL":
			c.right = true
		}
		t.middle, at = append(t.middle, c), len(t.middle)
	}
	t.middle[at].cells[row] = value
}

// status fills the status: symbol and word, and a bar while it runs.
func (t *listing) status(l look, row int, phase vmbackup.Phase, percent float64) {
	symbol, word, c := l.phase(phase)
	text := symbol + " " + word
	t.state.cells[row], t.state.paint[row] = text, c
	if phase == vmbackup.PhaseRunning {
		tail := " " + padLeft(percentText(percent), 4)
		plainBar := look{glyphs: l.glyphs}.bar(percent, t.barCells, plain)
		t.state.cells[row] = text + " " + plainBar + tail
		t.state.drawn[row] = l.paint(c, text) + " " + l.bar(percent, t.barCells, c) + tail
	}
}

func (t *listing) write(w io.Writer, l look, footer []string) error {
	var columns []*column
	if t.options.Namespaces {
		columns = append(columns, t.namespace)
	}
	columns = append(columns, t.name, t.state)
	for _, c := range t.middle {
		if !c.empty() || t.options.Widths[c.title] > 0 {
			columns = append(columns, c)
		}
	}
	for _, c := range columns {
		for i := range c.cells {
			if c.cells[i] == "" {
				c.cells[i] = "-"
			}
		}
	}
	columns = append(columns, t.age)
	chosen, widths := t.columns(columns)
	if err := l.table(w, chosen, widths, t.details(l), t.options); err != nil {
		return err
	}
	if t.rows < 2 || t.options.Only != nil {
		return nil
	}
	var lines []string
	for _, line := range l.joined(footer, t.options.width()) {
		lines = append(lines, l.paint(dim, line)+"\n")
	}
	_, err := io.WriteString(w, "\n"+strings.Join(lines, ""))
	return err
}

// columns chooses the columns to write and their widths: those of before, with
// names as long as they are, or else those that fit.
func (t *listing) columns(columns []*column) (chosen []*column, widths []int) {
	if len(t.options.Widths) == 0 {
		chosen, widths = fit(columns, t.options.width(), t.options.Wide)
	} else {
		for _, c := range columns {
			width, before := t.options.Widths[c.title]
			if c == t.name {
				width = max(width, c.natural())
			}
			if before {
				chosen, widths = append(chosen, c), append(widths, width)
			}
		}
	}
	if t.options.Widths != nil {
		for i, c := range chosen {
			t.options.Widths[c.title] = widths[i]
		}
	}
	return chosen, widths
}

// details are the messages as lines under their rows.
func (t *listing) details(l look) []string {
	details := make([]string, t.rows)
	for i, message := range t.messages {
		details[i] = l.detailLine(message, t.options)
	}
	return details
}

// detailLine hangs text under a row of a table, whole with -o wide.
func (l look) detailLine(text string, o Options) string {
	if text == "" {
		return ""
	}
	const indent = "  "
	if width := o.width(); width > 0 && !o.Wide {
		text = truncate(text, width-len(indent)-cells(l.detail), l.ellipsis)
	}
	return indent + l.paint(dim, l.detail+text)
}

// summary is what stands under a listing: 5 backups · 3 ready · 1 failed · 240 GiB.
func summary(one string, phases []vmbackup.Phase, bytes int64) []string {
	parts := []string{plural(len(phases), one)}
	for _, p := range []vmbackup.Phase{
		vmbackup.PhaseReady, vmbackup.PhaseRunning, vmbackup.PhasePlanned,
		vmbackup.PhaseIncomplete, vmbackup.PhaseFailed, vmbackup.PhaseCanceled, vmbackup.PhaseUnknown,
	} {
		n := 0
		for _, phase := range phases {
			if phaseWord(phase) == string(p) {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+strings.ToLower(string(p)))
		}
	}
	if bytes > 0 {
		parts = append(parts, size(bytes))
	}
	return parts
}

// joined puts dots between parts, in lines of at most width cells; a part is
// never broken.
func (l look) joined(parts []string, width int) []string {
	between := " " + l.dot + " "
	var lines []string
	for _, part := range parts {
		if n := len(lines) - 1; n >= 0 && (width == 0 || cells(lines[n]+between+part) <= width) {
			lines[n] += between + part
			continue
		}
		lines = append(lines, part)
	}
	return lines
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"cmp"
	"io"
	"slices"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Comparison writes two clusters side by side, with an empty line after them; nothing
// when there is nothing to compare.
func Comparison(w io.Writer, rows []vmbackup.Comparison, o Options) error {
	if len(rows) == 0 {
		return nil
	}
	if !o.TTY {
		fields := make([][]field, len(rows))
		for i, r := range rows {
			fields[i] = []field{{"", r.Subject}, {"SOURCE", r.Source}, {"DESTINATION", r.Destination}, {"NOTE", r.Note}}
		}
		if err := plainTable(w, fields, o); err != nil {
			return err
		}
		_, err := io.WriteString(w, "\n")
		return err
	}
	l, n := o.look(), len(rows)
	subject := &column{title: "", cells: make([]string, n), paint: slices.Repeat([]colour{bold}, n)}
	source := &column{title: "SOURCE", cells: make([]string, n), least: 16, fair: 30, middle: true}
	destination := &column{title: "DESTINATION", cells: make([]string, n), paint: make([]colour, n), least: 16, fair: 30, middle: true}
	note := &column{title: "NOTE", cells: make([]string, n), paint: slices.Repeat([]colour{dim}, n), rank: 3, least: 12, fair: 16}
	for i, r := range rows {
		subject.cells[i], note.cells[i] = clean(r.Subject), clean(r.Note)
		source.cells[i], destination.cells[i] = cmp.Or(clean(r.Source), "?"), cmp.Or(clean(r.Destination), "?")
		if r.Source != "" && r.Source != r.Destination {
			destination.paint[i] = yellow
		}
	}
	columns := []*column{subject, source, destination}
	if !note.empty() {
		columns = append(columns, note)
	}
	chosen, widths := fit(columns, o.width(), o.Wide)
	var details []string
	if !slices.Contains(chosen, note) {
		for _, text := range note.cells {
			details = append(details, l.detailLine(text, o))
		}
	}
	if err := l.table(w, chosen, widths, details, o); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

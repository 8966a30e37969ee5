// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
)

// gap is the space between two columns.
const gap = 2

// column is one column of a table for people.
type column struct {
	title string
	cells []string // plain text, one a row
	paint []colour // one a row; nil for none
	// drawn replaces the plain cell by one that carries its own colours and has
	// the same width; it is never shortened.
	drawn []string
	right bool
	// rank decides who stays when the width does not do: columns of rank 0 always.
	rank int
	// least is the width down to which cells may be shortened, 0 for not at all.
	least int
	// fair is the width up to which this column comes before columns of higher rank.
	fair int
	// middle shortens in the middle rather than at the end.
	middle bool
}

func (c *column) natural() int {
	n := cells(c.title)
	for _, cell := range c.cells {
		n = max(n, cells(cell))
	}
	return n
}

// smallest is the least width that the column can be given.
func (c *column) smallest() int {
	if c.least == 0 {
		return c.natural()
	}
	return min(c.natural(), max(c.least, cells(c.title)))
}

// comfortable is the width that the column is given before less important ones come in.
func (c *column) comfortable() int {
	if c.fair == 0 {
		return c.natural()
	}
	return max(c.smallest(), min(c.natural(), c.fair))
}

func (c *column) empty() bool {
	return !slices.ContainsFunc(c.cells, func(s string) bool { return s != "" && s != "-" })
}

// fit chooses the columns that fit into width and the width of each. Columns of
// ranks 0 and 1 may squeeze others to their least; the rest comes in, by rank, only
// while there is room. No limit, or all, takes every column.
func fit(columns []*column, width int, all bool) (chosen []*column, widths []int) {
	byRank := slices.Clone(columns)
	slices.SortStableFunc(byRank, func(a, b *column) int { return a.rank - b.rank })
	sum := func(taken []*column, of func(*column) int) int {
		total := max(len(taken)-1, 0) * gap
		for _, c := range taken {
			total += of(c)
		}
		return total
	}
	var taken []*column
	for _, c := range byRank {
		with := append(slices.Clone(taken), c)
		need := (*column).comfortable
		if c.rank <= 1 {
			need = (*column).smallest
		}
		if !all && width > 0 && c.rank > 0 && sum(with, need) > width {
			break
		}
		taken = with
	}
	given := map[*column]int{}
	for _, c := range taken {
		given[c] = c.smallest()
		if all || width == 0 {
			given[c] = c.natural()
		}
	}
	room := width - sum(taken, func(c *column) int { return given[c] })
	for _, goal := range []func(*column) int{(*column).comfortable, (*column).natural} {
		for _, c := range taken {
			if more := min(goal(c)-given[c], room); more > 0 {
				given[c] += more
				room -= more
			}
		}
	}
	for _, c := range columns {
		if n, ok := given[c]; ok {
			chosen, widths = append(chosen, c), append(widths, n)
		}
	}
	return chosen, widths
}

// table writes columns for people: a quiet header, a rule, one line a row, and
// under a row its detail when there is one. details may be nil.
func (l look) table(w io.Writer, columns []*column, widths []int, details []string, o Options) error {
	if len(columns) == 0 {
		return nil
	}
	var buffer strings.Builder
	align := make([]tw.Align, len(columns))
	header := make([]string, len(columns))
	padding := make([]tw.Padding, len(columns))
	for i, c := range columns {
		align[i] = tw.AlignLeft
		if c.right {
			align[i] = tw.AlignRight
		}
		header[i] = l.paint(bold, c.title)
		padding[i] = tw.Padding{Right: strings.Repeat(" ", gap), Overwrite: true}
		if i == len(columns)-1 {
			padding[i] = tw.PaddingNone
		}
	}
	section := tw.CellConfig{
		Formatting: tw.CellFormatting{AutoWrap: tw.WrapNone, AutoFormat: tw.Off},
		Alignment:  tw.CellAlignment{Global: tw.AlignLeft, PerColumn: align},
		Padding:    tw.CellPadding{Global: tw.PaddingNone, PerColumn: padding},
	}
	t := tablewriter.NewTable(&buffer,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders: tw.BorderNone,
			Symbols: tw.NewSymbolCustom("rule").WithRow(l.rule).WithColumn(" ").WithCenter(l.rule),
			Settings: tw.Settings{
				Separators: tw.Separators{ShowHeader: tw.On, BetweenColumns: tw.Off, BetweenRows: tw.Off},
				Lines:      tw.Lines{ShowHeaderLine: tw.On, ShowTop: tw.Off, ShowBottom: tw.Off},
			},
		})),
		tablewriter.WithConfig(tablewriter.Config{
			Header:   section,
			Row:      section,
			Behavior: tw.Behavior{TrimSpace: tw.Off, AutoHide: tw.Off},
		}),
		tablewriter.WithTrimSpace(tw.Off),
	)
	t.Header(header)
	for row := range columns[0].cells {
		line := make([]string, len(columns))
		for i, c := range columns {
			line[i] = l.cell(c, row, widths[i])
			if o.Widths == nil || i == len(columns)-1 {
				continue
			}
			if c.right {
				line[i] = padLeft(line[i], widths[i])
			} else {
				line[i] = pad(line[i], widths[i])
			}
		}
		if err := t.Append(line); err != nil {
			return fmt.Errorf("lay out table: %w", err)
		}
	}
	if err := t.Render(); err != nil {
		return fmt.Errorf("lay out table: %w", err)
	}
	return l.writeRows(w, buffer.String(), details, o)
}

// writeRows copies what tablewriter laid out, one line a row after a header and
// a rule, and hangs each row's detail under it.
func (l look) writeRows(w io.Writer, laidOut string, details []string, o Options) error {
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(laidOut, "\n"), "\n") {
		if !o.writes(i - 2) {
			continue
		}
		line = strings.TrimRight(line, " ")
		if i == 1 {
			line = l.paint(dim, line)
		}
		out.WriteString(line + "\n")
		if row := i - 2; row >= 0 && row < len(details) && details[row] != "" {
			out.WriteString(details[row] + "\n")
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// writes reports whether a row is to be written; rows below 0 are the header's.
func (o Options) writes(row int) bool {
	if row < 0 {
		return !o.NoHeader
	}
	return o.Only == nil || o.Only(row)
}

func (l look) cell(c *column, row, width int) string {
	if c.drawn != nil && c.drawn[row] != "" {
		return c.drawn[row]
	}
	s := c.cells[row]
	if c.middle {
		s = truncateMiddle(s, width, l.ellipsis)
	} else {
		s = truncate(s, width, l.ellipsis)
	}
	if c.paint == nil {
		return s
	}
	return l.paint(c.paint[row], s)
}

// field is one column of a table for scripts.
type field struct {
	title string
	value string
}

// plainTable writes kubectl's columns: upper-case titles, three spaces between,
// no word of a cell apart from the last column's broken by a space, <none> for
// nothing.
func plainTable(w io.Writer, rows [][]field, o Options) error {
	if len(rows) == 0 {
		return nil
	}
	n := len(rows[0])
	widths := make([]int, n)
	lines := make([][]string, 0, len(rows)+1)
	header := make([]string, n)
	for i, f := range rows[0] {
		header[i] = f.title
	}
	lines = append(lines, header)
	for _, row := range rows {
		line := make([]string, n)
		for i, f := range row {
			line[i] = plainCell(f.value, i == n-1)
		}
		lines = append(lines, line)
	}
	for _, line := range lines {
		for i, s := range line {
			widths[i] = max(widths[i], cells(s))
		}
	}
	var out strings.Builder
	if o.Widths != nil {
		for i, title := range header {
			widths[i] = max(widths[i], o.Widths[title])
			o.Widths[title] = widths[i]
		}
	}
	for row, line := range lines {
		if !o.writes(row - 1) {
			continue
		}
		for i, s := range line {
			if i == n-1 {
				out.WriteString(s + "\n")
				break
			}
			out.WriteString(pad(s, widths[i]+3))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func plainCell(s string, last bool) string {
	s = clean(s)
	if s == "" {
		return "<none>"
	}
	if last {
		return s
	}
	return strings.ReplaceAll(s, " ", "_")
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/clipperhouse/displaywidth"
	"github.com/olekukonko/tablewriter/pkg/twwidth"
)

// cells is how many terminal cells s takes, SGR sequences not counted. It is
// tablewriter's own measure, so that both always agree.
func cells(s string) int { return twwidth.Width(s) }

// clean makes foreign text safe to show: names and messages come from clusters
// and backup targets, and must neither move the cursor nor change colours nor
// reorder the line. Line ends and tabs become spaces; what would act on a terminal,
// or not be seen at all, is written out, so that it is noticed.
func clean(s string) string {
	var out strings.Builder
	for _, r := range s {
		switch {
		case r == '\n', r == '\t', r == '\r':
			out.WriteByte(' ')
		case r < 0x20 || r == 0x7f:
			out.WriteByte('^') // ^[ is Escape, as terminals and kubectl write it
			out.WriteRune(r ^ 0x40)
		case hidden(r):
			fmt.Fprintf(&out, "\\u%04x", r)
		default:
			out.WriteRune(r)
		}
	}
	return strings.Join(strings.Fields(out.String()), " ")
}

// hidden reports whether a character is not seen, or changes how others are. The
// joiners stay: scripts and emoji are written with them.
func hidden(r rune) bool {
	const nonJoiner, joiner = '\u200c', '\u200d'
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Cf, r) && r != nonJoiner && r != joiner
}

// paragraphs is clean for text whose line ends matter.
func paragraphs(s string) []string {
	var out []string
	for _, line := range strings.Split(s, "\n") {
		if line = clean(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// truncate shortens plain text to at most n cells, ending in an ellipsis.
func truncate(s string, n int, ellipsis string) string {
	if cells(s) <= n {
		return s
	}
	room := n - cells(ellipsis)
	if room < 0 {
		return ""
	}
	head, _ := cut(s, room)
	return strings.TrimRight(head, " ") + ellipsis
}

// truncateMiddle shortens a name to at most n cells and keeps its end, where
// names made of a machine and a time differ.
func truncateMiddle(s string, n int, ellipsis string) string {
	if cells(s) <= n {
		return s
	}
	room := n - cells(ellipsis)
	if room < 2 {
		return truncate(s, n, ellipsis)
	}
	head, _ := cut(s, room-room/2)
	return head + ellipsis + tail(s, room/2)
}

// cut splits plain text after at most n cells, between user-perceived characters.
func cut(s string, n int) (head, rest string) {
	used, at := 0, 0
	g := displaywidth.StringGraphemes(s)
	for g.Next() {
		w := cells(g.Value())
		if used+w > n {
			break
		}
		used += w
		at += len(g.Value())
	}
	return s[:at], s[at:]
}

// tail is the longest end of plain text that fits into n cells.
func tail(s string, n int) string {
	var parts []string
	g := displaywidth.StringGraphemes(s)
	for g.Next() {
		parts = append(parts, g.Value())
	}
	used, at := 0, len(s)
	for i := len(parts) - 1; i >= 0; i-- {
		w := cells(parts[i])
		if used+w > n {
			break
		}
		used += w
		at -= len(parts[i])
	}
	return s[at:]
}

// wrap breaks plain text into lines of at most n cells, between words. A long
// word of ASCII (a handle, a path) stays whole, so that it can be copied; other
// scripts do not put spaces between words and are broken where the line ends.
// n of 0 or less breaks nothing.
func wrap(s string, n int) []string {
	if n <= 0 || cells(s) <= n {
		return []string{s}
	}
	var lines []string
	line := ""
	flush := func() {
		if line != "" {
			lines = append(lines, line)
			line = ""
		}
	}
	for _, word := range strings.Fields(s) {
		if line != "" && cells(line)+1+cells(word) <= n {
			line += " " + word
			continue
		}
		if cells(word) <= n || ascii(word) {
			flush()
			line = word
			continue
		}
		if line != "" {
			head, rest := cut(word, n-cells(line)-1)
			if head != "" {
				line, word = line+" "+head, rest
			}
			flush()
		}
		for cells(word) > n {
			head, rest := cut(word, n)
			if head == "" {
				break // one character is wider than the line
			}
			lines, word = append(lines, head), rest
		}
		line = word
	}
	flush()
	return lines
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// pad fills s with spaces to n cells.
func pad(s string, n int) string {
	if gap := n - cells(s); gap > 0 {
		return s + strings.Repeat(" ", gap)
	}
	return s
}

// padLeft puts spaces before s to make n cells.
func padLeft(s string, n int) string {
	if gap := n - cells(s); gap > 0 {
		return strings.Repeat(" ", gap) + s
	}
	return s
}

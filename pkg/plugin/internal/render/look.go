// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import "github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"

// colour is an SGR parameter of the terminal's own palette, so that a theme
// chooses the shade.
type colour string

const (
	plain   colour = ""
	bold    colour = "1"
	dim     colour = "2"
	red     colour = "31"
	green   colour = "32"
	yellow  colour = "33"
	magenta colour = "35"
	cyan    colour = "36"
)

// look is how a terminal is drawn on: with which characters and colours.
type look struct {
	colour bool
	glyphs
}

// glyphs are the characters that are drawn with.
type glyphs struct {
	planned, running, ready, incomplete, failed, canceled, unknown, skipped string

	ellipsis, dot, times string
	// rule is the line under a table's header.
	rule string
	// branch, last and through are a tree's limbs; detail hangs a line under a row.
	branch, last, through, detail string
	// barLeft and barRight hold a bar; parts are the steps from nothing to a full cell.
	barLeft, barRight string
	parts             []string
}

func (o Options) look() look {
	l := look{colour: o.Colour, glyphs: glyphs{
		planned: "○", running: "◐", ready: "●", incomplete: "▲", failed: "✗", canceled: "⊘", unknown: "?", skipped: "–",
		ellipsis: "…", dot: "·", times: "×", rule: "─",
		branch: "├─ ", last: "└─ ", through: "│  ", detail: "╰─ ",
		barLeft: "▕", barRight: "▏", parts: []string{" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"},
	}}
	if o.ASCII {
		l.glyphs = glyphs{
			planned: ".", running: "~", ready: "+", incomplete: "!", failed: "x", canceled: "-", unknown: "?", skipped: "-",
			ellipsis: "...", dot: "-", times: "x", rule: "-",
			branch: "|- ", last: "`- ", through: "|  ", detail: "`- ",
			barLeft: "[", barRight: "]", parts: []string{" ", "#"},
		}
	}
	return l
}

// paint colours text; it leaves it alone where there is no colour.
func (l look) paint(c colour, s string) string {
	if !l.colour || c == plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// phase is the symbol, the word and the colour of a phase.
func (l look) phase(p vmbackup.Phase) (symbol, word string, c colour) {
	switch p {
	case vmbackup.PhasePlanned:
		return l.planned, string(p), dim
	case vmbackup.PhaseRunning:
		return l.running, string(p), cyan
	case vmbackup.PhaseReady:
		return l.ready, string(p), green
	case vmbackup.PhaseIncomplete:
		return l.incomplete, string(p), yellow
	case vmbackup.PhaseFailed:
		return l.failed, string(p), red
	case vmbackup.PhaseCanceled:
		return l.canceled, string(p), dim
	}
	return l.unknown, string(vmbackup.PhaseUnknown), magenta
}

// state is the symbol, the word and the colour of a part's state.
func (l look) state(s vmbackup.State) (symbol, word string, c colour) {
	switch s {
	case vmbackup.StatePending:
		return l.planned, string(s), dim
	case vmbackup.StateRunning:
		return l.running, string(s), cyan
	case vmbackup.StateReady:
		return l.ready, string(s), green
	case vmbackup.StateFailed:
		return l.failed, string(s), red
	case vmbackup.StateSkipped:
		return l.skipped, string(s), dim
	}
	return l.unknown, string(vmbackup.StateUnknown), magenta
}

// phaseText is a phase as one coloured piece.
func (l look) phaseText(p vmbackup.Phase) string {
	symbol, word, c := l.phase(p)
	return l.paint(c, symbol+" "+word)
}

// stateText is a state as one coloured piece.
func (l look) stateText(s vmbackup.State) string {
	symbol, word, c := l.state(s)
	return l.paint(c, symbol+" "+word)
}

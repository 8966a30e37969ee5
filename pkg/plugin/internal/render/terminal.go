// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// ColourMode is the value of --color.
type ColourMode string

// The colour modes.
const (
	ColourAuto   ColourMode = "auto"
	ColourAlways ColourMode = "always"
	ColourNever  ColourMode = "never"
)

// ColourModes lists what --color takes, for help and completion.
func ColourModes() []string {
	return []string{string(ColourAuto), string(ColourAlways), string(ColourNever)}
}

// ParseColourMode reads the value of --color; empty is auto.
func ParseColourMode(s string) (ColourMode, error) {
	switch m := ColourMode(s); m {
	case "":
		return ColourAuto, nil
	case ColourAuto, ColourAlways, ColourNever:
		return m, nil
	}
	return "", fmt.Errorf("--color %q is none of %s", s, strings.Join(ColourModes(), ", "))
}

// defaultWidth and defaultHeight are a terminal's size when it does not tell.
const (
	defaultWidth  = 80
	defaultHeight = 24
)

// Facts are what is known about the file behind a writer and about its
// environment.
type Facts struct {
	// TTY is true when the writer is a terminal.
	TTY bool
	// Size returns columns and rows now, 0 when unknown; nil for unknown. It is
	// asked again for every frame, so that a resize is followed.
	Size func() (columns, rows int)
	// Getenv looks up the environment; nil for an empty one.
	Getenv func(string) string
}

// FactsOf looks at a writer: an *os.File is asked for its size, anything else is
// no terminal.
func FactsOf(w io.Writer) Facts {
	facts := Facts{Getenv: os.Getenv}
	f, ok := w.(*os.File)
	if !ok {
		return facts
	}
	fd := int(f.Fd())
	facts.TTY = term.IsTerminal(fd)
	facts.Size = func() (int, int) {
		columns, rows, err := term.GetSize(fd)
		if err != nil {
			return 0, 0
		}
		return columns, rows
	}
	return facts
}

// Terminal is a writer and what can be shown on it.
type Terminal struct {
	Writer io.Writer
	// TTY is true when a person watches: tables are laid out for the width,
	// progress is redrawn in place.
	TTY bool
	// Colour is true when SGR sequences may be written.
	Colour bool
	// ASCII is true when nothing beyond ASCII may be drawn.
	ASCII bool
	// Dumb is true when the cursor cannot be moved.
	Dumb bool

	facts Facts
}

// NewTerminal decides what may be written to w. NO_COLOR and TERM=dumb turn
// colour off unless --color=always asks for it.
func NewTerminal(w io.Writer, mode ColourMode, facts Facts) *Terminal {
	if facts.Getenv == nil {
		facts.Getenv = func(string) string { return "" }
	}
	t := &Terminal{Writer: w, TTY: facts.TTY, facts: facts}
	t.Dumb = facts.Getenv("TERM") == "dumb"
	t.ASCII = !utf8Locale(facts.Getenv)
	switch mode {
	case ColourAlways:
		t.Colour = true
	case ColourNever:
		t.Colour = false
	default:
		t.Colour = facts.TTY && !t.Dumb && facts.Getenv("NO_COLOR") == ""
	}
	return t
}

// Width is the terminal's columns: COLUMNS, else what the terminal says, else
// 80; 0 for a writer that is no terminal, which has no width.
func (t *Terminal) Width() int {
	if !t.TTY {
		return 0
	}
	if n, err := strconv.Atoi(t.facts.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	if t.facts.Size != nil {
		if columns, _ := t.facts.Size(); columns > 0 {
			return columns
		}
	}
	return defaultWidth
}

// Height is the terminal's rows.
func (t *Terminal) Height() int {
	if t.facts.Size != nil {
		if _, rows := t.facts.Size(); rows > 0 {
			return rows
		}
	}
	return defaultHeight
}

// Options are the rendering options for this terminal at a time.
func (t *Terminal) Options(now time.Time) Options {
	return Options{TTY: t.TTY, Width: t.Width(), Colour: t.Colour, ASCII: t.ASCII, Now: now}
}

// utf8Locale reports whether the locale that decides on characters is UTF-8.
// Without any locale the C locale holds, which is ASCII, except in Windows
// Terminal, which knows no locale variables.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := getenv(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return getenv("WT_SESSION") != ""
}

// Options say how something is rendered.
type Options struct {
	// TTY chooses the layout for people; otherwise plain columns for scripts.
	TTY bool
	// Width is the columns to fit into; 0 for 80 on a terminal, for no limit elsewhere.
	Width int
	// Colour allows SGR sequences.
	Colour bool
	// ASCII forbids everything beyond ASCII in what the tool draws itself.
	ASCII bool
	// Wide shows every column (-o wide), as kubectl does even beyond the width.
	Wide bool
	// Namespaces shows the namespace of every object (-A).
	Namespaces bool
	// Only picks the rows of a listing to write; nil for all.
	Only func(row int) bool
	// Widths remembers the widths of a listing's columns by their titles, so that
	// what is written later lines up with what came before; nil for not.
	Widths map[string]int
	// NoHeader leaves the titles of a listing out.
	NoHeader bool
	// Now is the time that ages are told against.
	Now time.Time
}

// width is the columns to fit into, 0 for no limit.
func (o Options) width() int {
	if o.Width == 0 && o.TTY {
		return defaultWidth
	}
	return o.Width
}

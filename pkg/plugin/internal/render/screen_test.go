// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/clipperhouse/displaywidth"
)

// screen is a terminal of the kind that wraps lines: enough of ECMA-48 to see
// what live progress leaves on it. Anything that it does not know fails the test.
type screen struct {
	t             *testing.T
	mu            sync.Mutex
	width, height int
	history       []string // lines that scrolled off
	rows          [][]string
	x, y          int
	hidden        bool // the cursor
	writes        int
}

func newScreen(t *testing.T, width, height int) *screen {
	s := &screen{t: t, width: width, height: height}
	s.rows = make([][]string, height)
	return s
}

// Write interprets bytes; a write must hold whole sequences.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	text := string(p)
	for text != "" {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			text = s.csi(text[2:])
		case text[0] == '\n':
			s.down()
			text = text[1:]
		case text[0] == '\r':
			s.x = 0
			text = text[1:]
		case text[0] < 0x20 || text[0] == 0x7f:
			s.t.Errorf("control character %q", text[0])
			text = text[1:]
		default:
			g := displaywidth.StringGraphemes(text)
			g.Next()
			s.put(g.Value(), cells(g.Value()))
			text = text[len(g.Value()):]
		}
	}
	return len(p), nil
}

func (s *screen) csi(text string) (rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return r >= 0x40 && r <= 0x7e })
	if end < 0 {
		s.t.Errorf("sequence cut off: %q", text)
		return ""
	}
	args, final := text[:end], text[end]
	n, _ := strconv.Atoi(args)
	switch {
	case final == 'm':
	case final == 'A':
		if n > s.y {
			s.t.Errorf("moved up by %d from row %d", n, s.y)
		}
		s.y = max(s.y-n, 0)
	case final == 'K' && args == "":
		s.rows[s.y] = s.rows[s.y][:min(s.x, len(s.rows[s.y]))]
	case final == 'J' && args == "":
		s.rows[s.y] = s.rows[s.y][:min(s.x, len(s.rows[s.y]))]
		for i := s.y + 1; i < s.height; i++ {
			s.rows[i] = nil
		}
	case final == 'h' && args == "?25":
		s.hidden = false
	case final == 'l' && args == "?25":
		s.hidden = true
	default:
		s.t.Errorf("unknown sequence CSI %s%c", args, final)
	}
	return text[end+1:]
}

func (s *screen) down() {
	if s.y < s.height-1 {
		s.y++
		return
	}
	s.history = append(s.history, strings.Join(s.rows[0], ""))
	copy(s.rows, s.rows[1:])
	s.rows[s.height-1] = nil
}

func (s *screen) put(g string, width int) {
	if width == 0 {
		return
	}
	if s.x+width > s.width {
		s.x = 0
		s.down()
	}
	row := s.rows[s.y]
	for len(row) < s.x+width {
		row = append(row, " ")
	}
	row[s.x] = g
	for i := 1; i < width; i++ {
		row[s.x+i] = ""
	}
	s.rows[s.y] = row
	s.x += width
}

// resize changes the width as terminals do that wrap again what they show. The
// rows of this one do not know which of them went together, which is the case
// as long as no line is as wide as the screen.
func (s *screen) resize(width int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines [][]string
	cursor := 0
	for i, row := range s.rows {
		if i == s.y {
			cursor = len(lines)
		}
		if len(row) == 0 {
			lines = append(lines, nil)
			continue
		}
		for ; len(row) > width; row = row[width:] {
			lines = append(lines, slices.Clone(row[:width]))
		}
		lines = append(lines, row)
	}
	for cursor >= s.height {
		s.history = append(s.history, strings.Join(lines[0], ""))
		lines, cursor = lines[1:], cursor-1
	}
	for len(lines) < s.height {
		lines = append(lines, nil)
	}
	s.rows, s.width, s.y = lines[:s.height], width, cursor
}

// String is what can be seen, and what was.
func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out strings.Builder
	for _, line := range s.history {
		fmt.Fprintf(&out, "%s\n", strings.TrimRight(line, " "))
	}
	last := s.y
	for i, row := range s.rows {
		if len(row) > 0 {
			last = max(last, i)
		}
	}
	for i, row := range s.rows[:last+1] {
		line := strings.TrimRight(strings.Join(row, ""), " ")
		if i == s.y {
			line += "▁" // the cursor's row
		}
		fmt.Fprintf(&out, "%s\n", line)
	}
	return out.String()
}

func (s *screen) cursorHidden() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hidden
}

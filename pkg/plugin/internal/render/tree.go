// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"io"
	"strings"
)

// node is one line of a tree with what hangs under it. A node is either a fact
// (key and value), a heading (key alone) or free text (value alone).
type node struct {
	key string
	// mark goes before the value: a symbol or a whole state, with colours.
	mark string
	// value is plain text; it is wrapped with a hanging indent.
	value  string
	colour colour
	// command keeps a command line in the value whole, so that it can be copied.
	command bool
	// note follows the value, quieter, when the line has room for it.
	note     string
	children []node
}

// fact is a node of a key and a value, nothing for an empty value.
func fact(key, value string) []node {
	if value == "" {
		return nil
	}
	return []node{{key: key, value: value}}
}

// tree writes nodes as branches. Keys of siblings are aligned.
type tree struct {
	look
	width int // cells of a line, 0 for no limit
	out   strings.Builder
}

func (t *tree) write(w io.Writer) error {
	_, err := io.WriteString(w, t.out.String())
	return err
}

// line writes a line outside of the branches.
func (t *tree) line(s string) { t.out.WriteString(strings.TrimRight(s, " ") + "\n") }

func (t *tree) nodes(prefix string, nodes []node) {
	keys := 0
	for _, n := range nodes {
		if n.value != "" || n.mark != "" {
			keys = max(keys, cells(n.key))
		}
	}
	for i, n := range nodes {
		limb, under := t.branch, t.through
		if i == len(nodes)-1 {
			limb, under = t.last, strings.Repeat(" ", cells(t.through))
		}
		t.node(prefix+limb, prefix+under, keys, n)
		t.nodes(prefix+under, n.children)
	}
}

// node writes one node: its first line after first, further lines after rest.
func (t *tree) node(first, rest string, keys int, n node) {
	head, indent := "", 0
	if n.key != "" {
		key := n.key
		if n.value != "" || n.mark != "" {
			key = pad(n.key, keys) + "  "
		}
		indent = cells(key)
		head = t.paint(dim, key)
		if len(n.children) > 0 {
			head = t.paint(bold, n.key) + key[len(n.key):]
		}
	}
	if n.mark != "" {
		head += n.mark
		indent += cells(n.mark)
		if n.value != "" {
			between := min(cells(n.mark), 2) // one space after a mere symbol
			head += strings.Repeat(" ", between)
			indent += between
		}
	}
	hang := rest
	if len(n.children) > 0 {
		hang += t.through
	} else {
		hang += strings.Repeat(" ", cells(t.through))
	}
	// A line that goes on does so under its own value, unless that would leave
	// too little of a narrow terminal.
	room := t.width - cells(first) - indent
	under := rest + strings.Repeat(" ", indent)
	if len(n.children) > 0 {
		under = hang + strings.Repeat(" ", max(indent-cells(t.through), 0))
	}
	if t.width > 0 && room < 24 {
		under = hang
	}
	if t.width > 0 && cells(n.value) > room && n.mark == "" && !strings.Contains(n.value, " ") &&
		len(n.children) == 0 && cells(rest)+cells(n.value) <= t.width {
		// A handle that is too long here fits whole on a line of its own.
		t.line(t.paint(dim, first) + head)
		t.line(t.paint(dim, rest) + t.paint(n.colour, n.value))
		return
	}
	for i, text := range t.wrapped(n, room) {
		if i == 0 {
			if n.note != "" && (t.width == 0 || cells(text)+2+cells(n.note) <= room) {
				t.line(t.paint(dim, first) + head + t.paint(n.colour, text) + "  " + t.paint(dim, n.note))
				continue
			}
			t.line(t.paint(dim, first) + head + t.paint(n.colour, text))
			continue
		}
		t.line(t.paint(dim, under) + t.paint(n.colour, text))
	}
}

func (t *tree) wrapped(n node, room int) []string {
	if t.width <= 0 {
		return []string{n.value}
	}
	room = max(room, 24)
	if at := strings.Index(n.value, " kubectl "); n.command && at >= 0 && cells(n.value) > room {
		return append(wrap(n.value[:at], room), n.value[at+1:])
	}
	return wrap(n.value, room)
}

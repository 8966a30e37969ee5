// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// volumes is one line for each volume of an operation, at most n: when there are
// more, those that move come first and a last line counts the rest.
func (p *live) volumes(op *operation, now time.Time, width, n int) []string {
	shown := op.volumes
	if len(shown) > n {
		if n < 2 {
			return nil
		}
		shown = slices.Clone(shown)
		slices.SortStableFunc(shown, func(a, b *volumeProgress) int { return urgency(a) - urgency(b) })
		shown = shown[:n-1]
	}
	layout := volumeColumns(op.volumes, width)
	var lines []string
	for _, v := range shown {
		lines = append(lines, p.volume(v, now, width, layout))
	}
	if rest := len(op.volumes) - len(shown); rest > 0 {
		lines = append(lines, "  "+p.look.paint(dim, p.rest(op, shown, rest)))
	}
	return lines
}

// urgency orders volumes by how much they deserve a line.
func urgency(v *volumeProgress) int {
	switch v.state {
	case vmbackup.StateFailed:
		return 0
	case vmbackup.StateRunning:
		return 1
	case vmbackup.StateReady, vmbackup.StateSkipped:
		return 3
	}
	return 2
}

func (p *live) rest(op *operation, shown []*volumeProgress, rest int) string {
	counts := map[vmbackup.State]int{}
	for _, v := range op.volumes {
		if !slices.Contains(shown, v) {
			counts[v.state]++
		}
	}
	parts := []string{fmt.Sprintf("and %d more", rest)}
	for _, s := range []vmbackup.State{vmbackup.StateFailed, vmbackup.StateRunning, vmbackup.StatePending, vmbackup.StateReady} {
		if counts[s] > 0 {
			parts = append(parts, strconv.Itoa(counts[s])+" "+strings.ToLower(string(s)))
		}
	}
	return strings.Join(parts, " "+p.look.dot+" ")
}

// liveColumns are the widths in which an operation's volumes are shown, 0 for
// what does not fit.
type liveColumns struct{ name, bar, bytes, rate, eta, message int }

// volumeColumns shares out a line. A narrow terminal loses the rate, then the
// bytes, the time left and the bar, never the name and the percent.
func volumeColumns(volumes []*volumeProgress, width int) liveColumns {
	const (
		leastBar, mostBar = 10, 40
		barEnds           = 2
		percent           = 2 + 4
		symbol            = 4
		rate, eta         = 10, 10
	)
	var c liveColumns
	bytes := 0
	for _, v := range volumes {
		c.name = max(c.name, cells(clean(v.name)))
		if v.total > 0 {
			bytes = max(bytes, cells(bytesOf(v.total, v.total)))
		}
	}
	c.name = min(c.name, max(width/4, 8))
	room := width - symbol - c.name - percent
	take := func(n int) int {
		if n == 0 || room < n+gap {
			return 0
		}
		room -= n + gap
		return n
	}
	c.bar = max(take(leastBar+barEnds)-barEnds, 0)
	c.eta = take(eta)
	if c.eta > 0 {
		c.bytes = take(bytes)
		c.rate = take(rate)
	}
	if more := min(room, mostBar-c.bar); c.bar > 0 {
		c.bar, room = c.bar+more, room-more
	}
	c.message = max(room-gap, 0)
	return c
}

// bytesOf is how much of total is done, in total's unit: 16.8/40 GiB.
func bytesOf(bytes, total int64) string {
	_, unit := scale(total)
	done := float64(bytes)
	for range unit {
		done /= 1024
	}
	return strconv.FormatFloat(done, 'f', 1, 64) + "/" + size(total)
}

// volume is a volume's line.
func (p *live) volume(v *volumeProgress, now time.Time, width int, columns liveColumns) string {
	l := p.look
	symbol, word, c := l.state(v.state)
	line := "  " + l.paint(c, symbol) + " " + pad(truncateMiddle(clean(v.name), columns.name, l.ellipsis), columns.name)
	between := strings.Repeat(" ", gap)
	if v.state != vmbackup.StateRunning {
		text := word
		if v.total > 0 {
			text += between + size(v.total)
		}
		if v.message != "" {
			text += between + clean(v.message)
		}
		return line + between + l.paint(dimUnless(v.state), truncate(text, width-cells(line)-gap, l.ellipsis))
	}
	if columns.bar > 0 {
		line += between + l.bar(v.percent(), columns.bar, c)
	}
	line += between + padLeft(percentText(v.percent()), 4)
	figures := ""
	if columns.bytes > 0 {
		text := ""
		if v.total > 0 {
			text = bytesOf(v.bytes, v.total)
		}
		figures += between + padLeft(text, columns.bytes)
	}
	if columns.rate > 0 {
		text := "-"
		if r := v.rate.current(now); r > 0 {
			text = speed(r)
		}
		figures += between + padLeft(text, columns.rate)
	}
	if columns.eta > 0 {
		text := "-"
		if left, ok := v.eta(now); ok {
			text = clockSpan(left)
		}
		figures += between + pad("ETA "+text, columns.eta)
	}
	if v.message != "" && columns.message >= 12 {
		figures += between + truncate(clean(v.message), columns.message, l.ellipsis)
	}
	return line + l.paint(dim, strings.TrimRight(figures, " "))
}

func dimUnless(s vmbackup.State) colour {
	switch s {
	case vmbackup.StateFailed:
		return red
	case vmbackup.StateUnknown:
		return magenta
	}
	return dim
}

// warning is the last warning of an operation, for good.
func (p *live) warning(op *operation, width int) []string {
	_, ref := op.title()
	text := ref + ": " + op.warnings[len(op.warnings)-1]
	return p.hanging(p.look.paint(yellow, p.look.incomplete), text, width)
}

// hanging is text after a symbol, wrapped under itself.
func (p *live) hanging(symbol, text string, width int) []string {
	var lines []string
	for i, line := range wrap(text, max(width-2, 18)) {
		if i == 0 {
			lines = append(lines, symbol+" "+line)
			continue
		}
		lines = append(lines, "  "+line)
	}
	return lines
}

// mostBad is how many volumes that are not well an operation's end lists.
const mostBad = 10

// ended is an operation's end, for good: its outcome, and each volume that is not well.
func (p *live) ended(op *operation, at time.Time, width int) []string {
	kind, ref := op.title()
	symbol, _, c := p.look.phase(op.phase)
	line := kind + " " + ref + "  " + clean(string(op.phase))
	facts := []string{}
	if took := op.elapsed(at); took > 0 {
		facts = append(facts, span(took))
	}
	if len(op.volumes) > 0 {
		facts = append(facts, plural(len(op.volumes), "volume"))
	}
	if total := op.total(); total > 0 {
		facts = append(facts, size(total))
	}
	if len(facts) > 0 {
		line += "  " + strings.Join(facts, " "+p.look.dot+" ")
	}
	lines := p.hanging(p.look.paint(c, symbol), line, width)
	if op.phase == vmbackup.PhaseReady {
		return lines
	}
	var bad []*volumeProgress
	for _, v := range op.volumes {
		if v.state == vmbackup.StateFailed || v.state == vmbackup.StateUnknown {
			bad = append(bad, v)
		}
	}
	lines = append(lines, p.volumes(&operation{volumes: bad}, at, width, mostBad)...)
	if op.message != "" {
		text := clean(op.message)
		if op.reason != "" {
			text = clean(string(op.reason)) + ": " + text
		}
		for _, l := range wrap(text, max(width-2, 18)) {
			lines = append(lines, "  "+p.look.paint(dim, l))
		}
	}
	return lines
}

// left is an operation that has not ended when the watching does.
func (p *live) left(op *operation, now time.Time, width int) []string {
	kind, ref := op.title()
	text := kind + " " + ref + "  not ended yet"
	if s, number := op.current(); s != nil {
		text += ", at step " + strconv.Itoa(number) + "/" + strconv.Itoa(len(op.steps)) + " " + clean(stepTitle(*s))
	}
	if len(op.volumes) > 0 {
		text += ", " + percentText(op.percent())
	}
	text += ", after " + clockSpan(op.elapsed(now))
	symbol, _, c := p.look.phase(op.phase)
	return p.hanging(p.look.paint(c, symbol), text, width)
}

// tally sums several operations up; one speaks for itself.
func (p *live) tally(now time.Time) []string {
	if len(p.operations.list) < 2 {
		return nil
	}
	var parts []string
	for _, phase := range []vmbackup.Phase{
		vmbackup.PhaseReady, vmbackup.PhaseIncomplete, vmbackup.PhaseFailed,
		vmbackup.PhaseCanceled, vmbackup.PhaseUnknown, vmbackup.PhaseRunning,
	} {
		n := 0
		for _, op := range p.operations.list {
			if op.phase == phase {
				n++
			}
		}
		word := strings.ToLower(string(phase))
		if phase == vmbackup.PhaseRunning {
			word = "not ended"
		}
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+word)
		}
	}
	parts = append(parts, clockSpan(now.Sub(p.began)))
	return []string{p.look.paint(dim, strings.Join(parts, " "+p.look.dot+" "))}
}

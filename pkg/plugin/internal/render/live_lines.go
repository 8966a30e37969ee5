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
	names := 0
	for _, v := range op.volumes {
		names = max(names, cells(clean(v.name)))
	}
	names = min(names, max(width/4, 8))
	var lines []string
	for _, v := range shown {
		lines = append(lines, p.volume(v, now, width, names))
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

// volume is a volume's line. A narrow terminal loses the figures from the right,
// then the bar, never the name and the percent.
func (p *live) volume(v *volumeProgress, now time.Time, width, names int) string {
	l := p.look
	symbol, word, c := l.state(v.state)
	name := pad(truncateMiddle(clean(v.name), names, l.ellipsis), names)
	line := "  " + l.paint(c, symbol) + " " + name
	room := width - cells(line)
	if v.state != vmbackup.StateRunning {
		text := word
		if v.total > 0 {
			text += "  " + size(v.total)
		}
		if v.message != "" {
			text += "  " + clean(v.message)
		}
		return line + "  " + l.paint(dimUnless(v.state), truncate(text, room-2, l.ellipsis))
	}
	percent := "  " + padLeft(percentText(v.percent()), 4)
	room -= cells(percent)

	var figures []string
	if v.total > 0 {
		figures = append(figures, padLeft(steadySize(v.bytes), 10)+" / "+size(v.total))
	}
	perSecond := "-"
	if r := v.rate.current(now); r > 0 {
		perSecond = steadySize(int64(r)) + "/s"
	}
	eta := "-"
	if left, ok := v.eta(now); ok {
		eta = clockSpan(left)
	}
	figures = append(figures, padLeft(perSecond, 12), "ETA "+pad(eta, 6))
	if v.message != "" {
		figures = append(figures, clean(v.message))
	}

	const leastBar, mostBar = 10, 40
	bar := ""
	text := ""
	if room >= leastBar+4 {
		room -= leastBar + 4
		for i, f := range figures {
			if i == 3 {
				f = truncate(f, room-2, l.ellipsis)
			}
			if cells(f)+2 > room || f == "" {
				break
			}
			text += "  " + f
			room -= cells(f) + 2
		}
		bar = "  " + l.bar(v.percent(), min(leastBar+room, mostBar), c)
	}
	return strings.TrimRight(line+bar+percent+l.paint(dim, text), " ")
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

// ended is an operation's end, for good: its outcome, and each volume that is not well.
func (p *live) ended(op *operation, at time.Time, width int) []string {
	kind, ref := op.title()
	symbol, _, c := p.look.phase(op.phase)
	line := kind + " " + ref + "  " + string(op.phase)
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
	for _, v := range op.volumes {
		if v.state != vmbackup.StateReady && v.state != vmbackup.StateSkipped {
			lines = append(lines, p.volume(v, at, width, min(cells(clean(v.name)), max(width/4, 8))))
		}
	}
	if op.message != "" {
		text := clean(op.message)
		if op.reason != "" {
			text = string(op.reason) + ": " + text
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
	for _, phase := range []vmbackup.Phase{vmbackup.PhaseReady, vmbackup.PhaseIncomplete, vmbackup.PhaseFailed,
		vmbackup.PhaseCanceled, vmbackup.PhaseUnknown, vmbackup.PhaseRunning} {
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

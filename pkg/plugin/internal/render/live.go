// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// live is the Progress of a terminal. Operations that run stand in a block that
// is redrawn in place; what is final (an end, a warning) is written above it once
// and scrolls away as any output does.
type live struct {
	terminal *Terminal
	look     look
	clock    vmbackup.Clock
	queue    *queue
	stop     chan struct{}
	done     chan struct{}
	err      error // read after done

	// Of the drawing goroutine alone:
	operations *operations
	drawn      []int // cells of each line of the block on the screen
	last       string
	lastWidth  int
	began      time.Time
}

// newLive draws a frame for every tick, which must not come more often than a
// person can read.
func newLive(t *Terminal, clock vmbackup.Clock, ticks <-chan time.Time, stopTicks func()) *live {
	p := &live{
		terminal: t, look: Options{Colour: t.Colour, ASCII: t.ASCII}.look(), clock: clock, queue: newQueue(),
		stop: make(chan struct{}), done: make(chan struct{}),
		operations: newOperations(clock), began: clock(),
	}
	go func() {
		defer close(p.done)
		defer stopTicks()
		for {
			select {
			case <-ticks:
				p.frame(false)
			case <-p.stop:
				p.frame(true)
				return
			}
		}
	}()
	return p
}

// Emit queues the event for the next frame.
func (p *live) Emit(e vmbackup.Event) { p.queue.put(e) }

// Close draws the last frame, in which nothing moves any more.
func (p *live) Close() error {
	p.queue.close()
	p.queue.mu.Lock()
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.queue.mu.Unlock()
	<-p.done
	return p.err
}

// frame takes in what happened and draws it. The last one leaves no block behind.
func (p *live) frame(last bool) {
	if p.err != nil {
		p.queue.take()
		return
	}
	events, _ := p.queue.take()
	// The last column stays free: a line that fills it makes some terminals wrap.
	width := max(p.terminal.Width()-1, 20)
	var above []string
	for _, e := range events {
		op, at := p.operations.apply(e)
		switch e.Type {
		case vmbackup.EventWarning:
			above = append(above, p.warning(op, width)...)
		case vmbackup.EventResult:
			above = append(above, p.ended(op, at, width)...)
		}
	}
	now := p.clock()
	var block []string
	if last {
		for _, op := range p.operations.running() {
			above = append(above, p.left(op, now, width)...)
		}
		above = append(above, p.tally(now)...)
	} else {
		block = p.block(now, width, p.terminal.Height()-1)
	}
	p.paint(above, block)
}

// paint replaces the block on the screen by what is final and a new block, in
// one write. The cursor is hidden only within it, so that however the process
// ends, the cursor is there.
func (p *live) paint(above, block []string) {
	text := strings.Join(block, "\n")
	width := p.terminal.Width()
	if len(above) == 0 && text == p.last && (width == p.lastWidth || len(p.drawn) == 0) {
		return
	}
	var out strings.Builder
	out.WriteString("\x1b[?25l")
	if rows := p.rows(width); rows > 0 {
		out.WriteString("\x1b[" + strconv.Itoa(rows) + "A")
	}
	out.WriteString("\r")
	if width != p.lastWidth {
		// Clear first: a terminal remembers which rows it wrapped and would join
		// them again, whatever is written over them.
		out.WriteString("\x1b[J")
	}
	for _, lines := range [][]string{above, block} {
		for _, line := range lines {
			out.WriteString(line + "\x1b[K\r\n")
		}
	}
	out.WriteString("\x1b[J\x1b[?25h")
	if _, err := io.WriteString(p.terminal.Writer, out.String()); err != nil {
		p.err = err
	}
	p.last, p.lastWidth, p.drawn = text, width, nil
	for _, line := range block {
		p.drawn = append(p.drawn, cells(line))
	}
}

// rows is how many rows of the screen the block takes now: a terminal that was
// made narrower has wrapped its lines.
func (p *live) rows(width int) (rows int) {
	for _, n := range p.drawn {
		rows += max((n+width-1)/width, 1)
	}
	return rows
}

// block is the lines of all that runs, at most height of them.
func (p *live) block(now time.Time, width, height int) []string {
	running := p.operations.running()
	if len(running) == 0 {
		return nil
	}
	height = max(height, 2)
	var lines []string
	for _, op := range running {
		lines = append(lines, p.header(op, now, width))
		lines = append(lines, p.volumes(op, now, width, len(op.volumes))...)
	}
	if len(lines) <= height {
		return lines
	}
	// Too many volumes for the screen: those that move, then a count of the rest.
	lines = nil
	share := max((height-len(running))/len(running), 0)
	for _, op := range running {
		lines = append(lines, p.header(op, now, width))
		lines = append(lines, p.volumes(op, now, width, share)...)
	}
	if len(lines) > height {
		rest := len(running) - (height - 1)
		lines = nil
		for _, op := range running[:height-1] {
			lines = append(lines, p.header(op, now, width))
		}
		lines = append(lines, p.look.paint(dim, fmt.Sprintf("  and %d more", rest)))
	}
	return lines
}

// header is an operation's line: what it is, how far, which step, for how long.
func (p *live) header(op *operation, now time.Time, width int) string {
	kind, ref := op.title()
	elapsed := clockSpan(op.elapsed(now))
	step := "starting"
	if s, number := op.current(); s != nil {
		step = clean(stepTitle(*s))
		if s.State == vmbackup.StateRunning && s.Message != "" {
			step += ": " + clean(s.Message)
		}
		if len(op.steps) > 1 {
			step = strconv.Itoa(number) + "/" + strconv.Itoa(len(op.steps)) + " " + step
		}
	}
	percent := ""
	if len(op.volumes) > 1 && op.percent() > 0 {
		percent = percentText(op.percent())
	}
	symbol, _, c := p.look.phase(op.phase)
	const between = "  "
	end := between + elapsed
	if percent != "" {
		end = between + percent + end
	}
	room := width - cells(symbol+" "+kind+" ") - cells(end)
	ref = truncateMiddle(ref, max(room, 8), p.look.ellipsis)
	if left := room - cells(ref) - cells(between); left >= 8 {
		step = between + truncate(step, left, p.look.ellipsis)
	} else {
		step = ""
	}
	line := p.look.paint(c, symbol) + " " + kind + " " + p.look.paint(bold, ref) + p.look.paint(c, step)
	if percent != "" {
		line += between + percent
	}
	return line + p.look.paint(dim, between+elapsed)
}

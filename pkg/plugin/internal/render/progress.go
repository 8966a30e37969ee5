// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// ProgressMode is the value of --progress.
type ProgressMode string

// The progress modes.
const (
	ProgressAuto  ProgressMode = "auto"  // tty on a terminal, else plain
	ProgressTTY   ProgressMode = "tty"   // live lines, redrawn in place
	ProgressPlain ProgressMode = "plain" // one line a change, with the time
	ProgressJSON  ProgressMode = "json"  // one Event a line
	ProgressNone  ProgressMode = "none"
)

// ProgressModes lists what --progress takes, for help and completion.
func ProgressModes() []string {
	return []string{string(ProgressAuto), string(ProgressTTY), string(ProgressPlain), string(ProgressJSON), string(ProgressNone)}
}

// ParseProgressMode reads the value of --progress; empty is auto.
func ParseProgressMode(s string) (ProgressMode, error) {
	if s == "" {
		return ProgressAuto, nil
	}
	if !slices.Contains(ProgressModes(), s) {
		return "", fmt.Errorf("--progress %q is none of %s", s, strings.Join(ProgressModes(), ", "))
	}
	return ProgressMode(s), nil
}

// Progress shows the events of one or several operations. Emit may be called
// from any goroutine and never waits for the reader: when the reader is slow,
// intermediate figures of a volume are left out, and nothing else.
type Progress interface {
	vmbackup.Sink
	// Close shows what is still to be shown and returns the first error of the
	// writer. Events emitted later are dropped. Closing again does nothing.
	Close() error
}

// frameInterval is the time between two frames of live progress.
const frameInterval = 100 * time.Millisecond

// NewProgress returns the progress of a mode on a terminal, which is that of the
// error stream. The clock is asked for elapsed times and rates.
func NewProgress(mode ProgressMode, t *Terminal, clock vmbackup.Clock) (Progress, error) {
	if mode == ProgressAuto || mode == "" {
		mode = ProgressPlain
		if t.TTY && !t.Dumb {
			mode = ProgressTTY
		}
	}
	switch mode {
	case ProgressTTY:
		ticker := time.NewTicker(frameInterval)
		return newLive(t, clock, ticker.C, ticker.Stop), nil
	case ProgressPlain:
		return newWritten(newPlainProgress(t.Writer, clock).event), nil
	case ProgressJSON:
		return newWritten(jsonLine(t.Writer)), nil
	case ProgressNone:
		return silent{}, nil
	}
	return nil, fmt.Errorf("--progress %q is none of %s", mode, strings.Join(ProgressModes(), ", "))
}

type silent struct{}

func (silent) Emit(vmbackup.Event) {}
func (silent) Close() error        { return nil }

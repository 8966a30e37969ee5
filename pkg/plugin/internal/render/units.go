// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// units are the binary units in steps of 1024.
func units() []string { return []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} }

// scale finds the unit in which bytes reads best.
func scale(bytes int64) (value float64, unit int) {
	value = float64(bytes)
	for math.Abs(value) >= 1023.95 && unit < len(units())-1 {
		value /= 1024
		unit++
	}
	return value, unit
}

// size is bytes for people: 40 GiB, 1.5 GiB, 512 B.
func size(bytes int64) string {
	value, unit := scale(bytes)
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + " " + units()[unit]
}

// Bytes is bytes for people: 40 GiB, 1.5 GiB, 512 B.
func Bytes(bytes int64) string { return size(bytes) }

// speed is bytes a second in three or four digits, so that it does not jitter.
func speed(perSecond float64) string {
	value, unit := scale(int64(perSecond))
	decimals := 1
	if unit == 0 || value >= 100 {
		decimals = 0
	}
	return strconv.FormatFloat(value, 'f', decimals, 64) + " " + units()[unit] + "/s"
}

// quantity is bytes for columns that scripts split, in the form of Kubernetes'
// quantities: 40Gi, 1.5Gi, 512.
func quantity(bytes int64) string {
	return strings.TrimSuffix(strings.ReplaceAll(size(bytes), " ", ""), "B")
}

// age is how long ago t was: 3h, 12d.
func age(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(now.Sub(*t), 0))
}

// span is a duration with all that matters: 4m10s, 1h02m, 1.2s.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return strings.TrimSuffix(strconv.FormatFloat(d.Seconds(), 'f', 1, 64), ".0") + "s"
	}
	return clockSpan(d)
}

// clockSpan is span in whole seconds, for figures that move.
func clockSpan(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s/3600%24)
}

// between is the time from start to end, "" when either is missing.
func between(start, end *time.Time) string {
	if start == nil || end == nil || end.Before(*start) {
		return ""
	}
	return span(end.Sub(*start))
}

// moment is a time for people, always UTC.
func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// plural is "1 volume", "2 volumes".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}

// bar draws percent of n cells, to an eighth of a cell where the glyphs allow.
func (l look) bar(percent float64, n int, c colour) string {
	if n <= 0 {
		return ""
	}
	percent = min(max(percent, 0), 100)
	steps := len(l.parts) - 1
	filled := int(percent / 100 * float64(n*steps))
	full, part := filled/steps, filled%steps
	body := strings.Repeat(l.parts[steps], full)
	if part > 0 {
		body += l.parts[part]
		full++
	}
	return l.paint(dim, l.barLeft) + l.paint(c, body) + strings.Repeat(" ", n-full) + l.paint(dim, l.barRight)
}

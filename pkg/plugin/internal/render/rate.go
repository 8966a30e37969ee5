// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"math"
	"time"
)

// smoothing is the time over which a rate forgets.
const smoothing = 15 * time.Second

// rate is how fast bytes come, smoothed over time. The source tells whole
// percents, so that bytes come in jumps: only jumps count, and the time between
// two of them.
type rate struct {
	perSecond float64
	known     bool
	started   bool
	bytes     int64
	at        time.Time     // of the last jump
	interval  time.Duration // between the last two jumps
}

// add tells how many bytes are done at a time.
func (r *rate) add(bytes int64, at time.Time) {
	switch {
	case !r.started, bytes < r.bytes: // begun, resumed or begun again
		*r = rate{started: true, bytes: bytes, at: at}
	case bytes > r.bytes && at.After(r.at):
		elapsed := at.Sub(r.at)
		now := float64(bytes-r.bytes) / elapsed.Seconds()
		if r.known {
			weight := 1 - math.Exp(-elapsed.Seconds()/smoothing.Seconds())
			now = r.perSecond + weight*(now-r.perSecond)
		}
		r.perSecond, r.known = now, true
		r.bytes, r.at, r.interval = bytes, at, elapsed
	}
}

// current is the rate in bytes a second at a time, 0 when it is not known: before the
// second jump, and when the next one is long overdue.
func (r *rate) current(now time.Time) float64 {
	if !r.known || now.Sub(r.at) > max(4*r.interval, 2*smoothing) {
		return 0
	}
	return r.perSecond
}

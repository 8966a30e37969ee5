// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// The rules of Harvester's admission webhook.
const (
	// minGap is the least time between two runs of a schedule.
	minGap = time.Hour
	// minOffset is the least time between the runs of two schedules of one rhythm.
	minOffset = 10 * time.Minute
)

// grace is how late a run may be before it counts as missed. Harvester itself gives
// up a run a minute after it was due; clocks may differ.
const grace = 5 * time.Minute

// parse reads a cron expression as the controller of CronJobs does. That one
// refuses a time zone in it.
func parse(expression string) (cron.Schedule, error) {
	if strings.Contains(expression, "TZ=") {
		return nil, fmt.Errorf("a time zone is not allowed in it: the times are those of kube-controller-manager, on Harvester UTC")
	}
	return cron.ParseStandard(expression)
}

// rhythm is the time between its next two runs: what Harvester goes by.
func rhythm(s cron.Schedule, now time.Time) time.Duration {
	next := s.Next(now)
	return s.Next(next).Sub(next)
}

// shortestGap is the least time between two runs in the time to come, and the two
// of them. Harvester only looks at the next two, so that a schedule that is due
// twice within the hour can pass by day and fail by night.
func shortestGap(s cron.Schedule, now time.Time) (gap time.Duration, first, second time.Time) {
	// A year of runs an hour apart.
	const most = 366 * 24
	at := s.Next(now)
	for range most {
		next := s.Next(at)
		if at.IsZero() || next.IsZero() || at.Sub(now) > 366*24*time.Hour {
			break
		}
		if d := next.Sub(at); gap == 0 || d < gap {
			gap, first, second = d, at, next
		}
		at = next
	}
	return gap, first, second
}

// offset is the time between the runs of two schedules, as Harvester reckons it: by
// the second next run of each.
func offset(a, b cron.Schedule, now time.Time) time.Duration {
	return a.Next(a.Next(now)).Sub(b.Next(b.Next(now))).Abs()
}

// lastDue is the last time before a moment that a schedule was due; zero when there
// is none within four years.
func lastDue(s cron.Schedule, before time.Time) time.Time {
	for _, back := range []time.Duration{2 * time.Hour, 48 * time.Hour, 32 * 24 * time.Hour, 366 * 24 * time.Hour, 4 * 366 * 24 * time.Hour} {
		var last time.Time
		for at := s.Next(before.Add(-back)); !at.IsZero() && !at.After(before); at = s.Next(at) {
			last = at
		}
		if !last.IsZero() {
			return last
		}
	}
	return time.Time{}
}

// freeMinute is another minute of the hour at which the expression gets on with the
// others; empty when there is none, or when the expression has no single minute.
func freeMinute(expression string, others []cron.Schedule, now time.Time) string {
	fields := strings.Fields(expression)
	var minute int
	if len(fields) != 5 {
		return ""
	}
	if _, err := fmt.Sscanf(fields[0], "%d", &minute); err != nil || fmt.Sprint(minute) != fields[0] {
		return ""
	}
	for step := 5; step < 60; step += 5 {
		fields[0] = fmt.Sprint((minute + step) % 60)
		shifted := strings.Join(fields, " ")
		s, err := parse(shifted)
		if err != nil {
			return ""
		}
		free := true
		for _, other := range others {
			if offset(s, other, now) < minOffset {
				free = false
				break
			}
		}
		if free {
			return shifted
		}
	}
	return ""
}

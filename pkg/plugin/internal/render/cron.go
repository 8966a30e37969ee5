// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// cronWords says a cron expression in words where it is one of the usual ones; else
// it is the expression itself.
func cronWords(expression string) string {
	expression = strings.TrimSpace(expression)
	switch expression {
	case "@hourly":
		expression = "0 * * * *"
	case "@daily", "@midnight":
		expression = "0 0 * * *"
	case "@weekly":
		expression = "0 0 * * 0"
	case "@monthly":
		expression = "0 0 1 * *"
	}
	f := strings.Fields(expression)
	if len(f) != 5 || f[3] != "*" {
		return expression
	}
	minute, ok := number(f[0], 59)
	if !ok {
		return expression
	}
	everyDay, everyWeekday := f[2] == "*", f[4] == "*" || f[4] == "?"
	if everyDay && everyWeekday {
		if f[1] == "*" {
			return fmt.Sprintf("hourly at :%02d", minute)
		}
		if step, isStep := strings.CutPrefix(f[1], "*/"); isStep {
			if n, ok := number(step, 23); ok && n > 0 {
				return fmt.Sprintf("every %d hours at :%02d", n, minute)
			}
		}
	}
	times, ok := hours(f[1], minute)
	switch {
	case !ok:
		return expression
	case everyDay && everyWeekday:
		return "daily at " + times
	case everyDay:
		if days, ok := weekdays(f[4]); ok {
			return days + " at " + times
		}
	case everyWeekday:
		if day, ok := number(f[2], 31); ok && day > 0 {
			return fmt.Sprintf("monthly on day %d at %s", day, times)
		}
	}
	return expression
}

func number(s string, most int) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= most
}

// hours is "03:00", or "03:00, 15:00" for several.
func hours(field string, minute int) (string, bool) {
	var times []string
	for h := range strings.SplitSeq(field, ",") {
		n, ok := number(h, 23)
		if !ok {
			return "", false
		}
		times = append(times, fmt.Sprintf("%02d:%02d", n, minute))
	}
	return strings.Join(times, ", "), true
}

// weekdays is "Sunday", or "Mon, Wed" or "Mon-Fri" for several.
func weekdays(field string) (string, bool) {
	day := func(s string) (time.Weekday, bool) {
		if n, ok := number(s, 6); ok {
			return time.Weekday(n), true
		}
		for d := time.Sunday; d <= time.Saturday; d++ {
			if strings.EqualFold(s, d.String()[:3]) {
				return d, true
			}
		}
		return 0, false
	}
	if d, ok := day(field); ok {
		return d.String(), true
	}
	if from, to, isRange := strings.Cut(field, "-"); isRange {
		a, okA := day(from)
		b, okB := day(to)
		return a.String()[:3] + "-" + b.String()[:3], okA && okB
	}
	var days []string
	for s := range strings.SplitSeq(field, ",") {
		d, ok := day(s)
		if !ok {
			return "", false
		}
		days = append(days, d.String()[:3])
	}
	return strings.Join(days, ", "), true
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"testing"
	"time"

	"github.com/robfig/cron/v3"
)

// noon is the time in all tests, a Sunday.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func mustParse(t *testing.T, expression string) cron.Schedule {
	t.Helper()
	s, err := parse(expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return s
}

func TestParse(t *testing.T) {
	for _, good := range []string{"0 3 * * *", "@daily", "@every 2h", "15 */6 1-7 * sun"} {
		mustParse(t, good)
	}
	for _, bad := range []string{"", "0 3 * *", "0 0 3 * * *", "60 3 * * *", "@often", "TZ=Europe/Berlin 0 3 * * *", "CRON_TZ=UTC 0 3 * * *"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestShortestGap(t *testing.T) {
	for expression, want := range map[string]time.Duration{
		"0 3 * * *":    24 * time.Hour,
		"15 * * * *":   time.Hour,
		"*/59 * * * *": time.Minute,
		// Harvester itself sees the day between 3:30 and 3:00 at noon.
		"0,30 3 * * *":  30 * time.Minute,
		"0 3 1 * *":     28 * 24 * time.Hour,
		"50 23 * * 0":   7 * 24 * time.Hour,
		"0 0 * * 0":     7 * 24 * time.Hour,
		"0 3,5 * * *":   2 * time.Hour,
		"0 3 31 12 *":   365 * 24 * time.Hour,
		"0 3 30 2 *":    0, // never
		"@every 61m":    61 * time.Minute,
		"59 0,22 1 * *": 22 * time.Hour,
	} {
		if gap, _, _ := shortestGap(mustParse(t, expression), noon()); gap != want {
			t.Errorf("%s: %s, want %s", expression, gap, want)
		}
	}
}

func TestLastDue(t *testing.T) {
	for expression, want := range map[string]string{
		"0 3 * * *":   "2026-03-01T03:00:00Z",
		"0 12 * * *":  "2026-03-01T12:00:00Z", // the moment itself counts
		"1 12 * * *":  "2026-02-28T12:01:00Z",
		"15 * * * *":  "2026-03-01T11:15:00Z",
		"0 0 1 1 *":   "2026-01-01T00:00:00Z",
		"0 0 29 2 *":  "2024-02-29T00:00:00Z",
		"0 3 * * mon": "2026-02-23T03:00:00Z",
	} {
		if got := lastDue(mustParse(t, expression), noon()).Format(time.RFC3339); got != want {
			t.Errorf("%s: %s, want %s", expression, got, want)
		}
	}
	if got := lastDue(mustParse(t, "0 3 30 2 *"), noon()); !got.IsZero() {
		t.Errorf("the 30th of February was due %s", got)
	}
}

func TestFreeMinute(t *testing.T) {
	others := []cron.Schedule{mustParse(t, "0 3 * * *"), mustParse(t, "12 3 * * *")}
	// 5, 10, 15 and 20 are too near to 0 or to 12.
	if got := freeMinute("0 3 * * *", others, noon()); got != "25 3 * * *" {
		t.Errorf("got %q", got)
	}
	for _, expression := range []string{"@daily", "*/7 3 * * *", "0-5 3 * * *"} {
		if got := freeMinute(expression, others, noon()); got != "" {
			t.Errorf("%s: %q", expression, got)
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestSizes(t *testing.T) {
	for bytes, want := range map[int64][2]string{
		0: {"0 B", "0"}, 512: {"512 B", "512"}, 1023: {"1023 B", "1023"}, 1 << 10: {"1 KiB", "1Ki"},
		1536 << 20: {"1.5 GiB", "1.5Gi"}, 40 * gib: {"40 GiB", "40Gi"}, gib - 1: {"1 GiB", "1Gi"},
		1 << 40: {"1 TiB", "1Ti"}, 1<<63 - 1: {"8 EiB", "8Ei"},
	} {
		if got := [2]string{size(bytes), quantity(bytes)}; got != want {
			t.Errorf("%d: %q, want %q", bytes, got, want)
		}
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 1200 * time.Millisecond: "1.2s", 9*time.Second + 999*time.Millisecond: "10s", 59 * time.Second: "59s",
		250 * time.Second: "4m10s", 3720 * time.Second: "1h02m", 49 * time.Hour: "2d01h",
	} {
		if got := span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

func TestBarFillsByEighths(t *testing.T) {
	l := Options{}.look()
	for percent, want := range map[float64]string{-1: "▕    ▏", 0: "▕    ▏", 3.2: "▕▏   ▏", 50: "▕██  ▏", 53.2: "▕██▏ ▏", 99.9: "▕███▉▏", 100: "▕████▏", 250: "▕████▏"} {
		if got := l.bar(percent, 4, plain); got != want {
			t.Errorf("%v: %q, want %q", percent, got, want)
		}
	}
}

func TestTruncate(t *testing.T) {
	for _, test := range []struct {
		in          string
		n           int
		end, middle string
	}{
		{"web", 3, "web", "web"},
		{"web-20260802", 8, "web-202…", "web-…802"},
		{"資料狀態未知", 7, "資料狀…", "資…知"},
		{"🚀🚀🚀", 5, "🚀🚀…", "🚀…🚀"},
		{"abc", 1, "…", "…"},
		{"abc", 0, "", ""},
	} {
		if got := truncate(test.in, test.n, "…"); got != test.end {
			t.Errorf("end of %q to %d: %q, want %q", test.in, test.n, got, test.end)
		}
		if got := truncateMiddle(test.in, test.n, "…"); cells(got) > test.n || (test.n >= 8 && got != test.middle) {
			t.Errorf("middle of %q to %d: %q, want %q", test.in, test.n, got, test.middle)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		in   string
		n    int
		want []string
	}{
		{"one two three", 0, []string{"one two three"}},
		{"one two three", 7, []string{"one two", "three"}},
		{"see bak://pvc-0b9a1c1e/backup-4e1d now", 10, []string{"see", "bak://pvc-0b9a1c1e/backup-4e1d", "now"}},
		{"備份目標無法連線資料狀態未知", 10, []string{"備份目標無", "法連線資料", "狀態未知"}},
		{"ab 備份目標無法", 9, []string{"ab 備份目", "標無法"}},
		{"資", 1, []string{"資"}},
	} {
		if got := wrap(test.in, test.n); !slices.Equal(got, test.want) {
			t.Errorf("%q in %d: %q, want %q", test.in, test.n, got, test.want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\r\n c": "a b c", "\x1b[31mred\x1b[0m": "^[[31mred^[[0m", "\x1b]0;t\x07x": "^[]0;t^Gx", "\x7f\x00": "^?^@", "a\u202eb\ufeff": `a\u202eb\ufeff`,
		"\u009b31m": `\u009b31m`, "\U000e0041": `\ue0041`, "\xff": "\ufffd", "ü 資料 👩‍💻": "ü 資料 👩‍💻",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	at := sampleNow()
	var r rate
	r.add(5*gib, at) // what an interrupted upload begins with is no speed
	if got := r.current(at); got != 0 {
		t.Errorf("rate of one figure: %v", got)
	}
	for range 20 {
		at = at.Add(2 * time.Second)
		r.add(r.bytes+200<<20, at)
		r.add(r.bytes, at.Add(time.Second)) // the same percent again is no news
	}
	if got := r.current(at); got < 99<<20 || got > 101<<20 {
		t.Errorf("steady 100 MiB/s: %v", got)
	}
	at = at.Add(2 * time.Second)
	r.add(r.bytes+2000<<20, at)
	if got := r.current(at); got < 105<<20 || got > 300<<20 {
		t.Errorf("one jump of ten times the speed: %v", got)
	}
	if got := r.current(at.Add(time.Minute)); got != 0 {
		t.Errorf("stalled for a minute: %v", got)
	}
	r.add(0, at)
	if got := r.current(at); got != 0 {
		t.Errorf("begun again: %v", got)
	}
}

func TestETA(t *testing.T) {
	at := sampleNow()
	v := &volumeProgress{}
	for percent := range 51 {
		v.apply(volumeAt("d", vmbackup.StateRunning, percent, 100*gib), at.Add(time.Duration(percent)*time.Second))
	}
	at = at.Add(50 * time.Second)
	if left, ok := v.eta(at); !ok || left < 48*time.Second || left > 52*time.Second {
		t.Errorf("half in 50s: %v left, known %v", left, ok)
	}
	if left, ok := v.eta(at.Add(10 * time.Second)); !ok || left > 42*time.Second {
		t.Errorf("ten seconds later: %v left, known %v", left, ok)
	}
	v.apply(volumeAt("d", vmbackup.StateReady, 100, 100*gib), at)
	if _, ok := v.eta(at); ok {
		t.Error("what is done has a time left")
	}
}

func TestPlainColumnsCanBeSplit(t *testing.T) {
	o := layouts()["piped"]
	o.Namespaces = true
	var out strings.Builder
	if err := Backups(&out, sampleBackups(), o); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	n := len(strings.Fields(lines[0]))
	for _, line := range lines {
		if got := len(strings.Fields(line)); got != n {
			t.Errorf("%d words, the header has %d: %q", got, n, line)
		}
	}
}

func TestASCIIDrawsNothingElse(t *testing.T) {
	o := layouts()["80ascii"]
	var out strings.Builder
	b, r := sampleReady(), sampleRestores()
	objects, steps, warnings := samplePlan()
	for _, err := range []error{
		Backups(&out, sampleBackups()[:6], o), Restores(&out, r, o), Backup(&out, &b, sampleEvents(), o), Restore(&out, &r[0], nil, o),
		Plan(&out, objects, steps, warnings, o), Error(&out, sampleBackups()[3].Status.Error, o),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range strings.Split(out.String(), "\n") {
		if !ascii(line) {
			t.Errorf("not ASCII: %q", line)
		}
	}
}

func TestTerminal(t *testing.T) {
	size := func() (int, int) { return 132, 50 }
	for i, test := range []struct {
		mode          ColourMode
		tty           bool
		env           map[string]string
		colour, ascii bool
		width         int
	}{
		{ColourAuto, true, map[string]string{"LANG": "de_DE.UTF-8"}, true, false, 132},
		{ColourAuto, true, map[string]string{"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, true, true, 132},
		{ColourAuto, true, map[string]string{"LC_CTYPE": "C.utf8", "LANG": "C"}, true, false, 132},
		{ColourAuto, true, nil, true, true, 132},
		{ColourAuto, true, map[string]string{"WT_SESSION": "1"}, true, false, 132},
		{ColourAuto, false, map[string]string{"COLUMNS": "90"}, false, true, 0},
		{ColourAuto, true, map[string]string{"NO_COLOR": "1", "COLUMNS": "90"}, false, true, 90},
		{ColourAuto, true, map[string]string{"NO_COLOR": ""}, true, true, 132},
		{ColourAuto, true, map[string]string{"TERM": "dumb", "COLUMNS": "wide"}, false, true, 132},
		{ColourAlways, false, map[string]string{"NO_COLOR": "1"}, true, true, 0},
		{ColourNever, true, nil, false, true, 132},
	} {
		terminal := NewTerminal(nil, test.mode, Facts{TTY: test.tty, Size: size, Getenv: env(test.env)})
		o := terminal.Options(sampleNow())
		if o.Colour != test.colour || o.ASCII != test.ascii || o.Width != test.width || o.TTY != test.tty {
			t.Errorf("%d: %+v", i, o)
		}
	}
	unknown := NewTerminal(nil, ColourAuto, Facts{TTY: true, Size: func() (int, int) { return 0, 0 }})
	if unknown.Width() != 80 || unknown.Height() != 24 {
		t.Errorf("a terminal that does not tell its size: %dx%d", unknown.Width(), unknown.Height())
	}
	for _, s := range append(ColourModes(), "") {
		if _, err := ParseColourMode(s); err != nil {
			t.Error(err)
		}
	}
	if _, err := ParseColourMode("pink"); err == nil {
		t.Error("an unknown mode is taken")
	}
	if got := fmt.Sprint(FactsOf(&strings.Builder{}).TTY); got != "false" {
		t.Error("a buffer is a terminal")
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"bytes"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// hostileText would clear the screen, retitle the window, paint, ring, hide and
// reorder, and begin lines of its own.
const hostileText = "a\x1b[2J\x1b]0;owned\x07b\x1b[31mc\u009b32md\x00e\x08\x7ff\u202eg\u2066h\ufeffi\u2028j\u200bk\U000e0041l\r\nerror: m\t\xff"

// poison sets every string that can be reached from v.
func poison(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostileText)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type() != reflect.TypeFor[time.Time]() {
				poison(v.Field(i))
			}
		}
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		poison(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			poison(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		poison(key)
		poison(value)
		v.SetMapIndex(key, value)
	case reflect.Int64, reflect.Int:
		v.SetInt(7)
	case reflect.Bool, reflect.Float64, reflect.Interface, reflect.Uint64:
	default:
		panic("no hostile value for " + v.Type().String())
	}
}

func hostile[T any]() T {
	var v T
	poison(reflect.ValueOf(&v).Elem())
	return v
}

// own are the sequences that render writes itself: colours, and for the live
// display its moves.
var own = regexp.MustCompile(`\x1b\[[0-9;?]*[mAGHJKhl]`)

// harmless fails when text holds anything that acts on a terminal, beside what
// render writes itself.
func harmless(t *testing.T, what, text string, colour bool) {
	t.Helper()
	if strings.Contains(text, "[2J") && !strings.Contains(text, "^[[2J") {
		t.Errorf("%s clears the screen: %q", what, text)
	}
	if colour {
		text = own.ReplaceAllString(text, "")
	}
	for i, r := range text {
		if r != '\n' && r != '\r' && (unicode.IsControl(r) || hidden(r)) {
			t.Fatalf("%s writes %q: %q", what, r, text[max(0, i-40):min(len(text), i+40)])
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "error: m") {
			t.Errorf("%s lets a foreign line stand as its own: %q", what, text)
		}
	}
}

// Whatever clusters and targets say, a terminal shows it and does nothing else.
func TestForeignTextActsOnNothing(t *testing.T) {
	backup, restore := hostile[vmbackup.Backup](), hostile[vmbackup.Restore]()
	failure := hostile[vmbackup.Error]()
	events := hostile[[]EventLine]()
	objects, steps := hostile[[]vmbackup.PlannedObject](), hostile[[]vmbackup.StepStatus]()
	for name, o := range layouts() {
		o.Wide, o.Namespaces = true, true
		for what, write := range map[string]func(*bytes.Buffer) error{
			"list":             func(b *bytes.Buffer) error { return Backups(b, []vmbackup.Backup{backup, backup}, o) },
			"list restores":    func(b *bytes.Buffer) error { return Restores(b, []vmbackup.Restore{restore, restore}, o) },
			"none":             func(b *bytes.Buffer) error { return NoneFound(b, "backups", hostileText) },
			"describe":         func(b *bytes.Buffer) error { return Backup(b, &backup, events, o) },
			"describe restore": func(b *bytes.Buffer) error { return Restore(b, &restore, events, o) },
			"error":            func(b *bytes.Buffer) error { return Error(b, &failure, o) },
			"warnings":         func(b *bytes.Buffer) error { return Warnings(b, []string{hostileText}, o) },
			"plan":             func(b *bytes.Buffer) error { return Plan(b, objects, steps, []string{hostileText}, o) },
		} {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatalf("%s %s: %v", what, name, err)
			}
			if !strings.Contains(b.String(), "^[") {
				t.Errorf("%s %s does not show what it was given: %q", what, name, b.String())
			}
			harmless(t, what+" "+name, b.String(), o.Colour)
		}
	}
}

func TestForeignEventsActOnNothing(t *testing.T) {
	for _, mode := range []ProgressMode{ProgressPlain, ProgressTTY} {
		t.Run(string(mode), func(t *testing.T) {
			var b bytes.Buffer
			terminal := NewTerminal(&b, ColourNever, Facts{TTY: mode == ProgressTTY, Size: func() (int, int) { return 80, 24 }})
			progress, err := NewProgress(mode, terminal, sampleNow)
			if err != nil {
				t.Fatal(err)
			}
			for i, kind := range []vmbackup.EventType{vmbackup.EventPlan, vmbackup.EventStep, vmbackup.EventVolume, vmbackup.EventWarning, vmbackup.EventResult} {
				e := hostile[vmbackup.Event]()
				e.Type, e.Seq, e.Time = kind, int64(i), sampleNow()
				progress.Emit(e)
			}
			if err := progress.Close(); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(b.String(), "^[") {
				t.Errorf("shows nothing: %q", b.String())
			}
			harmless(t, string(mode), b.String(), mode == ProgressTTY)
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add(hostileText)
	f.Add("ü 資料 👩‍💻")
	f.Fuzz(func(t *testing.T, text string) {
		got := clean(text)
		if again := clean(got); again != got {
			t.Errorf("%q, then %q", got, again)
		}
		for _, r := range got {
			if unicode.IsControl(r) || hidden(r) {
				t.Errorf("%q in %q", r, got)
			}
		}
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Schedules writes a table of schedules in the order given. It writes nothing for
// none; NoneFound says so.
func Schedules(w io.Writer, schedules []vmbackup.Schedule, o Options) error {
	if len(schedules) == 0 {
		return nil
	}
	if !o.TTY {
		rows := make([][]field, len(schedules))
		for i := range schedules {
			rows[i] = scheduleFields(&schedules[i], o)
		}
		return plainTable(w, rows, o)
	}
	l := o.look()
	t := newListing(o, len(schedules))
	for i := range schedules {
		s := &schedules[i]
		t.namespace.cells[i], t.name.cells[i] = clean(s.Metadata.Namespace), clean(s.Metadata.Name)
		symbol, word, c := l.schedule(s)
		t.state.cells[i], t.state.paint[i] = symbol+" "+word, c
		t.set(i, "VM", clean(s.Spec.VM))
		t.set(i, "NEXT RUN", until(s.Status.NextRunAt, o.Now))
		t.set(i, "LAST RUN", lastRun(s.Status.LastRun, o.Now))
		t.set(i, "WHEN", clean(cronWords(s.Spec.Cron)))
		t.set(i, "KEPT", kept(s))
		t.set(i, "TYPE", clean(string(s.Spec.Type)))
		t.set(i, "FAILURES", failures(s))
		t.set(i, "CRON", clean(s.Spec.Cron))
		if run := s.Status.LastRun; run != nil {
			t.set(i, "LAST BACKUP", clean(run.Backup))
		}
		t.age.cells[i] = age(s.Status.CreatedAt, o.Now)
		t.messages[i] = clean(cmp.Or(s.Status.Message, strings.Join(s.Status.Warnings, "; ")))
	}
	return t.write(w, l, scheduleSummary(schedules))
}

func scheduleFields(s *vmbackup.Schedule, o Options) []field {
	var fields []field
	if o.Namespaces {
		fields = append(fields, field{"NAMESPACE", s.Metadata.Namespace})
	}
	run := s.Status.LastRun
	if run == nil {
		run = &vmbackup.ScheduleRun{}
	}
	fields = append(fields,
		field{"NAME", s.Metadata.Name},
		field{"VM", s.Spec.VM},
		field{"STATUS", string(s.Status.State)},
		field{"SUSPENDED-BY", string(s.Status.SuspendedBy)},
		field{"CRON", s.Spec.Cron},
		field{"TYPE", string(s.Spec.Type)},
		field{"RETAIN", strconv.Itoa(s.Spec.Retain)},
		field{"FAILURES", failures(s)},
		field{"LAST-RUN", stamp(run.DueAt)},
		field{"LAST-RESULT", string(run.Phase)},
		field{"NEXT-RUN", stamp(s.Status.NextRunAt)},
		field{"AGE", age(s.Status.CreatedAt, o.Now)},
	)
	if o.Wide {
		fields = append(fields,
			field{"KEPT", strconv.Itoa(len(s.Status.Runs))},
			field{"LAST-BACKUP", run.Backup},
			field{"MISSED", stamp(s.Status.MissedRunAt)},
			field{"MESSAGE", s.Status.Message},
		)
	}
	return fields
}

// Schedule writes one schedule as a tree.
func Schedule(w io.Writer, s *vmbackup.Schedule, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	symbol, word, c := d.schedule(s)
	d.line("Schedule " + d.paint(bold, clean(s.Ref().String())) + "  " + d.paint(c, symbol+" "+word))

	var nodes []node
	if s.Status.Message != "" {
		nodes = append(nodes, node{key: "Why", value: clean(s.Status.Message), colour: c})
	}
	nodes = append(nodes, fact("Machine", clean(vmbackup.Ref{Namespace: s.Metadata.Namespace, Name: s.Spec.VM}.String()))...)
	when := node{key: "When", value: clean(cronWords(s.Spec.Cron))}
	if when.value != clean(s.Spec.Cron) {
		when.note = clean(s.Spec.Cron)
	}
	nodes = append(nodes, when)
	if next := s.Status.NextRunAt; next != nil {
		nodes = append(nodes, node{key: "Next run", value: moment(next), note: until(next, o.Now)})
	}
	if missed := s.Status.MissedRunAt; missed != nil {
		nodes = append(nodes, node{key: "Missed", value: moment(missed), note: age(missed, o.Now) + " ago", colour: yellow})
	}
	nodes = append(nodes, fact("Type", typeText(vmbackup.BackupSpec{Type: s.Spec.Type}))...)
	nodes = append(nodes, node{key: "Retain", value: strconv.Itoa(s.Spec.Retain), note: "Harvester deletes the oldest ones, failed ones first"})
	limit := node{key: "Failures", value: failures(s), note: fmt.Sprintf("suspended after %d in a row", s.Spec.MaxFailure)}
	if s.Status.Failures > 0 {
		limit.colour = red
	}
	nodes = append(nodes, limit)
	if created := s.Status.CreatedAt; created != nil {
		nodes = append(nodes, node{key: "Created", value: moment(created), note: age(created, o.Now) + " ago"})
	}
	nodes = append(nodes, fact("Engine", clean(s.Status.Engine))...)
	nodes = append(nodes, d.labels(s.Metadata.Labels)...)
	backups := node{key: "Backups", value: plural(len(s.Status.Runs), "backup")}
	for _, run := range s.Status.Runs {
		n := node{mark: d.phaseText(run.Phase), value: clean(run.Backup), children: d.note(run.Message)}
		if run.DueAt != nil {
			n.note = age(run.DueAt, o.Now) + " ago"
		}
		backups.children = append(backups.children, n)
	}
	nodes = append(nodes, backups)
	nodes = append(nodes, d.ending(s.Status.Warnings, nil, nil)...)
	d.nodes("", nodes)
	return d.write(w)
}

// ScheduleLine is a schedule in a few words: daily at 03:00 UTC, next run in 9h.
func ScheduleLine(s *vmbackup.Schedule, now time.Time) string {
	words := []string{clean(cronWords(s.Spec.Cron)) + " UTC"}
	if next := until(s.Status.NextRunAt, now); next != "" {
		words = append(words, "next run "+next)
	}
	if s.Spec.Suspend {
		words = append(words, "suspended")
	}
	return strings.Join(words, ", ")
}

// schedule is the symbol, the words and the colour of a schedule's state.
func (l look) schedule(s *vmbackup.Schedule) (symbol, word string, c colour) {
	word = string(s.Status.State)
	switch s.Status.State {
	case vmbackup.ScheduleActive:
		return l.ready, word, green
	case vmbackup.ScheduleMissed:
		return l.incomplete, word, yellow
	case vmbackup.ScheduleFailing:
		return l.failed, fmt.Sprintf("%s (%d of %d)", word, s.Status.Failures, s.Spec.MaxFailure), red
	case vmbackup.ScheduleSuspended:
		switch s.Status.SuspendedBy {
		case vmbackup.SuspendedByFailures:
			return l.failed, fmt.Sprintf("%s (%s)", word, plural(max(s.Status.Failures, s.Spec.MaxFailure), "failure")), red
		case vmbackup.SuspendedByTarget:
			return l.failed, word + " (upload hung)", red
		}
		return l.canceled, word + " (by user)", dim
	}
	return l.unknown, clean(word), magenta
}

// until is how long it is until t: in 9h.
func until(t *time.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return "in " + duration.HumanDuration(max(t.Sub(now), 0))
}

// lastRun is how the last run ended, and when: Ready 3h ago.
func lastRun(run *vmbackup.ScheduleRun, now time.Time) string {
	if run == nil {
		return ""
	}
	text := phaseWord(run.Phase)
	if run.DueAt != nil {
		text += " " + age(run.DueAt, now) + " ago"
	}
	return clean(text)
}

// kept is how many backups are there, of those that may be: 5 of 8.
func kept(s *vmbackup.Schedule) string {
	return fmt.Sprintf("%d of %d", len(s.Status.Runs), s.Spec.Retain)
}

// failures is how many runs have failed in a row, of those that suspend it: 1/4.
func failures(s *vmbackup.Schedule) string {
	return fmt.Sprintf("%d/%d", s.Status.Failures, s.Spec.MaxFailure)
}

// scheduleSummary is what stands under a listing: 3 schedules · 1 active · 2 suspended.
func scheduleSummary(schedules []vmbackup.Schedule) []string {
	parts := []string{plural(len(schedules), "schedule")}
	for _, state := range []vmbackup.ScheduleState{vmbackup.ScheduleActive, vmbackup.ScheduleFailing, vmbackup.ScheduleMissed, vmbackup.ScheduleSuspended} {
		n := 0
		for i := range schedules {
			if schedules[i].Status.State == state {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+strings.ToLower(string(state)))
		}
	}
	return parts
}

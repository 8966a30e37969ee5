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

// Targets writes a table of backup targets in the order given.
func Targets(w io.Writer, targets []vmbackup.Target, o Options) error {
	if len(targets) == 0 {
		return nil
	}
	if !o.TTY {
		rows := make([][]field, len(targets))
		for i := range targets {
			rows[i] = targetFields(&targets[i], o)
		}
		return plainTable(w, rows, o)
	}
	l := o.look()
	n := len(targets)
	blank := func(title string, rank int) *column {
		return &column{title: title, cells: make([]string, n), rank: rank}
	}
	name, state, url := blank("NAME", 0), blank("STATUS", 0), blank("URL", 0)
	backups, size, synced, poll, secret := blank("BACKUPS", 1), blank("SIZE", 2), blank("SYNCED", 3), blank("POLL", 4), blank("SECRET", 5)
	name.least, name.fair, name.middle = 12, 28, true
	url.least, url.fair, url.middle = 20, 40, true
	for _, c := range []*column{backups, size, synced, poll} {
		c.right = true
	}
	state.paint = make([]colour, n)
	details := make([]string, n)
	for i := range targets {
		t := &targets[i]
		symbol, word, c := l.targetState(t.Status.State)
		name.cells[i] = clean(t.Metadata.Name)
		state.cells[i], state.paint[i] = symbol+" "+word, c
		url.cells[i] = clean(t.Spec.URL)
		if h := t.Status.Holds; h != nil {
			backups.cells[i], size.cells[i] = strconv.Itoa(h.Backups), sizeOrNone(h.Bytes)
		}
		synced.cells[i] = age(t.Status.LastSyncedAt, o.Now)
		poll.cells[i] = interval(t.Spec.PollIntervalSeconds)
		secret.cells[i] = clean(t.Spec.CredentialSecret)
		details[i] = l.detailLine(clean(targetTrouble(t)), o)
	}
	all := []*column{name, state, url, backups, size, synced, poll, secret}
	for _, c := range all {
		for i := range c.cells {
			if c.cells[i] == "" {
				c.cells[i] = "-"
			}
		}
	}
	chosen, widths := fit(all, o.width(), o.Wide)
	return l.table(w, chosen, widths, details, o)
}

// targetTrouble is what is wrong with a target, in one line.
func targetTrouble(t *vmbackup.Target) string {
	switch {
	case t.Status.Message != "":
		return t.Status.Message
	case t.Status.Credentials.State == vmbackup.StateFailed:
		return t.Status.Credentials.Message
	case t.Status.Harvester != nil && t.Status.Harvester.State == vmbackup.StateFailed:
		return "Harvester: " + t.Status.Harvester.Message
	case len(t.Status.Warnings) > 0:
		return t.Status.Warnings[0]
	}
	return ""
}

func targetFields(t *vmbackup.Target, o Options) []field {
	count := ""
	bytes := ""
	if h := t.Status.Holds; h != nil {
		count, bytes = strconv.Itoa(h.Backups), quantity(h.Bytes)
	}
	fields := []field{
		{"NAME", t.Metadata.Name},
		{"STATUS", string(t.Status.State)},
		{"URL", t.Spec.URL},
		{"BACKUPS", count},
		{"SIZE", bytes},
		{"SYNCED", age(t.Status.LastSyncedAt, o.Now)},
	}
	if o.Wide {
		harvester := ""
		if t.Status.Harvester != nil {
			harvester = string(t.Status.Harvester.State)
		}
		fields = append(fields,
			field{"TYPE", t.Spec.Type},
			field{"POLL", interval(t.Spec.PollIntervalSeconds)},
			field{"SECRET", t.Spec.CredentialSecret},
			field{"CREDENTIALS", string(t.Status.Credentials.State)},
			field{"HARVESTER", harvester},
			field{"MESSAGE", targetTrouble(t)},
		)
	}
	return fields
}

// targetState is the symbol, the word and the colour of a target's state.
func (l look) targetState(s vmbackup.TargetState) (symbol, word string, c colour) {
	switch s {
	case vmbackup.TargetAvailable:
		return l.ready, string(s), green
	case vmbackup.TargetUnavailable:
		return l.failed, string(s), red
	}
	return l.planned, "No URL", dim
}

// interval is a period for people; 0 is never.
func interval(seconds int64) string {
	if seconds == 0 {
		return "never"
	}
	return clockSpan(time.Duration(seconds) * time.Second)
}

// Target writes one backup target as a tree.
func Target(w io.Writer, t *vmbackup.Target, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	s := &t.Status
	symbol, word, c := d.targetState(s.State)
	d.line("Target " + d.paint(bold, clean(t.Metadata.Name)) + "  " + d.paint(c, symbol+" "+word))
	var nodes []node
	if s.Message != "" {
		nodes = append(nodes, node{key: "Reason", value: clean(s.Message), colour: red})
	}
	nodes = append(nodes, fact("URL", clean(t.Spec.URL))...)
	nodes = append(nodes, node{key: "Poll interval", value: interval(t.Spec.PollIntervalSeconds)})
	synced := node{key: "Last sync", value: "never"}
	if s.LastSyncedAt != nil {
		synced.value, synced.note = moment(s.LastSyncedAt), age(s.LastSyncedAt, o.Now)+" ago"
	}
	nodes = append(nodes, synced, d.targetCredentials(t))
	if h := s.Holds; h != nil {
		held := node{key: "Longhorn lists", value: fmt.Sprintf("%s of %s, %s", plural(h.Backups, "backup"), plural(h.Volumes, "volume"), plural(h.Images, "backing image"))}
		if h.Bytes > 0 {
			held.note = size(h.Bytes)
		}
		if h.FailedBackups > 0 {
			held.children = append(held.children, node{mark: d.paint(yellow, d.incomplete), value: plural(h.FailedBackups, "backup") + " failed"})
		}
		nodes = append(nodes, held)
	}
	if h := s.Harvester; h != nil {
		nodes = append(nodes, d.targetSetting(h))
	}
	nodes = append(nodes, d.ending(s.Warnings, nil, nil)...)
	d.nodes("", nodes)
	return d.write(w)
}

func (d *describer) targetCredentials(t *vmbackup.Target) node {
	c := t.Status.Credentials
	n := node{key: "Credentials"}
	switch c.State {
	case vmbackup.StateSkipped:
		n.value = "none"
		return n
	case vmbackup.StateReady:
		n.mark, n.value = d.stateMark(c.State), "Secret "+clean(t.Spec.CredentialSecret)
		n.note = "values are never shown"
		if len(c.Keys) > 0 {
			n.children = []node{{value: clean(strings.Join(c.Keys, ", ")), colour: dim}}
		}
		return n
	}
	n.mark, n.value = d.stateMark(c.State), clean(c.Message)
	return n
}

func (d *describer) targetSetting(h *vmbackup.TargetSetting) node {
	n := node{key: "Harvester", mark: d.stateMark(h.State)}
	switch h.State {
	case vmbackup.StateReady:
		n.value = "configured with the setting backup-target"
	case vmbackup.StateSkipped:
		n.value = "the setting backup-target is empty"
		return n
	default:
		n.value = clean(h.Message)
	}
	n.children = append(n.children, fact("URL", clean(h.URL))...)
	n.children = append(n.children, node{key: "Refresh interval", value: interval(h.RefreshIntervalSeconds)})
	if h.LastRefreshedAt != nil {
		n.children = append(n.children, node{key: "Last refresh", value: moment(h.LastRefreshedAt), note: age(h.LastRefreshedAt, d.options.Now) + " ago"})
	}
	return n
}

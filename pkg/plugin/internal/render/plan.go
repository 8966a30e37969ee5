// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Plan writes what a plan would do: its objects as a table, its steps, and its
// warnings. Any of them may be empty.
func Plan(w io.Writer, objects []vmbackup.PlannedObject, steps []vmbackup.StepStatus, warnings []string, o Options) error {
	if !o.TTY {
		return plainPlan(w, objects, steps, warnings, o)
	}
	l := o.look()
	if len(objects) > 0 {
		if err := planTable(w, objects, o, l); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\n"+l.paint(dim, planSummary(objects, l))+"\n"); err != nil {
			return err
		}
	}
	t := tree{look: l, width: o.width()}
	if len(steps) > 0 {
		t.line("")
		t.line(l.paint(bold, "STEPS"))
		digits := len(strconv.Itoa(len(steps)))
		for i, s := range steps {
			number := l.paint(dim, padLeft(strconv.Itoa(i+1), digits)+". ")
			for j, text := range wrap(clean(stepTitle(s)), t.width-digits-2) {
				if j > 0 {
					number = strings.Repeat(" ", digits+2)
				}
				t.line(number + text)
			}
		}
	}
	if len(warnings) > 0 {
		t.line("")
	}
	if err := t.write(w); err != nil {
		return err
	}
	return Warnings(w, warnings, o)
}

func planTable(w io.Writer, objects []vmbackup.PlannedObject, o Options, l look) error {
	n := len(objects)
	action := &column{title: "ACTION", cells: make([]string, n), paint: make([]colour, n)}
	kind := &column{title: "KIND", cells: make([]string, n)}
	namespace := &column{title: "NAMESPACE", cells: make([]string, n), rank: 1, least: 8, fair: 20, middle: true}
	name := &column{title: "NAME", cells: make([]string, n), least: 20, fair: 40, middle: true}
	note := &column{title: "NOTE", cells: make([]string, n), paint: slices.Repeat([]colour{dim}, n), rank: 3, least: 16, fair: 16}
	for i, object := range objects {
		symbol, c := actionLook(object.Action)
		action.cells[i], action.paint[i] = symbol+" "+clean(string(object.Action)), c
		kind.cells[i], name.cells[i], note.cells[i] = clean(object.Kind), clean(object.Name), clean(object.Note)
		namespace.cells[i] = clean(object.Namespace)
		if object.Namespace == "" {
			namespace.cells[i] = "-"
		}
	}
	columns := []*column{action, kind}
	for _, c := range []*column{namespace, name, note} {
		if !c.empty() {
			columns = append(columns, c)
		}
	}
	chosen, widths := fit(columns, o.width(), o.Wide)
	var details []string
	if !slices.Contains(chosen, note) {
		for _, text := range note.cells {
			details = append(details, l.detailLine(text, o))
		}
	}
	return l.table(w, chosen, widths, details, o)
}

func actionLook(a vmbackup.Action) (symbol string, c colour) {
	switch a {
	case vmbackup.ActionCreate:
		return "+", green
	case vmbackup.ActionUpdate:
		return "~", yellow
	case vmbackup.ActionDelete:
		return "-", red
	}
	return "=", dim
}

func planSummary(objects []vmbackup.PlannedObject, l look) string {
	var parts []string
	for _, kind := range []struct {
		action vmbackup.Action
		words  string
	}{
		{vmbackup.ActionCreate, "to create"},
		{vmbackup.ActionUpdate, "to update"},
		{vmbackup.ActionDelete, "to delete"},
		{vmbackup.ActionUse, "used as is"},
	} {
		n := 0
		for _, o := range objects {
			if o.Action == kind.action {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, strconv.Itoa(n)+" "+kind.words)
		}
	}
	return strings.Join(parts, " "+l.dot+" ")
}

func plainPlan(w io.Writer, objects []vmbackup.PlannedObject, steps []vmbackup.StepStatus, warnings []string, o Options) error {
	rows := make([][]field, len(objects))
	for i, object := range objects {
		rows[i] = []field{
			{"ACTION", string(object.Action)},
			{"KIND", object.Kind},
			{"NAMESPACE", object.Namespace},
			{"NAME", object.Name},
			{"NOTE", object.Note},
		}
	}
	if err := plainTable(w, rows, o); err != nil {
		return err
	}
	var out strings.Builder
	for i, s := range steps {
		out.WriteString("step " + strconv.Itoa(i+1) + ": " + clean(stepTitle(s)) + "\n")
	}
	if _, err := io.WriteString(w, out.String()); err != nil {
		return err
	}
	return Warnings(w, warnings, o)
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// TargetCheck writes what came of using a backup target, step by step.
func TargetCheck(w io.Writer, c *vmbackup.TargetCheck, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	s := &c.Status
	d.line(d.targetTitle(c.Metadata.Name) + clean(c.Spec.URL))
	here := node{key: "From here", mark: d.paint(green, d.ready), value: "can be used"}
	if !s.Usable {
		here.mark, here.value = d.paint(red, d.failed), "cannot be used"
	}
	if s.Usable && s.Empty {
		here.note = "not one file lies there yet"
	}
	for _, step := range s.Steps {
		n := node{mark: d.stateMark(step.State), value: clean(step.Title)}
		switch step.State {
		case vmbackup.StateSkipped:
			n.colour = dim
		case vmbackup.StateReady:
			n.note = fmt.Sprintf("%d ms", time.Duration(step.Seconds*float64(time.Second)).Milliseconds())
		}
		here.children = append(here.children, n)
	}
	nodes := []node{here}
	if s.Longhorn != "" {
		symbol, _, colour := d.targetState(s.Longhorn)
		n := node{key: "Longhorn", mark: d.paint(colour, symbol), value: "can use it"}
		if s.Longhorn != vmbackup.TargetAvailable {
			n.value = "cannot use it: " + clean(s.LonghornMessage)
		}
		nodes = append(nodes, n)
	}
	d.nodes("", nodes)
	return d.write(w)
}

// targetTitle begins the first line of a target; one that is not the cluster's has its URL alone.
func (d *describer) targetTitle(name string) string {
	if name == "" {
		return "Target  "
	}
	return "Target " + d.paint(bold, clean(name)) + "  "
}

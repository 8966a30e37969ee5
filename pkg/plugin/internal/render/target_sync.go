// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// TargetSync writes what came of looking at a backup target again.
func TargetSync(w io.Writer, s *vmbackup.TargetSync, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	status := &s.Status
	d.line(d.targetTitle(s.Metadata.Name) + clean(s.Spec.URL))
	looked := func(who string, at *time.Time) []node {
		if at == nil {
			return nil
		}
		return []node{{key: who, mark: d.paint(green, d.ready), value: "looked at " + moment(at)}}
	}
	nodes := append(looked("Longhorn", status.LonghornSyncedAt), looked("Harvester", status.HarvesterRefreshedAt)...)
	held := node{key: "Longhorn lists", value: fmt.Sprintf("%s of %s, %s", plural(status.Holds.Backups, "backup"), plural(status.Holds.Volumes, "volume"), plural(status.Holds.Images, "backing image"))}
	if status.Holds.Bytes > 0 {
		held.note = size(status.Holds.Bytes)
	}
	nodes = append(nodes, held, d.changes("Appeared", status.Appeared, green), d.changes("Disappeared", status.Disappeared, yellow))
	d.nodes("", nodes)
	return d.write(w)
}

func (d *describer) changes(key string, objects []vmbackup.TargetObject, c colour) node {
	if len(objects) == 0 {
		return node{key: key, value: "nothing"}
	}
	n := node{key: key, value: fmt.Sprint(len(objects)), colour: c}
	for _, o := range objects {
		n.children = append(n.children, node{value: clean(o.Kind + " " + vmbackup.Ref{Namespace: o.Namespace, Name: o.Name}.String())})
	}
	n.children = d.some(n.children, len(objects))
	return n
}

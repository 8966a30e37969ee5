// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// EventLine is one event of the cluster that explains why something waits or failed.
type EventLine struct {
	Time time.Time
	// Warning is false for events of the type Normal.
	Warning bool
	// Object is kind/name, with the namespace before it where it matters.
	Object  string
	Reason  string
	Message string
}

// Backup writes one backup as a tree, with the cluster's events that explain it.
func Backup(w io.Writer, b *vmbackup.Backup, events []EventLine, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	s := &b.Status
	d.title("Backup", b.Ref(), s.Phase, backupPercent(s.Volumes))

	var nodes []node
	nodes = append(nodes, fact("Machine", clean(vmbackup.Ref{Namespace: b.Metadata.Namespace, Name: b.Spec.VM}.String()))...)
	nodes = append(nodes, fact("Type", typeText(b.Spec))...)
	nodes = append(nodes, fact("Consistency", consistencyText(s))...)
	nodes = append(nodes, d.times(s.StartedAt, s.CompletedAt)...)
	nodes = append(nodes, fact("Engine", clean(s.Engine))...)
	nodes = append(nodes, fact("Found on", foundOn(s.FoundOn))...)
	nodes = append(nodes, d.labels(b.Metadata.Labels)...)
	nodes = append(nodes, d.backupVolumes(s.Volumes))
	if len(s.Images) > 0 {
		images := node{key: "Images", value: strconv.Itoa(len(s.Images))}
		for _, i := range s.Images {
			images.children = append(images.children, node{mark: d.stateText(i.State), value: clean(i.Name), children: d.note(i.Message)})
		}
		nodes = append(nodes, images)
	}
	nodes = append(nodes, keyed("Secrets", "values are never shown", s.Secrets)...)
	nodes = append(nodes, keyed("Config maps", "", s.ConfigMaps)...)
	for _, held := range []struct{ key, name string }{{"Instance type", s.InstanceType}, {"Preference", s.Preference}} {
		if held.name != "" {
			nodes = append(nodes, node{key: held.key, value: clean(held.name), note: "as it was"})
		}
	}
	if s.Metadata.Path != "" || s.Metadata.State != "" {
		nodes = append(nodes, node{key: "Metadata", mark: d.stateText(s.Metadata.State), value: clean(s.Metadata.Path)})
	}
	nodes = append(nodes, d.ending(s.Warnings, s.Error, events)...)
	d.nodes("", nodes)
	return d.write(w)
}

// Restore writes one restore as a tree, with the cluster's events that explain it.
func Restore(w io.Writer, r *vmbackup.Restore, events []EventLine, o Options) error {
	d := describer{tree: tree{look: o.look(), width: o.width()}, options: o}
	s := &r.Status
	d.title("Restore", r.Ref(), s.Phase, restorePercent(s.Volumes))

	var nodes []node
	nodes = append(nodes, fact("Backup", clean(r.Spec.Backup))...)
	machine := node{key: "Machine", value: clean(restoredVM(r))}
	if s.VM == "" && s.Phase != vmbackup.PhaseCanceled && r.Spec.Mode != vmbackup.ModeInPlace {
		machine.note = "not made yet"
	}
	nodes = append(nodes, machine)
	nodes = append(nodes, fact("Mode", clean(string(r.Spec.Mode)))...)
	nodes = append(nodes, d.times(s.StartedAt, s.CompletedAt)...)
	nodes = append(nodes, fact("Engine", clean(s.Engine))...)
	nodes = append(nodes, d.labels(r.Metadata.Labels)...)
	if len(s.Steps) > 0 {
		steps := node{key: "Steps", value: stepCount(s.Steps)}
		for _, step := range s.Steps {
			n := node{mark: d.stateMark(step.State), value: clean(stepTitle(step)), children: d.note(step.Message)}
			if step.State == vmbackup.StateRunning && step.Progress > 0 {
				n.note = percentText(float64(step.Progress))
			}
			if step.State == vmbackup.StatePending || step.State == vmbackup.StateSkipped {
				n.colour = dim
			}
			steps.children = append(steps.children, n)
		}
		nodes = append(nodes, steps)
	}
	nodes = append(nodes, d.restoreVolumes(s.Volumes))
	if len(s.OldVolumes) > 0 {
		old := node{key: "Old volumes", value: fmt.Sprintf("%d kept", len(s.OldVolumes)), note: "replaced by this restore; delete the PersistentVolumeClaims when they are not needed any more"}
		for _, claim := range s.OldVolumes {
			old.children = append(old.children, node{value: clean(claim)})
		}
		nodes = append(nodes, old)
	}
	nodes = append(nodes, d.ending(s.Warnings, s.Error, events)...)
	d.nodes("", nodes)
	return d.write(w)
}

// describer builds the nodes of a description.
type describer struct {
	tree
	options Options
}

func (d *describer) title(kind string, ref vmbackup.Ref, phase vmbackup.Phase, percent float64) {
	status := d.phaseText(phase)
	if phase == vmbackup.PhaseRunning {
		if d.options.TTY {
			status += " " + d.bar(percent, 20, cyan)
		}
		status += " " + percentText(percent)
	}
	d.line(kind + " " + d.paint(bold, clean(ref.String())) + "  " + status)
}

func (d *describer) times(started, completed *time.Time) []node {
	var nodes []node
	if started != nil {
		n := node{key: "Started", value: moment(started)}
		if ago := age(started, d.options.Now); ago != "" {
			n.note = ago + " ago"
		}
		nodes = append(nodes, n)
	}
	if completed != nil {
		n := node{key: "Completed", value: moment(completed)}
		if took := between(started, completed); took != "" {
			n.note = "took " + took
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func (d *describer) labels(labels map[string]string) []node {
	if len(labels) == 0 {
		return nil
	}
	var pairs []string
	for _, key := range sortedKeys(labels) {
		pairs = append(pairs, clean(key+"="+labels[key]))
	}
	return []node{{key: "Labels", value: strings.Join(pairs, " ")}}
}

// note is a message hung under its part.
func (d *describer) note(message string) []node {
	var nodes []node
	for _, p := range paragraphs(message) {
		nodes = append(nodes, node{value: p, colour: dim})
	}
	return nodes
}

func (d *describer) stateMark(s vmbackup.State) string {
	symbol, _, c := d.state(s)
	return d.paint(c, symbol)
}

// volume is what both kinds of volumes show.
type volume struct {
	name     string
	size     int64
	state    vmbackup.State
	progress int
	facts    []node
	message  string
}

func (d *describer) backupVolumes(volumes []vmbackup.BackupVolume) node {
	var list []volume
	for _, v := range volumes {
		var facts []node
		facts = append(facts, fact("PVC", clean(v.PVC))...)
		facts = append(facts, fact("StorageClass", clean(v.StorageClass))...)
		facts = append(facts, fact("Image", clean(v.Image))...)
		facts = append(facts, fact("Uploaded", uploadedText(v))...)
		facts = append(facts, fact("Snapshot", clean(v.VolumeSnapshot))...)
		facts = append(facts, fact("Backup", clean(v.LonghornBackup))...)
		facts = append(facts, fact("Handle", clean(v.SnapshotHandle))...)
		list = append(list, volume{v.Name, v.SizeBytes, v.State, v.Progress, facts, v.Message})
	}
	return d.volumes(list)
}

func (d *describer) restoreVolumes(volumes []vmbackup.RestoreVolume) node {
	var list []volume
	for _, v := range volumes {
		var facts []node
		pvc := clean(v.PVC)
		if v.SourcePVC != "" && v.SourcePVC != v.PVC {
			pvc += " (was " + clean(v.SourcePVC) + ")"
		}
		facts = append(facts, fact("PVC", pvc)...)
		facts = append(facts, fact("StorageClass", clean(v.StorageClass))...)
		facts = append(facts, fact("Volume", clean(v.LonghornVolume))...)
		facts = append(facts, fact("Handle", clean(v.SnapshotHandle))...)
		list = append(list, volume{v.Name, v.SizeBytes, v.State, v.Progress, facts, v.Message})
	}
	return d.volumes(list)
}

func (d *describer) volumes(list []volume) node {
	if len(list) == 0 {
		return node{key: "Volumes", value: "none"}
	}
	var bytes int64
	names, sizes := 0, 0
	for _, v := range list {
		bytes += v.size
		names, sizes = max(names, cells(clean(v.name))), max(sizes, cells(size(v.size)))
	}
	out := node{key: "Volumes", value: strconv.Itoa(len(list)), note: size(bytes)}
	for _, v := range list {
		mark := d.stateMark(v.state) + " " + d.paint(bold, pad(clean(v.name), names)) + "  " + padLeft(size(v.size), sizes)
		_, word, c := d.state(v.state)
		n := node{mark: mark, value: word, colour: c, children: d.packed(v.facts)}
		if v.state == vmbackup.StateRunning {
			n.note = percentText(float64(v.progress))
			if d.options.TTY {
				n.mark += "  " + d.bar(float64(v.progress), 12, c)
			}
		}
		if v.message != "" {
			n.children = append(n.children, d.note(v.message)...)
		}
		out.children = append(out.children, n)
	}
	return out
}

// packed sets short facts side by side where the terminal is wide.
func (d *describer) packed(facts []node) []node {
	const indent = 8
	perLine := 1
	switch {
	case d.width >= 160:
		perLine = 3
	case d.width >= 110:
		perLine = 2
	}
	if perLine == 1 {
		return facts
	}
	room := (d.width - indent) / perLine
	keys := 0
	for _, f := range facts {
		keys = max(keys, cells(f.key))
	}
	var lines []node
	line, count := "", 0
	flush := func() {
		if line != "" {
			lines = append(lines, node{mark: strings.TrimRight(line, " ")})
		}
		line, count = "", 0
	}
	for _, f := range facts {
		cell := d.paint(dim, pad(f.key, keys)) + "  " + f.value
		if cells(cell) > room-2 || count == perLine {
			flush()
		}
		line += pad(cell, room)
		count++
		if cells(cell) > room-2 {
			flush()
		}
	}
	flush()
	return lines
}

// ending is what a description closes with: warnings, the error, events.
func (d *describer) ending(warnings []string, e *vmbackup.Error, events []EventLine) []node {
	var nodes []node
	if len(warnings) > 0 {
		n := node{key: "Warnings", value: strconv.Itoa(len(warnings))}
		for _, warning := range warnings {
			n.children = append(n.children, node{mark: d.paint(yellow, d.incomplete), value: clean(warning)})
		}
		nodes = append(nodes, n)
	}
	if e != nil {
		n := node{key: "Error", value: clean(string(e.Reason)), colour: red}
		for _, p := range paragraphs(e.Message) {
			n.children = append(n.children, node{value: p})
		}
		for _, p := range paragraphs(e.Hint) {
			n.children = append(n.children, node{mark: d.paint(cyan, "hint:"), value: p, command: true})
		}
		nodes = append(nodes, n)
	}
	if len(events) > 0 {
		n := node{key: "Events", value: strconv.Itoa(len(events))}
		ages, objects := make([]string, len(events)), 0
		widest := 0
		for i, event := range events {
			ages[i] = duration.HumanDuration(max(d.options.Now.Sub(event.Time), 0))
			widest, objects = max(widest, cells(ages[i])), max(objects, cells(event.head()))
		}
		for i, event := range events {
			c := plain
			if event.Warning {
				c = yellow
			}
			head := d.paint(dim, padLeft(ages[i], widest)) + "  " + d.paint(c, event.head())
			if d.width == 0 || d.width >= 110 {
				n.children = append(n.children, node{mark: head + strings.Repeat(" ", objects-cells(event.head())), value: clean(event.Message)})
				continue
			}
			n.children = append(n.children, node{mark: head, children: []node{{value: clean(event.Message), colour: dim}}})
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func (e EventLine) head() string { return clean(e.Reason + " " + e.Object) }

func keyed(key, note string, objects []vmbackup.KeyedObject) []node {
	if len(objects) == 0 {
		return nil
	}
	n := node{key: key, value: strconv.Itoa(len(objects)), note: note}
	for _, o := range objects {
		n.children = append(n.children, node{key: clean(o.Name), value: clean(strings.Join(o.Keys, ", "))})
	}
	return []node{n}
}

func typeText(s vmbackup.BackupSpec) string {
	text := clean(string(s.Type))
	switch {
	case s.Type == vmbackup.TypeBackup && s.Target != "":
		text += ", on target " + clean(s.Target)
	case s.Type == vmbackup.TypeSnapshot:
		text += ", in the cluster's own volumes"
	}
	return text
}

func consistencyText(s *vmbackup.BackupStatus) string {
	text := clean(string(s.Consistency))
	switch s.Consistency {
	case vmbackup.ConsistencyApplication:
		if f := freeze(s.FreezeSeconds); f != "" {
			return text + ", file systems frozen for " + f
		}
		return text + ", file systems were frozen"
	case vmbackup.ConsistencyCrash:
		if s.Engine == vmbackup.EngineHarvester {
			return text + ", as after a power cut; Harvester freezes the guest for one second before it asks for each volume's snapshot, one volume after the other, and waits for none: the volumes are of slightly different moments"
		}
		return text + ", as after a power cut"
	case vmbackup.ConsistencyOffline:
		return text + ", the machine was off"
	}
	return text
}

func foundOn(s string) string {
	if s == "both" {
		return "cluster and target"
	}
	return clean(s)
}

func uploadedText(v vmbackup.BackupVolume) string {
	switch {
	case v.UploadedBytes > 0 && v.BackupBytes > 0:
		return size(v.UploadedBytes) + " new of " + size(v.BackupBytes)
	case v.UploadedBytes > 0:
		return size(v.UploadedBytes)
	case v.BackupBytes > 0:
		return "nothing new of " + size(v.BackupBytes)
	}
	return ""
}

func stepCount(steps []vmbackup.StepStatus) string {
	done := 0
	for _, s := range steps {
		if s.State == vmbackup.StateReady || s.State == vmbackup.StateSkipped {
			done++
		}
	}
	return fmt.Sprintf("%d of %d done", done, len(steps))
}

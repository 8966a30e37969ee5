// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Backups writes a table of backups in the order given. It writes nothing for
// none; NoneFound says so.
func Backups(w io.Writer, backups []vmbackup.Backup, o Options) error {
	if len(backups) == 0 {
		return nil
	}
	if !o.TTY {
		rows := make([][]field, len(backups))
		for i := range backups {
			rows[i] = backupFields(&backups[i], o)
		}
		return plainTable(w, rows, o)
	}
	l := o.look()
	t := newListing(o, len(backups))
	for i := range backups {
		b := &backups[i]
		s := &b.Status
		t.namespace.cells[i], t.name.cells[i] = clean(b.Metadata.Namespace), clean(b.Metadata.Name)
		t.status(l, i, s.Phase, backupPercent(s.Volumes))
		t.set(i, "VM", clean(b.Spec.VM))
		t.set(i, "SIZE", sizeOrNone(backupSize(s.Volumes)))
		t.set(i, "CONSISTENCY", clean(string(s.Consistency)))
		t.set(i, "VOLUMES", strconv.Itoa(len(s.Volumes)))
		t.set(i, "TYPE", clean(string(b.Spec.Type)))
		t.set(i, "FOUND ON", clean(s.FoundOn))
		t.set(i, "ENGINE", clean(s.Engine))
		t.set(i, "UPLOADED", sizeOrNone(uploaded(s.Volumes)))
		t.set(i, "TOOK", between(s.StartedAt, s.CompletedAt))
		t.set(i, "FREEZE", freeze(s.FreezeSeconds))
		t.set(i, "TARGET", clean(b.Spec.Target))
		t.age.cells[i] = age(s.StartedAt, o.Now)
		t.messages[i] = shortError(s.Error, volumeMessages(s.Volumes, s.Phase))
	}
	return t.write(w, l, backupSummary(backups))
}

// NoneFound tells on w, the error stream, that a listing is empty, in kubectl's
// words. kind is the plural ("backups"); namespace is empty for all.
func NoneFound(w io.Writer, kind, namespace string) error {
	if namespace == "" {
		_, err := fmt.Fprintf(w, "No %s found.\n", kind)
		return err
	}
	_, err := fmt.Fprintf(w, "No %s found in %s namespace.\n", kind, clean(namespace))
	return err
}

func backupFields(b *vmbackup.Backup, o Options) []field {
	s := &b.Status
	var fields []field
	if o.Namespaces {
		fields = append(fields, field{"NAMESPACE", b.Metadata.Namespace})
	}
	fields = append(fields,
		field{"NAME", b.Metadata.Name},
		field{"VM", b.Spec.VM},
		field{"STATUS", phaseWord(s.Phase)},
		field{"PROGRESS", percentField(s.Phase, backupPercent(s.Volumes))},
		field{"TYPE", string(b.Spec.Type)},
		field{"VOLUMES", strconv.Itoa(len(s.Volumes))},
		field{"SIZE", quantityOrNone(backupSize(s.Volumes))},
		field{"UPLOADED", quantityOrNone(uploaded(s.Volumes))},
		field{"CONSISTENCY", string(s.Consistency)},
		field{"ENGINE", s.Engine},
		field{"FOUND-ON", s.FoundOn},
		field{"REASON", reason(s.Error)},
		field{"AGE", age(s.StartedAt, o.Now)},
	)
	if o.Wide {
		fields = append(fields,
			field{"FREEZE", freeze(s.FreezeSeconds)},
			field{"TARGET", b.Spec.Target},
			field{"STARTED", stamp(s.StartedAt)},
			field{"COMPLETED", stamp(s.CompletedAt)},
			field{"DURATION", between(s.StartedAt, s.CompletedAt)},
			field{"METADATA", b.Status.Metadata.Path},
			field{"MESSAGE", message(s.Error)},
		)
	}
	return fields
}

func backupSummary(backups []vmbackup.Backup) []string {
	var phases []vmbackup.Phase
	var bytes int64
	for i := range backups {
		phases = append(phases, backups[i].Status.Phase)
		bytes += backupSize(backups[i].Status.Volumes)
	}
	return summary("backup", phases, bytes)
}

// backupPercent is how much of all volumes' bytes is done, 0..100.
func backupPercent(volumes []vmbackup.BackupVolume) float64 {
	var p portion
	for i := range volumes {
		p.add(volumes[i].SizeBytes, volumes[i].Progress, volumes[i].State)
	}
	return p.percent()
}

func backupSize(volumes []vmbackup.BackupVolume) (bytes int64) {
	for i := range volumes {
		bytes += volumes[i].SizeBytes
	}
	return bytes
}

func uploaded(volumes []vmbackup.BackupVolume) (bytes int64) {
	for i := range volumes {
		bytes += volumes[i].UploadedBytes
	}
	return bytes
}

// volumeMessages is the first message of a volume, which explains a backup that
// is neither well nor explained by an error of its own.
func volumeMessages(volumes []vmbackup.BackupVolume, phase vmbackup.Phase) string {
	if phase == vmbackup.PhaseReady || phase == vmbackup.PhasePlanned {
		return ""
	}
	for i := range volumes {
		if volumes[i].Message != "" {
			return clean(volumes[i].Name + ": " + volumes[i].Message)
		}
	}
	return ""
}

// portion adds up how much of several parts is done, each weighted by its bytes;
// parts of unknown size weigh as the average does.
type portion struct {
	bytes, done   float64
	parts, points float64
}

func (p *portion) add(bytes int64, progress int, state vmbackup.State) {
	percent := min(max(float64(progress), 0), 100)
	if state == vmbackup.StateReady {
		percent = 100
	}
	p.parts++
	p.points += percent
	p.bytes += float64(bytes)
	p.done += float64(bytes) * percent / 100
}

func (p *portion) percent() float64 {
	switch {
	case p.bytes > 0:
		return p.done / p.bytes * 100
	case p.parts > 0:
		return p.points / p.parts
	}
	return 0
}

// percentText never says 100 % of what is not done.
func percentText(percent float64) string {
	return strconv.Itoa(int(math.Floor(percent))) + "%"
}

func percentField(phase vmbackup.Phase, percent float64) string {
	if phase == vmbackup.PhaseReady {
		percent = 100
	}
	return percentText(percent)
}

func phaseWord(p vmbackup.Phase) string {
	if p == "" {
		return string(vmbackup.PhaseUnknown)
	}
	return string(p)
}

func sizeOrNone(bytes int64) string {
	if bytes <= 0 {
		return ""
	}
	return size(bytes)
}

func quantityOrNone(bytes int64) string {
	if bytes <= 0 {
		return ""
	}
	return quantity(bytes)
}

func freeze(seconds float64) string {
	if seconds <= 0 {
		return ""
	}
	if seconds < 10 {
		return strconv.FormatFloat(seconds, 'f', 1, 64) + "s"
	}
	return strconv.FormatFloat(seconds, 'f', 0, 64) + "s"
}

func reason(e *vmbackup.Error) string {
	if e == nil {
		return ""
	}
	return string(e.Reason)
}

func message(e *vmbackup.Error) string {
	if e == nil {
		return ""
	}
	return e.Message
}

func shortError(e *vmbackup.Error, otherwise string) string {
	if e == nil {
		return otherwise
	}
	return strings.TrimPrefix(clean(string(e.Reason)+": "+e.Message), ": ")
}

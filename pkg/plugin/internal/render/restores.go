// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Restores writes a table of restores in the order given. It writes nothing for
// none; NoneFound says so.
func Restores(w io.Writer, restores []vmbackup.Restore, o Options) error {
	if len(restores) == 0 {
		return nil
	}
	if !o.TTY {
		rows := make([][]field, len(restores))
		for i := range restores {
			rows[i] = restoreFields(&restores[i], o)
		}
		return plainTable(w, rows, o)
	}
	l := o.look()
	t := newListing(o, len(restores))
	for i := range restores {
		r := &restores[i]
		s := &r.Status
		t.namespace.cells[i], t.name.cells[i] = clean(r.Metadata.Namespace), clean(r.Metadata.Name)
		t.status(l, i, s.Phase, restorePercent(s.Volumes))
		t.set(i, "VM", clean(within(r.Metadata.Namespace, restoredVM(r))))
		t.set(i, "SIZE", sizeOrNone(restoreSize(s.Volumes)))
		t.set(i, "BACKUP", clean(within(r.Metadata.Namespace, r.Spec.Backup)))
		t.set(i, "STEP", clean(currentStep(s.Steps)))
		t.set(i, "VOLUMES", strconv.Itoa(len(s.Volumes)))
		t.set(i, "ENGINE", clean(s.Engine))
		t.set(i, "TOOK", between(s.StartedAt, s.CompletedAt))
		if r.Spec.Mode != vmbackup.ModeNew {
			t.set(i, "MODE", clean(string(r.Spec.Mode)))
		}
		t.age.cells[i] = age(s.StartedAt, o.Now)
		t.messages[i] = shortError(s.Error, "")
	}
	var phases []vmbackup.Phase
	var bytes int64
	for i := range restores {
		phases = append(phases, restores[i].Status.Phase)
		bytes += restoreSize(restores[i].Status.Volumes)
	}
	return t.write(w, l, summary("restore", phases, bytes))
}

func restoreFields(r *vmbackup.Restore, o Options) []field {
	s := &r.Status
	var fields []field
	if o.Namespaces {
		fields = append(fields, field{"NAMESPACE", r.Metadata.Namespace})
	}
	fields = append(fields,
		field{"NAME", r.Metadata.Name},
		field{"BACKUP", r.Spec.Backup},
		field{"VM", restoredVM(r)},
		field{"STATUS", phaseWord(s.Phase)},
		field{"PROGRESS", percentField(s.Phase, restorePercent(s.Volumes))},
		field{"MODE", string(r.Spec.Mode)},
		field{"VOLUMES", strconv.Itoa(len(s.Volumes))},
		field{"SIZE", quantityOrNone(restoreSize(s.Volumes))},
		field{"ENGINE", s.Engine},
		field{"REASON", reason(s.Error)},
		field{"AGE", age(s.StartedAt, o.Now)},
	)
	if o.Wide {
		fields = append(fields,
			field{"STEP", currentStep(s.Steps)},
			field{"STARTED", stamp(s.StartedAt)},
			field{"COMPLETED", stamp(s.CompletedAt)},
			field{"DURATION", between(s.StartedAt, s.CompletedAt)},
			field{"MESSAGE", message(s.Error)},
		)
	}
	return fields
}

// restoredVM is the machine as it exists, else as it was asked for.
func restoredVM(r *vmbackup.Restore) string {
	if r.Status.VM != "" {
		return r.Status.VM
	}
	return vmbackup.Ref{Namespace: r.Spec.TargetNamespace, Name: r.Spec.TargetName}.String()
}

// within leaves the namespace out of a reference made from within it.
func within(namespace, ref string) string {
	return strings.TrimPrefix(ref, namespace+"/")
}

// currentStep is the title of the step that runs or failed; "" when none does.
func currentStep(steps []vmbackup.StepStatus) string {
	for _, s := range steps {
		if s.State == vmbackup.StateRunning || s.State == vmbackup.StateFailed {
			return stepTitle(s)
		}
	}
	return ""
}

func stepTitle(s vmbackup.StepStatus) string {
	if s.Title != "" {
		return s.Title
	}
	return s.ID
}

func restorePercent(volumes []vmbackup.RestoreVolume) float64 {
	var p portion
	for i := range volumes {
		p.add(volumes[i].SizeBytes, volumes[i].Progress, volumes[i].State)
	}
	return p.percent()
}

func restoreSize(volumes []vmbackup.RestoreVolume) (bytes int64) {
	for i := range volumes {
		bytes += volumes[i].SizeBytes
	}
	return bytes
}

// stamp is a time for scripts, RFC 3339 in UTC.
func stamp(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

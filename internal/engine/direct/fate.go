// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// labelFate is on the journal's entry of an operation that somebody gives up or
// deletes. It is written before anything is removed: a run of the operation stops
// when it meets it, on whatever machine it is, and a removal that was killed half
// way is known to have begun.
const labelFate = vmbackup.Group + "/fate"

// fate is what somebody has decided about an operation.
type fate string

const (
	fateCancel fate = "cancel"
	fateDelete fate = "delete"
)

// fateOf is the fate that an entry is marked with, empty for none.
func fateOf(entry journal.Entry) fate { return fate(entry.Labels[labelFate]) }

// marked adds the fate to the labels of an entry.
func (f fate) marked(labels map[string]string) map[string]string {
	if f != "" {
		labels[labelFate] = string(f)
	}
	return labels
}

// stops is the error by which an operation of that fate does not go on.
func (f fate) stops(kind journal.Kind, ref vmbackup.Ref) error {
	verb, done := "cancel", "canceled"
	if f == fateDelete {
		verb, done = "delete", "deleted"
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "%s %s is being %s and does not go on", kind, ref, done).
		WithHint("have that finished with: kubectl vmbackup %s %s -n %s", verb, operationName(kind, ref.Name), ref.Namespace)
}

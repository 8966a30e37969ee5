// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"errors"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Unfit says why Harvester's controllers cannot do what is asked for, where the
// direct engine can.
type Unfit struct{ Why string }

// Error is why.
func (u *Unfit) Error() string { return u.Why }

// UnfitFor is why Harvester cannot do what an error is about and the direct engine
// can; empty for any other error.
func UnfitFor(err error) string {
	var u *Unfit
	if errors.As(err, &u) {
		return u.Why
	}
	return ""
}

// unfit is the error for a request that is not one for Harvester.
func unfit(reason vmbackup.Reason, why string) error {
	return vmbackup.Errorf(reason, "%w", &Unfit{Why: why}).WithHint("have it done without Harvester's controllers: --engine %s", vmbackup.EngineDirect)
}

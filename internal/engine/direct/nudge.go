// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// nudgeAfter is how long a CSI snapshot controller is waited for before it is made
	// to look again. What one of them has forgotten it looks at with its resync only,
	// after 15 minutes.
	nudgeAfter = 10 * time.Second
	// annotationNudge is what is changed for that.
	annotationNudge = vmbackup.Group + "/nudged"
)

// nudge is a merge patch that changes an object, so that its controller looks at it.
func (e *Engine) nudge() []byte {
	return fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, annotationNudge, e.clock().UTC().Format(time.RFC3339))
}

// nudged is what is left of a nudge's error: who may not do it waits for the
// controller's own time.
func nudged(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

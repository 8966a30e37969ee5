// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Annotations of a VirtualMachineInstance (set in the VM's template, or on the
// instance while it runs) that give its guest a fault.
const (
	// AgentAnnotation "absent": no guest agent answers.
	AgentAnnotation = "sandbox.vmbackup.io/guest-agent"
	// FreezeAnnotation "fail": the freeze is refused; "hang": no answer within
	// the launcher's time limit, nothing frozen; "lost-answer": the guest is
	// frozen, but the answer never arrives.
	FreezeAnnotation = "sandbox.vmbackup.io/freeze"
	// ThawAnnotation "fail": unfreeze is refused, only the deadline thaws.
	ThawAnnotation = "sandbox.vmbackup.io/thaw"
	// ShutdownAnnotation "ignore": the guest does not react to the power button
	// and is destroyed at the end of its grace period.
	ShutdownAnnotation = "sandbox.vmbackup.io/shutdown"
)

// Values of the annotations.
const (
	Absent     = "absent"
	Fail       = "fail"
	Hang       = "hang"
	LostAnswer = "lost-answer"
	Ignore     = "ignore"
)

// CommandTimeout is how long KubeVirt's handler waits for its launcher.
const CommandTimeout = 20 * time.Second

// Messages as libvirt and KubeVirt word them; clients may look for parts of them.
var (
	errAgentAbsent = errors.New("virError(Code=86, Domain=10, Message='Guest agent is not responding: QEMU guest agent is not connected')")
	errFreeze      = errors.New("virError(Code=1, Domain=10, Message='internal error: unable to execute QEMU agent command 'guest-fsfreeze-freeze': failed to freeze /: Device or resource busy')")
	errThaw        = errors.New("virError(Code=1, Domain=10, Message='internal error: unable to execute QEMU agent command 'guest-fsfreeze-thaw': failed to open /: Input/output error')")
)

// Agent is the QEMU guest agent of a guest, with the faults of its annotations.
type Agent struct {
	Guest  *Guest
	Faults map[string]string
}

// Connected says whether an agent answers at all.
func Connected(annotations map[string]string) bool {
	return annotations[AgentAnnotation] != Absent
}

// Freeze is the launcher's freeze command, error texts included.
func (a Agent) Freeze(ctx context.Context, timeout time.Duration) error {
	if !Connected(a.Faults) {
		return failed("Freeze", errAgentAbsent)
	}
	switch a.Faults[FreezeAnnotation] {
	case Fail:
		return failed("Freeze", errFreeze)
	case Hang:
		return a.noAnswer(ctx)
	case LostAnswer:
		if err := a.Guest.Freeze(timeout); err != nil {
			return failed("Freeze", err)
		}
		return a.noAnswer(ctx)
	}
	if err := a.Guest.Freeze(timeout); err != nil {
		return failed("Freeze", err)
	}
	return nil
}

// Thaw is the launcher's unfreeze command.
func (a Agent) Thaw() error {
	switch {
	case !Connected(a.Faults):
		return failed("Unfreeze", errAgentAbsent)
	case a.Faults[ThawAnnotation] == Fail && a.Guest.Frozen() != nil:
		return failed("Unfreeze", errThaw)
	}
	if err := a.Guest.Thaw(); err != nil {
		return failed("Unfreeze", err)
	}
	return nil
}

// noAnswer lasts until the handler's time limit or the end of the caller's patience.
func (a Agent) noAnswer(ctx context.Context) error {
	select {
	case <-a.Guest.clock.After(CommandTimeout):
	case <-ctx.Done():
	}
	return errors.New("unknown error encountered sending command Freeze: rpc error: code = DeadlineExceeded desc = context deadline exceeded")
}

func failed(command string, err error) error {
	return fmt.Errorf("server error. command %s failed: %q", command, err.Error())
}

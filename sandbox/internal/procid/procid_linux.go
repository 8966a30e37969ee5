// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package procid names processes so that a later one with the same number is not taken for them.
package procid

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity is a process, for ever.
type Identity struct {
	PID int `json:"pid"`
	// Started is the start time in clock ticks since boot (field 22 of /proc/<pid>/stat).
	Started uint64 `json:"started"`
}

// Of returns the identity of a running process.
func Of(pid int) (Identity, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Identity{}, err
	}
	// The command name, field 2, may hold spaces and parentheses; fields 3.. follow the last ')'.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const startTime = 22 - 3
	if len(fields) <= startTime {
		return Identity{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	started, err := strconv.ParseUint(fields[startTime], 10, 64)
	return Identity{PID: pid, Started: started}, err
}

// Alive says whether the process is still there.
func (id Identity) Alive() bool {
	now, err := Of(id.PID)
	return err == nil && now == id
}

// Wait returns when the process has ended. It need not be a child.
func (id Identity) Wait() error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Opened by number: it may be another process already.
	if !id.Alive() {
		return nil
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// ThawedBy says what ended a freeze.
type ThawedBy string

const (
	// ThawedByClient is an unfreeze request.
	ThawedByClient ThawedBy = "client"
	// ThawedByDeadline is the unfreezeTimeout of the freeze request.
	ThawedByDeadline ThawedBy = "deadline"
	// ThawedByShutdown is the end or reboot of the guest.
	ThawedByShutdown ThawedBy = "shutdown"
)

// Window is one freeze of a guest's file systems, one JSON line in the journal.
type Window struct {
	Namespace string `json:"namespace"`
	VM        string `json:"vm"`
	// UID of the VirtualMachineInstance.
	UID   string    `json:"uid"`
	Start time.Time `json:"start"`
	// TimeoutSeconds is the unfreezeTimeout of the request; 0 is none.
	TimeoutSeconds float64 `json:"timeoutSeconds"`
	// End is absent while the guest is frozen, and so are the fields below.
	End             *time.Time `json:"end,omitempty"`
	ThawedBy        ThawedBy   `json:"thawedBy,omitempty"`
	DurationSeconds float64    `json:"durationSeconds,omitempty"`
}

// Deadline is when the guest thaws by itself; meaningless without a timeout.
func (w *Window) Deadline() time.Time {
	return w.Start.Add(time.Duration(w.TimeoutSeconds * float64(time.Second)))
}

// Journal is the record of one VM's freezes: <dir>/freezes.jsonl with the past
// ones and <dir>/frozen.json while one is open, so that neither a restart of
// the stand-in nor of the VM loses one.
type Journal struct{ dir string }

// NewJournal keeps the journal of a VM below root; nothing is written yet.
func NewJournal(root, namespace, vm string) *Journal {
	return &Journal{dir: filepath.Join(root, namespace, vm)}
}

func (j *Journal) pastFile() string { return filepath.Join(j.dir, "freezes.jsonl") }
func (j *Journal) openFile() string { return filepath.Join(j.dir, "frozen.json") }

// Begin records a freeze that starts.
func (j *Journal) Begin(w Window) error {
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		return err
	}
	temporary := j.openFile() + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, j.openFile())
}

// Close records the end of a freeze.
func (j *Journal) Close(w Window, end time.Time, by ThawedBy) error {
	w.End, w.ThawedBy, w.DurationSeconds = &end, by, end.Sub(w.Start).Seconds()
	data, err := json.Marshal(w)
	if err != nil {
		return err
	}
	past, err := os.OpenFile(j.pastFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = past.Write(append(data, '\n'))
	if err := errors.Join(err, past.Close()); err != nil {
		return err
	}
	return os.Remove(j.openFile())
}

// Open returns the freeze that has no end yet, or nil.
func (j *Journal) Open() (*Window, error) {
	data, err := os.ReadFile(j.openFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := &Window{}
	if err := json.Unmarshal(data, w); err != nil {
		return nil, fmt.Errorf("%s: %w", j.openFile(), err)
	}
	return w, nil
}

// Windows returns all freezes, oldest first; the last one may be open.
func (j *Journal) Windows() ([]Window, error) {
	// The open one is read first: were it closed in between, it would show up among the past ones.
	open, err := j.Open()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(j.pastFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var windows []Window
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for scanner.Scan() {
		var w Window
		if err := json.Unmarshal(scanner.Bytes(), &w); err != nil {
			return nil, fmt.Errorf("%s: %w", j.pastFile(), err)
		}
		if open != nil && open.UID == w.UID && open.Start.Equal(w.Start) {
			open = nil
		}
		windows = append(windows, w)
	}
	if open != nil {
		windows = append(windows, *open)
	}
	return windows, scanner.Err()
}

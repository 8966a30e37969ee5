// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package vmbackup

import (
	"errors"
	"fmt"
)

// Reason is the stable, machine-readable cause of an Error. It decides the
// command's exit code and the HTTP status.
type Reason string

// The reasons.
const (
	ReasonNotFound            Reason = "NotFound"
	ReasonAlreadyExists       Reason = "AlreadyExists"
	ReasonConflict            Reason = "Conflict"
	ReasonForbidden           Reason = "Forbidden"
	ReasonInvalidRequest      Reason = "InvalidRequest"
	ReasonTargetUnavailable   Reason = "TargetUnavailable"
	ReasonTargetEmpty         Reason = "TargetEmpty"
	ReasonStorageUnsupported  Reason = "StorageUnsupported"
	ReasonSnapshotFailed      Reason = "SnapshotFailed"
	ReasonBackupFailed        Reason = "BackupFailed"
	ReasonFreezeFailed        Reason = "FreezeFailed"
	ReasonImageMissing        Reason = "ImageMissing"
	ReasonStorageClassMissing Reason = "StorageClassMissing"
	ReasonNetworkMissing      Reason = "NetworkMissing"
	ReasonQuotaExceeded       Reason = "QuotaExceeded"
	ReasonVMRunning           Reason = "VMRunning"
	ReasonSourceMismatch      Reason = "SourceMismatch"
	ReasonDataLost            Reason = "DataLost"
	ReasonDataDamaged         Reason = "DataDamaged"
	ReasonTimeout             Reason = "Timeout"
	ReasonCanceled            Reason = "Canceled"
	ReasonEngineUnavailable   Reason = "EngineUnavailable"
	ReasonInternal            Reason = "Internal"
)

// Error is a failure as it is told to the user.
type Error struct {
	Reason Reason `json:"reason"`
	// Message says what happened, naming the object, and what is safe now.
	Message string `json:"message"`
	// Hint says what to do next.
	Hint string `json:"hint,omitempty"`
	// Preflight is true when a check refused the request before anything was changed.
	Preflight bool `json:"preflight,omitempty"`

	err error
}

// Errorf returns an Error with a formatted message; %w wraps as in fmt.Errorf.
func Errorf(reason Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: reason, Message: err.Error(), err: errors.Unwrap(err)}
}

// WithHint returns the error with what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// AsPreflight returns the error as one that refused before any change.
func (e *Error) AsPreflight() *Error {
	c := *e
	c.Preflight = true
	return &c
}

// Error is the message without the hint.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the wrapped cause, if any.
func (e *Error) Unwrap() error { return e.err }

// AsError returns err as an *Error: the one it wraps, or one of the reason given
// with err's text. It returns nil for nil.
func AsError(err error, otherwise Reason) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if e.Error() == err.Error() {
			return e
		}
		c := *e
		c.Message, c.err = err.Error(), err
		return &c
	}
	return &Error{Reason: otherwise, Message: err.Error(), err: err}
}

// ReasonOf returns the reason of err, Internal when it carries none, "" for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	return AsError(err, ReasonInternal).Reason
}

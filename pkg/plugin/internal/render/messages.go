// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package render

import (
	"io"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Error writes an error as kubectl does, "error: ...", and what to do next as
// "hint: ...", one line each. It writes nothing for nil.
func Error(w io.Writer, err *vmbackup.Error, o Options) error {
	if err == nil {
		return nil
	}
	l := o.look()
	var out strings.Builder
	text := paragraphs(err.Message)
	if len(text) == 0 {
		text = []string{clean(string(err.Reason))}
	}
	said(&out, l.paint(red, "error:"), "error: ", strings.Join(text, " "), o)
	for _, hint := range paragraphs(err.Hint) {
		// Not wrapped: a hint is often a command to copy.
		out.WriteString(l.paint(cyan, "hint:") + " " + hint + "\n")
	}
	_, e := io.WriteString(w, out.String())
	return e
}

// Warnings writes one "warning: ..." a warning.
func Warnings(w io.Writer, warnings []string, o Options) error {
	l := o.look()
	var out strings.Builder
	for _, warning := range warnings {
		said(&out, l.paint(yellow, "warning:"), "warning: ", clean(warning), o)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// said writes text after its prefix; on a terminal it goes on under its own begin.
func said(out *strings.Builder, prefix, plainPrefix, text string, o Options) {
	width := 0
	if o.TTY {
		width = max(o.width()-len(plainPrefix), 24)
	}
	for i, line := range wrap(text, width) {
		if i == 0 {
			out.WriteString(prefix + " " + line + "\n")
			continue
		}
		out.WriteString(strings.Repeat(" ", len(plainPrefix)) + line + "\n")
	}
}

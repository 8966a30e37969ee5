// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package vmbackup is the domain of kubectl-vmbackup: what is asked for
// (requests), what exists (Backup, Restore), what would happen (Plan), what is
// happening (Event) and what went wrong (Error), with the interfaces that
// engines, catalogs and user interfaces meet at.
//
// It talks to no cluster, no target and no terminal, so that the command line,
// the HTTP handler and every engine can share it.
package vmbackup

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package spdk declares the only names that longhorn-manager uses of
// longhorn-spdk-engine. That module belongs to Longhorn's v2 data engine, which
// the sandbox does not run, and its pinned version cannot be had from a module
// proxy.
package spdk

// DiskState is the state of a v2 data engine's disk.
type DiskState string

// DiskStateReady is the state of a v2 disk that takes replicas.
const DiskStateReady = DiskState("ready")

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package harvester mirrors the kinds of Harvester by which it backs up, restores
// and schedules virtual machines and keeps their images, reads and writes them, and
// finds out whether a cluster is Harvester's.
//
// Source of the kinds: pkg/apis/harvesterhci.io/v1beta1 of github.com/harvester/harvester
// v1.8.2. The descriptions of machines and claims in them stay JSON, so that what
// this build does not know of KubeVirt survives.
//
// KubeVirt has kinds of the same names in groups of its own: everything here, and
// every hint for the user, names the whole group.
package harvester

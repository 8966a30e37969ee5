// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package harvester brings Harvester's backup and restore of virtual machines
// into a sandbox instance of the profile of that name.
//
// Real, unmodified and of the pinned release (sandbox/modules/harvester):
//
//   - the controllers of VirtualMachineBackup, of the metadata on the backup
//     target, of BackupBackingImage, of the backup target, of
//     VirtualMachineRestore, VirtualMachineImage, ScheduleVMBackup and of
//     VirtualMachines, with Harvester's settings, indexes and leader election;
//   - the admission webhook server with all its validators and mutators, which
//     makes its certificates and registers itself at kube-apiserver;
//   - the custom resource definitions of its chart, with its roles and classes.
//
// The process is ours: it calls the functions by which Harvester's own server
// registers these controllers, and leaves out the rest of it.
//
// Absent: Harvester's HTTP API and UI, Rancher, add-ons, upgrades, networks,
// node controllers, and the pods of its Deployments. Kinds of others that the
// webhooks read (Cluster API, Fleet, Rancher, networks, logging) exist with a
// schema that accepts everything, and are empty.
package harvester

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package metadata is what a backup leaves on the backup target beside the data:
// Harvester's description of a virtual machine, Harvester's description of an
// image, and the tool's own Record. It turns them into a Record and back, and
// trusts nothing that it reads: whoever can write to a backup target must not be
// able to make a restore do more than bring back a virtual machine.
//
// Harvester's formats are those of its release 1.8.2: the structs
// VirtualMachineBackupMetadata and VirtualMachineImageMetadata in
// pkg/controller/master/backup of github.com/harvester/harvester. They are
// mirrored here and not imported, so that a field of KubeVirt's that this build
// does not know survives.
package metadata

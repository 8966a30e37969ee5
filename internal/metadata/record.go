// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Record is everything that is known of one backup: what the tool says of it and
// the objects that the machine is made of. It is the content of the journal in
// the cluster and, beside Harvester's file, of the tool's own file on the target.
//
// Objects are kept as the API server wrote them, so that a field which this
// build of the tool does not know survives.
type Record struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Backup     vmbackup.Backup `json:"backup"`
	// Operation identifies one run of a backup through interrupts: a random
	// token that the names and labels of its objects carry.
	Operation string `json:"operation,omitempty"`
	// VM is the VirtualMachine.
	VM json.RawMessage `json:"vm"`
	// Claims are the PersistentVolumeClaims, one for each volume of the backup.
	Claims     []json.RawMessage `json:"claims,omitempty"`
	Secrets    []json.RawMessage `json:"secrets,omitempty"`
	ConfigMaps []json.RawMessage `json:"configMaps,omitempty"`
	// Others are further objects that the machine refers to.
	Others []json.RawMessage `json:"others,omitempty"`
	// State is what the engine must remember between two runs of the operation.
	// It is for the journal alone and is not written to the target.
	State json.RawMessage `json:"state,omitempty"`
}

// RecordKind is the kind of a Record.
const RecordKind = "BackupRecord"

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// unwarranted says why a Secret or ConfigMap is none that a restore may create,
// empty for one that it may. A backup's file can be written by whoever may write
// to the target, while the restore acts with its user's rights: a Secret that makes
// some controller act, rather than one that a guest reads, is not the machine's.
func unwarranted(m *metadata.Manifest) string {
	if m.Kind != "Secret" {
		return ""
	}
	var kind corev1.SecretType
	if raw := m.Fields["type"]; raw != nil && json.Unmarshal(raw, &kind) != nil {
		return "has a type that is no text"
	}
	switch kind {
	case corev1.SecretTypeServiceAccountToken:
		return "is the token of a ServiceAccount"
	case corev1.SecretTypeBootstrapToken:
		return "is a bootstrap token of the cluster"
	case journal.SecretType:
		return "is a record of another operation"
	case "helm.sh/release.v1":
		return "is a release of Helm"
	}
	return ""
}

// keepWarranted leaves out of a backup's record the Secrets and ConfigMaps that a
// restore does not create, and says which: those that the machine does not refer
// to, and those that are not for guests.
func keepWarranted(record *metadata.Record) (warnings []string, err error) {
	vm := &kubevirtv1.VirtualMachine{}
	if err := metadata.ReadObject(record.VM, vm); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in backup %s cannot be read: %w", record.Backup.Ref(), err)
	}
	if vm.Spec.Template == nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in backup %s has no template", record.Backup.Ref())
	}
	refs := capture.ReferencesOf(vm)
	for _, list := range []struct {
		objects *[]json.RawMessage
		names   []string
	}{{&record.Secrets, refs.Secrets}, {&record.ConfigMaps, refs.ConfigMaps}} {
		var kept []json.RawMessage
		for _, raw := range *list.objects {
			m, err := metadata.ParseManifest(raw)
			if err != nil {
				return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "an object of backup %s cannot be read: %w", record.Backup.Ref(), err)
			}
			why := unwarranted(m)
			if !slices.Contains(list.names, m.Metadata.Name) {
				why = "is not referred to by the machine"
			}
			if why == "" {
				kept = append(kept, raw)
				continue
			}
			warnings = append(warnings, fmt.Sprintf("%s %q of the backup %s, and is not restored", m.Kind, m.Metadata.Name, why))
		}
		*list.objects = kept
	}
	return warnings, nil
}

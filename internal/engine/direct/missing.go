// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restorable refuses a backup that is not whole, unless what there is of it was
// asked for, and one that is still being made in any case.
func restorable(b *vmbackup.Backup, allowIncomplete bool) error {
	if b.Status.Phase == vmbackup.PhaseReady && b.Status.Ready {
		return nil
	}
	reason := vmbackup.ReasonConflict
	hint := fmt.Sprintf("look at it with: kubectl vmbackup describe %s -n %s; restore what there is of it with --allow-incomplete", b.Metadata.Name, b.Metadata.Namespace)
	switch b.Status.Phase {
	case vmbackup.PhaseRunning, vmbackup.PhasePlanned:
		allowIncomplete = false
		hint = fmt.Sprintf("wait for it with: kubectl vmbackup watch %s -n %s", b.Metadata.Name, b.Metadata.Namespace)
	case vmbackup.PhaseFailed:
		reason = vmbackup.ReasonBackupFailed
	case vmbackup.PhaseIncomplete:
		reason = vmbackup.ReasonDataLost
	}
	if allowIncomplete {
		return nil
	}
	what := fmt.Sprintf("backup %s is %s, not Ready, and cannot be restored", b.Ref(), b.Status.Phase)
	if b.Status.Error != nil {
		what += ": " + b.Status.Error.Message
	}
	var volumes []string
	for _, v := range b.Status.Volumes {
		if v.State == vmbackup.StateFailed {
			volumes = append(volumes, v.Name)
		}
	}
	if len(volumes) > 0 {
		what += "; volumes that it does not hold: " + strings.Join(volumes, ", ")
	}
	return vmbackup.Errorf(reason, "%s", what).WithHint("%s", hint)
}

// leaveOut takes the volumes whose data is lost out of the backup, and says which
// and why. Without --allow-incomplete one of them is reason enough to refuse, and
// all of them are in any case: there would be nothing to restore.
func (d *destination) leaveOut(record *metadata.Record, allowIncomplete bool) (map[string]error, error) {
	if len(d.lost) == 0 {
		return nil, nil
	}
	backup := &record.Backup
	var first *vmbackup.Error
	var others []string
	for _, v := range backup.Status.Volumes {
		err := d.lost[v.Name]
		switch {
		case err == nil:
		case first == nil:
			first = vmbackup.AsError(err, vmbackup.ReasonDataLost)
		default:
			others = append(others, v.Name)
		}
	}
	all := len(others)+1 == len(backup.Status.Volumes)
	if allowIncomplete && !all {
		backup.Status.Volumes = slices.DeleteFunc(slices.Clone(backup.Status.Volumes), func(v vmbackup.BackupVolume) bool { return d.lost[v.Name] != nil })
		return d.lost, nil
	}
	what := first.Message
	if len(others) > 0 {
		what += "; the same goes for: " + strings.Join(others, ", ")
	}
	if all {
		return nil, vmbackup.Errorf(first.Reason, "nothing of the data of backup %s is left: %s", backup.Ref(), what).WithHint("%s", first.Hint)
	}
	return nil, vmbackup.Errorf(first.Reason, "%s", what).WithHint("%s; restore what is left of this one with --allow-incomplete", first.Hint)
}

// dropLost takes the volumes whose data is lost out of the machine, with their
// disks: what would be empty in there would be taken for the data.
func (e *editor) dropLost(n *renaming) {
	drop := func(path ...string) {
		parent := e.at(path[:len(path)-1]...)
		items, found := parent[path[len(path)-1]].([]any)
		if !found {
			return
		}
		parent[path[len(path)-1]] = slices.DeleteFunc(items, func(item any) bool {
			object, _ := item.(map[string]any)
			name, _ := object["name"].(string)
			return n.lost[name] != nil
		})
	}
	drop("spec", "template", "spec", "volumes")
	drop("spec", "template", "spec", "domain", "devices", "disks")
	drop("spec", "template", "spec", "domain", "devices", "filesystems")
	names := make([]string, 0, len(n.lost))
	for name := range n.lost {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e.warn("volume %q is left out of the machine: %v", name, n.lost[name])
	}
	if len(names) > 0 && n.startPolicy != vmbackup.StartYes {
		e.warn("the machine is not started, since it lacks disks; look at it, then start it with: virtctl start %s -n %s", n.to.Name, n.to.Namespace)
	}
}

// missingParts names the Secrets and ConfigMaps that the machine refers to and that
// are neither in the backup nor in the namespace: without them it does not start.
func (e *Engine) missingParts(ctx context.Context, vm json.RawMessage, n *renaming) ([]string, error) {
	machine := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(vm, machine); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in backup %s cannot be read: %w", n.backup, err)
	}
	if machine.Spec.Template == nil {
		return nil, nil // the API server says what is wrong with it
	}
	refs := capture.ReferencesOf(machine)
	var warnings []string
	for _, kind := range []struct {
		name   string
		wanted []string
		have   map[string]string
		read   func(ctx context.Context, namespace, name string) (*foundObject, error)
	}{
		{"Secret", refs.Secrets, n.secrets, e.readSecret},
		{"ConfigMap", refs.ConfigMaps, n.configMaps, e.readConfigMap},
	} {
		for _, name := range kind.wanted {
			if _, restored := kind.have[name]; restored {
				continue
			}
			there, err := kind.read(ctx, n.to.Namespace, name)
			if err != nil {
				return nil, err
			}
			if there == nil {
				warnings = append(warnings, fmt.Sprintf("%s %q, which the machine refers to, is not in the backup and not in namespace %s: the machine does not start until somebody makes it", kind.name, name, n.to.Namespace))
			}
		}
	}
	return warnings, nil
}

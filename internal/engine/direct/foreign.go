// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"fmt"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// ownDeletion refuses to delete what Harvester's controllers keep in this cluster,
// which is the other engine's matter: they remove the data themselves when their
// object is deleted, and would call a backup damaged whose data is taken from under it.
func ownDeletion(b *vmbackup.Backup) error {
	if b.Status.Engine != vmbackup.EngineHarvester || b.Status.FoundOn == string(vmbackup.SourceTarget) {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s is kept by Harvester, which removes its data with its object; nothing was deleted", b.Ref()).
		WithHint("delete it with: kubectl delete %s.%s %s -n %s", harvester.BackupResource, harvester.Group, b.Metadata.Name, b.Metadata.Namespace)
}

// described refuses a snapshot that Harvester keeps in the volumes, unless the restore
// is left to Harvester: what it hangs on is not known here.
func (e *Engine) described(record *metadata.Record) error {
	b := &record.Backup
	theirs := b.Status.Engine == vmbackup.EngineHarvester && b.Spec.Type == vmbackup.TypeSnapshot
	if len(record.VM) > 0 && (!theirs || e.delegate != nil) {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "backup %s is a snapshot that Harvester keeps in the volumes, and only Harvester can restore it", b.Ref()).
		WithHint("have Harvester restore it, in its namespace: without --engine, or with --engine %s; a backup of type backup can be restored in any way", vmbackup.EngineHarvester)
}

// startPatch gives a halted machine its run strategy. On Harvester an admission
// webhook puts in what this annotation says, or RerunOnFailure, instead of the
// strategy that is asked for.
func (e *Engine) startPatch(ctx context.Context, strategy kubevirtv1.VirtualMachineRunStrategy) ([]byte, error) {
	served, err := e.clients.Lookup.Serves(ctx, harvester.GroupVersion().WithResource(harvester.BackupResource))
	if err != nil {
		return nil, kube.Error(err, "ask for the kinds of", harvester.Group)
	}
	if !served {
		return fmt.Appendf(nil, `{"spec":{"runStrategy":%q}}`, strategy), nil
	}
	return fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}},"spec":{"runStrategy":%q}}`, harvester.RunStrategyAnnotation, strategy, strategy), nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// A restore in place gives a machine that exists its disks and specification of then.
// New claims are filled beside the old ones while the machine goes on; it is off only
// while its specification is exchanged, in one update. The old claims, and every
// Secret and config map that is there, stay as they are, so that there is a way back.

// inPlaceRecord is what a restore in place remembers of the machine that it changes.
type inPlaceRecord struct {
	// UID is the machine's: one of the same name is another machine.
	UID types.UID `json:"uid"`
	// Before is the machine as it was when the restore was planned.
	Before json.RawMessage `json:"before"`
	// Was is how the machine ran. What is planned is looked at again, and written
	// down, before the machine is stopped.
	Was runState `json:"was"`
	// Stopping is true from the moment in which the restore itself stops the machine.
	Stopping bool `json:"stopping,omitempty"`
	// Stop allows the machine to be stopped, DeleteOld the replaced claims to be deleted.
	Stop      bool                 `json:"stop,omitempty"`
	DeleteOld bool                 `json:"deleteOld,omitempty"`
	Start     vmbackup.StartPolicy `json:"start"`
	// Old are the claims that the machine had.
	Old []oldClaim `json:"old,omitempty"`
	// OldState is the claim with the machine's persistent state (TPM, EFI), where the
	// backup has one too.
	OldState string `json:"oldState,omitempty"`
}

// runState is how a machine runs.
type runState struct {
	Strategy kubevirtv1.VirtualMachineRunStrategy `json:"strategy"`
	// Deprecated is true where spec.running said it, not spec.runStrategy.
	Deprecated bool `json:"deprecated,omitempty"`
	// Ran is true when an instance of the machine was there.
	Ran bool `json:"ran,omitempty"`
}

// oldClaim is one claim that a machine had before it was restored in place.
type oldClaim struct {
	Volume string `json:"volume"`
	Claim  string `json:"claim"`
	// UID is empty for a claim that did not exist.
	UID types.UID `json:"uid,omitempty"`
	// Replaced is the claim that takes its place; empty where the backup has none.
	Replaced string `json:"replaced,omitempty"`
}

// check refuses what no restore in place would have written of the machine.
func (r *inPlaceRecord) check(namespace, name string, volumes []vmbackup.RestoreVolume) error {
	made := map[string]bool{"": true}
	for _, v := range volumes {
		made[v.PVC] = true
	}
	state := r.OldState == ""
	for i, c := range r.Old {
		switch {
		case !isName(c.Claim) || made[c.Claim]:
			return fmt.Errorf("old[%d].claim %q is not valid", i, c.Claim)
		case !metadata.IsStoreName(c.Volume):
			return fmt.Errorf("old[%d].volume %q is not valid", i, c.Volume)
		case !made[c.Replaced]:
			return fmt.Errorf("old[%d].replaced %q is no claim of the restore", i, c.Replaced)
		}
		state = state || c.Claim == r.OldState
	}
	switch {
	case r.UID == "":
		return errors.New("uid is missing")
	case !knownStrategy(r.Was.Strategy):
		return fmt.Errorf("was.strategy %q is not known", r.Was.Strategy)
	case r.Start != vmbackup.StartAuto && r.Start != vmbackup.StartYes && r.Start != vmbackup.StartNo:
		return fmt.Errorf("start %q is not known", r.Start)
	case !state:
		return fmt.Errorf("oldState %q is none of the old claims", r.OldState)
	}
	before, clean, err := manifestIn(r.Before, namespace)
	if err != nil {
		return fmt.Errorf("before: %w", err)
	}
	if before.Kind != "VirtualMachine" || before.Metadata.Name != name {
		return fmt.Errorf("before: %s %q is not VirtualMachine %q", before.Kind, before.Metadata.Name, name)
	}
	r.Before = clean
	return nil
}

// replaced are the claims that another one takes the place of, and that exist.
func (r *inPlaceRecord) replaced() []oldClaim {
	var list []oldClaim
	for _, c := range r.Old {
		if c.Replaced != "" && c.UID != "" {
			list = append(list, c)
		}
	}
	return list
}

// strategy is the run strategy that the restored machine gets.
func (r *inPlaceRecord) strategy() kubevirtv1.VirtualMachineRunStrategy {
	switch {
	case r.Start == vmbackup.StartNo:
		return kubevirtv1.RunStrategyHalted
	case r.Start == vmbackup.StartYes && r.Was.Strategy == kubevirtv1.RunStrategyHalted:
		return kubevirtv1.RunStrategyAlways
	}
	return r.Was.Strategy
}

// startsByHand reports whether the machine has to be started as a user does it,
// since its run strategy alone leaves it off.
func (r *inPlaceRecord) startsByHand() bool {
	return r.strategy() == kubevirtv1.RunStrategyManual && (r.Was.Ran || r.Start == vmbackup.StartYes)
}

// liveMachine is a machine as it is in the cluster: typed, and as JSON in which
// fields that this build does not know survive.
type liveMachine struct {
	kubevirtv1.VirtualMachine
	object map[string]any
}

// readMachine reads a machine.
func (e *Engine) readMachine(ctx context.Context, ref vmbackup.Ref) (*liveMachine, error) {
	raw, err := e.clients.VMs.Get(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	m := &liveMachine{}
	if err := json.Unmarshal(raw, &m.VirtualMachine); err != nil {
		return nil, fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	if err := json.Unmarshal(raw, &m.object); err != nil {
		return nil, fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	if m.Spec.Template == nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "VirtualMachine %s has no template", ref)
	}
	return m, nil
}

// runs is how the machine runs, its instance aside.
func (m *liveMachine) runs() runState {
	switch {
	case m.Spec.RunStrategy != nil:
		return runState{Strategy: *m.Spec.RunStrategy}
	case m.Spec.Running != nil && *m.Spec.Running:
		return runState{Strategy: kubevirtv1.RunStrategyAlways, Deprecated: true}
	}
	return runState{Strategy: kubevirtv1.RunStrategyHalted, Deprecated: m.Spec.Running != nil}
}

// swappedBy reports whether the restore with that token has exchanged the machine's disks.
func (m *liveMachine) swappedBy(operation string) bool {
	return m.Annotations[LabelOperation] == operation
}

// runPatch is the merge patch that has a machine run so, if it still is at the
// version and the one with the UID.
func (s runState) runPatch(m *liveMachine, annotations map[string]any) ([]byte, error) {
	spec := map[string]any{"running": nil, "runStrategy": s.Strategy}
	if s.Deprecated {
		spec = map[string]any{"running": s.Strategy == kubevirtv1.RunStrategyAlways, "runStrategy": nil}
	}
	metadata := map[string]any{"uid": m.UID, "resourceVersion": m.ResourceVersion}
	if annotations != nil {
		metadata["annotations"] = annotations
	}
	return json.Marshal(map[string]any{"metadata": metadata, "spec": spec})
}

// exchanged is the machine with the specification of the manifest: the object stays
// the same one, with its UID, its owners and what others have written to its
// metadata, and gets the labels and annotations of the manifest beside them.
func (m *liveMachine) exchanged(manifest json.RawMessage) (json.RawMessage, error) {
	var restored map[string]any
	if err := json.Unmarshal(manifest, &restored); err != nil {
		return nil, err
	}
	object := map[string]any{}
	for key, value := range m.object {
		object[key] = value
	}
	metadata := map[string]any{}
	have, _ := m.object["metadata"].(map[string]any)
	for key, value := range have {
		metadata[key] = value
	}
	of, _ := restored["metadata"].(map[string]any)
	for _, key := range []string{"labels", "annotations"} {
		merged := map[string]any{}
		for _, from := range []map[string]any{have, of} {
			values, _ := from[key].(map[string]any)
			for k, v := range values {
				merged[k] = v
			}
		}
		metadata[key] = merged
	}
	object["metadata"], object["spec"] = metadata, restored["spec"]
	delete(object, "status")
	return json.Marshal(object)
}

// goBack is the command that gives the machine its old disks again, as they are now,
// empty where there are none.
func (r *restoreRecord) goBack() string {
	vm := &kubevirtv1.VirtualMachine{}
	if r.InPlace == nil || json.Unmarshal(r.VM, vm) != nil || vm.Spec.Template == nil {
		return ""
	}
	old := map[string]string{}
	for _, c := range r.InPlace.replaced() {
		old[c.Replaced] = c.Claim
	}
	var patch []map[string]any
	for i, v := range vm.Spec.Template.Spec.Volumes {
		claim := capture.ClaimOf(v)
		if old[claim] == "" {
			continue
		}
		patch = append(patch, map[string]any{
			"op": "replace", "path": fmt.Sprintf("/spec/template/spec/volumes/%d", i),
			"value": map[string]any{"name": v.Name, "persistentVolumeClaim": map[string]any{"claimName": old[claim]}},
		})
	}
	text, err := json.Marshal(patch)
	if err != nil || len(patch) == 0 {
		return ""
	}
	return fmt.Sprintf("kubectl patch virtualmachines.kubevirt.io %s -n %s --type json -p '%s'", r.Restore.Spec.TargetName, r.Restore.Spec.TargetNamespace, text)
}

// removeOldCommand is the command that removes replaced claims.
func removeOldCommand(namespace string, claims []string) string {
	return fmt.Sprintf("kubectl delete persistentvolumeclaims %s -n %s", strings.Join(claims, " "), namespace)
}

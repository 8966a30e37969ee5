// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findInPlace finds the machine that a restore in place is to change, and refuses
// where it is another one or in a state in which nobody should change it.
func (e *Engine) findInPlace(ctx context.Context, ref vmbackup.Ref, backup *vmbackup.Backup, req vmbackup.RestoreRequest) (*liveMachine, *inPlaceRecord, error) {
	m, err := e.readMachine(ctx, ref)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no VirtualMachine %s that could be restored in place", ref).
			WithHint("a machine that is gone is brought back without --in-place: kubectl vmbackup restore %s -n %s", req.Backup.Name, req.Backup.Namespace)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := sameSource(m, backup); err != nil {
		return nil, nil, err
	}
	vmi, err := e.instance(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if err := m.checkState(vmi); err != nil {
		return nil, nil, err
	}
	if runs := runs(vmi) || m.runs().Strategy == kubevirtv1.RunStrategyAlways; runs && !req.Stop {
		return nil, nil, vmRunning(ref, "").WithHint("let the restore stop it, once the data of its new disks is there: run the same command with --stop")
	}
	if err := e.notAtWork(ctx, ref); err != nil {
		return nil, nil, err
	}
	before, err := metadata.Sanitize(mustJSON(m.object))
	if err != nil {
		return nil, nil, fmt.Errorf("VirtualMachine %s: %w", ref, err)
	}
	was := m.wasBefore()
	was.Ran = was.Ran || runs(vmi)
	return m, &inPlaceRecord{UID: m.UID, Before: before, Was: was, Stop: req.Stop, DeleteOld: req.DeleteOldVolumes, Start: req.Start}, nil
}

// sameSource refuses a machine that is not the one which the backup is of.
func sameSource(m *liveMachine, backup *vmbackup.Backup) error {
	ref, uid := vmbackup.Ref{Namespace: m.Namespace, Name: m.Name}, backup.Status.SourceUID
	hint := fmt.Sprintf("restore the backup beside it with --to-name NAME; or, if VirtualMachine %s is not needed any more, delete it and restore without --in-place", ref)
	switch {
	case uid == "":
		return vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "backup %s does not say which machine it is of (its UID), so VirtualMachine %s may be another one of the same name; nothing was changed", backup.Ref(), ref).WithHint("%s", hint)
	case string(m.UID) != uid:
		return vmbackup.Errorf(vmbackup.ReasonSourceMismatch, "VirtualMachine %s is not the machine that backup %s is of, but another one of the same name: its UID is %s, and that of the backup's machine was %s; nothing was changed", ref, backup.Ref(), m.UID, uid).WithHint("%s", hint)
	}
	return nil
}

// instance is the machine's VirtualMachineInstance, nil where there is none.
func (e *Engine) instance(ctx context.Context, ref vmbackup.Ref) (*kubevirtv1.VirtualMachineInstance, error) {
	vmi, err := e.clients.KubeVirt.KubevirtV1().VirtualMachineInstances(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return vmi, kube.Error(err, "read", "VirtualMachineInstance "+ref.String())
}

// runs reports whether an instance is there that has not ended.
func runs(vmi *kubevirtv1.VirtualMachineInstance) bool { return vmi != nil && !vmi.IsFinal() }

// checkState refuses a machine that goes, moves, or is at work on its own disks.
func (m *liveMachine) checkState(vmi *kubevirtv1.VirtualMachineInstance) error {
	why := ""
	switch {
	case m.DeletionTimestamp != nil:
		why = "is being deleted"
	case m.Status.SnapshotInProgress != nil:
		why = "is being snapshotted by KubeVirt (" + *m.Status.SnapshotInProgress + ")"
	case m.Status.RestoreInProgress != nil:
		why = "is being restored by KubeVirt (" + *m.Status.RestoreInProgress + ")"
	case m.runs().Strategy == kubevirtv1.RunStrategyWaitAsReceiver:
		why = "waits for a machine that moves in from another cluster (run strategy WaitAsReceiver)"
	case runs(vmi) && vmi.Status.MigrationState != nil && !vmi.Status.MigrationState.Completed && !vmi.Status.MigrationState.Failed:
		why = "is moving to another node"
	}
	if why == "" {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "VirtualMachine %s/%s %s; nothing was changed", m.Namespace, m.Name, why).
		WithHint("wait until that is over, then run the same command again")
}

func vmRunning(ref vmbackup.Ref, since string) *vmbackup.Error {
	return vmbackup.Errorf(vmbackup.ReasonVMRunning, "VirtualMachine %s runs%s, and its disks can be exchanged only while it is off", ref, since)
}

// notAtWork refuses while another operation is at work on the machine.
func (e *Engine) notAtWork(ctx context.Context, ref vmbackup.Ref) error {
	for _, kind := range []journal.Kind{journal.KindBackup, journal.KindRestore} {
		entries, err := e.journal.List(ctx, journal.ListOptions{Kind: kind, Namespace: ref.Namespace, Labels: map[string]string{journal.LabelVM: ref.Name}})
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if phase := vmbackup.Phase(entry.Labels[journal.LabelPhase]); phase.Done() {
				continue
			}
			name := operationName(kind, entry.Ref.Name)
			return vmbackup.Errorf(vmbackup.ReasonConflict, "%s %s of VirtualMachine %s is under way; nothing was changed", kind, entry.Ref, ref).
				WithHint("wait for it with: kubectl vmbackup watch %s -n %s; or, when nobody runs it any more, finish it with 'resume' or give it up with 'cancel'", name, ref.Namespace)
		}
	}
	return nil
}

// planInPlace completes the plan of a restore in place: what becomes of the machine
// and of the claims that it has.
func (e *Engine) planInPlace(ctx context.Context, restore *restoreRecord, m *liveMachine, ip *inPlaceRecord, n *renaming, objects []vmbackup.PlannedObject) ([]vmbackup.PlannedObject, error) {
	restore.InPlace, restore.Restore.Spec.Mode = ip, vmbackup.ModeInPlace
	restore.RunStrategy, restore.StartByHand = ip.strategy(), ip.startsByHand()
	replaces := map[string]string{}
	for _, v := range restore.Restore.Status.Volumes {
		replaces[v.Name] = v.PVC
	}
	for _, c := range capture.ReferencesOf(&m.VirtualMachine).Claims {
		ip.Old = append(ip.Old, oldClaim{Volume: c.Volume, Claim: c.Claim, Replaced: replaces[c.Volume]})
	}
	if restore.StateClaim != "" {
		if err := e.planState(ctx, restore, m); err != nil {
			return nil, err
		}
	}
	for i := range ip.Old {
		claim, err := e.clients.Core.CoreV1().PersistentVolumeClaims(m.Namespace).Get(ctx, ip.Old[i].Claim, metav1.GetOptions{})
		if err == nil {
			ip.Old[i].UID = claim.UID
		} else if !apierrors.IsNotFound(err) {
			return nil, kube.Error(err, "read", "PersistentVolumeClaim "+m.Namespace+"/"+ip.Old[i].Claim)
		}
	}
	if err := e.notShared(ctx, m, ip); err != nil {
		return nil, err
	}
	if ip.DeleteOld {
		if err := e.noSnapshotsIn(ctx, m.Namespace, ip.replaced()); err != nil {
			return nil, err
		}
	}
	restore.Restore.Status.Warnings = append(restore.Restore.Status.Warnings, ip.warnings()...)
	return ip.objects(restore, n, objects), nil
}

// planState takes KubeVirt's label from the restored claim of the persistent state:
// the machine finds the claim by it, and must not before its disks are exchanged.
func (e *Engine) planState(ctx context.Context, restore *restoreRecord, m *liveMachine) error {
	for i := range restore.Claims {
		if restore.Claims[i].Name == restore.StateClaim {
			delete(restore.Claims[i].Labels, labelPersistentState)
		}
	}
	old, err := capture.StateClaim(ctx, e.clients, &m.VirtualMachine)
	if err != nil || old == nil {
		return err
	}
	restore.InPlace.OldState = old.Claim
	restore.InPlace.Old = append(restore.InPlace.Old, oldClaim{Volume: old.Volume, Claim: old.Claim, Replaced: restore.StateClaim})
	return nil
}

// warnings tell what the machine has and will not have any more.
func (r *inPlaceRecord) warnings() []string {
	var list []string
	for _, c := range r.Old {
		if c.Replaced == "" {
			list = append(list, fmt.Sprintf("volume %s (PersistentVolumeClaim %s) of the machine is not in the backup: it is not attached any more, and the claim stays", c.Volume, c.Claim))
		}
	}
	return list
}

// objects makes of the plan of a new machine that of one which is changed.
func (r *inPlaceRecord) objects(restore *restoreRecord, n *renaming, planned []vmbackup.PlannedObject) []vmbackup.PlannedObject {
	namespace := restore.Restore.Spec.TargetNamespace
	renamed := map[string]string{}
	for kind, names := range map[string]map[string]string{"Secret": n.secrets, "ConfigMap": n.configMaps} {
		for from, to := range names {
			if from != to {
				renamed[kind+to] = from
			}
		}
	}
	for i := range planned {
		o := &planned[i]
		if o.Kind == "VirtualMachine" {
			o.Action, o.Note = vmbackup.ActionUpdate, r.machineNote()
		}
		if from := renamed[o.Kind+o.Name]; from != "" {
			o.Note = "its content of then; " + from + " has another one now and stays as it is"
		}
	}
	for _, c := range r.Old {
		o := vmbackup.PlannedObject{Action: vmbackup.ActionUse, APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: namespace, Name: c.Claim}
		switch {
		case c.UID == "":
			continue
		case c.Replaced == "":
			o.Note = "not in the backup: not attached any more, and kept"
		case r.DeleteOld && r.starts():
			o.Action, o.Note = vmbackup.ActionDelete, "replaced by "+c.Replaced+"; once the restored machine was seen running"
		default:
			o.Note = "replaced by " + c.Replaced + ", and kept"
		}
		planned = append(planned, o)
	}
	return planned
}

// starts reports whether the restored machine is started.
func (r *inPlaceRecord) starts() bool {
	s := r.strategy()
	return s != kubevirtv1.RunStrategyHalted && (s != kubevirtv1.RunStrategyManual || r.startsByHand())
}

func (r *inPlaceRecord) machineNote() string {
	note := "disks and specification of then"
	if r.Was.Ran || r.Was.Strategy != kubevirtv1.RunStrategyHalted {
		note = "stopped, " + note
	}
	if r.starts() {
		return note + ", started with run strategy " + string(r.strategy())
	}
	return note + ", left off"
}

// notShared refuses where another machine or a pod uses a claim that is to be replaced.
func (e *Engine) notShared(ctx context.Context, m *liveMachine, ip *inPlaceRecord) error {
	used, err := e.usersOf(ctx, m.Namespace, m.Name, func(claim string) bool {
		return slices.ContainsFunc(ip.Old, func(c oldClaim) bool { return c.Claim == claim && c.Replaced != "" })
	})
	if err != nil || len(used) == 0 {
		return err
	}
	return vmbackup.Errorf(vmbackup.ReasonConflict, "VirtualMachine %s/%s shares disks, and restoring it in place would part them: %s; nothing was changed", m.Namespace, m.Name, strings.Join(used, "; ")).
		WithHint("restore the backup beside the machine with --to-name NAME, or detach the disk there first")
}

// usersOf are, in words, the machines and pods of a namespace, beside one machine and
// its own pods, that use one of the claims. A user who may not list pods is told
// of machines alone.
func (e *Engine) usersOf(ctx context.Context, namespace, except string, claim func(string) bool) ([]string, error) {
	var used []string
	machines, err := e.clients.KubeVirt.KubevirtV1().VirtualMachines(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, kube.Error(err, "list", "VirtualMachines in namespace "+namespace)
	}
	for i := range machines.Items {
		vm := &machines.Items[i]
		if vm.Name == except || vm.Spec.Template == nil {
			continue
		}
		for _, c := range capture.ReferencesOf(vm).Claims {
			if claim(c.Claim) {
				used = append(used, fmt.Sprintf("VirtualMachine %s uses PersistentVolumeClaim %s", vm.Name, c.Claim))
			}
		}
	}
	pods, err := e.clients.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return used, nil
	}
	if err != nil {
		return nil, kube.Error(err, "list", "Pods in namespace "+namespace)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || ofMachine(pod) {
			continue
		}
		for _, v := range pod.Spec.Volumes {
			if v.PersistentVolumeClaim != nil && claim(v.PersistentVolumeClaim.ClaimName) {
				used = append(used, fmt.Sprintf("Pod %s uses PersistentVolumeClaim %s", pod.Name, v.PersistentVolumeClaim.ClaimName))
			}
		}
	}
	return used, nil
}

// ofMachine reports whether a pod is KubeVirt's for a machine: the machines
// themselves are looked at.
func ofMachine(pod *corev1.Pod) bool { return pod.Labels[kubevirtv1.AppLabel] != "" }

// noSnapshotsIn refuses to delete claims in whose volumes snapshots live, which would
// go with them: those of a backup of type snapshot, or of anybody else.
func (e *Engine) noSnapshotsIn(ctx context.Context, namespace string, claims []oldClaim) error {
	snapshots, err := e.clients.Snapshot.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return kube.Error(err, "list", "VolumeSnapshots in namespace "+namespace)
	}
	for i := range snapshots.Items {
		s := &snapshots.Items[i]
		source := s.Spec.Source.PersistentVolumeClaimName
		if source == nil || s.Status == nil || s.Status.BoundVolumeSnapshotContentName == nil || !slices.ContainsFunc(claims, func(c oldClaim) bool { return c.Claim == *source }) {
			continue
		}
		content, err := e.clients.Snapshot.SnapshotV1().VolumeSnapshotContents().Get(ctx, *s.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return kube.Error(err, "read", "VolumeSnapshotContent "+*s.Status.BoundVolumeSnapshotContentName)
		}
		if content.Status == nil || content.Status.SnapshotHandle == nil || !strings.HasPrefix(*content.Status.SnapshotHandle, "snap://") {
			continue
		}
		what := "VolumeSnapshot " + s.Name
		if backup := s.Annotations[LabelBackup]; backup != "" {
			what = "backup " + backup + " (of type snapshot)"
		}
		return vmbackup.Errorf(vmbackup.ReasonConflict, "%s lives in the volume of PersistentVolumeClaim %s/%s and would be lost with it; nothing was changed", what, namespace, *source).
			WithHint("keep the old volumes: run the same command without --delete-old-volumes; or delete the snapshot first")
	}
	return nil
}

// judgeSwap has the API server judge the exchange, as a dry run. Its version may have
// moved on: a machine that runs is written to by its controllers.
func (e *Engine) judgeSwap(ctx context.Context, restore *restoreRecord) error {
	ref := vmbackup.Ref{Namespace: restore.Restore.Spec.TargetNamespace, Name: restore.Restore.Spec.TargetName}
	for range conflictLimit {
		m, err := e.readMachine(ctx, ref)
		if err != nil {
			return err
		}
		manifest, err := m.exchanged(restore.VM)
		if err != nil {
			return err
		}
		err = e.clients.VMs.Update(ctx, ref.Namespace, ref.Name, manifest, true)
		if !apierrors.IsConflict(err) {
			return kube.Error(err, "update", "VirtualMachine "+ref.String())
		}
	}
	return nil // judged again when it is done
}

// inPlaceRights are the rights that a restore in place needs beside those of any restore.
func inPlaceRights(restore *restoreRecord) []right {
	namespace := restore.Restore.Spec.TargetNamespace
	rights := []right{
		{"watch", "kubevirt.io", "virtualmachineinstances", namespace},
		// What was made is removed again where the restore cannot be done.
		{"delete", "", "persistentvolumeclaims", namespace},
		{"delete", "", "secrets", namespace},
	}
	if len(restore.ConfigMaps) > 0 {
		rights = append(rights, right{"delete", "", "configmaps", namespace})
	}
	if len(restore.Revisions) > 0 {
		rights = append(rights, right{"delete", "apps", "controllerrevisions", namespace})
	}
	if was := restore.InPlace.Was; was.Ran && was.Strategy == kubevirtv1.RunStrategyManual {
		// Also where nothing comes of the restore.
		rights = append(rights, right{"update", "subresources.kubevirt.io", "virtualmachines/start", namespace})
	}
	if restore.InPlace.OldState != "" {
		rights = append(rights, right{"patch", "", "persistentvolumeclaims", namespace})
	}
	return rights
}

// mustJSON encodes what was decoded from JSON.
func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("JSON that was read cannot be written: %v", err))
	}
	return raw
}

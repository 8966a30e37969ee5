// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/longhorn"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Evidence is what Longhorn and the settings tell of the backups of a cluster.
// Harvester calls a backup ready once its snapshots are, whatever became of their
// uploads and of the images below them.
type Evidence struct {
	// Now is the time; zero makes every error of Harvester's a lasting one.
	Now time.Time
	// Target is the backup target that is set now; nil when there is none.
	Target *Target
	// TargetName is the name of Longhorn's BackupTarget that Harvester uses.
	TargetName string
	// Backups are Longhorn's, by name; Images its backups of backing images, by image.
	Backups map[string]*longhornv1.Backup
	Images  map[string]*longhornv1.BackupBackingImage
	// Snapshots are the UIDs of VolumeSnapshots by their names, of volumes whose Longhorn
	// backup Harvester does not name: its event of it comes late, and sometimes never.
	Snapshots map[string]string
	// Unseen says why target, Backups and Images could not be looked at; empty when they were.
	Unseen string
}

// View is the backup as the tool shows it. It is Ready only when every part of it
// was seen; a part that could not be looked at makes it Unknown, a missing one
// Incomplete.
func (b *VirtualMachineBackup) View(e Evidence) *vmbackup.Backup {
	v := vmbackup.NewBackup(vmbackup.Ref{Namespace: b.Namespace, Name: b.Name})
	v.Spec = vmbackup.BackupSpec{VM: b.Spec.Source.Name, Type: vmbackup.BackupType(cmp.Or(b.Spec.Type, TypeBackup))}
	s := &v.Status
	s.Engine, s.FoundOn = vmbackup.EngineHarvester, string(vmbackup.SourceCluster)
	b.noted(v)
	if b.Status.SourceSpec != nil {
		v.Metadata.Labels = maps.Clone(b.Status.SourceSpec.ObjectMeta.Labels)
	}
	if b.Status.SourceUID != nil {
		s.SourceUID = string(*b.Status.SourceUID)
	}
	if b.Status.SourceUID != nil || b.Status.SourceSpec == nil {
		// A backup that was found on the target was created here at its discovery, and
		// had its machine from the start.
		s.StartedAt = moment(b.CreationTimestamp.Time)
	}
	if b.Annotations[freezeAnnotation] == "true" && s.Consistency == "" {
		s.Consistency = vmbackup.ConsistencyCrash
	}
	if v.Spec.Type == vmbackup.TypeBackup {
		v.Spec.Target = e.TargetName
	}
	for _, secret := range b.Status.SecretBackups {
		s.Secrets = append(s.Secrets, vmbackup.KeyedObject{Name: secret.Name, Keys: slices.Sorted(maps.Keys(secret.Data))})
	}
	p := &parts{lasts: b.lasts(e.Now)}
	for _, volume := range b.volumes() {
		s.Volumes = append(s.Volumes, volume.view(v.Spec.Type, e, p))
	}
	s.Images = p.imageViews(e)
	b.judge(v, e, p)
	if b.DeletionTimestamp != nil {
		s.Warnings = append(s.Warnings, "it is being deleted")
	}
	return v
}

// freezeAnnotation says that Harvester has frozen the guest for one second before it
// asked for the snapshot of each volume, one after the other. It does not wait for
// the snapshots, so that the content is promised to be no better than after a power cut.
const freezeAnnotation = "harvesterhci.io/snapshotFreezeFS"

// unnamedFor is how long Harvester may take to name a Longhorn backup that it calls ready.
const unnamedFor = time.Minute

// lasts reports whether what is missing of a backup that Harvester calls ready has
// been missing for long enough to be told as such.
func (b *VirtualMachineBackup) lasts(now time.Time) bool {
	ready, _ := FindCondition(b.Status.Conditions, ConditionReady)
	since, err := time.Parse(time.RFC3339, ready.LastUpdateTime)
	return now.IsZero() || err != nil || now.Sub(since) >= unnamedFor
}

// noted takes over what the tool has noted on an object that it has made. Anybody may
// have written there: what is none of the known words is left.
func (b *VirtualMachineBackup) noted(v *vmbackup.Backup) {
	switch q := vmbackup.Quiesce(b.Annotations[AnnotationQuiesce]); q {
	case vmbackup.QuiesceAuto, vmbackup.QuiesceRequire, vmbackup.QuiesceSkip:
		v.Spec.Quiesce = q
	}
	switch c := vmbackup.Consistency(b.Annotations[AnnotationConsistency]); c {
	case vmbackup.ConsistencyApplication, vmbackup.ConsistencyCrash, vmbackup.ConsistencyOffline:
		v.Status.Consistency = c
	}
}

// parts collects what speaks against Ready.
type parts struct {
	missing, unseen, running []string
	images                   map[string]bool
	// lasts is whether what is missing counts by now.
	lasts bool
}

// judge sets phase, times, error and warnings.
func (b *VirtualMachineBackup) judge(v *vmbackup.Backup, e Evidence, p *parts) {
	s := &v.Status
	ready, known := FindCondition(b.Status.Conditions, ConditionReady)
	described, _ := FindCondition(b.Status.Conditions, ConditionMetadataReady)
	progress, _ := FindCondition(b.Status.Conditions, ConditionInProgress)
	said := b.Status.Error.Text()
	switch {
	case known && ready.Status == corev1.ConditionTrue:
		b.judgeReady(v, e, p, described)
		s.CompletedAt = b.completed(ready, described, v.Spec.Type)
		if said != "" {
			s.Warnings = append(s.Warnings, "Harvester keeps the text of an error that is over: "+said)
		}
	case isTrue(b.Status.ReadyToUse) || ready.Message == notReadyAnyMore:
		why := cmp.Or(ready.Reason, ready.Message, "it does not say why")
		s.Phase = vmbackup.PhaseIncomplete
		s.Error = vmbackup.Errorf(vmbackup.ReasonDataLost, "backup %s was ready and Harvester calls it not ready any more: %s", v.Ref(), why).
			WithHint("look at the backup target and at: kubectl describe %s.%s %s -n %s", BackupResource, Group, b.Name, b.Namespace)
	case progress.Status == corev1.ConditionFalse && progress.Reason == "Error" && uploading(s.Volumes):
		// CSI gives up waiting after a while, and Longhorn goes on.
		s.Phase = vmbackup.PhaseRunning
		s.Warnings = append(s.Warnings, "Harvester reports an error while Longhorn still uploads: "+cmp.Or(said, progress.Message))
	case progress.Status == corev1.ConditionFalse && progress.Reason == "Error" && !stands(progress, e.Now):
		s.Phase = vmbackup.PhaseRunning
		s.Warnings = append(s.Warnings, "Harvester met an error and tries again: "+cmp.Or(said, progress.Message))
	case progress.Status == corev1.ConditionFalse && progress.Reason == "Error":
		reason := vmbackup.ReasonBackupFailed
		if v.Spec.Type == vmbackup.TypeSnapshot {
			reason = vmbackup.ReasonSnapshotFailed
		}
		s.Phase = vmbackup.PhaseFailed
		s.Error = vmbackup.Errorf(reason, "Harvester could not make backup %s: %s", v.Ref(), cmp.Or(said, progress.Message)).
			WithHint("Harvester tries again by itself, with growing pauses; the events say more: kubectl describe %s.%s %s -n %s", BackupResource, Group, b.Name, b.Namespace)
	default:
		s.Phase = vmbackup.PhaseRunning
		if said != "" {
			s.Warnings = append(s.Warnings, "an earlier attempt of Harvester's failed: "+said)
		}
	}
}

// uploading reports whether Longhorn uploads a volume, and has not failed with one.
func uploading(volumes []vmbackup.BackupVolume) bool {
	some := false
	for i := range volumes {
		switch v := &volumes[i]; {
		case v.State == vmbackup.StateFailed:
			return false
		case v.State == vmbackup.StateRunning && v.LonghornBackup != "":
			some = true
		}
	}
	return some
}

// notReadyAnyMore is Harvester's message of a backup whose data it does not find any more.
const notReadyAnyMore = "Change back to non-ready"

// judgeReady looks behind Harvester's Ready.
func (b *VirtualMachineBackup) judgeReady(v *vmbackup.Backup, e Evidence, p *parts, described Condition) {
	s := &v.Status
	s.Phase, s.Ready = vmbackup.PhaseReady, true
	if v.Spec.Type == vmbackup.TypeSnapshot {
		return
	}
	s.Metadata = vmbackup.MetadataStatus{Path: metadata.HarvesterBackupKey(v.Ref()), State: vmbackup.StateReady}
	if described.Status != corev1.ConditionTrue {
		s.Metadata.State = vmbackup.StatePending
		p.running = append(p.running, "its description is not on the target yet")
	}
	if e.Unseen == "" && !e.Target.Same(b.Status.BackupTarget) {
		p.unseen = append(p.unseen, "it lies on another backup target than the one that is set now")
	}
	switch {
	case len(p.missing) > 0:
		s.Phase, s.Ready = vmbackup.PhaseIncomplete, false
		s.Error = vmbackup.Errorf(vmbackup.ReasonBackupFailed, "Harvester calls backup %s ready, and it is not whole: %s", v.Ref(), strings.Join(p.missing, "; ")).
			WithHint("do not rely on it; make a new backup of the machine")
	case len(p.running) > 0:
		s.Phase, s.Ready = vmbackup.PhaseRunning, false
		s.Warnings = append(s.Warnings, "Harvester calls it ready, and it is not whole yet: "+strings.Join(p.running, "; "))
	case len(p.unseen) > 0 || e.Unseen != "":
		s.Phase, s.Ready = vmbackup.PhaseUnknown, false
		why := p.unseen
		if e.Unseen != "" {
			why = []string{e.Unseen}
		}
		s.Warnings = append(s.Warnings, "Harvester calls it ready, which could not be checked: "+strings.Join(why, "; "))
	}
}

// completed is when the last condition became true.
func (b *VirtualMachineBackup) completed(ready, described Condition, kind vmbackup.BackupType) *time.Time {
	last := ready.LastUpdateTime
	if kind == vmbackup.TypeBackup {
		last = described.LastUpdateTime
	}
	at, err := time.Parse(time.RFC3339, last)
	if err != nil {
		return nil
	}
	return moment(at)
}

// view is the backup of one volume.
func (b *VolumeBackup) view(kind vmbackup.BackupType, e Evidence, p *parts) vmbackup.BackupVolume {
	var claim claimNames
	// A claim that is no claim has no such fields, and says so in a decoded record.
	_ = json.Unmarshal(b.PersistentVolumeClaim.Spec, &claim)
	v := vmbackup.BackupVolume{
		Name: b.VolumeName, PVC: b.PersistentVolumeClaim.ObjectMeta.Name, SizeBytes: b.VolumeSize, StorageClass: text(claim.StorageClassName),
		LonghornVolume: claim.VolumeName, VolumeSnapshot: text(b.Name), LonghornBackup: text(b.LonghornBackupName), Progress: b.Progress,
		State: vmbackup.StateRunning,
	}
	if b.Error != nil {
		v.State, v.Message = vmbackup.StateFailed, b.Error.Text()
	}
	if kind == vmbackup.TypeSnapshot {
		if isTrue(b.ReadyToUse) {
			v.State, v.Progress, v.Message = vmbackup.StateReady, 100, ""
		}
		return v
	}
	if v.LonghornBackup == "" {
		unnamed := e.unnamed(v.VolumeSnapshot)
		ready := isTrue(b.ReadyToUse)
		switch {
		case ready && p.lasts:
			v.State, v.Message = vmbackup.StateUnknown, "Harvester does not name its Longhorn backup"
			if unnamed != nil {
				v.Message += " " + unnamed.Name
			}
			p.missing = append(p.missing, fmt.Sprintf("volume %s: %s, so it cannot restore it elsewhere", v.Name, v.Message))
			return v
		case unnamed == nil && ready:
			p.running = append(p.running, fmt.Sprintf("volume %s: Harvester does not name its Longhorn backup yet", v.Name))
			return v
		case unnamed == nil:
			p.missing = append(p.missing, fmt.Sprintf("volume %s: Harvester does not name its Longhorn backup, so it cannot restore it elsewhere", v.Name))
			return v
		}
		v.LonghornBackup = unnamed.Name
		p.running = append(p.running, fmt.Sprintf("volume %s: Harvester does not name its Longhorn backup %s yet", v.Name, unnamed.Name))
	}
	if e.Unseen != "" {
		v.State = vmbackup.StateUnknown
		return v
	}
	b.uploaded(&v, e, p)
	return v
}

// unnamed is Longhorn's backup of a VolumeSnapshot: csi-snapshotter names Longhorn's
// snapshot after the UID.
func (e Evidence) unnamed(snapshot string) *longhornv1.Backup {
	uid := e.Snapshots[snapshot]
	if uid == "" {
		return nil
	}
	for _, backup := range e.Backups {
		if backup.Status.SnapshotName == "snapshot-"+uid || backup.Spec.SnapshotName == "snapshot-"+uid {
			return backup
		}
	}
	return nil
}

// uploaded looks at Longhorn's backup of a volume.
func (b *VolumeBackup) uploaded(v *vmbackup.BackupVolume, e Evidence, p *parts) {
	backup := e.Backups[v.LonghornBackup]
	if backup == nil {
		v.State, v.Message = vmbackup.StateUnknown, "Longhorn shows no backup "+v.LonghornBackup
		p.unseen = append(p.unseen, fmt.Sprintf("volume %s: Longhorn shows no backup %s at the moment", v.Name, v.LonghornBackup))
		return
	}
	v.LonghornVolume = cmp.Or(backup.Status.VolumeName, v.LonghornVolume)
	v.SnapshotHandle = metadata.BackupHandle(v.LonghornVolume, backup.Name)
	v.BackupBytes, v.UploadedBytes = longhorn.Bytes(backup.Status.Size), longhorn.Bytes(backup.Status.NewlyUploadedDataSize)
	v.Image, v.Progress = backup.Status.VolumeBackingImageName, backup.Status.Progress
	if v.Image != "" {
		if p.images == nil {
			p.images = map[string]bool{}
		}
		p.images[v.Image] = true
	}
	switch state := backup.Status.State; {
	case longhorn.BeingDeleted(backup):
		v.State, v.Message = vmbackup.StateFailed, "its Longhorn backup is being deleted"
		p.missing = append(p.missing, fmt.Sprintf("volume %s: Longhorn's backup %s is being deleted with its data", v.Name, backup.Name))
	case state == longhornv1.BackupStateCompleted && backup.Status.LastSyncedAt.IsZero() && backup.Status.NewlyUploadedDataSize == "":
		v.State, v.Progress, v.Message = vmbackup.StateRunning, 100, ""
		p.running = append(p.running, fmt.Sprintf("volume %s: Longhorn has yet to read back from the target what it wrote", v.Name))
	case state == longhornv1.BackupStateCompleted:
		v.State, v.Progress, v.Message = vmbackup.StateReady, 100, ""
	case longhorn.UploadFailed(backup):
		v.State, v.Message = vmbackup.StateFailed, cmp.Or(backup.Status.Error, "Longhorn gives no reason")
		p.missing = append(p.missing, fmt.Sprintf("volume %s: Longhorn's backup %s failed: %s", v.Name, backup.Name, v.Message))
	case state == longhornv1.BackupStateUnknown, state == longhornv1.BackupStateDeleting:
		v.State = vmbackup.StateUnknown
		p.unseen = append(p.unseen, fmt.Sprintf("volume %s: Longhorn's backup %s is %s", v.Name, backup.Name, state))
	default:
		v.State, v.Message = vmbackup.StateRunning, cmp.Or(backup.Status.Error, longhorn.WaitsFor(backup))
		p.running = append(p.running, fmt.Sprintf("volume %s is at %d %%", v.Name, v.Progress))
	}
}

// imageViews are the backing images below the volumes. A backup of a volume
// without its image is worth nothing elsewhere.
func (p *parts) imageViews(e Evidence) []vmbackup.BackupImage {
	var views []vmbackup.BackupImage
	for _, name := range slices.Sorted(maps.Keys(p.images)) {
		view := vmbackup.BackupImage{Name: name, State: vmbackup.StateReady}
		image := e.Images[name]
		switch {
		case image == nil:
			view.State, view.Message = vmbackup.StateUnknown, "Longhorn shows no backup of it"
			p.unseen = append(p.unseen, fmt.Sprintf("backing image %s: Longhorn shows no backup of it at the moment", name))
		case image.Status.State == longhornv1.BackupStateError:
			view.State, view.Message = vmbackup.StateFailed, image.Status.Error
			p.missing = append(p.missing, fmt.Sprintf("backing image %s: its backup failed: %s", name, image.Status.Error))
		case image.Status.State != longhornv1.BackupStateCompleted:
			view.State, view.Message = vmbackup.StateRunning, fmt.Sprintf("%d %%", image.Status.Progress)
			p.running = append(p.running, fmt.Sprintf("backing image %s is at %d %%", name, image.Status.Progress))
		}
		views = append(views, view)
	}
	return views
}

// volumes are the backed up ones in the order that they have in the machine:
// Harvester's own is another each time.
func (b *VirtualMachineBackup) volumes() []VolumeBackup {
	var spec machineVolumes
	order := map[string]int{}
	if b.Status.SourceSpec != nil && json.Unmarshal(b.Status.SourceSpec.Spec, &spec) == nil {
		for i, volume := range spec.Template.Spec.Volumes {
			order[volume.Name] = i
		}
	}
	list := slices.Clone(b.Status.VolumeBackups)
	slices.SortStableFunc(list, func(x, y VolumeBackup) int {
		return cmp.Or(cmp.Compare(order[x.VolumeName], order[y.VolumeName]), cmp.Compare(x.VolumeName, y.VolumeName))
	})
	return list
}

func isTrue(b *bool) bool { return b != nil && *b }

// moment is a time in UTC; nil for none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

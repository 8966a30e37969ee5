// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"errors"
	"fmt"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Sync implements vmbackup.Targets.
func (t *Targets) Sync(ctx context.Context, name string) (*vmbackup.TargetSync, error) {
	bt, err := t.read(ctx, name)
	if err != nil {
		return nil, err
	}
	if bt.Spec.BackupTargetURL == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "backup target %q of Longhorn has no URL, so there is nothing to look at", name).AsPreflight()
	}
	var platform *setting
	if name == vmbackup.DefaultTarget {
		if platform, err = t.setting(ctx); err != nil {
			return nil, err
		}
	}
	s := &vmbackup.TargetSync{
		APIVersion: vmbackup.APIVersion, Kind: vmbackup.KindTargetSync,
		Metadata: vmbackup.ObjectMeta{Name: name}, Spec: vmbackup.TargetContentsSpec{URL: target.PlainURL(bt.Spec.BackupTargetURL)},
	}
	before, err := t.objects(ctx, name, platform != nil)
	if err != nil {
		return nil, err
	}
	synced, err := t.syncLonghorn(ctx, bt)
	if err != nil {
		return nil, err
	}
	s.Status.LonghornSyncedAt = &synced
	if platform != nil {
		// Longhorn first: Harvester takes up only backups that Longhorn lists.
		if err := t.syncHarvester(ctx, platform, s); err != nil {
			return nil, err
		}
	}
	after, err := t.objects(ctx, name, platform != nil)
	if err != nil {
		return nil, err
	}
	s.Status.Appeared, s.Status.Disappeared = missingIn(before, after), missingIn(after, before)
	holdings, unseen, err := t.holdings(ctx, name)
	if err != nil {
		return nil, err
	}
	if h := holdings[name]; h != nil {
		s.Status.Holds = *h
	}
	s.Status.Warnings = append(s.Status.Warnings, unseen...)
	return s, nil
}

// syncLonghorn has Longhorn look at a target and at each volume on it, and returns
// when it has, by its own clock.
func (t *Targets) syncLonghorn(ctx context.Context, bt *longhornv1.BackupTarget) (time.Time, error) {
	// Longhorn's times are whole seconds: one look in the second of the one before would
	// not be told from it.
	if err := t.pause(ctx, 1100*time.Millisecond); err != nil {
		return time.Time{}, vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted before Longhorn was asked to look at backup target %s: %w", bt.Name, err)
	}
	targets := t.clients.Longhorn.LonghornV1beta2().BackupTargets(kube.LonghornNamespace)
	patch := fmt.Appendf(nil, `{"spec":{"syncRequestedAt":%q}}`, request(bt).Format(time.RFC3339))
	if _, err := targets.Patch(ctx, bt.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager}); err != nil {
		return time.Time{}, kube.Error(err, "ask Longhorn to look at", "BackupTarget "+bt.Name)
	}
	return t.awaitLonghorn(ctx, bt)
}

// request is a time of a request that Longhorn heeds: later than all that it has
// done, by its own clock. The clock of this machine may be ahead, and Longhorn would
// look again and again until it is passed.
func request(bt *longhornv1.BackupTarget) time.Time {
	last := bt.Status.LastSyncedAt.Time
	if asked := bt.Spec.SyncRequestedAt.Time; asked.After(last) {
		last = asked
	}
	if last.IsZero() {
		return time.Unix(1, 0).UTC() // Longhorn has never looked, and does without being asked
	}
	return last.Add(time.Second).UTC()
}

// awaitLonghorn waits until Longhorn has looked at the target and its volumes since bt
// was read. A look that fails ends the wait: Longhorn takes its time for the next one.
// One that failed before in the same words is not told from a new failure, and waited for.
func (t *Targets) awaitLonghorn(ctx context.Context, bt *longhornv1.BackupTarget) (time.Time, error) {
	lh := t.clients.Longhorn.LonghornV1beta2()
	var synced time.Time
	var latest *longhornv1.BackupTarget
	err := kube.WaitFor(ctx, kube.One(lh.BackupTargets(kube.LonghornNamespace), bt.Name), "Longhorn to look at backup target "+bt.Name, func(now *longhornv1.BackupTarget) (bool, error) {
		latest = now
		synced = now.Status.LastSyncedAt.UTC()
		if why := refusal(now); why != "" && why != refusal(bt) {
			return false, unusable(now)
		}
		return now.Status.Available && now.Status.LastSyncedAt.After(bt.Status.LastSyncedAt.Time), nil
	})
	if err != nil {
		return time.Time{}, unsynced(err, latest)
	}
	// Longhorn has asked itself to look at each volume; one that it has just found was
	// never looked at.
	err = kube.WatchAll(ctx, kube.Select(lh.BackupVolumes(kube.LonghornNamespace), metav1.ListOptions{LabelSelector: targetLabel + "=" + bt.Name}), "Longhorn to look at the volumes on backup target "+bt.Name, func(volumes []*longhornv1.BackupVolume) (bool, error) {
		for _, v := range volumes {
			if v.DeletionTimestamp == nil && (v.Status.LastSyncedAt.IsZero() || v.Spec.SyncRequestedAt.After(v.Status.LastSyncedAt.Time)) {
				return false, nil
			}
		}
		return true, nil
	})
	return synced, unsynced(err, nil)
}

// unsynced tells a time-out at a target that Longhorn cannot use as what it is.
func unsynced(err error, latest *longhornv1.BackupTarget) error {
	if err == nil || vmbackup.ReasonOf(err) != vmbackup.ReasonTimeout {
		return err
	}
	if latest == nil || latest.Status.Available {
		return vmbackup.AsError(err, vmbackup.ReasonTimeout).WithHint("Longhorn goes on; look again with: kubectl vmbackup target show")
	}
	return unusable(latest)
}

// refusal is why Longhorn cannot use a target; empty when it can, or does not say.
func refusal(bt *longhornv1.BackupTarget) string {
	if bt.Status.Available {
		return ""
	}
	for _, c := range bt.Status.Conditions {
		if c.Type == longhornv1.BackupTargetConditionTypeUnavailable && c.Status == longhornv1.ConditionStatusTrue {
			return c.Message
		}
	}
	return ""
}

func unusable(bt *longhornv1.BackupTarget) error {
	return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn cannot use backup target %q (%s): %s", bt.Name, target.PlainURL(bt.Spec.BackupTargetURL), kube.Unavailable(bt)).
		WithHint("see whether this machine can with: kubectl vmbackup target check %s; what Longhorn lists is kept as it was", bt.Name)
}

// syncHarvester has Harvester read the descriptions again.
func (t *Targets) syncHarvester(ctx context.Context, platform *setting, s *vmbackup.TargetSync) error {
	switch {
	case platform.object == nil:
		s.Status.Warnings = append(s.Status.Warnings, "Harvester was not asked to look again: its setting "+harvester.BackupTargetSetting+" may not be read")
		return nil
	case platform.target == nil:
		s.Status.Warnings = append(s.Status.Warnings, "Harvester was not asked to look again: its setting "+harvester.BackupTargetSetting+" is empty or cannot be read")
		return nil
	}
	settings := t.clients.Harvester.Settings()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:null}}}`, harvester.TargetHashAnnotation)
	if _, err := settings.Patch(ctx, harvester.BackupTargetSetting, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager}); err != nil {
		err = kube.Error(err, "ask Harvester to look at the target by", "its setting "+harvester.BackupTargetSetting)
		if vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
			return err
		}
		s.Status.Warnings = append(s.Status.Warnings, err.Error()+"; Longhorn has looked")
		return nil
	}
	err := kube.WaitFor(ctx, kube.One(settings, harvester.BackupTargetSetting), "Harvester to read the descriptions on backup target "+s.Metadata.Name, func(now *harvester.Setting) (bool, error) {
		s.Status.HarvesterRefreshedAt = newSetting(now).view.LastRefreshedAt
		return now.Annotations[harvester.TargetHashAnnotation] != "", nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return vmbackup.AsError(err, vmbackup.ReasonTimeout).
			WithHint("Harvester goes on trying; a description that it cannot decode stops it: look for one with: kubectl vmbackup target contents %s", s.Metadata.Name)
	}
	return err
}

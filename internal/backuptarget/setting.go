// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// setting is Harvester's setting backup-target.
type setting struct {
	object *harvester.Setting
	target *harvester.Target // nil when none is set, or it could not be read
	view   *vmbackup.TargetSetting
}

// setting reads Harvester's setting; nil in a cluster that is not Harvester's.
func (t *Targets) setting(ctx context.Context) (*setting, error) {
	object, err := t.clients.Harvester.Settings().Get(ctx, harvester.BackupTargetSetting, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case apierrors.IsForbidden(err):
		return &setting{view: &vmbackup.TargetSetting{State: vmbackup.StateUnknown, Message: "the setting may not be read"}}, nil
	case err != nil:
		return nil, kube.Error(err, "read", "Harvester's setting "+harvester.BackupTargetSetting)
	}
	return newSetting(object), nil
}

func newSetting(object *harvester.Setting) *setting {
	s := &setting{object: object, view: &vmbackup.TargetSetting{State: vmbackup.StateSkipped}}
	if at, err := time.Parse(time.RFC3339, object.Annotations[harvester.TargetRefreshAnnotation]); err == nil {
		at = at.UTC()
		s.view.LastRefreshedAt = &at
	}
	decoded, err := harvester.DecodeTarget(object)
	switch {
	case err != nil:
		s.view.State, s.view.Message = vmbackup.StateFailed, err.Error()
		return s
	case decoded == nil:
		return s
	}
	s.target = decoded
	s.view.URL = target.PlainURL(decoded.URL())
	s.view.RefreshIntervalSeconds = decoded.RefreshIntervalInSeconds
	condition, found := harvester.FindCondition(object.Status.Conditions, harvester.ConditionConfigured)
	switch {
	case !found:
		s.view.State, s.view.Message = vmbackup.StatePending, "Harvester has not configured Longhorn with it yet"
	case condition.Status == corev1.ConditionTrue:
		s.view.State = vmbackup.StateReady
	default:
		s.view.State, s.view.Message = vmbackup.StateFailed, kube.Brief(condition.Message)
		if condition.Message == "" {
			s.view.Message = "Harvester does not say why"
		}
	}
	return s
}

// warnings are what does not fit together, or is known to surprise.
func (s *setting) warnings(v *vmbackup.Target) []string {
	var warnings []string
	switch {
	case s.target == nil:
		if s.view.State == vmbackup.StateSkipped && v.Spec.URL != "" {
			warnings = append(warnings, "Longhorn has a backup target, and Harvester's setting backup-target is empty: Harvester makes and finds no backups")
		}
		return warnings
	case s.view.State == vmbackup.StateReady && s.view.URL != v.Spec.URL:
		warnings = append(warnings, fmt.Sprintf("Harvester's setting backup-target is of %s, and Longhorn uses %s: backups of the one are not found on the other", s.view.URL, v.Spec.URL))
	}
	if s.target.RefreshIntervalInSeconds == 0 {
		warnings = append(warnings, "Harvester never looks for new backups by itself (refreshIntervalInSeconds 0): what other clusters back up appears only after: kubectl vmbackup target sync "+v.Metadata.Name)
	}
	return warnings
}

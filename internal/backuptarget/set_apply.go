// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Set implements vmbackup.Targets. The URL goes over from the old to the new one in a
// single update: Longhorn would drop its list of all backups, and old versions their
// data, if it were empty in between.
func (t *Targets) Set(ctx context.Context, plan *vmbackup.TargetPlan) (*vmbackup.Target, error) {
	in, ok := plan.State.(*intent)
	if !ok {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "set backup target %s: the plan is not one of PlanSet", plan.Request.Name)
	}
	name := plan.Request.Name
	if plan.Unchanged {
		return t.Get(ctx, name)
	}
	if in.platform != nil {
		if err := t.setByHarvester(ctx, plan, in); err != nil {
			return nil, err
		}
	} else {
		if err := t.writeSecret(ctx, in); err != nil {
			return nil, err
		}
		bt, err := t.writeTarget(ctx, plan, in)
		if err != nil {
			return nil, err
		}
		if _, err := t.awaitLonghorn(ctx, bt); err != nil {
			return nil, whileSet(err, name)
		}
	}
	return t.Get(ctx, name)
}

// whileSet says that the target is set, whatever came of waiting.
func whileSet(err error, name string) error {
	e := vmbackup.AsError(fmt.Errorf("backup target %s is set, but %w", name, err), vmbackup.ReasonInternal)
	return e.WithHint("%s", or(e.Hint, "see what Longhorn says with: kubectl vmbackup target show "+name))
}

// writeSecret makes or updates the tool's Secret for a target.
func (t *Targets) writeSecret(ctx context.Context, in *intent) error {
	if !in.write {
		return nil
	}
	secrets := t.clients.Core.CoreV1().Secrets(kube.LonghornNamespace)
	what := "Secret " + kube.LonghornNamespace + "/" + in.secret
	object := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: in.secret, Labels: map[string]string{managedBy: kube.FieldManager}},
		Type:       corev1.SecretTypeOpaque, Data: in.keys,
	}
	_, err := secrets.Create(ctx, object, metav1.CreateOptions{FieldManager: kube.FieldManager})
	if !apierrors.IsAlreadyExists(err) {
		return kube.Error(err, "create", what)
	}
	old, err := t.secret(ctx, in.secret)
	if err != nil {
		return err
	}
	old.Data = in.keys
	_, err = secrets.Update(ctx, old, metav1.UpdateOptions{FieldManager: kube.FieldManager})
	return kube.Error(err, "update", what)
}

// writeTarget makes or changes the BackupTarget, and has Longhorn look at it. It
// returns what it was before.
func (t *Targets) writeTarget(ctx context.Context, plan *vmbackup.TargetPlan, in *intent) (*longhornv1.BackupTarget, error) {
	targets := t.clients.Longhorn.LonghornV1beta2().BackupTargets(kube.LonghornNamespace)
	name := plan.Request.Name
	if in.before == nil {
		object := &longhornv1.BackupTarget{
			ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name},
			Spec:       longhornv1.BackupTargetSpec{BackupTargetURL: plan.Request.URL, CredentialSecret: in.secret, PollInterval: metav1.Duration{Duration: in.poll}},
		}
		_, err := targets.Create(ctx, object, metav1.CreateOptions{FieldManager: kube.FieldManager})
		return object, kube.Error(err, "create", "Longhorn BackupTarget "+name)
	}
	if err := t.pause(ctx, 1100*time.Millisecond); err != nil { // as syncLonghorn
		return nil, vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted before backup target %s was set: %w", name, err)
	}
	now, err := t.read(ctx, name)
	if err != nil {
		return nil, err
	}
	// The URL that was looked at must still be there: whoever changes it meanwhile is not overrun.
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/spec/backupTargetURL", "value": in.before.Spec.BackupTargetURL},
		{"op": "add", "path": "/spec/backupTargetURL", "value": plan.Request.URL},
		{"op": "add", "path": "/spec/credentialSecret", "value": in.secret},
		{"op": "add", "path": "/spec/pollInterval", "value": in.poll.String()},
		{"op": "add", "path": "/spec/syncRequestedAt", "value": request(now).Format(time.RFC3339)},
	})
	if err != nil {
		return nil, err
	}
	_, err = targets.Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
	if err != nil && strings.Contains(err.Error(), "testing value") {
		return nil, vmbackup.Errorf(vmbackup.ReasonConflict, "somebody else has changed the URL of backup target %s meanwhile; it was left as it is", name).
			WithHint("look at it with: kubectl vmbackup target show %s", name)
	}
	return now, kube.Error(err, "change", "Longhorn BackupTarget "+name+" to "+target.PlainURL(plan.Request.URL))
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// intent is what a plan has found out.
type intent struct {
	before *longhornv1.BackupTarget // nil: it is to be made
	// secret is the name of the Secret that the target will have; empty for none.
	secret string
	// write is whether the Secret is to be written with keys.
	write bool
	keys  map[string][]byte
	poll  time.Duration
	// platform is Harvester's setting, when the target is set by it.
	platform *setting
	value    string // of the setting, with the keys
}

// PlanSet implements vmbackup.Targets.
func (t *Targets) PlanSet(ctx context.Context, req vmbackup.TargetRequest) (*vmbackup.TargetPlan, error) {
	plan, err := t.planSet(ctx, req)
	if err != nil {
		return nil, vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight()
	}
	return plan, nil
}

func (t *Targets) planSet(ctx context.Context, req vmbackup.TargetRequest) (*vmbackup.TargetPlan, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if err := target.CheckURL(req.URL); err != nil {
		return nil, err
	}
	plan := &vmbackup.TargetPlan{Request: req, URL: target.PlainURL(req.URL)}
	in := &intent{poll: 5 * time.Minute} // Longhorn's own default
	plan.State = in
	all, err := t.all(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		switch bt := &all[i]; {
		case bt.Name == req.Name:
			in.before, in.poll = bt, bt.Spec.PollInterval.Duration
		case strings.TrimSuffix(bt.Spec.BackupTargetURL, "/") == strings.TrimSuffix(req.URL, "/"):
			return nil, vmbackup.Errorf(vmbackup.ReasonAlreadyExists, "backup target %q has this URL already, and Longhorn takes it once only", bt.Name).AsPreflight().
				WithHint("use that one with --target %s, or give another bucket or path", bt.Name)
		}
	}
	if in.before != nil {
		if plan.Before, err = t.Get(ctx, req.Name); err != nil {
			return nil, err
		}
	} else if req.Name == vmbackup.DefaultTarget {
		return nil, vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "Longhorn has not made its backup target %q; it does so when it starts", req.Name).AsPreflight().
			WithHint("look at the pods of longhorn-manager: kubectl get pods -n %s -l app=longhorn-manager", kube.LonghornNamespace)
	}
	if req.PollInterval != nil {
		in.poll = *req.PollInterval
	}
	if err := t.chooseSecret(ctx, req, in); err != nil {
		return nil, err
	}
	if req.Name == vmbackup.DefaultTarget {
		if in.platform, err = t.setting(ctx); err != nil {
			return nil, err
		}
	}
	if in.platform != nil {
		err = t.planHarvester(plan, in)
	} else {
		t.planLonghorn(plan, in)
	}
	if err != nil || plan.Unchanged {
		return plan, err
	}
	if err := t.hides(ctx, plan, in); err != nil {
		return nil, err
	}
	return plan, t.prove(ctx, plan, in)
}

// ownSecret is the Secret that the tool makes for a target.
func ownSecret(name string) string { return "vmbackup-target-" + name }

const managedBy = "app.kubernetes.io/managed-by"

// chooseSecret finds out which Secret the target will have, and what is in it.
func (t *Targets) chooseSecret(ctx context.Context, req vmbackup.TargetRequest, in *intent) error {
	kind := target.Type(req.URL)
	if req.Credentials != nil {
		if kind == target.TypeNFS {
			return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "a target of the type %s takes no credentials", kind).AsPreflight()
		}
		in.secret, in.write, in.keys = ownSecret(req.Name), true, req.Credentials
		if err := target.CheckCredentials(req.URL, in.keys); err != nil {
			return err
		}
		old, err := t.secret(ctx, in.secret)
		switch vmbackup.ReasonOf(err) {
		case "":
			if old.Labels[managedBy] != kube.FieldManager {
				return vmbackup.Errorf(vmbackup.ReasonConflict, "Secret %s/%s is not this tool's", kube.LonghornNamespace, in.secret).AsPreflight().
					WithHint("use it as it is with --credential-secret %s, or rename it", in.secret)
			}
			in.write = !maps.EqualFunc(old.Data, in.keys, bytes.Equal)
		case vmbackup.ReasonNotFound:
		default:
			return err
		}
		return nil
	}
	in.secret = req.CredentialSecret
	if in.secret == "" && in.before != nil && target.NeedsCredentials(kind) && target.Type(in.before.Spec.BackupTargetURL) == kind {
		in.secret = in.before.Spec.CredentialSecret
	}
	if in.secret == "" {
		if target.NeedsCredentials(kind) {
			return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "a target of the type %s needs credentials", kind).AsPreflight().
				WithHint("give them with --credentials FILE, --credentials-env or --credential-secret NAME; the keys are %s", strings.Join(target.CredentialKeys(kind), ", "))
		}
		return nil
	}
	secret, err := t.secret(ctx, in.secret)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return vmbackup.AsError(err, vmbackup.ReasonNotFound).AsPreflight().WithHint("make it first, or give the keys with --credentials FILE")
	}
	if err != nil {
		return err
	}
	in.keys = secret.Data
	if target.NeedsCredentials(kind) {
		return target.CheckCredentials(req.URL, in.keys)
	}
	return nil
}

// secret reads a Secret of Longhorn's namespace.
func (t *Targets) secret(ctx context.Context, name string) (*corev1.Secret, error) {
	secret, err := t.clients.Core.CoreV1().Secrets(kube.LonghornNamespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Error(err, "read", "Secret "+kube.LonghornNamespace+"/"+name)
	}
	return secret, nil
}

// planLonghorn plans to change Longhorn's own objects.
func (t *Targets) planLonghorn(plan *vmbackup.TargetPlan, in *intent) {
	use := vmbackup.PlannedObject{Action: vmbackup.ActionUse, APIVersion: "v1", Kind: "Secret", Namespace: kube.LonghornNamespace, Name: in.secret, Note: "values are never shown"}
	if in.write {
		use.Action, use.Note = vmbackup.ActionUpdate, "the keys given, if it is not as they are; values are never shown"
	}
	if in.secret != "" {
		plan.Objects = append(plan.Objects, use)
	}
	bt := vmbackup.PlannedObject{Action: vmbackup.ActionUpdate, APIVersion: "longhorn.io/v1beta2", Kind: "BackupTarget", Namespace: kube.LonghornNamespace, Name: plan.Request.Name}
	var notes []string
	if b := in.before; b == nil {
		bt.Action = vmbackup.ActionCreate
		notes = append(notes, "URL "+plan.URL)
	} else {
		if b.Spec.BackupTargetURL != plan.Request.URL {
			notes = append(notes, fmt.Sprintf("URL %s instead of %s", plan.URL, or(target.PlainURL(b.Spec.BackupTargetURL), "none")))
		}
		if b.Spec.CredentialSecret != in.secret {
			notes = append(notes, fmt.Sprintf("Secret %s instead of %s", or(in.secret, "none"), or(b.Spec.CredentialSecret, "none")))
		}
		if b.Spec.PollInterval.Duration != in.poll {
			notes = append(notes, fmt.Sprintf("poll interval %s instead of %s", in.poll, b.Spec.PollInterval.Duration))
		}
	}
	if len(notes) == 0 {
		bt.Action = vmbackup.ActionUse
		plan.Unchanged = !in.write
	}
	bt.Note = strings.Join(notes, ", ")
	plan.Objects = append(plan.Objects, bt)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// samePlace reports whether two URLs differ in mount options at most, to which Longhorn
// adds its own.
func samePlace(a, b string) bool { return target.PlainURL(a) == target.PlainURL(b) }

// hides warns of backups that go out of sight, and refuses while uploads run.
func (t *Targets) hides(ctx context.Context, plan *vmbackup.TargetPlan, in *intent) error {
	if in.before == nil || in.before.Spec.BackupTargetURL == "" || samePlace(in.before.Spec.BackupTargetURL, plan.Request.URL) {
		return nil
	}
	list, err := t.clients.Longhorn.LonghornV1beta2().Backups(kube.LonghornNamespace).List(ctx, metav1.ListOptions{LabelSelector: targetLabel + "=" + in.before.Name})
	if err != nil && !apierrors.IsForbidden(err) {
		return kube.Error(err, "list", "Longhorn Backups")
	}
	running := 0
	if list != nil {
		for i := range list.Items {
			if s := list.Items[i].Status.State; s == longhornv1.BackupStateInProgress || s == longhornv1.BackupStatePending {
				running++
			}
		}
	}
	if running > 0 {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "%d uploads to backup target %q run, and would be lost half way", running, in.before.Name).AsPreflight().
			WithHint("wait until they have ended: kubectl get backups.longhorn.io -n %s -l %s=%s", kube.LonghornNamespace, targetLabel, in.before.Name)
	}
	held := plan.Before.Status.Holds
	if held == nil {
		plan.Warnings = append(plan.Warnings, "what Longhorn lists of the target now could not be looked at; it will be listed no more")
		held = &vmbackup.TargetHoldings{}
	} else if held.Backups+held.Images == 0 {
		return nil
	}
	plan.Hides = held
	plan.Warnings = append(plan.Warnings, fmt.Sprintf("%d backups and %d backing images on %s will be listed no more, and cannot be restored while they are not; their data stays there, and they come back when the target is set to that URL again", held.Backups, held.Images, target.PlainURL(in.before.Spec.BackupTargetURL)))
	return nil
}

// prove uses the new target from here, before anything is changed.
func (t *Targets) prove(ctx context.Context, plan *vmbackup.TargetPlan, in *intent) error {
	if plan.Request.SkipCheck {
		plan.Warnings = append(plan.Warnings, "it was not proved that the target can be used; Longhorn tries it when it is set")
		return nil
	}
	skip := "set it without proof with --skip-check; Longhorn then tries it, and this command waits for its answer"
	store, err := t.open(target.Config{URL: plan.Request.URL, Credentials: in.keys})
	if err != nil {
		return vmbackup.AsError(err, vmbackup.ReasonInternal).AsPreflight().WithHint("%s", skip)
	}
	plan.Check = CheckStore(ctx, store, t.clock)
	if err := Failure(plan.Check); err != nil {
		e := vmbackup.AsError(fmt.Errorf("nothing was changed, since the new target cannot be used from here: %w", err), vmbackup.ReasonInternal).AsPreflight()
		return e.WithHint("%s; or, when only this machine cannot reach it, %s", or(vmbackup.AsError(err, "").Hint, "see what is wrong"), skip)
	}
	plan.Warnings = append(plan.Warnings, plan.Check.Status.Warnings...)
	return nil
}

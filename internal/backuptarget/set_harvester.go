// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// settingValue is the whole value of the setting backup-target, keys and all.
type settingValue struct {
	harvester.Target
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	Cert            string `json:"cert"`
}

// planHarvester plans to change Harvester's setting, which changes Longhorn's target
// and its Secret, and would undo other changes of them.
func (t *Targets) planHarvester(plan *vmbackup.TargetPlan, in *intent) error {
	if in.platform.object == nil {
		return vmbackup.Errorf(vmbackup.ReasonForbidden, "the target %q is set by Harvester's setting %s, which may not be read", plan.Request.Name, harvester.BackupTargetSetting).AsPreflight().
			WithHint("ask for the right to get and patch settings.harvesterhci.io")
	}
	value, err := t.valueOf(plan.Request, in)
	if err != nil {
		return err
	}
	now := in.platform.target
	same := now != nil && *now == value.Target && in.platform.view.State == vmbackup.StateReady && in.before != nil && samePlace(in.before.Spec.BackupTargetURL, value.URL())
	if same && plan.Request.Credentials == nil && plan.Request.CredentialSecret == "" {
		plan.Unchanged = true
	}
	in.write = false // Harvester writes its own Secret
	encoded, err := json.Marshal(value)
	if err != nil {
		return err
	}
	in.value = string(encoded)
	note := "URL " + plan.URL
	if in.platform.view.URL != "" && in.platform.view.URL != plan.URL {
		note += " instead of " + in.platform.view.URL
	}
	plan.Objects = []vmbackup.PlannedObject{
		{Action: vmbackup.ActionUpdate, APIVersion: harvester.GroupVersion().String(), Kind: "Setting", Name: harvester.BackupTargetSetting, Note: note + "; Harvester takes the keys out of it again"},
		{Action: vmbackup.ActionUpdate, APIVersion: "longhorn.io/v1beta2", Kind: "BackupTarget", Namespace: kube.LonghornNamespace, Name: plan.Request.Name, Note: "by Harvester, with its Secret"},
	}
	if plan.Unchanged {
		plan.Objects = []vmbackup.PlannedObject{{Action: vmbackup.ActionUse, APIVersion: harvester.GroupVersion().String(), Kind: "Setting", Name: harvester.BackupTargetSetting}}
	}
	return nil
}

// valueOf is the setting for a request. What Harvester cannot hold is refused.
func (t *Targets) valueOf(req vmbackup.TargetRequest, in *intent) (*settingValue, error) {
	refuse := func(format string, args ...any) error {
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "Harvester's setting %s: %s", harvester.BackupTargetSetting, fmt.Sprintf(format, args...)).AsPreflight().
			WithHint("give another URL, or make a further target of Longhorn's beside it, under another name")
	}
	u, err := url.Parse(req.URL)
	if err != nil {
		return nil, target.CheckURL(req.URL)
	}
	value := &settingValue{}
	if in.platform.target != nil {
		value.RefreshIntervalInSeconds = in.platform.target.RefreshIntervalInSeconds
	}
	if req.PollInterval != nil {
		value.RefreshIntervalInSeconds = int64(req.PollInterval.Seconds())
	}
	key := func(name string) string { return string(in.keys[name]) }
	switch u.Scheme {
	case target.TypeNFS:
		value.Type, value.Endpoint = harvester.TargetNFS, req.URL
		return value, nil
	case target.TypeS3:
	default:
		return nil, refuse("it takes targets on S3 and NFS only")
	}
	if u.User == nil || strings.Trim(u.Path, "/") != "" {
		return nil, refuse("it takes a bucket as a whole, as s3://<bucket>@<region>/")
	}
	value.Type, value.BucketName, value.BucketRegion = harvester.TargetS3, u.User.Username(), u.Host
	value.AccessKeyID, value.SecretAccessKey = key("AWS_ACCESS_KEY_ID"), key("AWS_SECRET_ACCESS_KEY")
	if value.AccessKeyID == "" || value.SecretAccessKey == "" {
		return nil, refuse("it takes a target on S3 with a pair of access keys only")
	}
	value.Endpoint, value.Cert, value.VirtualHostedStyle = key("AWS_ENDPOINTS"), key("AWS_CERT"), key("VIRTUAL_HOSTED_STYLE") == "true"
	return value, nil
}

// setByHarvester patches the setting and follows what Harvester makes of it.
func (t *Targets) setByHarvester(ctx context.Context, plan *vmbackup.TargetPlan, in *intent) error {
	settings := t.clients.Harvester.Settings()
	what := "Harvester's setting " + harvester.BackupTargetSetting
	before, err := settings.Get(ctx, harvester.BackupTargetSetting, metav1.GetOptions{})
	if err != nil {
		return kube.Error(err, "read", what)
	}
	if before.Value != in.platform.object.Value {
		return vmbackup.Errorf(vmbackup.ReasonConflict, "somebody else has changed %s meanwhile; it was left as it is", what).
			WithHint("look at it with: kubectl vmbackup target show %s", plan.Request.Name)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": before.ResourceVersion}, // whoever changes it now is not overrun
		"value":    in.value,
	})
	if err != nil {
		return err
	}
	if _, err := settings.Patch(ctx, harvester.BackupTargetSetting, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager}); err != nil {
		return t.discreet(kube.Error(err, "change", what), in)
	}
	expected := plan.Request.URL
	var decoded settingValue
	if json.Unmarshal([]byte(in.value), &decoded) == nil {
		expected = decoded.URL()
	}
	last := &vmbackup.TargetSetting{}
	err = kube.WaitFor(ctx, kube.One(settings, harvester.BackupTargetSetting), "Harvester to take up its setting "+harvester.BackupTargetSetting, func(now *harvester.Setting) (bool, error) {
		if now.ResourceVersion == before.ResourceVersion {
			return false, nil
		}
		last = newSetting(now).view
		var value settingValue
		if err := json.Unmarshal([]byte(now.Value), &value); err != nil || value.SecretAccessKey != "" {
			return false, nil //nolint:nilerr // not taken up yet; what it holds is not told
		}
		return last.State == vmbackup.StateReady, nil
	})
	if err != nil {
		if last.State == vmbackup.StateFailed && vmbackup.ReasonOf(err) == vmbackup.ReasonTimeout {
			err = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Harvester could not configure Longhorn with it: %s", last.Message)
		}
		return t.discreet(whileSet(err, plan.Request.Name), in)
	}
	lh := t.clients.Longhorn.LonghornV1beta2().BackupTargets(kube.LonghornNamespace)
	var bt *longhornv1.BackupTarget
	err = kube.WaitFor(ctx, kube.One(lh, plan.Request.Name), "Harvester to give Longhorn the URL of backup target "+plan.Request.Name, func(now *longhornv1.BackupTarget) (bool, error) {
		bt = now
		return samePlace(now.Spec.BackupTargetURL, expected), nil
	})
	if err == nil {
		_, err = t.syncLonghorn(ctx, bt)
	}
	if vmbackup.ReasonOf(err) == vmbackup.ReasonTargetUnavailable && ctx.Err() == nil {
		// Harvester writes the URL before the keys: Longhorn may have tried in between.
		if bt, err = t.read(ctx, plan.Request.Name); err == nil {
			_, err = t.syncLonghorn(ctx, bt)
		}
	}
	if err != nil {
		return whileSet(err, plan.Request.Name)
	}
	return nil
}

// discreet takes the keys out of an error: a webhook may quote what it was given.
func (t *Targets) discreet(err error, in *intent) error {
	e := *vmbackup.AsError(err, vmbackup.ReasonInternal)
	for _, key := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"} {
		if secret := string(in.keys[key]); secret != "" {
			e.Message = strings.ReplaceAll(e.Message, secret, "[redacted]")
		}
	}
	return &e
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// keys are credentials of a target on S3.
func keys() map[string][]byte {
	return map[string][]byte{"AWS_ACCESS_KEY_ID": []byte("an-id"), "AWS_SECRET_ACCESS_KEY": []byte(secretValue), "AWS_ENDPOINTS": []byte("http://e:9000")}
}

func setRequest(name, url string) vmbackup.TargetRequest {
	return vmbackup.TargetRequest{Name: name, URL: url}
}

// changes are the calls of the clients that change something.
func (c *cluster) changes() []string {
	var changes []string
	for _, f := range []*clienttesting.Fake{&c.core.Fake, &c.longhorn.Fake} {
		for _, a := range f.Actions() {
			if v := a.GetVerb(); v != "get" && v != "list" && v != "watch" {
				changes = append(changes, v+" "+a.GetResource().Resource)
			}
		}
	}
	return changes
}

// available is what Longhorn makes of a target that it can use.
func available(bt *longhornv1.BackupTarget) {
	bt.Status.Available, bt.Status.Conditions = true, nil
	bt.Status.LastSyncedAt = metav1.Time{Time: noon()}
}

func (c *cluster) set(ctx context.Context, req vmbackup.TargetRequest) (*vmbackup.TargetPlan, *vmbackup.Target, error) {
	plan, err := c.PlanSet(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	if made := c.changes(); len(made) > 0 {
		c.t.Errorf("the plan has changed something: %q", made)
	}
	got, err := c.Set(ctx, plan)
	return plan, got, err
}

func TestSetChanges(t *testing.T) {
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"), secret("default-keys"),
		longhornBackup("b1", "default", "v1", longhornv1.BackupStateCompleted))
	c.longhornLooks(available)
	req := setRequest("default", "s3://next@region/path/")
	req.Credentials = keys()
	poll := time.Minute
	req.PollInterval = &poll
	plan, got, err := c.set(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Hides == nil || plan.Hides.Backups != 1 || len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "1 backups") || plan.Unchanged || !plan.Check.Status.Usable {
		t.Errorf("%+v", plan)
	}
	if got.Spec.URL != req.URL || got.Spec.CredentialSecret != "vmbackup-target-default" || got.Spec.PollIntervalSeconds != 60 || got.Status.State != vmbackup.TargetAvailable {
		t.Errorf("%+v", got)
	}
	made, err := c.core.CoreV1().Secrets(kube.LonghornNamespace).Get(t.Context(), "vmbackup-target-default", metav1.GetOptions{})
	if err != nil || string(made.Data["AWS_SECRET_ACCESS_KEY"]) != secretValue || made.Labels[managedBy] != kube.FieldManager {
		t.Errorf("%+v, %v", made, err)
	}
	if _, err := c.core.CoreV1().Secrets(kube.LonghornNamespace).Get(t.Context(), "default-keys", metav1.GetOptions{}); err != nil {
		t.Errorf("the Secret of before: %v", err)
	}
	text, err := json.Marshal([]any{plan.Objects, plan.Warnings, plan.Check, plan.Before, got})
	if err != nil || strings.Contains(string(text), secretValue) {
		t.Errorf("the secret is told: %s, %v", text, err)
	}
	// Again, with the same and with nothing said of credentials: nothing to do.
	for _, credentials := range []map[string][]byte{keys(), nil} {
		c.core.ClearActions()
		c.longhorn.ClearActions()
		req.Credentials = credentials
		plan, got, err := c.set(t.Context(), req)
		if err != nil || !plan.Unchanged || plan.Hides != nil || got.Spec.URL != req.URL || len(c.changes()) > 0 {
			t.Errorf("again: %+v, %v, %q", plan, err, c.changes())
		}
	}
	// Other keys for the same URL.
	req.Credentials = keys()
	req.Credentials["AWS_ACCESS_KEY_ID"] = []byte("another")
	if plan, err := c.PlanSet(t.Context(), req); err != nil || plan.Unchanged || plan.Hides != nil {
		t.Errorf("%+v, %v", plan, err)
	}
}

func TestSetCreates(t *testing.T) {
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"), secret("default-keys"), secret("others"))
	c.longhorn.PrependReactor("create", "backuptargets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		bt := action.(clienttesting.CreateAction).GetObject().(*longhornv1.BackupTarget).DeepCopy()
		available(bt)
		return true, bt, c.longhorn.Tracker().Add(bt)
	})
	// The fake API server ignores field selectors: the wait must see one target alone.
	if err := c.longhorn.Tracker().Delete(longhornv1.SchemeGroupVersion.WithResource("backuptargets"), kube.LonghornNamespace, "default"); err != nil {
		t.Fatal(err)
	}
	req := setRequest("second", "s3://second@region/")
	req.CredentialSecret = "others"
	plan, got, err := c.set(t.Context(), req)
	if err != nil || plan.Before != nil || got.Spec.CredentialSecret != "others" || got.Spec.PollIntervalSeconds != 300 {
		t.Errorf("%+v, %+v, %v", plan, got, err)
	}
}

func TestSetRefuses(t *testing.T) {
	const url = "s3://next@region/"
	named := func(edit func(*vmbackup.TargetRequest)) vmbackup.TargetRequest {
		req := setRequest("default", url)
		edit(&req)
		return req
	}
	foreign := secret("vmbackup-target-default")
	for name, test := range map[string]struct {
		req     vmbackup.TargetRequest
		objects []runtime.Object
		fault   string
		reason  vmbackup.Reason
		says    string
	}{
		"empty URL":        {req: setRequest("default", ""), reason: vmbackup.ReasonInvalidRequest, says: "drops its list"},
		"bad name":         {req: setRequest("No Name", url), reason: vmbackup.ReasonInvalidRequest, says: "target"},
		"odd poll":         {req: named(func(r *vmbackup.TargetRequest) { d := time.Millisecond; r.PollInterval = &d }), reason: vmbackup.ReasonInvalidRequest, says: "poll"},
		"two credentials":  {req: named(func(r *vmbackup.TargetRequest) { r.CredentialSecret, r.Credentials = "x", keys() }), reason: vmbackup.ReasonInvalidRequest, says: "one of them"},
		"URL of another":   {req: setRequest("default", "s3://other@region"+"/"), reason: vmbackup.ReasonAlreadyExists, says: `"other"`},
		"no default":       {req: setRequest("default", url), objects: []runtime.Object{backupTarget("x", "")}, reason: vmbackup.ReasonEngineUnavailable},
		"no such Secret":   {req: named(func(r *vmbackup.TargetRequest) { r.CredentialSecret = "none" }), reason: vmbackup.ReasonNotFound, says: "longhorn-system/none"},
		"no credentials":   {req: setRequest("new", url), reason: vmbackup.ReasonInvalidRequest, says: "needs credentials"},
		"another type's":   {req: setRequest("default", "cifs://server/share"), reason: vmbackup.ReasonInvalidRequest, says: "needs credentials"},
		"half credentials": {req: named(func(r *vmbackup.TargetRequest) { r.Credentials = map[string][]byte{"AWS_ACCESS_KEY_ID": []byte("x")} }), reason: vmbackup.ReasonForbidden, says: "AWS_SECRET_ACCESS_KEY"},
		"bad endpoint": {req: named(func(r *vmbackup.TargetRequest) {
			r.Credentials = keys()
			r.Credentials["AWS_ENDPOINTS"] = []byte("e:9000")
		}), reason: vmbackup.ReasonInvalidRequest, says: "AWS_ENDPOINTS"},
		"bad certificate":    {req: named(func(r *vmbackup.TargetRequest) { r.Credentials = keys(); r.Credentials["AWS_CERT"] = []byte("none") }), reason: vmbackup.ReasonInvalidRequest, says: "AWS_CERT"},
		"credentials of NFS": {req: vmbackup.TargetRequest{Name: "default", URL: "nfs://10.0.0.5:/x", Credentials: keys()}, reason: vmbackup.ReasonInvalidRequest, says: "no credentials"},
		"foreign Secret":     {req: named(func(r *vmbackup.TargetRequest) { r.Credentials = keys() }), objects: []runtime.Object{backupTarget("default", "s3://bucket@region/"), secret("default-keys"), foreign}, reason: vmbackup.ReasonConflict, says: "not this tool's"},
		"uploads run": {req: setRequest("default", url), objects: []runtime.Object{
			backupTarget("default", "s3://bucket@region/"), secret("default-keys"), longhornBackup("b", "default", "v", longhornv1.BackupStateInProgress),
		}, reason: vmbackup.ReasonConflict, says: "1 uploads"},
		"not usable":      {req: setRequest("default", url), fault: "list", reason: vmbackup.ReasonTargetUnavailable, says: "nothing was changed"},
		"not to be tried": {req: setRequest("default", "nfs://10.0.0.5:/x"), fault: "nfs", reason: vmbackup.ReasonStorageUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			objects := test.objects
			if objects == nil {
				objects = []runtime.Object{backupTarget("default", "s3://bucket@region/"), backupTarget("other", "s3://other@region/"), secret("default-keys")}
			}
			c := newCluster(t, objects...)
			c.open = func(config target.Config) (target.Store, error) {
				if test.fault == "nfs" {
					return target.Open(config)
				}
				return &faulty{Memory: c.store, fault: test.fault}, nil
			}
			_, _, err := c.set(t.Context(), test.req)
			e := vmbackup.AsError(err, "")
			if e == nil || e.Reason != test.reason || !e.Preflight || !strings.Contains(e.Message, test.says) || strings.Contains(e.Message+e.Hint, secretValue) {
				t.Errorf("%+v", e)
			}
			if made := c.changes(); len(made) > 0 {
				t.Errorf("changed %q", made)
			}
		})
	}
}

// TestSetOptions changes mount options alone, which hides nothing.
func TestSetOptions(t *testing.T) {
	share := backupTarget("default", "nfs://10.0.0.5:/export?nfsOptions=rw%2Csoft%2Ctimeo%3D300%2Cretry%3D2")
	share.Spec.CredentialSecret = ""
	c := newCluster(t, share, longhornBackup("b1", "default", "v1", longhornv1.BackupStateCompleted))
	c.longhornLooks(available)
	req := setRequest("default", "nfs://10.0.0.5:/export?nfsOptions=rw")
	req.SkipCheck = true
	if plan, _, err := c.set(t.Context(), req); err != nil || plan.Hides != nil || plan.Unchanged {
		t.Errorf("%+v, %v", plan, err)
	}
}

func TestSetIsNotOverrun(t *testing.T) {
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"), secret("default-keys"))
	plan, err := c.PlanSet(t.Context(), setRequest("default", "s3://next@region/"))
	if err != nil {
		t.Fatal(err)
	}
	moved := backupTarget("default", "s3://elsewhere@region/")
	if err := c.longhorn.Tracker().Update(longhornv1.SchemeGroupVersion.WithResource("backuptargets"), moved, kube.LonghornNamespace); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Set(t.Context(), plan); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
		t.Error(err)
	}
	if now, err := c.Get(t.Context(), "default"); err != nil || now.Spec.URL != "s3://elsewhere@region/" {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestSetUnproved(t *testing.T) {
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"), secret("default-keys"))
	c.longhornLooks(func(bt *longhornv1.BackupTarget) {
		bt.Status.Available = false
		bt.Status.Conditions = []longhornv1.Condition{{Type: "Unavailable", Status: longhornv1.ConditionStatusTrue, Message: "cannot mount"}}
	})
	req := setRequest("default", "nfs://10.0.0.5:/export")
	req.SkipCheck = true
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	plan, _, err := c.set(ctx, req)
	if ctx.Err() != nil || vmbackup.ReasonOf(err) != vmbackup.ReasonTargetUnavailable || !strings.Contains(err.Error(), "is set, but") || !strings.Contains(err.Error(), "cannot mount") {
		t.Error(err)
	}
	if plan != nil && (plan.Check != nil || len(plan.Warnings) != 1) {
		t.Errorf("%+v", plan)
	}
	if now, err := c.Get(t.Context(), "default"); err != nil || now.Spec.URL != req.URL || now.Spec.CredentialSecret != "" {
		t.Errorf("%+v, %v", now, err)
	}
}

const harvesterValue = `{"type":"s3","endpoint":"http://e:9000","accessKeyId":"","secretAccessKey":"","bucketName":"bucket","bucketRegion":"region","cert":"","virtualHostedStyle":false,"refreshIntervalInSeconds":60}`

// configures is Harvester as it takes up its setting: the keys go into a Secret, the
// URL to Longhorn, and the keys out of the setting.
func (c *cluster) configures(t *testing.T, bt *longhornv1.BackupTarget) {
	c.patched = func(s *harvester.Setting) {
		var value settingValue
		if err := json.Unmarshal([]byte(s.Value), &value); err != nil {
			t.Error(err)
		}
		if value.Type == harvester.TargetS3 && (value.SecretAccessKey != secretValue || value.AccessKeyID != "an-id") {
			t.Errorf("Harvester is given other keys: %q", value.AccessKeyID)
		}
		value.AccessKeyID, value.SecretAccessKey = "", ""
		blanked, err := json.Marshal(value)
		if err != nil {
			t.Error(err)
		}
		s.Value = string(blanked)
		s.Annotations[harvester.TargetHashAnnotation] = "h2"
		bt = bt.DeepCopy()
		bt.Spec.BackupTargetURL = value.URL()
		if err := c.longhorn.Tracker().Update(longhornv1.SchemeGroupVersion.WithResource("backuptargets"), bt, kube.LonghornNamespace); err != nil {
			t.Error(err)
		}
	}
	c.longhornLooks(available)
}

func harvesterSecret() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: "default-keys"}, Data: keys()}
}

func TestSetByHarvester(t *testing.T) {
	for name, test := range map[string]struct {
		edit func(*vmbackup.TargetRequest)
		url  string
	}{
		"another bucket, same keys": {url: "s3://next@region/"},
		"other keys":                {url: "s3://bucket@region/", edit: func(r *vmbackup.TargetRequest) { r.Credentials = keys() }},
		"NFS":                       {url: "nfs://10.0.0.5:/export", edit: func(r *vmbackup.TargetRequest) { r.SkipCheck = true }},
	} {
		t.Run(name, func(t *testing.T) {
			bt := backupTarget("default", "s3://bucket@region/")
			c := newCluster(t, bt, harvesterSecret())
			c.setting = harvesterSetting(harvesterValue)
			c.configures(t, bt)
			req := setRequest("default", test.url)
			if test.edit != nil {
				test.edit(&req)
			}
			plan, got, err := c.set(t.Context(), req)
			if err != nil || plan.Unchanged || got.Spec.URL != test.url || got.Status.State != vmbackup.TargetAvailable {
				t.Fatalf("%+v, %+v, %v", plan, got, err)
			}
			if strings.Contains(fmt.Sprint(plan.Objects, plan.Warnings), secretValue) {
				t.Error("the secret is told")
			}
			// Longhorn's own objects are Harvester's to change.
			for _, change := range c.changes() {
				if change != "patch backuptargets" {
					t.Errorf("changed %s", change)
				}
			}
			if got.Status.Harvester.RefreshIntervalSeconds != 60 {
				t.Errorf("the refresh interval is %+v", got.Status.Harvester)
			}
		})
	}
	t.Run("as it is", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"), harvesterSecret())
		c.setting = harvesterSetting(harvesterValue)
		c.patched = func(*harvester.Setting) { t.Error("the setting was patched") }
		if plan, _, err := c.set(t.Context(), setRequest("default", "s3://bucket@region/")); err != nil || !plan.Unchanged {
			t.Errorf("%+v, %v", plan, err)
		}
	})
	for url, says := range map[string]string{"cifs://server/share": "S3 and NFS only", "s3://bucket@region/path/": "as a whole", "s3://bucket/": "as a whole"} {
		t.Run(url, func(t *testing.T) {
			c := newCluster(t, backupTarget("default", "s3://x@region/"), harvesterSecret())
			c.setting = harvesterSetting(harvesterValue)
			req := setRequest("default", url)
			if strings.HasPrefix(url, "cifs") {
				req.Credentials = map[string][]byte{"CIFS_USERNAME": []byte("u"), "CIFS_PASSWORD": []byte("p")}
			}
			_, _, err := c.set(t.Context(), req)
			if e := vmbackup.AsError(err, ""); e == nil || e.Reason != vmbackup.ReasonStorageUnsupported || !e.Preflight || !strings.Contains(e.Message, says) {
				t.Error(err)
			}
		})
	}
	t.Run("its webhook refuses", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"), harvesterSecret())
		c.setting = harvesterSetting(harvesterValue)
		c.refused = "failed to connect with " + secretValue
		_, _, err := c.set(t.Context(), setRequest("default", "s3://next@region/"))
		if err == nil || strings.Contains(err.Error(), secretValue) {
			t.Error(err)
		}
	})
	t.Run("changed meanwhile", func(t *testing.T) {
		c := newCluster(t, backupTarget("default", "s3://bucket@region/"), harvesterSecret())
		c.setting = harvesterSetting(harvesterValue)
		plan, err := c.PlanSet(t.Context(), setRequest("default", "s3://next@region/"))
		if err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		c.setting = harvesterSetting(strings.Replace(harvesterValue, `"bucket"`, `"theirs"`, 1))
		c.mu.Unlock()
		if _, err := c.Set(t.Context(), plan); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
			t.Error(err)
		}
	})
}

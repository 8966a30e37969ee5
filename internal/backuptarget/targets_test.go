// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	longhornfake "github.com/longhorn/longhorn-manager/k8s/pkg/client/clientset/versioned/fake"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const secretValue = "the-secret-value"

// cluster is an API server with Longhorn's objects and, when setting is not nil,
// Harvester's setting.
type cluster struct {
	t        *testing.T
	core     *corefake.Clientset
	longhorn *longhornfake.Clientset
	store    *target.Memory
	openErr  error
	*Targets

	mu      sync.Mutex
	setting *harvester.Setting
	// settingCode is the status of every answer about the setting instead of 200.
	settingCode int
	// patched is what Harvester makes of a setting that was patched.
	patched func(*harvester.Setting)
	// refused is why Harvester's webhook refuses every patch.
	refused string
}

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func newCluster(t *testing.T, objects ...runtime.Object) *cluster {
	c := &cluster{t: t, core: corefake.NewClientset(), longhorn: longhornfake.NewSimpleClientset(), store: target.NewMemory(noon)} //nolint:staticcheck // Longhorn has no NewClientset
	for _, o := range objects {
		var err error
		if _, ok := o.(*corev1.Secret); ok {
			err = c.core.Tracker().Add(o)
		} else {
			err = c.longhorn.Tracker().Add(o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL}
	h, err := harvester.NewClient(config, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	c.Targets = New(&kube.Clients{Core: c.core, Longhorn: c.longhorn, Harvester: h}, noon,
		func(target.Config) (target.Store, error) { return c.store, c.openErr })
	c.pause = func(context.Context, time.Duration) error { return nil }
	return c
}

// answer writes an object.
func (c *cluster) answer(w io.Writer, object any) {
	if err := json.NewEncoder(w).Encode(object); err != nil {
		c.t.Log(err) // the client has gone
	}
}

// ServeHTTP is the API of Harvester's settings.
func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fail := func(code int, reason metav1.StatusReason) {
		w.WriteHeader(code)
		c.answer(w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: reason, Code: int32(code)})
	}
	path := strings.TrimPrefix(r.URL.Path, "/apis/harvesterhci.io/v1beta1/")
	switch {
	case c.settingCode == http.StatusForbidden:
		fail(c.settingCode, metav1.StatusReasonForbidden)
	case c.setting == nil:
		fail(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.URL.Query().Get("watch") != "":
		c.watch(w, r)
	case r.Method == http.MethodPatch:
		c.patch(w, r, fail)
	case path == "settings":
		c.answer(w, harvester.SettingList{ListMeta: metav1.ListMeta{ResourceVersion: c.setting.ResourceVersion}, Items: []harvester.Setting{*c.setting}})
	case path == "settings/"+harvester.BackupTargetSetting:
		c.answer(w, c.setting)
	default:
		c.answer(w, map[string]any{"metadata": map[string]any{}, "items": []any{}})
	}
}

// watch sends the setting whenever its version is another one. The lock is held.
func (c *cluster) watch(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	for sent := r.URL.Query().Get("resourceVersion"); r.Context().Err() == nil; {
		if c.setting.ResourceVersion != sent {
			sent = c.setting.ResourceVersion
			c.answer(w, map[string]any{"type": "MODIFIED", "object": c.setting})
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		c.mu.Unlock()
		select {
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
		}
		c.mu.Lock()
	}
}

// patch applies a merge patch to the setting and lets patched be Harvester. The lock is held.
func (c *cluster) patch(w http.ResponseWriter, r *http.Request, fail func(int, metav1.StatusReason)) {
	body, err := io.ReadAll(r.Body)
	if err != nil || c.refused != "" {
		fail(http.StatusBadRequest, metav1.StatusReason(c.refused))
		return
	}
	old, err := json.Marshal(c.setting)
	if err != nil {
		c.t.Error(err)
	}
	merged, err := jsonpatch.MergePatch(old, body)
	if err != nil {
		c.t.Error(err)
	}
	next := &harvester.Setting{}
	if err := json.Unmarshal(merged, next); err != nil {
		c.t.Error(err)
	}
	if next.ResourceVersion != c.setting.ResourceVersion {
		fail(http.StatusConflict, metav1.StatusReasonConflict)
		return
	}
	next.ResourceVersion += "0"
	c.setting = next
	c.answer(w, c.setting)
	if c.patched != nil {
		answer := *next
		answer.Annotations = maps.Clone(next.Annotations)
		c.patched(&answer)
		answer.ResourceVersion += "0"
		c.setting = &answer
	}
}

func backupTarget(name, url string) *longhornv1.BackupTarget {
	return &longhornv1.BackupTarget{
		ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name},
		Spec:       longhornv1.BackupTargetSpec{BackupTargetURL: url, CredentialSecret: name + "-keys", PollInterval: metav1.Duration{Duration: 5 * time.Minute}},
		Status:     longhornv1.BackupTargetStatus{Available: true, LastSyncedAt: metav1.Time{Time: noon().Add(-time.Minute)}},
	}
}

func secret(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name}, Data: map[string][]byte{
		"AWS_SECRET_ACCESS_KEY": []byte(secretValue), "AWS_ACCESS_KEY_ID": []byte(secretValue), "AWS_CERT": {},
	}}
}

func backupVolume(name, target, bytes string) *longhornv1.BackupVolume {
	return &longhornv1.BackupVolume{
		ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name + "-" + target, Labels: map[string]string{targetLabel: target}},
		Spec:       longhornv1.BackupVolumeSpec{BackupTargetName: target, VolumeName: name},
		Status:     longhornv1.BackupVolumeStatus{DataStored: bytes, LastSyncedAt: metav1.Time{Time: noon()}},
	}
}

func longhornBackup(name, target, volume string, state longhornv1.BackupState) *longhornv1.Backup {
	return &longhornv1.Backup{
		ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: name, Labels: map[string]string{targetLabel: target, "backup-volume": volume}},
		Status:     longhornv1.BackupStatus{State: state, VolumeName: volume, BackupTargetName: target},
	}
}

// forbid makes the API server refuse a verb on a resource.
func forbid(f *clienttesting.Fake, verb, resource string) {
	f.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", nil)
	})
}

func TestShow(t *testing.T) {
	away := backupTarget("away", "nfs://10.0.0.5:/export?nfsOptions=nfsvers%3D4.1")
	away.Spec.CredentialSecret, away.Spec.PollInterval = "", metav1.Duration{}
	away.Status = longhornv1.BackupTargetStatus{Conditions: []longhornv1.Condition{{Type: "Unavailable", Status: longhornv1.ConditionStatusTrue, Message: "cannot mount"}}}
	bare := backupTarget("bare", "s3://x@r/")
	bare.Spec.CredentialSecret = ""
	c := newCluster(t, away, bare, backupTarget("default", "s3://bucket@region/"), backupTarget("unset", ""), secret("default-keys"),
		backupVolume("v1", "default", "1000"), backupVolume("v2", "default", "24"), backupVolume("v3", "away", "-7"),
		longhornBackup("b1", "default", "v1", longhornv1.BackupStateCompleted), longhornBackup("b2", "default", "v1", longhornv1.BackupStateError),
		longhornBackup("b3", "away", "v3", longhornv1.BackupStateCompleted),
		&longhornv1.BackupBackingImage{
			ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: "i", Labels: map[string]string{targetLabel: "default"}},
			Spec:       longhornv1.BackupBackingImageSpec{BackupTargetName: "default"}, Status: longhornv1.BackupBackingImageStatus{Size: 1024},
		})
	targets, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(targets); err != nil || strings.Contains(string(text), secretValue) || strings.Contains(string(text), "nfsOptions") {
		t.Errorf("%s, %v", text, err)
	}
	names, err := c.Names(t.Context())
	if err != nil || !slices.Equal(names, []string{"default", "away", "bare", "unset"}) {
		t.Fatalf("%v, %v", names, err)
	}
	first := targets[0]
	if s := first.Status; s.State != vmbackup.TargetAvailable || !s.LastSyncedAt.Equal(noon().Add(-time.Minute)) || s.Credentials.State != vmbackup.StateReady ||
		!slices.Equal(s.Credentials.Keys, []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}) ||
		*s.Holds != (vmbackup.TargetHoldings{Volumes: 2, Backups: 2, FailedBackups: 1, Images: 1, Bytes: 2048}) || s.Harvester != nil || s.Warnings != nil {
		t.Errorf("%+v", s)
	}
	if s := targets[1].Status; s.State != vmbackup.TargetUnavailable || s.Message != "cannot mount" || s.Credentials.State != vmbackup.StateSkipped || s.LastSyncedAt != nil || s.Holds.Bytes != 0 {
		t.Errorf("%+v", s)
	}
	if s := targets[2].Status; s.Credentials.State != vmbackup.StateFailed || !strings.Contains(s.Credentials.Message, "s3") {
		t.Errorf("%+v", s)
	}
	if s := targets[3].Status; s.State != vmbackup.TargetNotSet || s.Credentials.State != vmbackup.StateFailed || !strings.Contains(s.Credentials.Message, "no Secret") {
		t.Errorf("%+v", s)
	}
	if _, err := c.Get(t.Context(), "none"); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Error(err)
	}
	// Of one target alone nothing else is counted.
	if one, err := c.Get(t.Context(), "away"); err != nil || one.Status.Holds.Backups != 1 {
		t.Errorf("%+v, %v", one, err)
	}
}

func TestShowWithoutRights(t *testing.T) {
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
	forbid(&c.longhorn.Fake, "list", "backups")
	forbid(&c.core.Fake, "get", "secrets")
	c.settingCode = http.StatusForbidden
	got, err := c.Get(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	if s := got.Status; s.Holds != nil || s.Credentials.State != vmbackup.StateUnknown || s.Harvester.State != vmbackup.StateUnknown || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "Backups may not be listed") {
		t.Errorf("%+v", s)
	}
	forbid(&c.longhorn.Fake, "get", "backuptargets")
	if _, err := c.Get(t.Context(), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonForbidden {
		t.Error(err)
	}
}

// harvesterSetting is the setting with a value, configured.
func harvesterSetting(value string) *harvester.Setting {
	return &harvester.Setting{
		TypeMeta: metav1.TypeMeta{APIVersion: "harvesterhci.io/v1beta1", Kind: "Setting"},
		ObjectMeta: metav1.ObjectMeta{Name: harvester.BackupTargetSetting, ResourceVersion: "1", UID: "u", Annotations: map[string]string{
			harvester.TargetHashAnnotation: "h", harvester.TargetRefreshAnnotation: "2026-03-01T13:00:00+02:00",
		}},
		Value:  value,
		Status: harvester.SettingStatus{Conditions: []harvester.Condition{{Type: harvester.ConditionConfigured, Status: "True"}}},
	}
}

func TestShowOnHarvester(t *testing.T) {
	const value = `{"type":"s3","endpoint":"http://e:9000","bucketName":"bucket","bucketRegion":"region","accessKeyId":"","secretAccessKey":"` + secretValue + `","refreshIntervalInSeconds":60}`
	for name, test := range map[string]struct {
		value   string
		change  func(*harvester.Setting)
		state   vmbackup.State
		message string
		warning string
	}{
		"configured":      {value: value, state: vmbackup.StateReady},
		"never refreshed": {value: strings.Replace(value, ":60}", ":0}", 1), state: vmbackup.StateReady, warning: "refreshIntervalInSeconds 0"},
		"another":         {value: strings.Replace(value, `"bucket"`, `"other"`, 1), state: vmbackup.StateReady, warning: "s3://other@region/"},
		"empty":           {value: "", state: vmbackup.StateSkipped, warning: "is empty"},
		"not JSON":        {value: secretValue, state: vmbackup.StateFailed, message: "no JSON object"},
		"refused": {value: value, change: func(s *harvester.Setting) {
			s.Status.Conditions[0].Status, s.Status.Conditions[0].Message = "False", "no bucket"
		}, state: vmbackup.StateFailed, message: "no bucket"},
		"not configured":   {value: value, change: func(s *harvester.Setting) { s.Status.Conditions = nil }, state: vmbackup.StatePending, message: "not configured"},
		"nfs, as Longhorn": {value: `{"type":"nfs","endpoint":"nfs://10.0.0.5:/export","refreshIntervalInSeconds":60}`, state: vmbackup.StateReady, warning: "nfs://10.0.0.5:/export"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, backupTarget("default", "s3://bucket@region/"), backupTarget("second", "s3://second@region/"), secret("default-keys"))
			c.setting = harvesterSetting(test.value)
			if test.change != nil {
				test.change(c.setting)
			}
			got, err := c.Get(t.Context(), "default")
			if err != nil {
				t.Fatal(err)
			}
			h := got.Status.Harvester
			if h.State != test.state || !strings.Contains(h.Message, test.message) || !h.LastRefreshedAt.Equal(noon().Add(-time.Hour)) {
				t.Errorf("%+v", h)
			}
			if warnings := strings.Join(got.Status.Warnings, "\n"); (test.warning == "") != (warnings == "") || !strings.Contains(warnings, test.warning) {
				t.Errorf("warnings %q", warnings)
			}
			if text, err := json.Marshal(got); err != nil || strings.Contains(string(text), secretValue) {
				t.Errorf("%s, %v", text, err)
			}
			if second, err := c.Get(t.Context(), "second"); err != nil || second.Status.Harvester != nil {
				t.Errorf("%+v, %v", second, err)
			}
		})
	}
}

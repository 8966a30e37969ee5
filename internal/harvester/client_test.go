// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// answers is an API server that gives fixed answers by "METHOD path?query" and
// notes the bodies that it was sent.
type answers struct {
	t      *testing.T
	by     map[string]string
	bodies map[string]string
}

func (a *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Method + " " + r.URL.RequestURI()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Error(err)
	}
	a.bodies[key] = string(body)
	w.Header().Set("Content-Type", "application/json")
	answer, ok := a.by[key]
	if !ok {
		answer = status(http.StatusNotFound, metav1.StatusReasonNotFound)
	}
	var s metav1.Status
	if json.Unmarshal([]byte(answer), &s) == nil && s.Kind == "Status" {
		w.WriteHeader(int(s.Code))
	}
	fmt.Fprint(w, answer)
}

func status(code int, reason metav1.StatusReason) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"because","reason":%q,"code":%d}`, reason, code)
}

// serve starts an API server with the answers and returns its configuration.
func serve(t *testing.T, by map[string]string) (*rest.Config, *answers) {
	t.Helper()
	a := &answers{t: t, by: by, bodies: map[string]string{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}, a
}

func newTestClient(t *testing.T, by map[string]string) (*Client, *answers) {
	t.Helper()
	config, a := serve(t, by)
	client, err := NewClient(config, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return client, a
}

const (
	root   = "/apis/harvesterhci.io/v1beta1/"
	backup = `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackup","metadata":{"name":"web-1","namespace":"demo","resourceVersion":"7"},
		"spec":{"source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"web"},"type":"backup"},
		"status":{"source":{"spec":{"newInSomeRelease":{"a":1}}},"conditions":[{"type":"Ready","status":"True"}]}}`
)

func TestClientReads(t *testing.T) {
	client, _ := newTestClient(t, map[string]string{
		"GET " + root + "namespaces/demo/virtualmachinebackups/web-1": backup,
		"GET " + root + "virtualmachinebackups?labelSelector=a%3Db&limit=2": `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackupList",
			"metadata":{"continue":"next"},"items":[` + backup + `]}`,
		"GET " + root + "namespaces/demo/virtualmachinebackups?watch=true": `{"type":"MODIFIED","object":` + strings.ReplaceAll(backup, "\n", "") + "}\n",
		"GET " + root + "settings/backup-target":                           `{"apiVersion":"harvesterhci.io/v1beta1","kind":"Setting","metadata":{"name":"backup-target"},"value":"x"}`,
		"GET " + root + "namespaces/demo/virtualmachinerestores/r":         `{"kind":"VirtualMachineRestore","apiVersion":"harvesterhci.io/v1beta1","metadata":{"name":"r"},"spec":{"virtualMachineBackupName":"web-1"}}`,
		"GET " + root + "namespaces/demo/virtualmachineimages/i":           `{"kind":"VirtualMachineImage","apiVersion":"harvesterhci.io/v1beta1","metadata":{"name":"i"},"spec":{"displayName":"d"}}`,
		"GET " + root + "namespaces/demo/schedulevmbackups/s":              `{"kind":"ScheduleVMBackup","apiVersion":"harvesterhci.io/v1beta1","metadata":{"name":"s"},"spec":{"cron":"0 3 * * *"}}`,
	})
	got, err := client.Backups("demo").Get(t.Context(), "web-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec := string(got.Status.SourceSpec.Spec); spec != `{"newInSomeRelease":{"a":1}}` {
		t.Errorf("the machine's spec is %s", spec)
	}
	if c, ok := FindCondition(got.Status.Conditions, ConditionReady); !ok || c.Status != "True" {
		t.Errorf("condition Ready: %+v, %v", c, ok)
	}
	list, err := client.Backups("").List(t.Context(), metav1.ListOptions{LabelSelector: "a=b", Limit: 2})
	if err != nil || list.Continue != "next" || len(list.Items) != 1 || list.Items[0].Spec.Source.Name != "web" {
		t.Errorf("list: %+v, %v", list, err)
	}
	watched, err := client.Backups("demo").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watched.Stop()
	event := <-watched.ResultChan()
	if changed, ok := event.Object.(*VirtualMachineBackup); !ok || event.Type != watch.Modified || changed.ResourceVersion != "7" {
		t.Errorf("watched %+v", event)
	}
	setting, err := client.Settings().Get(t.Context(), BackupTargetSetting, metav1.GetOptions{})
	if err != nil || setting.Value != "x" {
		t.Errorf("setting: %+v, %v", setting, err)
	}
	restore, err := client.Restores("demo").Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil || restore.Spec.VirtualMachineBackupName != "web-1" {
		t.Errorf("restore: %+v, %v", restore, err)
	}
	image, err := client.Images("demo").Get(t.Context(), "i", metav1.GetOptions{})
	if err != nil || image.Spec.DisplayName != "d" {
		t.Errorf("image: %+v, %v", image, err)
	}
	schedule, err := client.Schedules("demo").Get(t.Context(), "s", metav1.GetOptions{})
	if err != nil || schedule.Spec.Cron != "0 3 * * *" {
		t.Errorf("schedule: %+v, %v", schedule, err)
	}
}

func TestClientWrites(t *testing.T) {
	const collection = root + "namespaces/demo/virtualmachinebackups"
	client, server := newTestClient(t, map[string]string{
		"POST " + collection + "?dryRun=All&fieldManager=me": backup,
		"PATCH " + collection + "/web-1":                     backup,
		"DELETE " + collection + "/web-1":                    `{"kind":"Status","apiVersion":"v1","status":"Success","code":200}`,
	})
	made := &VirtualMachineBackup{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}}
	made.Spec.Source.Kind, made.Spec.Source.Name, made.Spec.Type = "VirtualMachine", "web", TypeSnapshot
	got, err := client.Backups("demo").Create(t.Context(), made, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: "me"})
	if err != nil || got.Name != "web-1" {
		t.Errorf("create: %+v, %v", got, err)
	}
	var sent map[string]any
	if err := json.Unmarshal([]byte(server.bodies["POST "+collection+"?dryRun=All&fieldManager=me"]), &sent); err != nil {
		t.Fatal(err)
	}
	if sent["kind"] != "VirtualMachineBackup" || sent["apiVersion"] != "harvesterhci.io/v1beta1" {
		t.Errorf("sent %v", sent)
	}
	if _, err := client.Backups("demo").Patch(t.Context(), "web-1", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	if err := client.Backups("demo").Delete(t.Context(), "web-1", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Backups("demo").Get(t.Context(), "gone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a backup that is not there: %v", err)
	}
}

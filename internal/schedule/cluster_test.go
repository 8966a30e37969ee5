// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package schedule

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// cluster is an API server of Harvester with the machines shop/web and shop/db.
type cluster struct {
	t  *testing.T
	mu sync.Mutex
	// objects are the schedules by namespace/name.
	objects map[string]*harvester.ScheduleVMBackup
	backups []vmbackup.Backup
	// absent: no Harvester. elsewhere: other namespaces may not be listed.
	absent, elsewhere bool
	controllers       harvester.Liveness
	// target is the value of the setting backup-target.
	target string
	// deny is what the webhooks say.
	deny string
	// idle: the controllers do not follow.
	idle bool
	// writes are what was asked for: "POST shop/web", with " dry" where it was a dry run.
	writes []string
}

func newCluster(t *testing.T, objects ...*harvester.ScheduleVMBackup) *cluster {
	c := &cluster{
		t: t, objects: map[string]*harvester.ScheduleVMBackup{}, controllers: harvester.Alive,
		target: `{"type":"s3","bucketName":"b"}`,
	}
	for _, o := range objects {
		c.objects[o.Namespace+"/"+o.Name] = o
	}
	return c
}

// Backups implements Backups.
func (c *cluster) Backups(context.Context, string) ([]vmbackup.Backup, error) { return c.backups, nil }

func (c *cluster) scheduler() *Scheduler {
	c.t.Helper()
	server := httptest.NewServer(c)
	c.t.Cleanup(server.Close)
	clients, err := kube.NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		c.t.Fatal(err)
	}
	s := New(clients, c, noon)
	s.detect = func(context.Context) (*harvester.Presence, error) {
		return &harvester.Presence{Served: !c.absent, Controllers: c.controllers, Why: "nobody holds the lease"}, nil
	}
	return s
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	path, ours := strings.CutPrefix(r.URL.Path, "/apis/harvesterhci.io/v1beta1")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case r.URL.Path == "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/web", r.URL.Path == "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/db":
		c.answer(w, map[string]any{})
	case r.URL.Path == "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines":
		c.answer(w, map[string]any{"kind": "VirtualMachineList", "apiVersion": "kubevirt.io/v1", "items": []any{
			map[string]any{"metadata": map[string]any{"namespace": "shop", "name": "db"}},
		}})
	case !ours || c.absent:
		c.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "", "the server could not find the requested resource")
	case path == "":
		c.answer(w, metav1.APIResourceList{APIResources: []metav1.APIResource{{Name: harvester.ScheduleResource}}})
	case path == "/settings/backup-target":
		c.answer(w, &harvester.Setting{Value: c.target})
	case path == "/schedulevmbackups" && c.elsewhere:
		c.fail(w, http.StatusForbidden, metav1.StatusReasonForbidden, "", "may not")
	case path == "/schedulevmbackups":
		c.list(w, r, "")
	case len(parts) == 3 && r.Method == http.MethodGet:
		c.list(w, r, parts[1])
	default:
		c.one(w, r, parts)
	}
}

func (c *cluster) list(w http.ResponseWriter, r *http.Request, namespace string) {
	list := harvester.ScheduleVMBackupList{TypeMeta: metav1.TypeMeta{APIVersion: "harvesterhci.io/v1beta1", Kind: kind + "List"}}
	list.ResourceVersion = "1"
	name, _ := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	for _, o := range c.objects {
		if (namespace == "" || o.Namespace == namespace) && (name == "" || o.Name == name) {
			list.Items = append(list.Items, *o)
		}
	}
	c.answer(w, list)
}

// one answers for a single object.
func (c *cluster) one(w http.ResponseWriter, r *http.Request, parts []string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Error(err)
	}
	o := &harvester.ScheduleVMBackup{}
	if r.Method == http.MethodPost {
		if err := json.Unmarshal(body, o); err != nil {
			c.t.Error(err)
		}
		parts = append(parts, o.Name)
		o.UID = "new"
	} else if known := c.objects[parts[1]+"/"+parts[3]]; known != nil {
		*o = *known
	} else {
		c.fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, parts[3], parts[3]+" not found")
		return
	}
	key := parts[1] + "/" + parts[3]
	dry := r.URL.Query().Get("dryRun") != "" || strings.Contains(string(body), `"dryRun":["All"]`)
	if r.Method != http.MethodGet {
		note := r.Method + " " + key
		if dry {
			note += " dry"
		}
		c.writes = append(c.writes, note)
		if c.deny != "" {
			c.fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "", c.deny)
			return
		}
	}
	switch r.Method {
	case http.MethodPatch:
		before, err := json.Marshal(o)
		if err != nil {
			c.t.Error(err)
		}
		after, err := jsonpatch.MergePatch(before, body)
		if err != nil {
			c.t.Error(err)
		}
		o = &harvester.ScheduleVMBackup{}
		if err := json.Unmarshal(after, o); err != nil {
			c.t.Error(err)
		}
	case http.MethodDelete:
		if !dry {
			delete(c.objects, key)
		}
		c.answer(w, metav1.Status{Status: metav1.StatusSuccess})
		return
	}
	c.answer(w, o)
	if r.Method != http.MethodGet && !dry {
		if !c.idle {
			o.Finalizers, o.Status.Suspended = []string{"theirs"}, o.Spec.Suspend
		}
		c.objects[key] = o
	}
}

func (c *cluster) answer(w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		c.t.Error(err)
	}
}

func (c *cluster) fail(w http.ResponseWriter, code int32, reason metav1.StatusReason, name, message string) {
	w.WriteHeader(int(code))
	c.answer(w, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: code, Reason: reason, Message: message, Details: &metav1.StatusDetails{Name: name},
	})
}

// other is a schedule of a machine.
func other(namespace, name, vm, cron string) *harvester.ScheduleVMBackup {
	o := nightly()
	o.Namespace, o.Name, o.UID = namespace, name, types.UID(name)
	o.Spec.VMBackup.Source.Name, o.Spec.Cron = vm, cron
	return o
}

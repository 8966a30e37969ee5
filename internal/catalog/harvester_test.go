// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// apiServer answers GETs by path; a watch gets no events and lasts, until moved is
// closed: then it has expired, and what there is now is listed. Paths that it does not
// know are not found.
type apiServer struct {
	moved   chan struct{}
	mu      sync.Mutex
	answers map[string]string
	asked   []string
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") != "" {
		w.WriteHeader(http.StatusOK)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-r.Context().Done():
		case <-s.moved:
			fmt.Fprint(w, `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}}`)
		}
		return
	}
	key := r.URL.Path
	if c := r.URL.Query().Get("continue"); c != "" {
		key += "?continue=" + c
	}
	s.mu.Lock()
	s.asked = append(s.asked, key)
	answer, ok := s.answers[key]
	s.mu.Unlock()
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
	case answer == "forbidden":
		w.WriteHeader(http.StatusForbidden)
		answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Forbidden","code":403}`
	}
	fmt.Fprint(w, answer)
}

const (
	harvesterAPI = "/apis/harvesterhci.io/v1beta1"
	longhornAPI  = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system"
)

// harvesterBackup is one that Harvester calls ready, of a machine with one volume.
func harvesterBackup(name string) string {
	return fmt.Sprintf(`{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackup","metadata":{"name":%[1]q,"namespace":"demo","creationTimestamp":"2026-03-01T12:00:00Z"},
		"spec":{"type":"backup","source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"web"}},
		"status":{"sourceUID":"u","readyToUse":true,"backupTarget":{"endpoint":"e","bucketName":"b","bucketRegion":"r"},
		"source":{"metadata":{"name":"web","namespace":"demo","labels":{"app":"web"}},"spec":{"template":{"spec":{"volumes":[{"name":"root","persistentVolumeClaim":{"claimName":"web-root"}}]}}}},
		"volumeBackups":[{"name":"%[1]s-volume-web-root","volumeName":"root","csiDriverName":"driver.longhorn.io","longhornBackupName":"backup-%[1]s","volumeSize":1073741824,"progress":100,"readyToUse":true,
		"persistentVolumeClaim":{"metadata":{"name":"web-root","namespace":"demo"},"spec":{"accessModes":["ReadWriteMany"],"resources":{"requests":{"storage":"1Gi"}},"volumeName":"pvc-web","storageClassName":"lh"}}}],
		"conditions":[{"type":"Ready","status":"True"},{"type":"MetadataReady","status":"True","lastUpdateTime":"2026-03-01T12:01:00Z"}]}}`, name)
}

func longhornBackup(name, state string) string {
	return fmt.Sprintf(`{"metadata":{"name":"backup-%s","namespace":"longhorn-system"},"status":{"state":%q,"volumeName":"pvc-web","size":"4096","newlyUploadDataSize":"4096"}}`, name, state)
}

func list(kind string, items ...string) string {
	return fmt.Sprintf(`{"apiVersion":"longhorn.io/v1beta2","kind":"%sList","metadata":{},"items":[%s]}`, kind, strings.Join(items, ","))
}

// answersOf is a Harvester cluster with two backups, of which one is still uploaded.
func answersOf() map[string]string {
	return map[string]string{
		harvesterAPI: `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"harvesterhci.io/v1beta1","resources":[{"name":"virtualmachinebackups","namespaced":true,"kind":"VirtualMachineBackup","verbs":["list"]}]}`,
		harvesterAPI + "/virtualmachinebackups": `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackupList","metadata":{"continue":"more"},"items":[` +
			harvesterBackup("a") + `]}`,
		harvesterAPI + "/virtualmachinebackups?continue=more": `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackupList","metadata":{},"items":[` +
			harvesterBackup("b") + `]}`,
		harvesterAPI + "/namespaces/demo/virtualmachinebackups/a": harvesterBackup("a"),
		harvesterAPI + "/settings/backup-target": `{"apiVersion":"harvesterhci.io/v1beta1","kind":"Setting","metadata":{"name":"backup-target"},
			"value":"{\"type\":\"s3\",\"endpoint\":\"e\",\"bucketName\":\"b\",\"bucketRegion\":\"r\"}"}`,
		longhornAPI + "/backups":             list("Backup", longhornBackup("a", "Completed"), longhornBackup("b", "InProgress")),
		longhornAPI + "/backupbackingimages": list("BackupBackingImage"),
	}
}

func harvesterAt(t *testing.T, answers map[string]string) (catalog.Foreign, *apiServer) {
	t.Helper()
	s := &apiServer{moved: make(chan struct{}), answers: answers}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	clients, err := kube.NewClients(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return catalog.Harvester(clients), s
}

func TestHarvesterBackups(t *testing.T) {
	const backups = harvesterAPI + "/virtualmachinebackups"
	for name, test := range map[string]struct {
		change map[string]string // "" removes an answer
		want   []string
		says   string // a warning of the first backup
		reason vmbackup.Reason
		asked  int
	}{
		"seen through": {want: []string{"demo/a Ready cluster", "demo/b Running cluster"}, asked: 5},
		"no Harvester": {change: map[string]string{harvesterAPI: "", backups: ""}, asked: 1},
		// RBAC answers before the kind is looked for.
		"no Harvester and no rights":   {change: map[string]string{harvesterAPI: "", backups: "forbidden"}, asked: 2},
		"no right to Harvester's":      {change: map[string]string{backups: "forbidden"}, reason: vmbackup.ReasonForbidden, asked: 2},
		"no right to Longhorn's":       {change: map[string]string{longhornAPI + "/backups": "forbidden"}, want: []string{"demo/a Unknown cluster", "demo/b Unknown cluster"}, says: "Longhorn Backups"},
		"no right to the setting":      {change: map[string]string{harvesterAPI + "/settings/backup-target": "forbidden"}, want: []string{"demo/a Unknown cluster", "demo/b Unknown cluster"}, says: "backup-target"},
		"Longhorn has no backup of it": {change: map[string]string{longhornAPI + "/backups": list("Backup")}, want: []string{"demo/a Unknown cluster", "demo/b Unknown cluster"}, says: "Longhorn shows no backup backup-a"},
	} {
		t.Run(name, func(t *testing.T) {
			answers := answersOf()
			for path, answer := range test.change {
				if answers[path] = answer; answer == "" {
					delete(answers, path)
				}
			}
			foreign, server := harvesterAt(t, answers)
			got, err := foreign.Backups(t.Context(), "")
			if vmbackup.ReasonOf(err) != test.reason {
				t.Fatalf("error %v, want %s", err, test.reason)
			}
			if !slices.Equal(told(got), test.want) {
				t.Errorf("got %q, want %q", told(got), test.want)
			}
			if test.says != "" && !strings.Contains(strings.Join(got[0].Status.Warnings, " "), test.says) {
				t.Errorf("warnings %q, want %q", got[0].Status.Warnings, test.says)
			}
			if test.asked > 0 && len(server.asked) != test.asked {
				t.Errorf("asked %q, want %d requests", server.asked, test.asked)
			}
		})
	}
}

// The record has all that a restore needs.
func TestHarvesterRecord(t *testing.T) {
	foreign, _ := harvesterAt(t, answersOf())
	got, err := foreign.Record(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	volume := got.Backup.Status.Volumes[0]
	if !got.Backup.Status.Ready || volume.SnapshotHandle != "bak://pvc-web/backup-a" || volume.State != vmbackup.StateReady {
		t.Errorf("backup %+v", got.Backup)
	}
	if len(got.Claims) != 1 || !strings.Contains(string(got.VM), `"claimName":"web-root"`) || !strings.Contains(string(got.Claims[0]), `"name":"web-root"`) {
		t.Errorf("machine %s, claims %s", got.VM, got.Claims)
	}
	for _, answers := range []map[string]string{answersOf(), {}} {
		foreign, _ := harvesterAt(t, answers)
		if _, err := foreign.Record(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "none"}); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("a backup that is not there: %v", err)
		}
	}
}

// Harvester says Ready before the upload ends: the end is seen at Longhorn's backup.
func TestHarvesterWatch(t *testing.T) {
	answers := answersOf()
	object := harvesterAPI + "/namespaces/demo/virtualmachinebackups"
	answers[object] = `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackupList","metadata":{"resourceVersion":"1"},"items":[` + harvesterBackup("a") + `]}`
	answers[longhornAPI+"/backups"] = list("Backup", longhornBackup("a", "InProgress"))
	foreign, server := harvesterAt(t, answers)
	var phases []vmbackup.Phase
	err := foreign.Watch(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "a"}, func(b *vmbackup.Backup) bool {
		phases = append(phases, b.Status.Phase)
		server.mu.Lock()
		server.answers[longhornAPI+"/backups"] = list("Backup", longhornBackup("a", "Completed"))
		server.mu.Unlock()
		if len(phases) == 1 {
			close(server.moved)
		}
		return b.Status.Phase.Done()
	})
	if err != nil || phases[0] != vmbackup.PhaseRunning || phases[len(phases)-1] != vmbackup.PhaseReady {
		t.Errorf("%q, %v", phases, err)
	}
}

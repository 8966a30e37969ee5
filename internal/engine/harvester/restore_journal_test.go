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
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreServer is an API server that has VirtualMachineRestores.
type restoreServer struct {
	mu      sync.Mutex
	objects map[string][]byte
	version int
	// before is called before a patch is applied, as a controller writes in between.
	before func(name string)
}

func (s *restoreServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/") // apis group version namespaces NS resource [NAME]
	name := ""
	if len(parts) > 6 {
		name = parts[6]
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if req.Method == http.MethodPatch && s.before != nil {
		s.before(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case req.Method == http.MethodGet && name == "":
		items := []json.RawMessage{}
		for _, o := range s.objects {
			items = append(items, o)
		}
		s.answer(w, map[string]any{"kind": "VirtualMachineRestoreList", "apiVersion": "harvesterhci.io/v1beta1", "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
	case req.Method == http.MethodPost:
		var o hv.VirtualMachineRestore
		if err := json.Unmarshal(body, &o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if s.objects[o.Name] != nil {
			s.status(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, o.Name)
			return
		}
		o.UID = types.UID("uid-" + o.Name)
		s.put(w, &o)
	case s.objects[name] == nil:
		s.status(w, http.StatusNotFound, metav1.StatusReasonNotFound, name)
	case req.Method == http.MethodPatch:
		have := &hv.VirtualMachineRestore{}
		wanted := &metav1.PartialObjectMetadata{}
		patched := &hv.VirtualMachineRestore{}
		merged, err := jsonpatch.MergePatch(s.objects[name], body)
		if err == nil {
			err = json.Unmarshal(s.objects[name], have)
		}
		if err == nil {
			err = json.Unmarshal(body, wanted)
		}
		if err == nil {
			err = json.Unmarshal(merged, patched)
		}
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		case wanted.ResourceVersion != have.ResourceVersion:
			s.status(w, http.StatusConflict, metav1.StatusReasonConflict, name)
		default:
			s.put(w, patched)
		}
	default:
		s.answer(w, json.RawMessage(s.objects[name]))
	}
}

// put stores an object under a new version. The lock is held.
func (s *restoreServer) put(w http.ResponseWriter, o *hv.VirtualMachineRestore) {
	s.version++
	o.ResourceVersion = fmt.Sprint(s.version)
	raw, err := json.Marshal(o)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.objects[o.Name] = raw
	s.answer(w, json.RawMessage(raw))
}

// touch is a write of Harvester's.
func (s *restoreServer) touch(t *testing.T, name string, change func(*hv.VirtualMachineRestore)) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &hv.VirtualMachineRestore{}
	if err := json.Unmarshal(s.objects[name], o); err != nil {
		t.Error(err)
		return
	}
	change(o)
	s.put(httptest.NewRecorder(), o)
}

func (s *restoreServer) answer(w http.ResponseWriter, o any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(o); err != nil {
		panic(err)
	}
}

func (s *restoreServer) status(w http.ResponseWriter, code int, reason metav1.StatusReason, name string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	answer := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
		Details: &metav1.StatusDetails{Name: name, Kind: hv.RestoreResource},
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

func newRestoreJournal(t *testing.T) (*restoreJournal, *restoreServer) {
	t.Helper()
	server := &restoreServer{objects: map[string][]byte{}}
	http := httptest.NewServer(server)
	t.Cleanup(http.Close)
	client, err := hv.NewClient(&rest.Config{Host: http.URL}, http.Client())
	if err != nil {
		t.Fatal(err)
	}
	spec := &hv.VirtualMachineRestoreSpec{VirtualMachineBackupName: "nightly", VirtualMachineBackupNamespace: "shop", NewVM: true, DeletionPolicy: hv.PolicyRetain}
	spec.Target.Name = "copy"
	return &restoreJournal{Store: journal.NewMemory(), clients: &kube.Clients{Harvester: client}, spec: spec}, server
}

func restoreEntry(data string) journal.Entry {
	return journal.Entry{
		Kind: journal.KindRestore, Ref: vmbackup.Ref{Namespace: "shop", Name: "r"}, Data: []byte(data),
		Labels: map[string]string{journal.LabelVM: "copy", journal.LabelPhase: "Running"},
	}
}

// The record lies on Harvester's object, whose own writes are no other version of it.
func TestRecordOnTheRestore(t *testing.T) {
	j, server := newRestoreJournal(t)
	first, err := j.Create(t.Context(), restoreEntry("one"))
	if err != nil {
		t.Fatal(err)
	}
	object, err := j.clients.Harvester.Restores("shop").Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil || object.Spec.DeletionPolicy != hv.PolicyRetain || object.Spec.Target.Name != "copy" {
		t.Fatalf("%+v, %v", object, err)
	}
	if _, err := j.Create(t.Context(), restoreEntry("two")); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
		t.Errorf("made twice: %v", err)
	}
	complete := false
	server.touch(t, "r", func(o *hv.VirtualMachineRestore) { o.Status.Complete = &complete })
	got, err := j.Get(t.Context(), journal.KindRestore, first.Ref)
	if err != nil || string(got.Data) != "one" || got.Version != first.Version {
		t.Errorf("%+v, %v", got, err)
	}

	// Harvester writes between reading and writing, and neither is lost.
	times := 0
	server.before = func(name string) {
		if times++; times == 1 {
			server.touch(t, name, func(o *hv.VirtualMachineRestore) { o.Status.Progress = 90 })
		}
	}
	next := restoreEntry("three")
	next.Version, next.Labels[journal.LabelPhase] = first.Version, "Ready"
	second, err := j.Update(t.Context(), next)
	if err != nil || times != 2 {
		t.Fatalf("%v after %d attempts", err, times)
	}
	object, err = j.clients.Harvester.Restores("shop").Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil || object.Status.Progress != 90 || object.Labels[journal.LabelPhase] != "Ready" {
		t.Errorf("%+v, %v", object, err)
	}

	// Another run has written meanwhile.
	if _, err := j.Update(t.Context(), next); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict {
		t.Errorf("a stale write: %v", err)
	}
	if second.Version == first.Version {
		t.Error("another record has the same version")
	}
	list, err := j.List(t.Context(), journal.ListOptions{Kind: journal.KindRestore, Namespace: "shop"})
	if err != nil || len(list) != 1 || string(list[0].Data) != "three" {
		t.Errorf("%+v, %v", list, err)
	}
}

// A restore that was given up has no object of Harvester's any more.
func TestRecordWithoutTheRestore(t *testing.T) {
	j, _ := newRestoreJournal(t)
	ref := restoreEntry("").Ref
	if _, err := j.Get(t.Context(), journal.KindRestore, ref); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("%v", err)
	}
	kept, err := j.Store.Create(t.Context(), restoreEntry("kept"))
	if err != nil {
		t.Fatal(err)
	}
	kept.Data = []byte("canceled")
	if _, err := j.Update(t.Context(), kept); err != nil {
		t.Error(err)
	}
	got, err := j.Get(t.Context(), journal.KindRestore, ref)
	if err != nil || string(got.Data) != "canceled" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := j.Create(t.Context(), restoreEntry("again")); vmbackup.ReasonOf(err) != vmbackup.ReasonAlreadyExists {
		t.Errorf("its name is free: %v", err)
	}
}

// What somebody else has asked Harvester for is not the tool's to go on with.
func TestRestoreOfSomebodyElse(t *testing.T) {
	j, _ := newRestoreJournal(t)
	ref := vmbackup.Ref{Namespace: "shop", Name: "theirs"}
	if _, err := j.clients.Harvester.Restores("shop").Create(t.Context(), newRestore(ref, j.spec), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Get(t.Context(), journal.KindRestore, ref); vmbackup.ReasonOf(err) != vmbackup.ReasonConflict || !strings.Contains(err.Error(), "not made by this tool") {
		t.Errorf("%v", err)
	}
}

// A record that does not fit on an object is refused before anything is made.
func TestRecordTooLarge(t *testing.T) {
	j, server := newRestoreJournal(t)
	_, err := j.Create(t.Context(), restoreEntry(strings.Repeat("x", recordLimit)))
	if UnfitFor(err) == "" || len(server.objects) > 0 {
		t.Errorf("%v, %d objects", err, len(server.objects))
	}
}

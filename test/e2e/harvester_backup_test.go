// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testByHarvester has Harvester's own controllers make backups for the plugin: through
// a kill, a cancellation in mid upload, and to the deletion of all that was made.
func (s *suite) testByHarvester(t *testing.T) {
	m := machine{namespace: s.namespace(t, "leave-it"), name: "app", disks: []string{"root", "data"}}
	s.make(t, m)
	create := func(more ...string) []string { return append([]string{"create", "app", "-n", m.namespace}, more...) }

	before := s.worldIn(t, m.namespace)
	planned := s.want(t, 0, create("--name", "left", "--dry-run=client")...)
	if !strings.Contains(planned.stdout, "VirtualMachineBackup") || !strings.Contains(planned.stdout, "harvester/vmbackups/"+m.namespace+"/left.cfg") {
		t.Errorf("planned: %s", planned)
	}
	s.refused(t, []string{"cannot be promised", "--engine direct"}, create("--engine", "harvester", "--quiesce", "require")...)
	s.refused(t, []string{`"default" alone`, "--engine direct"}, create("--engine", "harvester", "--target", "second")...)
	s.refused(t, []string{"5s cannot be kept", "--engine direct"}, create("--engine", "harvester", "--freeze-timeout", "5s")...)
	if after := s.worldIn(t, m.namespace); !maps.Equal(before, after) {
		t.Errorf("a plan or a refusal has changed something:\n%v\n%v", before, after)
	}

	// Killed in the upload, it goes on in the cluster, and is seen to its end elsewhere.
	p := s.start(t, create("--name", "left")...)
	p.until(t, "the upload", atStep("upload"))
	p.end(t, syscall.SIGKILL)
	began := time.Now()
	b := s.backup(t, 0, "resume", "left", "-n", m.namespace)
	t.Logf("Ready %.0f s after the kill", time.Since(began).Seconds())
	if b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready || b.Status.Engine != vmbackup.EngineHarvester || b.Status.Consistency != vmbackup.ConsistencyCrash || len(b.Status.Volumes) != 2 {
		t.Errorf("%+v", b)
	}
	for _, key := range []string{metadata.HarvesterBackupKey(b.Ref()), metadata.RecordKey(b.Ref())} {
		if !s.onTarget(t, key) {
			t.Errorf("%s is not on the target", key)
		}
	}
	s.likeHarvesters(t, m, "left")
	s.refused(t, []string{"there is a backup"}, create("--name", "left")...)
	s.refused(t, []string{"there is a backup"}, create("--name", "left", "--engine", "direct")...)
	s.refused(t, []string{"Harvester removes the data"}, "delete", "left", "-n", m.namespace, "--keep-data", "--yes")
	if got := s.want(t, 0, "list", "-n", m.namespace, "--from", "all", "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.foundOn}"); got.stdout != "left cluster,target" {
		t.Errorf("listed: %s", got)
	}
	s.want(t, 0, "delete", "left", "-n", m.namespace, "--yes")
	s.nothingOf(t, b.Ref(), b.Status.Volumes)

	// Canceled in the upload by another process.
	p = s.start(t, create("--name", "unwanted")...)
	p.until(t, "the upload", atStep("upload"))
	b = s.backup(t, 0, "cancel", "unwanted", "-n", m.namespace)
	if b.Status.Phase != vmbackup.PhaseCanceled || b.Status.Ready {
		t.Errorf("canceled: %+v", b.Status)
	}
	if got := p.wait(t); got.code != 1 || !strings.Contains(got.stderr, "is being deleted and does not go on") {
		t.Errorf("the canceled run: want exit code 1: %s", got)
	}
	s.nothingOf(t, b.Ref(), b.Status.Volumes)
	s.wait(t, harvesterBackups, m.namespace, "unwanted", "gone", func(o *unstructured.Unstructured) bool { return o == nil })

	// What Harvester cannot promise is done without it, and said.
	b = s.backup(t, 3, create("--name", "frozen", "--quiesce", "require")...)
	if b.Status.Engine != vmbackup.EngineDirect || b.Status.Consistency != vmbackup.ConsistencyApplication ||
		!slices.ContainsFunc(b.Status.Warnings, func(w string) bool { return strings.Contains(w, "without Harvester's controllers") }) {
		t.Errorf("%+v", b.Status)
	}
	s.want(t, 0, "delete", "frozen", "-n", m.namespace, "--yes")

	b = s.backup(t, 0, create("--name", "cut", "--type", "snapshot")...)
	if b.Status.Phase != vmbackup.PhaseReady || b.Status.Engine != vmbackup.EngineHarvester || b.Spec.Type != vmbackup.TypeSnapshot {
		t.Errorf("%+v", b)
	}
	s.want(t, 0, "delete", "cut", "-n", m.namespace, "--yes")
	s.nothingOf(t, b.Ref(), b.Status.Volumes)
}

// likeHarvesters compares an object of the plugin's with what Harvester's UI makes.
func (s *suite) likeHarvesters(t *testing.T, m machine, name string) {
	t.Helper()
	o := s.get(t, harvesterBackups, m.namespace, name)
	spec, _, err := unstructured.NestedMap(o.Object, "spec")
	want := map[string]any{"type": "backup", "source": map[string]any{"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": m.name}}
	if err != nil || !reflect.DeepEqual(spec, want) || len(o.GetLabels()) > 0 || len(o.GetOwnerReferences()) > 0 {
		t.Errorf("%v, %v, labels %v, owners %v", spec, err, o.GetLabels(), o.GetOwnerReferences())
	}
}

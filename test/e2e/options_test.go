// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// definitions are Multus' networks.
var definitions = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}

// temporary creates an object of the whole cluster, which is deleted at the end.
func (s *suite) temporary(t *testing.T, resource schema.GroupVersionResource, object map[string]any) {
	t.Helper()
	s.create(t, resource, object)
	name := (&unstructured.Unstructured{Object: object}).GetName()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.in(resource, "").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// class makes a StorageClass of Longhorn with one replica and more parameters.
func (s *suite) class(t *testing.T, name string, parameters map[string]any) {
	t.Helper()
	all := map[string]any{"numberOfReplicas": "1", "staleReplicaTimeout": "30"}
	for key, value := range parameters {
		all[key] = value
	}
	s.temporary(t, storageClasses, map[string]any{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": map[string]any{"name": name},
		"provisioner": "driver.longhorn.io", "volumeBindingMode": "Immediate", "parameters": all,
	})
}

// network makes a NetworkAttachmentDefinition.
func (s *suite) network(t *testing.T, namespace, name string) {
	t.Helper()
	s.create(t, definitions, map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": name, "namespace": namespace}, "spec": map[string]any{"config": `{"cniVersion":"0.3.1","type":"bridge"}`},
	})
}

// known is what a machine of the tests of options is known by.
const known = `{"spec":{"template":{"spec":{
	"hostname":"app",
	"domain":{"firmware":{"uuid":"5d307ca9-b3ef-428c-8861-06e72d69f223","serial":"A-1"},"devices":{"interfaces":[
		{"name":"default","masquerade":{},"macAddress":"02:00:00:00:aa:01"},
		{"name":"lan","bridge":{},"macAddress":"02:00:00:00:aa:02"}]}},
	"networks":[{"name":"default","pod":{}},{"name":"lan","multus":{"networkName":"vlan10"}}]}}}}`

// shape is the part of a machine that the options are about.
type shape struct {
	hostname, uuid, serial string
	macs, networks         []string
	cores                  int64
}

func shapeOf(t *testing.T, vm *unstructured.Unstructured) shape {
	t.Helper()
	template := []string{"spec", "template", "spec"}
	in := func(path ...string) []string { return append(slices.Clone(template), path...) }
	got := shape{
		hostname: text(vm, in("hostname")...), uuid: text(vm, in("domain", "firmware", "uuid")...), serial: text(vm, in("domain", "firmware", "serial")...),
	}
	list := func(path ...string) []map[string]any {
		items, _, err := unstructured.NestedSlice(vm.Object, in(path...)...)
		if err != nil {
			t.Fatal(err)
		}
		maps := make([]map[string]any, len(items))
		for i, item := range items {
			maps[i] = item.(map[string]any)
		}
		return maps
	}
	for _, i := range list("domain", "devices", "interfaces") {
		mac, _ := i["macAddress"].(string)
		got.macs = append(got.macs, mac)
	}
	for _, n := range list("networks") {
		name := "pod"
		if multus, ok := n["multus"].(map[string]any); ok {
			name, _ = multus["networkName"].(string)
		}
		got.networks = append(got.networks, name)
	}
	got.cores, _, _ = unstructured.NestedInt64(vm.Object, in("domain", "cpu", "cores")...)
	return got
}

// testOptions restores one machine with two networks twice: as another machine in a
// namespace and with a StorageClass and a network of its own, and as it was.
func (s *suite) testOptions(t *testing.T) {
	m := machine{namespace: s.namespace(t, "options"), name: "app", disks: []string{"root"}, off: true}
	s.network(t, m.namespace, "vlan10")
	s.network(t, m.namespace, "vlan20")
	class := m.namespace + "-class"
	s.class(t, class, nil)
	sums := s.make(t, m)
	s.patch(t.Context(), t, machines, m.namespace, m.name, known)
	s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "good")
	was := shapeOf(t, s.get(t, machines, m.namespace, m.name))

	t.Run("another", func(t *testing.T) {
		t.Parallel()
		to := m.namespace + "-new"
		patch := filepath.Join(t.TempDir(), "patch.yaml")
		if err := os.WriteFile(patch, []byte("- {op: add, path: /spec/template/spec/domain/cpu, value: {cores: 2}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
			defer cancel()
			if err := s.in(namespaces, "").Delete(ctx, to, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
		// Asked for, all of it: nothing to warn of.
		r := s.restore(t, 0, "restore", "good", "-n", m.namespace, "--to-namespace", to, "--create-namespace", "--to-name", "twin",
			"--mac", "new", "--start", "yes", "--new-identity", "--map-storage-class", "longhorn-1r="+class,
			"--map-network", m.namespace+"/vlan10="+m.namespace+"/vlan20", "--patch", patch)
		s.restored(t, r, "Running", sums)
		if got := text(s.get(t, claims, to, r.Status.Volumes[0].PVC), "spec", "storageClassName"); got != class || r.Status.Volumes[0].StorageClass != class {
			t.Errorf("StorageClass %q, and the restore says %q", got, r.Status.Volumes[0].StorageClass)
		}
		is := shapeOf(t, s.get(t, machines, to, "twin"))
		if is.hostname != "twin" || is.uuid == was.uuid || is.uuid == "" || is.serial == was.serial || is.serial == "" {
			t.Errorf("its identity was %+v and is %+v", was, is)
		}
		if is.cores != 2 || !slices.Equal(is.networks, []string{"pod", m.namespace + "/vlan20"}) {
			t.Errorf("machine %+v", is)
		}
		for _, mac := range is.macs {
			if slices.Contains(was.macs, mac) {
				t.Errorf("MAC addresses were %q and are %q", was.macs, is.macs)
			}
		}
	})
	t.Run("the_same", func(t *testing.T) {
		t.Parallel()
		r := s.restore(t, 3, "restore", "good", "-n", m.namespace, "--to-name", "same", "--mac", "keep", "--start", "no")
		if told := strings.Join(r.Status.Warnings, "\n"); !strings.Contains(told, "has the same MAC addresses (2 of them") {
			t.Errorf("warnings %q", told)
		}
		s.restored(t, r, "Stopped", sums)
		is := shapeOf(t, s.get(t, machines, m.namespace, "same"))
		if is.hostname != was.hostname || is.uuid != was.uuid || is.serial != was.serial || !slices.Equal(is.macs, was.macs) || !slices.Equal(is.networks, was.networks) {
			t.Errorf("the machine was %+v and is %+v", was, is)
		}
	})
}

// testAllowIncomplete takes the data of one disk away from a backup, and then that of
// the other one.
func (s *suite) testAllowIncomplete(t *testing.T) {
	m := machine{namespace: s.namespace(t, "incomplete"), name: "app", disks: []string{"root", "data"}}
	sums := s.make(t, m)
	b := s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "torn")
	lose := func(disk string) {
		t.Helper()
		for _, v := range b.Status.Volumes {
			if v.Name == disk {
				if err := s.store(t).Delete(t.Context(), backupFile(v)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	lose("data")
	for _, from := range []string{"cluster", "target"} {
		s.refused(t, []string{"data", "--allow-incomplete"}, "restore", "torn", "-n", m.namespace, "--to-name", "rest", "--from", from)
	}
	dry := s.restore(t, 0, "restore", "torn", "-n", m.namespace, "--to-name", "rest", "--allow-incomplete", "--dry-run")
	if told := strings.Join(dry.Status.Warnings, "\n"); !strings.Contains(told, `volume "data" is left out of the machine`) {
		t.Errorf("warnings of the dry run: %q", told)
	}
	r := s.restore(t, 3, "restore", "torn", "-n", m.namespace, "--to-name", "rest", "--allow-incomplete")
	s.restored(t, r, "Stopped", map[string]string{m.claim("root"): sums[m.claim("root")]})
	told := strings.Join(r.Status.Warnings, "\n")
	for _, words := range []string{`volume "data" is left out of the machine`, "is not started"} {
		if !strings.Contains(told, words) {
			t.Errorf("warnings do not say %q: %q", words, told)
		}
	}
	volumes, _, err := unstructured.NestedSlice(s.get(t, machines, m.namespace, "rest").Object, "spec", "template", "spec", "volumes")
	if err != nil || len(volumes) != 1 {
		t.Errorf("volumes %v, %v", volumes, err)
	}
	lose("root")
	s.refused(t, []string{"nothing of the data", "root"}, "restore", "torn", "-n", m.namespace, "--to-name", "none", "--allow-incomplete")
}

// backupFile is the file of a volume's backup on the target.
func backupFile(v vmbackup.BackupVolume) string {
	return target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)
}

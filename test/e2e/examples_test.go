// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var (
	clusterInstancetypes = schema.GroupVersionResource{Group: "instancetype.kubevirt.io", Version: "v1beta1", Resource: "virtualmachineclusterinstancetypes"}
	priorityClasses      = schema.GroupVersionResource{Group: "scheduling.k8s.io", Version: "v1", Resource: "priorityclasses"}
	kubeVirts            = schema.GroupVersionResource{Group: "kubevirt.io", Version: "v1", Resource: "kubevirts"}
)

// envExamples set to "all" has the examples of instances too, each as the template of
// a machine: 22 more, which take minutes.
const envExamples = "VMBACKUP_E2E_EXAMPLES"

// noMachines are kinds of KubeVirt's examples that are no machines to back up, and
// nothing that one refers to.
func noMachines() map[string]string {
	return map[string]string{
		"VirtualMachinePool":               "makes machines, and is none",
		"VirtualMachineInstanceReplicaSet": "makes instances without a machine",
		"VirtualMachineInstancePreset":     "changes instances that are made, and is none",
		"VirtualMachineInstanceMigration":  "is an order",
		"MigrationPolicy":                  "is the cluster's",
		"ResourceClaimTemplate":            "is the cluster's",
	}
}

// examples are KubeVirt's own example manifests, of the release that the sandbox
// runs: the generator of the release wrote them, and the module has them.
func (s *suite) examples(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "kubevirt.io/kubevirt")
	cmd.Dir = filepath.Join(s.repository, "sandbox", "modules", "kubevirt")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod download kubevirt.io/kubevirt: %v: %s", err, stderr.String())
	}
	var module struct{ Dir, Version string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "examples", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples in kubevirt.io/kubevirt %s: %v", module.Version, err)
	}
	found := map[string]*unstructured.Unstructured{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(content, &o.Object); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		found[strings.TrimSuffix(filepath.Base(file), ".yaml")] = o
	}
	return found
}

// exampleMachine makes a machine of an example, as somebody does who tries it: in his
// namespace, with disks of its own. An instance alone becomes the template of a
// machine that is off. A machine that has images alone gets a disk, since there would
// be nothing to back up. name is that of the example's file. It returns the claims
// that the machine needs.
func exampleMachine(t *testing.T, name string, o *unstructured.Unstructured, namespace string) (vm *unstructured.Unstructured, needed []string) {
	t.Helper()
	vm = o.DeepCopy()
	if o.GetKind() == "VirtualMachineInstance" {
		vm = &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
			"metadata": map[string]any{"name": name}, // two have one name in their files
			"spec": map[string]any{
				"runStrategy": "Halted",
				"template":    map[string]any{"metadata": map[string]any{}, "spec": o.Object["spec"]},
			},
		}}
		template := vm.Object["spec"].(map[string]any)["template"].(map[string]any)["metadata"].(map[string]any)
		for _, key := range []string{"labels", "annotations"} {
			if value := o.Object["metadata"].(map[string]any)[key]; value != nil {
				template[key] = value
			}
		}
	}
	vm.SetNamespace(namespace)
	labels := vm.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["suite"] = o.GetKind()
	vm.SetLabels(labels)

	spec := vm.Object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	if _, typed := vm.Object["spec"].(map[string]any)["instancetype"]; typed {
		// The generator writes a size beside the instance type, which KubeVirt refuses.
		delete(spec["domain"].(map[string]any), "memory")
	}
	volumes, _ := spec["volumes"].([]any)
	for _, v := range volumes {
		if claim, ok := v.(map[string]any)["persistentVolumeClaim"].(map[string]any); ok {
			claim["claimName"] = fmt.Sprintf("%s-%v", vm.GetName(), claim["claimName"])
			needed = append(needed, claim["claimName"].(string))
		}
		if dv, ok := v.(map[string]any)["dataVolume"].(map[string]any); ok {
			needed = append(needed, dv["name"].(string))
		}
	}
	if len(needed) > 0 {
		return vm, needed
	}
	claim := vm.GetName() + "-data"
	spec["volumes"] = append(volumes, map[string]any{"name": "data", "persistentVolumeClaim": map[string]any{"claimName": claim}})
	devices, _ := spec["domain"].(map[string]any)["devices"].(map[string]any)
	if devices == nil {
		devices = map[string]any{}
		spec["domain"].(map[string]any)["devices"] = devices
	}
	disks, _ := devices["disks"].([]any)
	devices["disks"] = append(disks, map[string]any{"name": "data", "disk": map[string]any{"bus": "virtio"}})
	return vm, []string{claim}
}

// prepare makes what the examples refer to, and lets KubeVirt take those that need
// one of its feature gates.
func (s *suite) prepare(t *testing.T, ns string, all map[string]*unstructured.Unstructured) {
	t.Helper()
	for name, o := range all {
		var resource schema.GroupVersionResource
		switch o.GetKind() {
		case "VirtualMachineInstancetype":
			resource = instancetypes
		case "VirtualMachinePreference":
			resource = preferences
		case "VirtualMachineClusterInstancetype":
			resource = clusterInstancetypes
		case "PriorityClass":
			resource = priorityClasses
		default:
			continue
		}
		made := o.DeepCopy()
		if resource == instancetypes || resource == preferences {
			made.SetNamespace(ns)
		} else {
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
				defer cancel()
				if err := s.in(resource, "").Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		if _, err := s.in(resource, made.GetNamespace()).Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
			t.Fatalf("example %s: %v", name, err)
		}
	}
	s.create(t, configMaps, object(t, ns, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "my-config-map", "namespace": "NS"}, "data": {"my_script.sh": "#!/bin/sh\n"}}`))
	for _, o := range all {
		for _, name := range networkNames(o) {
			in := ns
			if other, local, elsewhere := strings.Cut(name, "/"); elsewhere {
				in, name = other, local
				if _, err := s.in(namespaces, "").Get(t.Context(), in, metav1.GetOptions{}); apierrors.IsNotFound(err) {
					s.makeNamespace(t, in)
				}
			}
			definition := &unstructured.Unstructured{Object: object(t, in, fmt.Sprintf(`{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": %q, "namespace": "NS"}, "spec": {"config": "{}"}}`, name))}
			if _, err := s.in(networks, in).Create(t.Context(), definition, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		}
	}
}

// networkNames are the networks of Multus that an example is on.
func networkNames(o *unstructured.Unstructured) []string {
	path := []string{"spec", "networks"}
	if o.GetKind() == "VirtualMachine" {
		path = []string{"spec", "template", "spec", "networks"}
	}
	list, _, err := unstructured.NestedSlice(o.Object, path...)
	if err != nil {
		return nil
	}
	var names []string
	for _, n := range list {
		if network, ok := n.(map[string]any); ok {
			if name, found, err := unstructured.NestedString(network, "multus", "networkName"); err == nil && found {
				names = append(names, name)
			}
		}
	}
	return names
}

// openGates adds feature gates to KubeVirt's configuration, for good: they let more
// through and change nothing for machines that do not ask for it.
func (s *suite) openGates(t *testing.T, gates ...string) {
	t.Helper()
	virt := s.get(t, kubeVirts, "kubevirt", "kubevirt")
	path := []string{"spec", "configuration", "developerConfiguration", "featureGates"}
	open, _, err := unstructured.NestedStringSlice(virt.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	for _, gate := range gates {
		if !slices.Contains(open, gate) {
			open = append(open, gate)
		}
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"configuration": map[string]any{"developerConfiguration": map[string]any{"featureGates": open}}}})
	if err != nil {
		t.Fatal(err)
	}
	s.patch(t.Context(), t, kubeVirts, "kubevirt", "kubevirt", string(patch))
}

// testExamples has every machine of KubeVirt's own examples go and come back, and
// compares it with what it was, field by field; differences says what must change.
func (s *suite) testExamples(t *testing.T) {
	ns := s.namespace(t, "examples")
	all := s.examples(t)
	s.openGates(t, "HostDisk", "Sidecar", "HostDevices", "GPU")
	s.prepare(t, ns, all)
	var mu sync.Mutex
	sources, refused, left := map[string]*unstructured.Unstructured{}, []string{}, []string{}
	group, _ := errgroup.WithContext(t.Context())
	group.SetLimit(8)
	for name, o := range all {
		kind := o.GetKind()
		if kind == "VirtualMachineInstance" && os.Getenv(envExamples) != "all" {
			left = append(left, name+" ("+kind+": with "+envExamples+"=all)")
			continue
		}
		if kind != "VirtualMachine" && kind != "VirtualMachineInstance" {
			if why := noMachines()[kind]; why != "" {
				left = append(left, name+" ("+kind+": "+why+")")
			}
			continue
		}
		vm, needed := exampleMachine(t, name, o, ns)
		group.Go(func() error {
			// Its disks are first: a machine of a dataVolumeTemplate finds its claim full.
			for _, claim := range needed {
				if err := s.exampleClaim(t, ns, claim); err != nil {
					return err
				}
			}
			made, err := s.in(machines, ns).Create(t.Context(), vm, metav1.CreateOptions{})
			mu.Lock()
			defer mu.Unlock()
			if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) {
				refused = append(refused, fmt.Sprintf("%s (KubeVirt: %v)", name, err))
				return nil
			}
			if err != nil {
				return fmt.Errorf("example %s: %w", name, err)
			}
			sources[made.GetName()] = made
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, claim := range s.list(t, claims, ns, "") {
		s.wait(t, claims, ns, claim.GetName(), "bound", phase("Bound"))
	}
	for name := range sources {
		// KubeVirt completes a new machine: instance type, firmware.
		s.wait(t, machines, ns, name, "seen by KubeVirt", settled)
		sources[name] = s.get(t, machines, ns, name)
	}
	backups := map[string]string{}
	for _, kind := range []string{"VirtualMachine", "VirtualMachineInstance"} {
		if len(s.list(t, machines, ns, "suite="+kind)) > 0 {
			maps.Copy(backups, s.backUpAll(t, ns, "suite="+kind))
		}
	}
	if len(backups) != len(sources) {
		t.Fatalf("%d backups of %d machines", len(backups), len(sources))
	}
	for name := range sources {
		if err := s.in(machines, ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name := range sources {
		s.wait(t, machines, ns, name, "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	}
	if err := s.in(claims, ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, claim := range s.list(t, claims, ns, "") {
		s.wait(t, claims, ns, claim.GetName(), "gone", func(o *unstructured.Unstructured) bool { return o == nil })
	}
	// Types that have changed and preferences that are gone.
	for _, o := range s.list(t, instancetypes, ns, "") {
		s.patch(t.Context(), t, instancetypes, ns, o.GetName(), `{"spec":{"cpu":{"guest":7}}}`)
	}
	for _, o := range s.list(t, preferences, ns, "") {
		s.remove(t, preferences, ns, o.GetName())
	}

	unequal := s.restoreAll(t, ns, backups, sources)
	slices.Sort(refused)
	slices.Sort(left)
	t.Logf("manifests: %d compared, %d unequal, %d refused; %d are no machines", len(sources), unequal, len(refused), len(left))
	for _, line := range append(refused, left...) {
		t.Log(line)
	}
	if len(refused) > 0 && os.Getenv(envExamples) != "all" || len(sources) < 12 {
		t.Errorf("only %d machines of the examples could be compared", len(sources))
	}
}

// exampleClaim makes a claim, full for the DataVolume of its name where there is one.
func (s *suite) exampleClaim(t *testing.T, ns, name string) error {
	t.Helper()
	claim := &unstructured.Unstructured{Object: object(t, ns, fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": {"name": %q, "namespace": "NS", "annotations": {"cdi.kubevirt.io/storage.populatedFor": %q}},
		"spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "longhorn-1r", "resources": {"requests": {"storage": "10Mi"}}}}`, name, name))}
	_, err := s.in(claims, ns).Create(t.Context(), claim, metav1.CreateOptions{})
	return err
}

// settled says whether KubeVirt has looked at a new machine and noted the revisions
// of what it refers to.
func settled(o *unstructured.Unstructured) bool {
	if o == nil || text(o, "status", "printableStatus") == "" {
		return false
	}
	for _, field := range []string{"instancetype", "preference"} {
		if text(o, "spec", field, "name") != "" && text(o, "status", field+"Ref", "controllerRevisionRef", "name") == "" {
			return false
		}
	}
	return true
}

// backUpAll backs the examples up with one command, and returns the backups by machine.
func (s *suite) backUpAll(t *testing.T, ns, selector string) map[string]string {
	t.Helper()
	got := s.run(t, "create", "-l", selector, "-n", ns, "--concurrency", "8", "-o", "json")
	// Some have disks that no backup can hold, and say so.
	if got.code != 0 && got.code != 3 {
		t.Fatalf("%s", got)
	}
	var list struct{ Items []vmbackup.Backup }
	decode(t, got, &list)
	backups := map[string]string{}
	for _, b := range list.Items {
		if b.Status.Phase != vmbackup.PhaseReady {
			t.Errorf("backup of %s: %+v", b.Spec.VM, b.Status)
		}
		for _, w := range b.Status.Warnings {
			t.Logf("backup of %s: %s", b.Spec.VM, w)
		}
		backups[b.Spec.VM] = b.Metadata.Name
	}
	return backups
}

// restoreAll restores the backups side by side, compares the machines and returns how
// many are not what they were.
func (s *suite) restoreAll(t *testing.T, ns string, backups map[string]string, sources map[string]*unstructured.Unstructured) int {
	t.Helper()
	var mu sync.Mutex
	unequal := 0
	var group errgroup.Group
	group.SetLimit(8)
	for vm, backup := range backups {
		group.Go(func() error {
			got := s.run(t, "restore", backup, "-n", ns, "-o", "json")
			if got.code != 0 {
				return fmt.Errorf("example %s: %s", vm, got)
			}
			restored, err := s.in(machines, ns).Get(t.Context(), vm, metav1.GetOptions{})
			if err != nil {
				return err
			}
			told := differences(sources[vm], restored)
			mu.Lock()
			defer mu.Unlock()
			if len(told) > 0 {
				unequal++
			}
			for _, difference := range told {
				t.Error(difference)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	return unequal
}

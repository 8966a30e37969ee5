// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// Resources that machines refer to.
var (
	instancetypes       = schema.GroupVersionResource{Group: "instancetype.kubevirt.io", Version: "v1beta1", Resource: "virtualmachineinstancetypes"}
	preferences         = schema.GroupVersionResource{Group: "instancetype.kubevirt.io", Version: "v1beta1", Resource: "virtualmachinepreferences"}
	controllerRevisions = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "controllerrevisions"}
	dataVolumes         = schema.GroupVersionResource{Group: "cdi.kubevirt.io", Version: "v1beta1", Resource: "datavolumes"}
	networks            = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}
	serviceAccounts     = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
)

// object is a manifest, with NS standing for the namespace.
func object(t *testing.T, namespace, manifest string) map[string]any {
	t.Helper()
	o := map[string]any{}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(manifest, "NS", namespace)), &o); err != nil {
		t.Fatalf("%v in %s", err, manifest)
	}
	return o
}

// wholeMachine is a machine with something of every kind that a machine can have
// once, and nothing that a backup would have to warn of.
const wholeMachine = `{
  "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
  "metadata": {"name": "whole", "namespace": "NS", "labels": {"app": "whole", "kubevirt.io/vm": "whole"},
    "annotations": {"note": "keep", "kubectl.kubernetes.io/last-applied-configuration": "{\"kind\":\"VirtualMachine\"}"}},
  "spec": {
    "runStrategy": "RerunOnFailure",
    "instancetype": {"kind": "VirtualMachineInstancetype", "name": "small"},
    "preference": {"kind": "VirtualMachinePreference", "name": "linux"},
    "dataVolumeTemplates": [{"metadata": {"name": "whole-made", "labels": {"made": "by-template"}}, "spec": {
      "source": {"blank": {}},
      "storage": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "longhorn-1r", "resources": {"requests": {"storage": "16Mi"}}}}}],
    "template": {
      "metadata": {"labels": {"kubevirt.io/vm": "whole"}, "annotations": {"of": "the template"}},
      "spec": {
        "hostname": "whole-host", "subdomain": "sub", "terminationGracePeriodSeconds": 0, "evictionStrategy": "None",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
          {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "other"}}}}]}},
        "accessCredentials": [
          {"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, "propagationMethod": {"noCloud": {}}}},
          {"userPassword": {"source": {"secret": {"secretName": "password"}}, "propagationMethod": {"qemuGuestAgent": {}}}}
        ],
        "domain": {
          "features": {"acpi": {}, "smm": {"enabled": true}},
          "firmware": {"uuid": "3c7aa1a1-1bd5-4d4c-a2e8-6a1f0c3f5b11", "serial": "SERIAL-1", "bootloader": {"efi": {"secureBoot": false, "persistent": true}}},
          "chassis": {"manufacturer": "maker", "serial": "CHASSIS-1"},
          "devices": {
            "tpm": {"persistent": true}, "rng": {},
            "disks": [
              {"name": "root", "bootOrder": 1, "disk": {"bus": "virtio"}},
              {"name": "files", "serial": "DISK-2", "disk": {"bus": "sata"}},
              {"name": "made", "disk": {"bus": "virtio"}},
              {"name": "tools", "cdrom": {"bus": "sata"}},
              {"name": "init", "disk": {"bus": "virtio"}},
              {"name": "conf", "disk": {"bus": "virtio"}},
              {"name": "hidden", "disk": {"bus": "virtio"}},
              {"name": "account", "disk": {"bus": "virtio"}},
              {"name": "labels", "disk": {"bus": "virtio"}}
            ],
            "interfaces": [
              {"name": "default", "masquerade": {}, "ports": [{"port": 22}]},
              {"name": "lan", "bridge": {}, "macAddress": "02:00:00:aa:bb:01", "model": "virtio"}
            ]
          }
        },
        "networks": [{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "NS/lan"}}],
        "volumes": [
          {"name": "root", "persistentVolumeClaim": {"claimName": "whole-root"}},
          {"name": "files", "persistentVolumeClaim": {"claimName": "whole-files"}},
          {"name": "made", "dataVolume": {"name": "whole-made"}},
          {"name": "tools", "containerDisk": {"image": "registry.example/tools:1", "imagePullSecret": "pull"}},
          {"name": "init", "cloudInitNoCloud": {"secretRef": {"name": "userdata"}, "networkDataSecretRef": {"name": "netdata"}}},
          {"name": "conf", "configMap": {"name": "conf"}},
          {"name": "hidden", "secret": {"secretName": "hidden"}},
          {"name": "account", "serviceAccount": {"serviceAccountName": "app"}},
          {"name": "labels", "downwardAPI": {"fields": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
        ]
      }
    }
  }
}`

// makeClaim makes a small claim.
func (s *suite) makeClaim(t *testing.T, namespace, name, mode string) {
	t.Helper()
	s.create(t, claims, object(t, namespace, fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": {"name": %q, "namespace": "NS", "labels": {"machine": "of-this"}, "annotations": {"note": "keep"}},
		"spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": %q, "storageClassName": "longhorn-1r", "resources": {"requests": {"storage": "16Mi"}}}}`, name, mode)))
}

// testWhole has a machine with everything go and come back: what KubeVirt starts is
// the machine that was, although its instance type has changed and its preference,
// secrets and disks are gone from the cluster.
func (s *suite) testWhole(t *testing.T) {
	ns := s.namespace(t, "whole")
	secretNames := []string{"userdata", "netdata", "keys", "password", "hidden", "pull"}
	for _, name := range secretNames {
		s.create(t, secrets, object(t, ns, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": %q, "namespace": "NS", "labels": {"of": "whole"}},
			"stringData": {"userdata": "#cloud-config of %s\n", "networkdata": "version: 2\n", "key1": "ssh-ed25519 AAAA", "root": "secret"}}`, name, name)))
	}
	s.create(t, configMaps, object(t, ns, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": "NS"}, "data": {"port": "8080"}, "binaryData": {"blob": "AAEC"}}`))
	s.create(t, serviceAccounts, object(t, ns, `{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "NS"}}`))
	s.create(t, networks, object(t, ns, `{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": "lan", "namespace": "NS"}, "spec": {"config": "{}"}}`))
	s.create(t, instancetypes, object(t, ns, `{"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype", "metadata": {"name": "small", "namespace": "NS"}, "spec": {"cpu": {"guest": 1}, "memory": {"guest": "64Mi"}}}`))
	s.create(t, preferences, object(t, ns, `{"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachinePreference", "metadata": {"name": "linux", "namespace": "NS"}, "spec": {"devices": {"preferredInterfaceModel": "e1000e"}}}`))
	s.makeClaim(t, ns, "whole-root", "Block")
	s.makeClaim(t, ns, "whole-files", "Filesystem")
	s.makeClaim(t, ns, "whole-plug", "Block")
	s.create(t, machines, object(t, ns, wholeMachine))
	s.wait(t, instances, ns, "whole", "with its guest agent", agentIs(true))
	s.plug(t, ns, "whole", "plug", "whole-plug")

	source := s.get(t, machines, ns, "whole")
	state := s.stateOf(t, ns, "whole")
	disks := []string{"whole-root", "whole-files", "whole-made", "whole-plug", state}
	sums := s.fill(t, ns, disks...)
	held := s.contents(t, ns, secretNames, "conf")
	before := s.instanceOf(t, ns, "whole")
	b := s.backup(t, 0, "create", "whole", "-n", ns, "--name", "b", "--quiesce", "require")
	if b.Status.Consistency != vmbackup.ConsistencyApplication || len(b.Status.Volumes) != len(disks) || len(b.Status.Warnings) != 0 {
		t.Fatalf("backup: %+v", b.Status)
	}

	s.remove(t, machines, ns, "whole")
	for _, claim := range disks {
		s.remove(t, claims, ns, claim) // those of the state and of the template go by themselves
	}
	for _, name := range secretNames {
		s.remove(t, secrets, ns, name)
	}
	s.remove(t, configMaps, ns, "conf")
	s.patch(t.Context(), t, instancetypes, ns, "small", `{"spec":{"cpu":{"guest":2},"memory":{"guest":"128Mi"}}}`)
	s.remove(t, preferences, ns, "linux")

	r := s.restore(t, 0, "restore", "b", "-n", ns)
	if len(r.Status.Warnings) != 0 {
		t.Errorf("warnings: %q", r.Status.Warnings)
	}
	s.restored(t, r, "Running", sums)
	restored := s.get(t, machines, ns, "whole")
	for _, difference := range differences(source, restored) {
		t.Error(difference)
	}
	if got := s.contents(t, ns, secretNames, "conf"); !reflect.DeepEqual(got, held) {
		t.Errorf("secrets and config maps have changed: %v, had %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(held)))
	}
	// What KubeVirt has made of it is what it had made of it before.
	after := s.instanceOf(t, ns, "whole")
	if !reflect.DeepEqual(before, after) {
		t.Errorf("the running instance is %s\nand was %s", asJSON(after), asJSON(before))
	}
	s.ownRevisions(t, restored)
	if got := s.stateOf(t, ns, "whole"); got != state {
		t.Errorf("KubeVirt uses %s for the persistent state, not %s", got, state)
	}
	for name, kind := range map[string]string{state: "VirtualMachine", "whole-made": "DataVolume"} {
		claim := s.get(t, claims, ns, name)
		if owner := metav1.GetControllerOf(claim); owner == nil || owner.Kind != kind {
			t.Errorf("claim %s belongs to %v, want a %s", name, owner, kind)
		}
	}
	s.wait(t, dataVolumes, ns, "whole-made", "Succeeded", phase("Succeeded"))
	t.Logf("a machine with %d disks of 4 kinds, %d secrets, a config map, instance type and preference came back equal", len(disks), len(secretNames))
}

// plug attaches a claim to a running machine, for good.
func (s *suite) plug(t *testing.T, namespace, vm, volume, claim string) {
	t.Helper()
	s.call(t, namespace, "virtualmachines/"+vm+"/addvolume", fmt.Sprintf(
		`{"name": %q, "disk": {"disk": {"bus": "scsi"}, "serial": "PLUGGED"}, "volumeSource": {"persistentVolumeClaim": {"claimName": %q, "hotpluggable": true}}}`, volume, claim))
	s.wait(t, machines, namespace, vm, "with the plugged volume", func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		list, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
		return err == nil && slices.ContainsFunc(list, func(v any) bool { return v.(map[string]any)["name"] == volume })
	})
	s.wait(t, instances, namespace, vm, "with the plugged volume ready", volumeIs(volume, "Ready"))
}

// call calls a subresource of KubeVirt.
func (c *cluster) call(t *testing.T, namespace, path, body string) {
	t.Helper()
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	url := c.config.Host + "/apis/subresources.kubevirt.io/v1/namespaces/" + namespace + "/" + path
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode >= http.StatusBadRequest {
		t.Fatalf("%s: %s: %s", path, answer.Status, said)
	}
}

// volumeIs says whether a volume of an instance is in a phase.
func volumeIs(name, want string) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool {
		for _, v := range volumeStatus(o) {
			if v["name"] == name {
				return v["phase"] == want
			}
		}
		return false
	}
}

func volumeStatus(o *unstructured.Unstructured) []map[string]any {
	if o == nil {
		return nil
	}
	list, _, err := unstructured.NestedSlice(o.Object, "status", "volumeStatus")
	if err != nil {
		return nil
	}
	var all []map[string]any
	for _, v := range list {
		if status, ok := v.(map[string]any); ok {
			all = append(all, status)
		}
	}
	return all
}

// stateOf is the claim that KubeVirt uses for a running machine's TPM and EFI.
func (s *suite) stateOf(t *testing.T, namespace, vm string) string {
	t.Helper()
	list := s.list(t, claims, namespace, "persistent-state-for="+vm)
	if len(list) != 1 {
		t.Fatalf("%d claims for the persistent state of %s: %s", len(list), vm, namesOf(list))
	}
	return list[0].GetName()
}

// fill writes known bytes onto disks, side by side, and returns their checksums by claim.
func (s *suite) fill(t *testing.T, namespace string, disks ...string) map[string]string {
	t.Helper()
	var mu sync.Mutex
	sums := map[string]string{}
	var filling sync.WaitGroup
	for _, claim := range disks {
		filling.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), commandDeadline)
			defer cancel()
			path := namespace + "/" + claim
			for _, args := range [][]string{
				{"disk", "write", path, "--seed", path, "--size", "1048576"},
				{"disk", "sha256", path},
			} {
				got := s.exec(ctx, t, s.sandbox, nil, append([]string{"--name", s.instance}, args...)...)
				if got.code != 0 {
					t.Errorf("sandbox %s", got)
					return
				}
				mu.Lock()
				sums[claim] = strings.TrimSpace(got.stdout)
				mu.Unlock()
			}
		})
	}
	filling.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return sums
}

// contents is what Secrets and a ConfigMap hold, with type and labels.
func (s *suite) contents(t *testing.T, namespace string, secretNames []string, configMap string) map[string]any {
	t.Helper()
	held := map[string]any{}
	note := func(o *unstructured.Unstructured) {
		labels := o.GetLabels()
		for _, own := range []string{"vmbackup.io/operation", "app.kubernetes.io/managed-by"} {
			delete(labels, own)
		}
		held[o.GetKind()+"/"+o.GetName()] = []any{o.Object["type"], o.Object["data"], o.Object["binaryData"], len(labels), labels["of"]}
	}
	for _, name := range secretNames {
		note(s.get(t, secrets, namespace, name))
	}
	note(s.get(t, configMaps, namespace, configMap))
	return held
}

// instanceOf is what KubeVirt runs of a machine, without what is of this run alone.
func (s *suite) instanceOf(t *testing.T, namespace, vm string) any {
	t.Helper()
	o := s.get(t, instances, namespace, vm)
	spec, ok := o.Object["spec"].(map[string]any)
	if !ok {
		t.Fatalf("instance %s has no spec", vm)
	}
	annotations := o.GetAnnotations()
	return []any{spec, annotations["of"], annotations["kubevirt.io/instancetype-name"], annotations["kubevirt.io/preference-name"]}
}

// ownRevisions checks that the machine uses revisions of its own, which its spec
// names no more than the source's did.
func (s *suite) ownRevisions(t *testing.T, vm *unstructured.Unstructured) {
	t.Helper()
	for _, field := range []string{"instancetype", "preference"} {
		if pinned := text(vm, "spec", field, "revisionName"); pinned != "" {
			t.Errorf("the spec names revision %s of the %s", pinned, field)
		}
		name := text(vm, "status", field+"Ref", "controllerRevisionRef", "name")
		if name == "" {
			t.Errorf("KubeVirt has noted no revision of the %s", field)
			continue
		}
		revision := s.get(t, controllerRevisions, vm.GetNamespace(), name)
		if owner := metav1.GetControllerOf(revision); owner == nil || owner.UID != vm.GetUID() {
			t.Errorf("revision %s belongs to %v", name, owner)
		}
	}
}

// differences tells what a restored machine has otherwise than its source. These
// must change and are not told: what the API server keeps of an object's life (UID,
// versions, times, managed fields), the status, and the two annotations by which the
// restore knows its machine.
func differences(source, restored *unstructured.Unstructured) []string {
	var told []string
	annotations := restored.GetAnnotations()
	for _, own := range []string{"vmbackup.io/restored-from", "vmbackup.io/operation"} {
		if annotations[own] == "" {
			told = append(told, "the restored machine has no annotation "+own)
		}
		delete(annotations, own)
	}
	name := restored.GetName()
	if got, want := restored.GetLabels(), source.GetLabels(); !maps.Equal(got, want) {
		told = append(told, fmt.Sprintf("%s: labels %v, and had %v", name, got, want))
	}
	if want := source.GetAnnotations(); !maps.Equal(annotations, want) {
		told = append(told, fmt.Sprintf("%s: annotations %v, and had %v", name, annotations, want))
	}
	return append(told, compareValues(name+" spec", source.Object["spec"], restored.Object["spec"])...)
}

// compareValues tells where two JSON values differ, by their paths.
func compareValues(path string, a, b any) []string {
	if reflect.DeepEqual(a, b) {
		return nil
	}
	am, aIsMap := a.(map[string]any)
	bm, bIsMap := b.(map[string]any)
	if aIsMap && bIsMap {
		keys := maps.Clone(am)
		maps.Copy(keys, bm)
		var told []string
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			told = append(told, compareValues(path+"."+key, am[key], bm[key])...)
		}
		return told
	}
	al, aIsList := a.([]any)
	bl, bIsList := b.([]any)
	if aIsList && bIsList && len(al) == len(bl) {
		var told []string
		for i := range al {
			told = append(told, compareValues(fmt.Sprintf("%s[%d]", path, i), al[i], bl[i])...)
		}
		return told
	}
	return []string{fmt.Sprintf("%s is %s, and was %s", path, asJSON(b), asJSON(a))}
}

// otherMachine has what the whole machine cannot have beside its own.
const otherMachine = `{
  "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
  "metadata": {"name": "drive", "namespace": "NS", "labels": {"kubevirt.io/vm": "drive"}, "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
  "spec": {
    "runStrategy": "Halted",
    "template": {
      "metadata": {"labels": {"kubevirt.io/vm": "drive", "kubevirt.io/domain": "other"}},
      "spec": {
        "domain": {
          "memory": {"guest": "64Mi"},
          "devices": {
            "disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "init", "disk": {"bus": "virtio"}}, {"name": "answers", "cdrom": {"bus": "sata"}}, {"name": "conf", "disk": {"bus": "virtio"}}],
            "interfaces": [{"name": "default", "masquerade": {}}]
          }
        },
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [
          {"name": "root", "persistentVolumeClaim": {"claimName": "drive-root"}},
          {"name": "init", "cloudInitConfigDrive": {"secretRef": {"name": "userdata"}, "networkDataSecretRef": {"name": "netdata"}}},
          {"name": "answers", "sysprep": {"configMap": {"name": "answers"}}},
          {"name": "conf", "configMap": {"name": "conf"}}
        ]
      }
    }
  }
}`

// testUnderAnotherName restores a machine under another name into a namespace where
// some of its names are taken: what is the same is shared, what is not is left alone,
// and the machine refers to what is its own.
func (s *suite) testUnderAnotherName(t *testing.T) {
	ns, other := s.namespace(t, "named"), s.namespace(t, "elsewhere")
	secret := func(namespace, name, value string) {
		s.create(t, secrets, object(t, namespace, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": %q, "namespace": "NS"}, "stringData": {"userdata": %q, "networkdata": "version: 2"}}`, name, value)))
	}
	configMap := func(namespace, name, value string) {
		s.create(t, configMaps, object(t, namespace, fmt.Sprintf(`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": %q, "namespace": "NS"}, "data": {"autounattend.xml": %q}}`, name, value)))
	}
	secret(ns, "userdata", "#cloud-config")
	secret(ns, "netdata", "of the network")
	configMap(ns, "answers", "<unattend/>")
	configMap(ns, "conf", "port=8080")
	s.makeClaim(t, ns, "drive-root", "Block")
	s.create(t, machines, object(t, ns, otherMachine))
	sums := s.fill(t, ns, "drive-root")
	s.backup(t, 0, "create", "drive", "-n", ns, "--name", "b")
	source := s.get(t, machines, ns, "drive")
	// There already: the same, another one, and nothing.
	secret(other, "userdata", "#cloud-config")
	secret(other, "netdata", "of somebody else")
	configMap(other, "answers", "<other/>")

	r := s.restore(t, 0, "restore", "b", "-n", ns, "--to-namespace", other, "--to-name", "copy")
	s.restored(t, r, "Stopped", sums)
	restored := s.get(t, machines, other, "copy")
	want := source.DeepCopy()
	var renamed map[string]any
	if err := json.Unmarshal([]byte(strings.NewReplacer(
		`"claimName":"drive-root"`, `"claimName":"copy-root"`, `"name":"netdata"`, `"name":"copy-netdata"`,
		`"kubevirt.io/vm":"drive"`, `"kubevirt.io/vm":"copy"`, `"configMap":{"name":"answers"}`, `"configMap":{"name":"copy-answers"}`,
	).Replace(compact(t, want.Object))), &renamed); err != nil {
		t.Fatal(err)
	}
	want.Object = renamed
	annotations := want.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration") // it says what was applied elsewhere
	want.SetAnnotations(annotations)
	for _, difference := range differences(want, restored) {
		t.Error(difference)
	}
	for _, o := range []struct {
		resource        schema.GroupVersionResource
		from, to        string
		made, untouched bool
	}{
		{secrets, "userdata", "userdata", false, false},
		{secrets, "netdata", "copy-netdata", true, true},
		{configMaps, "answers", "copy-answers", true, true},
		{configMaps, "conf", "conf", true, false},
	} {
		was, is := s.get(t, o.resource, ns, o.from), s.get(t, o.resource, other, o.to)
		if !reflect.DeepEqual(was.Object["data"], is.Object["data"]) {
			t.Errorf("%s is not what %s was", o.to, o.from)
		}
		if made := is.GetLabels()["vmbackup.io/operation"] != ""; made != o.made {
			t.Errorf("%s was made by the restore: %t", o.to, made)
		}
		if o.untouched && reflect.DeepEqual(was.Object["data"], s.get(t, o.resource, other, o.from).Object["data"]) {
			t.Errorf("%s, which was somebody else's, was overwritten", o.from)
		}
	}
}

func compact(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

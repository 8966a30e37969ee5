// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// lookup is kube.Lookup on the test's API server.
type lookup struct{ *cluster }

func (l lookup) Serves(_ context.Context, resource schema.GroupVersionResource) (bool, error) {
	return resource.Group != harvester.Group && (resource != dataVolumeResource || l.dataVolumes), nil
}

func (l lookup) Exists(_ context.Context, resource schema.GroupVersionResource, namespace, name string) (bool, error) {
	if namespace == "secret" {
		return false, errors.New("forbidden")
	}
	if err := l.note("get", resource.Resource, namespace, name, false); err != nil {
		return false, err
	}
	return l.has(resource.Resource, namespace, name), nil
}

func (l lookup) Names(_ context.Context, resource schema.GroupVersionResource, namespace string) ([]string, error) {
	if err := l.note("list", resource.Resource, namespace, "", false); err != nil {
		return nil, err
	}
	var names []string
	for _, o := range l.all(resource.Resource) {
		if m := accessor(l.t, o); m.GetNamespace() == namespace {
			names = append(names, m.GetName())
		}
	}
	return names, nil
}

func (l lookup) Delete(_ context.Context, resource schema.GroupVersionResource, namespace, name, _ string) error {
	if err := l.note("delete", resource.Resource, namespace, name, false); err != nil {
		return err
	}
	return l.remove(resource.Resource, namespace, name)
}

// noteRevisions is what KubeVirt does with revisions that a machine's spec names:
// it reads them, and notes them in the status.
func (c *cluster) noteRevisions(vm *kubevirtv1.VirtualMachine) {
	if c.notesNothing {
		return
	}
	note := func(name string, status **kubevirtv1.InstancetypeStatusRef) bool {
		if name == "" || *status != nil && (*status).ControllerRevisionRef.Name == name || !c.has("controllerrevisions", vm.Namespace, name) {
			return false
		}
		*status = &kubevirtv1.InstancetypeStatusRef{ControllerRevisionRef: &kubevirtv1.ControllerRevisionRef{Name: name}}
		return true
	}
	noted := vm.DeepCopy()
	changed := false
	if m := vm.Spec.Instancetype; m != nil {
		changed = note(m.RevisionName, &noted.Status.InstancetypeRef)
	}
	if m := vm.Spec.Preference; m != nil {
		changed = note(m.RevisionName, &noted.Status.PreferenceRef) || changed
	}
	if changed {
		edit(c.apiServer, "virtualmachines", vm.Namespace, vm.Name, func(o *kubevirtv1.VirtualMachine) { o.Status = noted.Status })
	}
}

// machineWith is a machine of one volume on a claim, and of parts of a template.
func machineWith(template string) string {
	return `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"all","namespace":"demo"},"spec":{"runStrategy":"Halted","template":` + template + `}}`
}

// Everything that a template can refer to, each alone: what a backup takes along,
// what it warns of, and what the template says after a restore under other names.
func TestEveryKindOfReference(t *testing.T) {
	volume := func(source string) string { return `{"spec":{"domain":{},"volumes":[{"name":"v",` + source + `}]}}` }
	credential := func(source string) string { return `{"spec":{"domain":{},"accessCredentials":[` + source + `]}}` }
	hook := func(sidecar string) string {
		text, err := json.Marshal(sidecar)
		if err != nil {
			t.Fatal(err)
		}
		return `{"metadata":{"annotations":{"hooks.kubevirt.io/hookSidecars":` + string(text) + `}},"spec":{"domain":{}}}`
	}
	type refs struct{ claims, secrets, configMaps []string }
	for _, tc := range []struct {
		name, template, restored string
		want                     refs
		warning                  string
	}{
		{"PersistentVolumeClaim", volume(`"persistentVolumeClaim":{"claimName":"a"}`), volume(`"persistentVolumeClaim":{"claimName":"a-new"}`), refs{claims: []string{"a"}}, ""},
		{"hot-plugged claim", volume(`"persistentVolumeClaim":{"claimName":"a","hotpluggable":true}`), volume(`"persistentVolumeClaim":{"claimName":"a-new","hotpluggable":true}`), refs{claims: []string{"a"}}, ""},
		{"DataVolume of its own", volume(`"dataVolume":{"name":"a"}`), volume(`"persistentVolumeClaim":{"claimName":"a-new"}`), refs{claims: []string{"a"}}, ""},
		{"hot-plugged DataVolume", volume(`"dataVolume":{"name":"a","hotpluggable":true}`), volume(`"persistentVolumeClaim":{"claimName":"a-new","hotpluggable":true}`), refs{claims: []string{"a"}}, ""},
		{"ephemeral", volume(`"ephemeral":{"persistentVolumeClaim":{"claimName":"a"}}`), volume(`"ephemeral":{"persistentVolumeClaim":{"claimName":"a-new"}}`), refs{claims: []string{"a"}}, ""},
		{"memory dump", volume(`"memoryDump":{"claimName":"a"}`), volume(`"memoryDump":{"claimName":"a-new"}`), refs{claims: []string{"a"}}, ""},
		{"cloud-init NoCloud", volume(`"cloudInitNoCloud":{"secretRef":{"name":"a"},"networkDataSecretRef":{"name":"b"}}`), volume(`"cloudInitNoCloud":{"secretRef":{"name":"a-new"},"networkDataSecretRef":{"name":"b-new"}}`), refs{secrets: []string{"a", "b"}}, ""},
		{"cloud-init NoCloud in line", volume(`"cloudInitNoCloud":{"userData":"#cloud-config\n"}`), volume(`"cloudInitNoCloud":{"userData":"#cloud-config\n"}`), refs{}, ""},
		{"cloud-init ConfigDrive", volume(`"cloudInitConfigDrive":{"secretRef":{"name":"a"},"networkDataSecretRef":{"name":"b"}}`), volume(`"cloudInitConfigDrive":{"secretRef":{"name":"a-new"},"networkDataSecretRef":{"name":"b-new"}}`), refs{secrets: []string{"a", "b"}}, ""},
		{"sysprep in a Secret", volume(`"sysprep":{"secret":{"name":"a"}}`), volume(`"sysprep":{"secret":{"name":"a-new"}}`), refs{secrets: []string{"a"}}, ""},
		{"sysprep in a ConfigMap", volume(`"sysprep":{"configMap":{"name":"a"}}`), volume(`"sysprep":{"configMap":{"name":"a-new"}}`), refs{configMaps: []string{"a"}}, ""},
		{"Secret", volume(`"secret":{"secretName":"a"}`), volume(`"secret":{"secretName":"a-new"}`), refs{secrets: []string{"a"}}, ""},
		{"ConfigMap", volume(`"configMap":{"name":"a"}`), volume(`"configMap":{"name":"a-new"}`), refs{configMaps: []string{"a"}}, ""},
		{"container disk", volume(`"containerDisk":{"image":"fedora","imagePullSecret":"a"}`), volume(`"containerDisk":{"image":"fedora","imagePullSecret":"a-new"}`), refs{secrets: []string{"a"}}, ""},
		{"ServiceAccount", volume(`"serviceAccount":{"serviceAccountName":"a"}`), volume(`"serviceAccount":{"serviceAccountName":"a"}`), refs{}, ""},
		{"downward API", volume(`"downwardAPI":{"fields":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}`), volume(`"downwardAPI":{"fields":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}`), refs{}, ""},
		{"downward metrics", volume(`"downwardMetrics":{}`), volume(`"downwardMetrics":{}`), refs{}, ""},
		{"empty disk", volume(`"emptyDisk":{"capacity":"1Gi"}`), volume(`"emptyDisk":{"capacity":"1Gi"}`), refs{}, "emptyDisk"},
		{"host disk", volume(`"hostDisk":{"path":"/disk.img","type":"Disk"}`), volume(`"hostDisk":{"path":"/disk.img","type":"Disk"}`), refs{}, "hostDisk"},
		{
			"kernel boot", `{"spec":{"domain":{"firmware":{"uuid":"u","kernelBoot":{"container":{"image":"k","imagePullSecret":"a"}}}}}}`,
			`{"spec":{"domain":{"firmware":{"uuid":"u","kernelBoot":{"container":{"image":"k","imagePullSecret":"a-new"}}}}}}`,
			refs{secrets: []string{"a"}},
			"",
		},
		{"ssh key", credential(`{"sshPublicKey":{"source":{"secret":{"secretName":"a"}},"propagationMethod":{"noCloud":{}}}}`), credential(`{"sshPublicKey":{"source":{"secret":{"secretName":"a-new"}},"propagationMethod":{"noCloud":{}}}}`), refs{secrets: []string{"a"}}, ""},
		{"password", credential(`{"userPassword":{"source":{"secret":{"secretName":"a"}},"propagationMethod":{"qemuGuestAgent":{}}}}`), credential(`{"userPassword":{"source":{"secret":{"secretName":"a-new"}},"propagationMethod":{"qemuGuestAgent":{}}}}`), refs{secrets: []string{"a"}}, ""},
		{"hook in a ConfigMap", hook(`[{"configMap":{"key":"k","name":"a"}}]`), hook(`[{"configMap":{"key":"k","name":"a-new"}}]`), refs{configMaps: []string{"a"}}, ""},
		{"hook on a claim", hook(`[{"pvc":{"name":"a"}}]`), hook(`[{"pvc":{"name":"a"}}]`), refs{}, "hook sidecar"},
		{"hooks that cannot be read", hook(`[{]`), hook(`[{]`), refs{}, "cannot be read"},
		{
			"empty cd-rom", `{"spec":{"domain":{"devices":{"disks":[{"name":"cd","cdrom":{"bus":"sata"}}]}}}}`,
			`{"spec":{"domain":{"devices":{"disks":[{"name":"cd","cdrom":{"bus":"sata"}}]}}}}`,
			refs{},
			"",
		},
		{
			"placement", `{"spec":{"domain":{},"nodeSelector":{"zone":"a"},"tolerations":[{"key":"k"}],"affinity":{"nodeAffinity":{}},"priorityClassName":"high"}}`,
			`{"spec":{"domain":{},"nodeSelector":{"zone":"a"},"tolerations":[{"key":"k"}],"affinity":{"nodeAffinity":{}},"priorityClassName":"high"}}`,
			refs{},
			"",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vm := &kubevirtv1.VirtualMachine{}
			if err := json.Unmarshal([]byte(machineWith(tc.template)), vm); err != nil {
				t.Fatal(err)
			}
			found := capture.ReferencesOf(vm)
			var claims []string
			for _, c := range found.Claims {
				claims = append(claims, c.Claim)
			}
			wantSame(t, "references", refs{claims, found.Secrets, found.ConfigMaps}, tc.want)
			if got := strings.Join(found.Warnings, "\n"); !strings.Contains(got, tc.warning) || tc.warning == "" && got != "" {
				t.Errorf("warnings %q", got)
			}
			n := &renaming{backup: b1, from: vmbackup.Ref{Namespace: "demo", Name: "all"}, to: vmbackup.Ref{Namespace: "other", Name: "copy"}}
			n.claims, n.secrets, n.configMaps = suffixed("a"), suffixed("a", "b"), suffixed("a")
			m, _, _ := restored(t, []byte(machineWith(tc.template)), n)
			var want any
			if err := json.Unmarshal([]byte(tc.restored), &want); err != nil {
				t.Fatal(err)
			}
			if got := m["spec"].(map[string]any)["template"]; !reflect.DeepEqual(got, want) {
				t.Errorf("restored as %v\nwant %v", got, want)
			}
		})
	}
}

func TestMachineOfAPool(t *testing.T) {
	vm := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal([]byte(machineWith(`{"spec":{"domain":{}}}`)), vm); err != nil {
		t.Fatal(err)
	}
	controller := true
	vm.OwnerReferences = []metav1.OwnerReference{{Kind: "VirtualMachinePool", Name: "farm", Controller: &controller}}
	if got := capture.ReferencesOf(vm).Warnings; len(got) != 1 || !strings.Contains(got[0], `VirtualMachinePool "farm"`) {
		t.Errorf("warnings %q", got)
	}
}

// What somebody has applied stays with a machine, its claims and its secrets that
// come back in their place, so that the next apply removes what he has removed; it
// goes from what comes back elsewhere.
func TestLastAppliedIsKeptInItsPlace(t *testing.T) {
	const annotation = corev1.LastAppliedConfigAnnotation
	object := func(kind string) []byte {
		return []byte(`{"apiVersion":"v1","kind":"` + kind + `","metadata":{"name":"all","namespace":"demo","annotations":{"` + annotation + `":"{}"}},"spec":{}}`)
	}
	in := func(namespace, name string) *renaming {
		return &renaming{operation: "op", backup: b1, from: vmbackup.Ref{Namespace: "demo", Name: "all"}, to: vmbackup.Ref{Namespace: namespace, Name: name}}
	}
	for _, tc := range []struct {
		to   *renaming
		kept bool
	}{{in("demo", "all"), true}, {in("demo", "copy"), false}, {in("other", "all"), false}} {
		t.Run(tc.to.to.String(), func(t *testing.T) {
			m, _, _ := restored(t, object("VirtualMachine"), tc.to)
			_, kept := m["metadata"].(map[string]any)["annotations"].(map[string]any)[annotation]
			if kept != tc.kept {
				t.Errorf("machine: kept %t", kept)
			}
			claim, err := restoredClaim(object("PersistentVolumeClaim"), &vmbackup.RestoreVolume{Name: "root", SourcePVC: "all", PVC: "all", StorageClass: "c"}, tc.to, "s")
			if err != nil {
				t.Fatal(err)
			}
			if _, kept := claim.Annotations[annotation]; kept != tc.kept {
				t.Errorf("claim: kept %t", kept)
			}
			raw, err := restoredObject(object("Secret"), "all", tc.to)
			if err != nil {
				t.Fatal(err)
			}
			if kept := strings.Contains(string(raw), annotation); kept != tc.kept {
				t.Errorf("secret: kept %t", kept)
			}
		})
	}
	raw, err := restoredObject(object("Secret"), "all-op", in("demo", "all"))
	if err != nil || strings.Contains(string(raw), annotation) {
		t.Errorf("a secret under another name: %s, %v", raw, err)
	}
}

func TestAnnotationsOfControllers(t *testing.T) {
	manifest := func(annotations string) []byte {
		return []byte(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"all","namespace":"demo","annotations":` + annotations + `},"spec":{}}`)
	}
	n := everythingRenamed()
	m, _, warnings := restored(t, manifest(`{"note":"keep","kubevirt.io/latest-observed-api-version":"v1","kubevirt.io/storage-observed-api-version":"v1","network.harvesterhci.io/ips":"[]",
		"harvesterhci.io/mac-address":"{}","harvesterhci.io/volumeClaimTemplates":"[{\"metadata\":{\"name\":\"all-root\"},\"spec\":{}}]"}`), n)
	wantSame(t, "annotations", m["metadata"].(map[string]any)["annotations"].(map[string]any), map[string]any{
		"note": "keep", AnnotationRestoredFrom: "demo/b1", LabelOperation: "0123456789ab",
		annotationClaimTemplates: `[{"metadata":{"name":"all-root-new"},"spec":{}}]`,
	})
	if len(warnings) != 0 {
		t.Errorf("warnings %q", warnings)
	}
	// Where nothing changes the text stays as it was, and so do the machine's addresses.
	n.newMACs = false
	const claims = ` [ {"metadata":{"name":"other"}} ]`
	m, _, _ = restored(t, manifest(fmt.Sprintf(`{"harvesterhci.io/mac-address":"{}","harvesterhci.io/volumeClaimTemplates":%q}`, claims)), n)
	got := m["metadata"].(map[string]any)["annotations"].(map[string]any)
	if got[annotationClaimTemplates] != claims || got[annotationMACs] != "{}" {
		t.Errorf("annotations %v", got)
	}
	_, _, warnings = restored(t, manifest(`{"harvesterhci.io/volumeClaimTemplates":"broken"}`), n)
	if len(warnings) != 1 || !strings.Contains(warnings[0], annotationClaimTemplates) {
		t.Errorf("warnings %q", warnings)
	}
}

func TestFirmwareUUID(t *testing.T) {
	const derived = "6007269a-a8b7-5964-982f-b84b194f73e4"
	same := &renaming{backup: b1, from: vmbackup.Ref{Namespace: "demo", Name: "all"}, to: vmbackup.Ref{Namespace: "other", Name: "all"}}
	for _, tc := range []struct {
		name, domain string
		n            *renaming
		want         any
	}{
		{"kept", `{"firmware":{"uuid":"u","serial":"s"}}`, same, map[string]any{"uuid": "u", "serial": "s"}},
		{"kept under another name", `{"firmware":{"uuid":"u"}}`, everythingRenamed(), map[string]any{"uuid": "u"}},
		{"derived from the name", `{}`, same, map[string]any{"uuid": derived}},
		{"derived beside a serial", `{"firmware":{"serial":"s"}}`, same, map[string]any{"uuid": derived, "serial": "s"}},
		{"left open under another name", `{}`, everythingRenamed(), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, _, _ := restored(t, []byte(machineWith(`{"spec":{"domain":`+tc.domain+`}}`)), tc.n)
			domain := m["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["domain"].(map[string]any)
			if !reflect.DeepEqual(domain["firmware"], tc.want) {
				t.Errorf("firmware %v, want %v", domain["firmware"], tc.want)
			}
		})
	}
}

// addRevision brings a ControllerRevision in, as KubeVirt makes it.
func (c *cluster) addRevision(name, kind, object, content string) {
	c.put("controllerrevisions", &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "demo", Name: name, Labels: map[string]string{"instancetype.kubevirt.io/object-kind": kind, "instancetype.kubevirt.io/object-name": object, "instancetype.kubevirt.io/object-version": "v1beta1"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "web", UID: "uid-of-the-source"}},
		},
		Data: runtime.RawExtension{Raw: []byte(content)},
	})
}

const (
	smallType = `{"kind":"VirtualMachineClusterInstancetype","metadata":{"name":"u1.small"},"spec":{"cpu":{"guest":1},"big":9007199254740993}}`
	fedora    = `{"kind":"VirtualMachineClusterPreference","metadata":{"name":"fedora"},"spec":{}}`
)

// typed changes the machine into one with an instance type and a preference.
func (c *cluster) typed(instancetype, preference, status string) {
	c.t.Helper()
	c.vms.remove(web)
	c.addMachine(strings.Replace(webManifest, `"runStrategy": "Always",`, `"runStrategy": "Always", "instancetype": `+instancetype+`, "preference": `+preference+`,`, 1))
	edit(c.apiServer, "virtualmachines", "demo", "web", func(*kubevirtv1.VirtualMachine) {})
	c.vms.mu.Lock()
	defer c.vms.mu.Unlock()
	var noted map[string]any
	if err := json.Unmarshal([]byte(status), &noted); err != nil {
		c.t.Fatal(err)
	}
	c.vms.raw[web]["status"] = noted
}

// A machine comes back with its instance type and preference as they were: the
// revisions are its own, KubeVirt has noted them, and its spec is as it was.
func TestInstanceTypeComesBackAsItWas(t *testing.T) {
	for _, tc := range []struct {
		name, instancetype, preference, status string
		pinned                                 bool
	}{
		{
			"noted in the status", `{"name":"u1.small"}`, `{"name":"fedora","kind":"VirtualMachineClusterPreference"}`,
			`{"instancetypeRef":{"name":"u1.small","controllerRevisionRef":{"name":"web-u1"}},"preferenceRef":{"name":"fedora","controllerRevisionRef":{"name":"web-fedora"}}}`, false,
		},
		{"named in the spec", `{"name":"u1.small","revisionName":"web-u1"}`, `{"name":"fedora","revisionName":"web-fedora"}`, `{}`, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.addRevision("web-u1", "VirtualMachineClusterInstancetype", "u1.small", smallType)
				c.addRevision("web-fedora", "VirtualMachineClusterPreference", "fedora", fedora)
				c.typed(tc.instancetype, tc.preference, tc.status)
				c.complete()
				if w := c.record(b1).Backup.Status.Warnings; len(w) != 0 {
					t.Errorf("warnings %q", w)
				}
				c.vanish("controllerrevisions", "demo", "web-u1")
				c.startRestore(restoreRequest())
				r, err := c.runRestore(t.Context())
				if err != nil || !r.Status.Ready {
					t.Fatal(err)
				}
				operation := c.restoreEntry().Operation
				uid := c.machine(other)["metadata"].(map[string]any)["uid"]
				for field, content := range map[string]string{fieldInstancetype: smallType, fieldPreference: fedora} {
					name := "web-" + field + "-" + operation
					got, err := c.get(objectKey{"controllerrevisions", "other", name}, schema.GroupResource{})
					if err != nil {
						t.Fatal(err)
					}
					revision := got.(*appsv1.ControllerRevision)
					if string(revision.Data.Raw) != content || revision.Labels["instancetype.kubevirt.io/object-version"] != "v1beta1" || revision.Annotations[AnnotationRevisionOf] != "" {
						t.Errorf("%s: labels %v, content %s", name, revision.Labels, revision.Data.Raw)
					}
					if o := metav1.GetControllerOf(revision); o == nil || string(o.UID) != uid || o.Kind != "VirtualMachine" {
						t.Errorf("%s belongs to %v, the machine is %v", name, o, uid)
					}
					pinned, found := c.machine(other)["spec"].(map[string]any)[field].(map[string]any)["revisionName"]
					if found != tc.pinned || tc.pinned && pinned != name {
						t.Errorf("the spec names revision %v", pinned)
					}
				}
				for _, w := range r.Status.Warnings {
					if !strings.Contains(w, "MAC") {
						t.Errorf("warning %q", w)
					}
				}
			})
		})
	}
}

// A KubeVirt that notes nothing leaves the names in the spec, and the restore says so.
func TestRevisionsThatAreNotNoted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.addRevision("web-u1", "VirtualMachineClusterInstancetype", "u1.small", smallType)
		c.typed(`{"name":"u1.small"}`, `null`, `{"instancetypeRef":{"name":"u1.small","controllerRevisionRef":{"name":"web-u1"}}}`)
		c.complete()
		c.startRestore(restoreRequest())
		ref := c.restoreEntry()
		c.notesNothing = true
		r, err := c.runRestore(t.Context())
		if err != nil || !r.Status.Ready {
			t.Fatal(err)
		}
		if got := c.machine(other)["spec"].(map[string]any)["instancetype"].(map[string]any)["revisionName"]; got != "web-instancetype-"+ref.Operation {
			t.Errorf("the spec names revision %v", got)
		}
		if !strings.Contains(strings.Join(r.Status.Warnings, "\n"), "spec.instancetype.revisionName") {
			t.Errorf("warnings %q", r.Status.Warnings)
		}
	})
}

func TestRevisionsThatCannotBeKept(t *testing.T) {
	for name, tc := range map[string]struct{ instancetype, status, backup, restore string }{
		"not recorded":         {`{"name":"u1.small"}`, `{}`, "has not recorded", "nothing was recorded"},
		"of another type":      {`{"name":"u1.small"}`, `{"instancetypeRef":{"name":"u1.large","controllerRevisionRef":{"name":"web-u1"}}}`, "has not recorded", "nothing was recorded"},
		"gone":                 {`{"name":"u1.small","revisionName":"gone"}`, `{}`, `"gone"`, "revision gone"},
		"gone from the status": {`{"name":"u1.small"}`, `{"instancetypeRef":{"name":"u1.small","controllerRevisionRef":{"name":"gone"}}}`, `"gone"`, "nothing was recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.typed(tc.instancetype, `null`, tc.status)
				c.complete()
				if w := c.record(b1).Backup.Status.Warnings; len(w) != 1 || !strings.Contains(w[0], tc.backup) {
					t.Errorf("warnings of the backup %q", w)
				}
				plan, err := c.engine.PlanRestore(t.Context(), restoreRequest())
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(strings.Join(plan.Warnings, "\n"), tc.restore) {
					t.Errorf("warnings of the restore %q", plan.Warnings)
				}
				if vm := string(plan.State.(*restoreRecord).VM); strings.Contains(vm, "revisionName") {
					t.Errorf("machine %s", vm)
				}
			})
		})
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// everything is a machine that refers to something in every way.
func everything(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile("testdata/everything.json")
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestReferencesOf(t *testing.T) {
	vm := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(everything(t), vm); err != nil {
		t.Fatal(err)
	}
	got := capture.ReferencesOf(vm)
	// In the order of the template, each once.
	wantSame(t, "claims", got.Claims, []capture.ClaimRef{{Volume: "root", Claim: "all-root"}, {Volume: "data", Claim: "all-data"}, {Volume: "scratch", Claim: "all-golden"}, {Volume: "dump", Claim: "all-dump"}})
	wantSame(t, "secrets", got.Secrets, []string{"all-init", "all-net", "all-drive", "all-drive-net", "all-sysprep", "all-secret", "all-pull", "all-kernel-pull", "all-ssh", "all-password"})
	wantSame(t, "config maps", got.ConfigMaps, []string{"all-answers", "all-conf"})
	if len(got.Warnings) != 2 || !strings.Contains(got.Warnings[0], `"local"`) || !strings.Contains(got.Warnings[1], `"swap"`) {
		t.Errorf("warnings %q", got.Warnings)
	}
}

// suffixed maps names to the same with a suffix.
func suffixed(names ...string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = n + "-new"
	}
	return m
}

func everythingRenamed() *renaming {
	return &renaming{
		operation: "0123456789ab", backup: b1,
		from: vmbackup.Ref{Namespace: "demo", Name: "all"}, to: vmbackup.Ref{Namespace: "other", Name: "copy"},
		claims:     suffixed("all-root", "all-data", "all-golden", "all-dump"),
		secrets:    suffixed("all-init", "all-net", "all-drive", "all-drive-net", "all-sysprep", "all-secret", "all-pull", "all-kernel-pull", "all-ssh", "all-password"),
		configMaps: suffixed("all-answers", "all-conf"),
		newMACs:    true, sourceExists: true,
	}
}

func restored(t *testing.T, manifest []byte, n *renaming) (map[string]any, kubevirtv1.VirtualMachineRunStrategy, []string) {
	t.Helper()
	raw, strategy, warnings, err := restoredMachine(manifest, n)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m, strategy, warnings
}

// A restored machine refers to what was restored, in every place.
func TestRestoredMachineRefersToItsNewParts(t *testing.T) {
	n := everythingRenamed()
	raw, _, _, err := restoredMachine(everything(t), n)
	if err != nil {
		t.Fatal(err)
	}
	vm := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(raw, vm); err != nil {
		t.Fatal(err)
	}
	old := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(everything(t), old); err != nil {
		t.Fatal(err)
	}
	before, after := capture.ReferencesOf(old), capture.ReferencesOf(vm)
	if len(after.Claims) != len(before.Claims) || len(after.Secrets) != len(before.Secrets) || len(after.ConfigMaps) != len(before.ConfigMaps) {
		t.Fatalf("before %+v\nafter %+v", before, after)
	}
	for i, c := range before.Claims {
		if after.Claims[i] != (capture.ClaimRef{Volume: c.Volume, Claim: n.claims[c.Claim]}) {
			t.Errorf("claim %v became %v", c, after.Claims[i])
		}
	}
	for i, name := range before.Secrets {
		if after.Secrets[i] != n.secrets[name] {
			t.Errorf("secret %s became %s", name, after.Secrets[i])
		}
	}
	for i, name := range before.ConfigMaps {
		if after.ConfigMaps[i] != n.configMaps[name] {
			t.Errorf("config map %s became %s", name, after.ConfigMaps[i])
		}
	}
	// A restored disk is a plain claim: a DataVolume would be filled anew.
	if v := vm.Spec.Template.Spec.Volumes[1]; v.DataVolume != nil || v.PersistentVolumeClaim == nil || !v.PersistentVolumeClaim.Hotpluggable {
		t.Errorf("volume %+v", v)
	}
	if len(vm.Spec.DataVolumeTemplates) != 0 {
		t.Error("a template that would fill the disk anew is left")
	}
}

func TestRestoredMachine(t *testing.T) {
	m, strategy, warnings := restored(t, everything(t), everythingRenamed())
	meta := m["metadata"].(map[string]any)
	if meta["name"] != "copy" || meta["namespace"] != "other" {
		t.Errorf("metadata %v", meta)
	}
	annotations := meta["annotations"].(map[string]any)
	wantSame(t, "annotations", annotations, map[string]any{"note": "keep", AnnotationRestoredFrom: "demo/b1", LabelOperation: "0123456789ab"})
	if strategy != kubevirtv1.RunStrategyRerunOnFailure {
		t.Errorf("strategy %s", strategy)
	}
	spec := m["spec"].(map[string]any)
	if spec["runStrategy"] != "Halted" {
		t.Errorf("created as %v", spec["runStrategy"])
	}
	template := spec["template"].(map[string]any)
	labels := template["metadata"].(map[string]any)["labels"].(map[string]any)
	wantSame(t, "labels", labels, map[string]any{"kubevirt.io/vm": "copy", "vm.kubevirt.io/name": "copy", "harvesterhci.io/vmName": "copy", "kubevirt.io/domain": "something else", "app": "all"})
	for _, want := range []string{`dataVolumeTemplate "all-data"`, "MAC addresses (1", "instancetype u1.small", "preference fedora"} {
		if !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("no warning of %s in %q", want, warnings)
		}
	}
	if _, found := spec["instancetype"].(map[string]any)["revisionName"]; found {
		t.Error("the revision of the source machine is kept")
	}
	interfaces := template["spec"].(map[string]any)["domain"].(map[string]any)["devices"].(map[string]any)["interfaces"].([]any)
	for _, i := range interfaces {
		if _, found := i.(map[string]any)["macAddress"]; found {
			t.Errorf("interface %v", i)
		}
	}
}

// Fields that this build does not know come back as they were, integers as integers.
func TestRestoredMachineKeepsWhatItDoesNotKnow(t *testing.T) {
	raw, _, _, err := restoredMachine(everything(t), everythingRenamed())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"big":9007199254740993`, `"cores":4`, `"futureField":{"list":[1,{"a":null}]}`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%s is not in %s", want, raw)
		}
	}
}

func TestMachineRestoredUnderItsNameKeepsItsIdentity(t *testing.T) {
	n := &renaming{backup: b1, from: vmbackup.Ref{Namespace: "demo", Name: "all"}, to: vmbackup.Ref{Namespace: "other", Name: "all"}}
	m, _, warnings := restored(t, everything(t), n)
	template := m["spec"].(map[string]any)["template"].(map[string]any)
	if got := template["metadata"].(map[string]any)["labels"].(map[string]any)["kubevirt.io/vm"]; got != "all" {
		t.Errorf("label %v", got)
	}
	if strings.Contains(strings.Join(warnings, "\n"), "MAC") {
		t.Errorf("warnings %q", warnings)
	}
	raw, err := json.Marshal(m)
	if err != nil || !strings.Contains(string(raw), `"macAddress":"02:00:00:00:00:01"`) {
		t.Errorf("the MAC address is lost: %s", raw)
	}
}

func TestRunStrategies(t *testing.T) {
	for spec, want := range map[string]kubevirtv1.VirtualMachineRunStrategy{
		`{"running":true}`:             kubevirtv1.RunStrategyAlways,
		`{"running":false}`:            kubevirtv1.RunStrategyHalted,
		`{}`:                           kubevirtv1.RunStrategyHalted,
		`{"runStrategy":"Manual"}`:     kubevirtv1.RunStrategyManual,
		`{"runStrategy":"Once"}`:       kubevirtv1.RunStrategyOnce,
		`{"runStrategy":"Halted"}`:     kubevirtv1.RunStrategyHalted,
		`{"runStrategy":"FutureKind"}`: "FutureKind",
	} {
		m, got, _ := restored(t, []byte(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"all"},"spec":`+spec+`}`), everythingRenamed())
		if got != want {
			t.Errorf("%s: %s", spec, got)
		}
		wantSame(t, spec, m["spec"].(map[string]any), map[string]any{"runStrategy": "Halted"})
	}
}

func TestMachineThatCannotBeRead(t *testing.T) {
	for _, manifest := range []string{``, `[]`, `{"kind":1}`, `{"apiVersion":"kubevirt.io/v1"`} {
		_, _, _, err := restoredMachine([]byte(manifest), everythingRenamed())
		wantReason(t, err, vmbackup.ReasonDataDamaged)
	}
}

func TestRestoredClaim(t *testing.T) {
	backedUp := `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"all-root","namespace":"demo",
		"labels":{"tier":"gold","` + LabelOperation + `":"of the source"},
		"annotations":{"note":"keep","pv.kubernetes.io/bind-completed":"yes","volume.kubernetes.io/storage-provisioner":"x","cdi.kubevirt.io/storage.import.endpoint":"y","kubectl.kubernetes.io/last-applied-configuration":"{}"}},
		"spec":{"accessModes":["ReadWriteMany"],"volumeMode":"Block","storageClassName":"old","volumeName":"pvc-1","resources":{"requests":{"storage":"10Gi"}}}}`
	v := &vmbackup.RestoreVolume{Name: "root", SourcePVC: "all-root", PVC: "copy-root", StorageClass: "longhorn", SizeBytes: 12 * gib}
	claim, err := restoredClaim(json.RawMessage(backedUp), v, everythingRenamed(), "snap-1")
	if err != nil {
		t.Fatal(err)
	}
	if claim.Name != "copy-root" || claim.Namespace != "other" || claim.Spec.VolumeName != "" || *claim.Spec.StorageClassName != "longhorn" || *claim.Spec.VolumeMode != corev1.PersistentVolumeBlock {
		t.Errorf("claim %+v", claim)
	}
	wantSame(t, "labels", claim.Labels, map[string]string{"tier": "gold", LabelOperation: "0123456789ab"})
	wantSame(t, "annotations", claim.Annotations, map[string]string{"note": "keep", AnnotationRestoredFrom: "demo/b1", AnnotationVolume: "root"})
	wantSame(t, "modes", claim.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany})
	// The size of the data, not of the request.
	if got := claim.Spec.Resources.Requests[corev1.ResourceStorage]; got.Cmp(resource.MustParse("12Gi")) != 0 {
		t.Errorf("size %s", got.String())
	}
	if s := claim.Spec.DataSource; s == nil || s.Kind != "VolumeSnapshot" || s.Name != "snap-1" || *s.APIGroup != "snapshot.storage.k8s.io" {
		t.Errorf("source %+v", s)
	}
	_, err = restoredClaim(json.RawMessage(`{`), v, everythingRenamed(), "snap-1")
	wantReason(t, err, vmbackup.ReasonDataDamaged)
}

func TestRestoredObject(t *testing.T) {
	raw, err := restoredObject(json.RawMessage(`{"apiVersion":"v1","kind":"Secret","type":"Opaque","immutable":true,
		"metadata":{"name":"all-init","namespace":"demo","labels":{"app":"all"},"annotations":{"note":"keep","kubectl.kubernetes.io/last-applied-configuration":"{}"}},"data":{"a":"YQ=="}}`), "copy-init", everythingRenamed())
	if err != nil {
		t.Fatal(err)
	}
	s := &corev1.Secret{}
	if err := json.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	if s.Name != "copy-init" || s.Namespace != "other" || s.Type != corev1.SecretTypeOpaque || !*s.Immutable || string(s.Data["a"]) != "a" {
		t.Errorf("secret %+v", s)
	}
	wantSame(t, "labels", s.Labels, map[string]string{"app": "all", LabelOperation: "0123456789ab", LabelManagedBy: kube.FieldManager})
	wantSame(t, "annotations", s.Annotations, map[string]string{"note": "keep"})
}

func TestComposedSnapshotNamesFit(t *testing.T) {
	r := &restoreRecord{Operation: "0123456789ab"}
	long := strings.Repeat("v", 253)
	one, two := r.snapshotName(&vmbackup.RestoreVolume{Name: long}), r.snapshotName(&vmbackup.RestoreVolume{Name: long + "w"})
	if len(one) > 253 || one == two {
		t.Errorf("%d, %s", len(one), two)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// wholeRestore is the record of a restore r1 with one of everything.
func wholeRestore() *restoreRecord {
	r := &restoreRecord{
		Restore: *vmbackup.NewRestore(r1), Operation: "0123456789ab", Class: "c", RunStrategy: kubevirtv1.RunStrategyAlways, DataRestored: true,
		VM:         json.RawMessage(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"other"},"spec":{"a":9007199254740993}}`),
		Secrets:    []json.RawMessage{json.RawMessage(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"other"},"type":"Opaque"}`)},
		ConfigMaps: []json.RawMessage{json.RawMessage(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m","namespace":"other"}}`)},
		Revisions:  []json.RawMessage{json.RawMessage(`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"web-instancetype-0123456789ab","namespace":"other"},"data":{"a":9007199254740993},"revision":1}`)},
		Unpin:      []string{fieldInstancetype}, StateClaim: "web-root",
	}
	r.Restore.Spec = vmbackup.RestoreSpec{Backup: b1.String(), TargetNamespace: "other", TargetName: "web", Mode: vmbackup.ModeNew}
	v := vmbackup.RestoreVolume{Name: "root", SourcePVC: "web-root", PVC: "web-root", SnapshotHandle: "bak://pvc-1/backup-1", State: vmbackup.StatePending}
	r.Restore.Status.Volumes = []vmbackup.RestoreVolume{v}
	r.Claims = []corev1.PersistentVolumeClaim{{
		ObjectMeta: metav1.ObjectMeta{Name: "web-root", Namespace: "other"},
		Spec:       corev1.PersistentVolumeClaimSpec{DataSource: &corev1.TypedLocalObjectReference{Kind: "VolumeSnapshot", Name: r.snapshotName(&v)}},
	}}
	return r
}

// inPlaceEdit makes a record one of a restore in place, and edits that.
func inPlaceEdit(edit func(*inPlaceRecord)) func(*restoreRecord) {
	return func(r *restoreRecord) {
		r.Restore.Spec.Mode = vmbackup.ModeInPlace
		r.InPlace = &inPlaceRecord{
			UID: "uid-1", Was: runState{Strategy: kubevirtv1.RunStrategyAlways}, Start: vmbackup.StartAuto,
			Before: json.RawMessage(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"other"}}`),
			Old:    []oldClaim{{Volume: "root", Claim: "old-root", UID: "uid-2", Replaced: "web-root"}, {Volume: "extra", Claim: "extra"}},
		}
		edit(r.InPlace)
	}
}

func TestRestoreInPlaceRecordIsReadAsWritten(t *testing.T) {
	r := wholeRestore()
	inPlaceEdit(func(r *inPlaceRecord) { r.OldState = "old-root" })(r)
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeRestore(r1, data)
	if err != nil {
		t.Fatal(err)
	}
	before, after := back.InPlace.Before, r.InPlace.Before
	back.InPlace.Before, r.InPlace.Before = nil, nil
	wantSame(t, "in place", back.InPlace, r.InPlace)
	if !strings.Contains(string(before), `"web"`) || len(after) == 0 {
		t.Errorf("before %s", before)
	}
}

func TestRestoreRecordIsReadAsWritten(t *testing.T) {
	r := wholeRestore()
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeRestore(r1, data)
	if err != nil || !reflect.DeepEqual(back, r) {
		t.Errorf("%+v\n%v", back, err)
	}
	restore, err := DecodeRestore(r1, data)
	if err != nil || restore.Ref() != r1 {
		t.Errorf("%v, %v", restore, err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), data[:len(data)/2], zipped(t, make([]byte, restoreLimit+1)), make([]byte, metadata.JournalLimit+1)} {
		_, err := DecodeRestore(r1, bad)
		wantReason(t, err, vmbackup.ReasonDataDamaged)
	}
	_, err = DecodeRestore(vmbackup.Ref{Namespace: "other", Name: "r2"}, data)
	wantReason(t, err, vmbackup.ReasonDataDamaged)
}

// A record that was edited by hand is refused when it holds anything but what the
// restore would make, and what is dropped says nothing of its own.
func TestEditedRestoreRecord(t *testing.T) {
	object := func(text string) json.RawMessage { return json.RawMessage(text) }
	for name, test := range map[string]struct {
		edit func(r *restoreRecord)
		says string
	}{
		"another namespace": {func(r *restoreRecord) { r.Restore.Spec.TargetNamespace = "kube-system" }, "targetNamespace"},
		"odd target":        {func(r *restoreRecord) { r.Restore.Spec.TargetName = "../web" }, "targetName"},
		"odd operation":     {func(r *restoreRecord) { r.Operation = "x=y" }, "operation"},
		"odd class":         {func(r *restoreRecord) { r.Class = "../../c" }, "class"},
		"another's revision": {func(r *restoreRecord) {
			r.Revisions[0] = object(`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"of-a-daemonset","namespace":"other"}}`)
		}, "no revision of the machine"},
		"revision of another kind": {func(r *restoreRecord) {
			r.Revisions[0] = object(`{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"web-instancetype-0123456789ab","namespace":"other"}}`)
		}, "no revision of the machine"},
		"revision elsewhere": {func(r *restoreRecord) {
			r.Revisions[0] = object(`{"apiVersion":"apps/v1","kind":"ControllerRevision","metadata":{"name":"web-instancetype-0123456789ab","namespace":"kube-system"}}`)
		}, `namespace "kube-system"`},
		"revision twice": {func(r *restoreRecord) { r.Revisions = append(r.Revisions, r.Revisions[0]) }, "there twice"},
		"odd field":      {func(r *restoreRecord) { r.Unpin = []string{"template"} }, "unpin[0]"},
		"foreign state":  {func(r *restoreRecord) { r.StateClaim = "db-root" }, "stateClaim"},
		"odd strategy":   {func(r *restoreRecord) { r.RunStrategy = "Often" }, "runStrategy"},
		"machine of another kind": {func(r *restoreRecord) {
			r.VM = object(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"other"}}`)
		}, "is not VirtualMachine"},
		"another machine": {func(r *restoreRecord) {
			r.VM = object(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"db","namespace":"other"}}`)
		}, "is not VirtualMachine"},
		"machine elsewhere": {func(r *restoreRecord) {
			r.VM = object(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"demo"}}`)
		}, "namespace"},
		"role among the secrets": {func(r *restoreRecord) {
			r.Secrets = append(r.Secrets, object(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"s","namespace":"other"}}`))
		}, "secrets[1]"},
		"secret elsewhere": {func(r *restoreRecord) {
			r.Secrets = append(r.Secrets, object(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"kube-system"}}`))
		}, "secrets[1]"},
		"secret nowhere": {func(r *restoreRecord) {
			r.Secrets = append(r.Secrets, object(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}}`))
		}, "secrets[1]"},
		"token of a ServiceAccount": {func(r *restoreRecord) {
			r.Secrets = append(r.Secrets, object(`{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/service-account-token","metadata":{"name":"s","namespace":"other"}}`))
		}, "ServiceAccount"},
		"record of another operation": {func(r *restoreRecord) {
			r.Secrets = append(r.Secrets, object(`{"apiVersion":"v1","kind":"Secret","type":"vmbackup.io/operation","metadata":{"name":"s","namespace":"other"}}`))
		}, "another operation"},
		"secret among the config maps": {func(r *restoreRecord) { r.ConfigMaps = r.Secrets }, "configMaps[0]"},
		"foreign handle":               {func(r *restoreRecord) { r.Restore.Status.Volumes[0].SnapshotHandle = "bi://backing?x=y" }, "snapshotHandle"},
		"handle that climbs":           {func(r *restoreRecord) { r.Restore.Status.Volumes[0].SnapshotHandle = "bak://../backup-1" }, "snapshotHandle"},
		"odd volume":                   {func(r *restoreRecord) { r.Restore.Status.Volumes[0].Name = "a b" }, "volumes[0].name"},
		"odd claim":                    {func(r *restoreRecord) { r.Restore.Status.Volumes[0].PVC = "A/B" }, "volumes[0].pvc"},
		"odd Longhorn volume":          {func(r *restoreRecord) { r.Restore.Status.Volumes[0].LonghornVolume = "a,b" }, "longhornVolume"},
		"volume twice": {func(r *restoreRecord) {
			r.Restore.Status.Volumes = append(r.Restore.Status.Volumes, r.Restore.Status.Volumes[0])
		}, "volumes[1].pvc"},
		"claim elsewhere":            {func(r *restoreRecord) { r.Claims[0].Namespace = "demo" }, "claims[0]"},
		"claim twice":                {func(r *restoreRecord) { r.Claims = append(r.Claims, r.Claims[0]) }, "claims[1]"},
		"claim of no volume":         {func(r *restoreRecord) { r.Claims[0].Name = "db-root" }, "claims[0]"},
		"claim on a volume":          {func(r *restoreRecord) { r.Claims[0].Spec.VolumeName = "pv-of-somebody" }, "claims[0]"},
		"claim from a claim":         {func(r *restoreRecord) { r.Claims[0].Spec.DataSource.Kind = "PersistentVolumeClaim" }, "claims[0]"},
		"claim from a reference":     {func(r *restoreRecord) { r.Claims[0].Spec.DataSourceRef = &corev1.TypedObjectReference{} }, "claims[0]"},
		"in place without a machine": {func(r *restoreRecord) { r.Restore.Spec.Mode = vmbackup.ModeInPlace }, "does not go with inPlace"},
		"machine without in place":   {func(r *restoreRecord) { r.InPlace = &inPlaceRecord{} }, "does not go with inPlace"},
		"machine of no UID":          {inPlaceEdit(func(r *inPlaceRecord) { r.UID = "" }), "uid"},
		"another machine before": {inPlaceEdit(func(r *inPlaceRecord) {
			r.Before = object(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"db","namespace":"other"}}`)
		}), "before"},
		"machine before, elsewhere": {inPlaceEdit(func(r *inPlaceRecord) {
			r.Before = object(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web","namespace":"demo"}}`)
		}), "before"},
		"odd old claim":           {inPlaceEdit(func(r *inPlaceRecord) { r.Old[0].Claim = "../x" }), "old[0].claim"},
		"new claim as an old one": {inPlaceEdit(func(r *inPlaceRecord) { r.Old[0].Claim = "web-root" }), "old[0].claim"},
		"replaced by nothing":     {inPlaceEdit(func(r *inPlaceRecord) { r.Old[0].Replaced = "db-root" }), "old[0].replaced"},
		"odd old state":           {inPlaceEdit(func(r *inPlaceRecord) { r.OldState = "db-state" }), "oldState"},
		"odd start":               {inPlaceEdit(func(r *inPlaceRecord) { r.Start = "maybe" }), "start"},
		"odd run strategy before": {inPlaceEdit(func(r *inPlaceRecord) { r.Was.Strategy = "Sometimes" }), "was.strategy"},
		"empty claim":             {func(r *restoreRecord) { r.Claims[0].Spec.DataSource = nil }, "claims[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := wholeRestore()
			test.edit(r)
			data, err := r.encode()
			if err != nil {
				t.Fatal(err)
			}
			_, err = decodeRestore(r1, data)
			wantReason(t, err, vmbackup.ReasonDataDamaged)
			if !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), r1.String()) {
				t.Errorf("%v does not say %q", err, test.says)
			}
		})
	}
	for name, text := range map[string]string{
		"twice":   `{"operation":"0123456789ab","operation":"0123456789ab"}`,
		"trailer": `{} {}`,
		"deep":    strings.Repeat("[", 1000),
	} {
		_, err := decodeRestore(r1, zipped(t, []byte(text)))
		if vmbackup.ReasonOf(err) != vmbackup.ReasonDataDamaged {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRestoreRecordSetsNoOwners(t *testing.T) {
	r := wholeRestore()
	owners := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "u"}}
	r.Claims[0].OwnerReferences, r.Claims[0].Finalizers = owners, []string{"example.org/never"}
	const foreign = `"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}],"finalizers":["example.org/never"],"managedFields":[{}]`
	with := func(raw json.RawMessage) json.RawMessage {
		return json.RawMessage(strings.Replace(string(raw), `"namespace":"other"`, `"namespace":"other",`+foreign, 1))
	}
	r.VM, r.Secrets[0], r.ConfigMaps[0] = with(r.VM), with(r.Secrets[0]), with(r.ConfigMaps[0])
	data, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeRestore(r1, data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, wholeRestore()) {
		t.Errorf("%+v", back)
	}
}

// A file on the target may hold more than a restore creates.
func TestRestoreLeavesOutWhatIsNotTheMachines(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		key := metadata.RecordKey(b1)
		content, err := c.store.Get(t.Context(), key, metadata.FileLimit)
		if err != nil {
			t.Fatal(err)
		}
		record, err := metadata.DecodeRecord(key, content)
		if err != nil {
			t.Fatal(err)
		}
		for _, extra := range []string{
			`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"stray","namespace":"demo"}}`,
			`{"apiVersion":"v1","kind":"Secret","type":"vmbackup.io/operation","metadata":{"name":"vmbackup-restore-evil","namespace":"demo","labels":{"vmbackup.io/kind":"restore"}}}`,
		} {
			record.Secrets = append(record.Secrets, json.RawMessage(extra))
		}
		if content, err = metadata.EncodeRecord(record); err != nil {
			t.Fatal(err)
		}
		if err := c.store.Put(t.Context(), key, content); err != nil {
			t.Fatal(err)
		}
		req := restoreRequest()
		req.From = vmbackup.SourceTarget
		plan, err := c.engine.PlanRestore(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"stray", "vmbackup-restore-evil"} {
			if !strings.Contains(strings.Join(plan.Warnings, "\n"), `"`+name+`"`) {
				t.Errorf("not said of %s: %q", name, plan.Warnings)
			}
			for _, o := range plan.Objects {
				if o.Name == name {
					t.Errorf("planned: %+v", o)
				}
			}
		}
		if kept := plan.State.(*restoreRecord).Secrets; len(kept) != len(record.Secrets)-2 {
			t.Errorf("%d secrets", len(kept))
		}
	})
}

func TestUnwarranted(t *testing.T) {
	for kind, want := range map[string]bool{
		`"Opaque"`: false, `""`: false, `"kubernetes.io/ssh-auth"`: false, `"cluster.x-k8s.io/secret"`: false,
		`"kubernetes.io/service-account-token"`: true, `"bootstrap.kubernetes.io/token"`: true, `"vmbackup.io/operation"`: true, `"helm.sh/release.v1"`: true, `7`: true,
	} {
		m, err := metadata.ParseManifest([]byte(`{"apiVersion":"v1","kind":"Secret","type":` + kind + `,"metadata":{"name":"s"}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := unwarranted(m); (got != "") != want {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

func zipped(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

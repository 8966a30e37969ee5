// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// stateful gives the machine a TPM and EFI variables that outlive its runs, on a claim.
func (c *cluster) stateful(claim string, label bool) {
	c.t.Helper()
	c.vms.remove(web)
	c.addMachine(strings.Replace(webManifest, `"domain": {`, `"domain": {"firmware": {"uuid": "u", "bootloader": {"efi": {"persistent": true}}}, `, 1))
	c.disk("demo", claim, 16<<20)
	edit(c.apiServer, "persistentvolumeclaims", "demo", claim, func(p *corev1.PersistentVolumeClaim) {
		if label {
			p.Labels[labelPersistentState] = "web"
		}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "web", UID: "uid-of-the-source"}}
	})
}

func (c *cluster) claim(namespace, name string) *corev1.PersistentVolumeClaim {
	c.t.Helper()
	got, err := c.get(objectKey{"persistentvolumeclaims", namespace, name}, schema.GroupResource{})
	if err != nil {
		c.t.Fatal(err)
	}
	return got.(*corev1.PersistentVolumeClaim)
}

// The persistent state comes back where KubeVirt looks for it, under the machine's
// new name, and belongs to the machine.
func TestPersistentStateComesBack(t *testing.T) {
	for name, set := range map[string]func(*cluster) string{
		"by its label": func(c *cluster) string {
			c.stateful("persistent-state-for-web-x7k2p", true)
			return "persistent-state-for-web-x7k2p"
		},
		"by its legacy name": func(c *cluster) string {
			c.stateful("persistent-state-for-web", false)
			return "persistent-state-for-web"
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				source := set(c)
				c.complete()
				backup := c.record(b1).Backup
				last := backup.Status.Volumes[len(backup.Status.Volumes)-1]
				if len(backup.Status.Volumes) != 3 || last.Name != "persistent-state-for-web" || last.PVC != source {
					t.Fatalf("volumes %+v", backup.Status.Volumes)
				}
				req := restoreRequest()
				req.ToName = "copy"
				c.startRestore(req)
				r, err := c.runRestore(t.Context())
				if err != nil || !r.Status.Ready {
					t.Fatal(err)
				}
				claim := c.claim("other", c.restoreEntry().StateClaim)
				if claim.Labels[labelPersistentState] != "copy" || claim.Spec.DataSource == nil {
					t.Errorf("labels %v, source %v", claim.Labels, claim.Spec.DataSource)
				}
				machine := vmbackup.Ref{Namespace: "other", Name: "copy"}
				uid := c.machine(machine)["metadata"].(map[string]any)["uid"]
				if o := metav1.GetControllerOf(claim); o == nil || string(o.UID) != uid {
					t.Errorf("it belongs to %v", o)
				}
				for _, disk := range []string{"copy-root", "copy-data"} {
					if p := c.claim("other", disk); p.Labels[labelPersistentState] != "" || len(p.OwnerReferences) != 0 {
						t.Errorf("%s: labels %v, owners %v", disk, p.Labels, p.OwnerReferences)
					}
				}
			})
		})
	}
}

// Harvester gives claims to the machine's volumes by their names: the state is not in its file.
func TestPersistentStateIsNotInHarvestersFile(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.stateful("persistent-state-for-web-x7k2p", true)
		c.complete()
		for key, want := range map[string]bool{metadata.RecordKey(b1): true, metadata.HarvesterBackupKey(b1): false} {
			content, err := c.store.Get(t.Context(), key, metadata.FileLimit)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(content), "persistent-state-for-web"); got != want {
				t.Errorf("%s has the state: %t", key, got)
			}
		}
	})
}

func TestPersistentStateThatIsNotAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.disk("demo", "persistent-state-for-web", 16<<20) // somebody's claim of this name
		c.complete()
		if v := c.record(b1).Backup.Status.Volumes; len(v) != 2 {
			t.Errorf("volumes %+v", v)
		}
	})
}

// KubeVirt takes any claim with the label: state of another machine must not be there.
func TestPersistentStateOfAnotherMachineInTheWay(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.stateful("persistent-state-for-web-x7k2p", true)
		c.complete()
		c.disk("other", "left-over", 16<<20)
		edit(c.apiServer, "persistentvolumeclaims", "other", "left-over", func(p *corev1.PersistentVolumeClaim) { p.Labels[labelPersistentState] = "web" })
		_, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		e := failure(t, err, vmbackup.ReasonConflict)
		if !strings.Contains(e.Message, "other/left-over") || !e.Preflight {
			t.Errorf("%s", e.Message)
		}
		// State that goes with a machine that is gone is in nobody's way.
		edit(c.apiServer, "persistentvolumeclaims", "other", "left-over", func(p *corev1.PersistentVolumeClaim) {
			controller := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "VirtualMachine", Name: "web", UID: "gone", Controller: &controller}}
		})
		if _, err := c.engine.PlanRestore(t.Context(), restoreRequest()); err != nil {
			t.Error(err)
		}
	})
}

func TestBelongingsNeedTheirRights(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.stateful("persistent-state-for-web-x7k2p", true)
		c.complete()
		all := []string{"*"}
		c.allow("other",
			authv1.ResourceRule{Verbs: []string{"get", "list", "watch", "create", "delete", "update"}, APIGroups: all, Resources: all},
			authv1.ResourceRule{Verbs: all, APIGroups: []string{"kubevirt.io"}, Resources: all})
		_, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if e := failure(t, err, vmbackup.ReasonForbidden); !strings.Contains(e.Message, "patch persistentvolumeclaims in namespace other") {
			t.Errorf("%s", e.Message)
		}
	})
}

// templated is the machine with a template for its second disk.
func (c *cluster) templated(source string) {
	c.t.Helper()
	c.vms.remove(web)
	c.addMachine(strings.Replace(webManifest, `"runStrategy": "Always",`,
		`"runStrategy": "Always", "dataVolumeTemplates": [{"metadata":{"name":"web-data","annotations":{"note":"keep"}},"spec":{`+source+`"storage":{"resources":{"requests":{"storage":"20Gi"}}}}}],`, 1))
}

func TestDataVolumeTemplates(t *testing.T) {
	for _, tc := range []struct {
		name   string
		source string
		to     vmbackup.Ref
		set    func(*cluster)
		// why is empty where the template is kept.
		why string
	}{
		{name: "image", source: `"source":{"http":{"url":"https://example.com/disk.img"}},`, to: other},
		{name: "blank", source: `"source":{"blank":{}},`, to: other},
		{name: "no source", to: other},
		{name: "under another name", source: `"source":{"blank":{}},`, to: vmbackup.Ref{Namespace: "demo", Name: "copy"}},
		{name: "no importer", source: `"source":{"blank":{}},`, to: other, set: func(c *cluster) { c.dataVolumes = false }, why: "not known in this cluster"},
		{name: "clone of a claim that is there", source: `"source":{"pvc":{"namespace":"golden","name":"fedora"}},`, to: vmbackup.Ref{Namespace: "demo", Name: "copy"}, set: func(c *cluster) { c.disk("golden", "fedora", gib) }},
		{name: "clone of a claim that is gone", source: `"source":{"pvc":{"namespace":"golden","name":"fedora"}},`, to: vmbackup.Ref{Namespace: "demo", Name: "copy"}, why: "clones PersistentVolumeClaim golden/fedora, which is not there"},
		{name: "clone of a claim that may not be looked at", source: `"source":{"pvc":{"namespace":"secret","name":"fedora"}},`, to: vmbackup.Ref{Namespace: "demo", Name: "copy"}, why: "may not read"},
		{name: "clone into another namespace", source: `"source":{"pvc":{"namespace":"demo","name":"fedora"}},`, to: other, set: func(c *cluster) { c.disk("demo", "fedora", gib) }, why: "may not be allowed"},
		{name: "clone within the other namespace", source: `"source":{"pvc":{"name":"fedora"}},`, to: other, set: func(c *cluster) { c.disk("other", "fedora", gib) }},
		{name: "snapshot that is gone", source: `"source":{"snapshot":{"namespace":"demo","name":"gone"}},`, to: vmbackup.Ref{Namespace: "demo", Name: "copy"}, why: "clones VolumeSnapshot demo/gone"},
		{name: "data source that is gone", source: `"sourceRef":{"kind":"DataSource","namespace":"golden","name":"fedora"},`, to: vmbackup.Ref{Namespace: "demo", Name: "copy"}, why: "clones DataSource golden/fedora"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.dataVolumes = true
				c.templated(tc.source)
				c.complete()
				if tc.set != nil {
					tc.set(c)
				}
				req := restoreRequest()
				req.ToNamespace, req.ToName = tc.to.Namespace, tc.to.Name
				plan, err := c.engine.PlanRestore(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				record := plan.State.(*restoreRecord)
				claim := record.Claims[1]
				m := map[string]any{}
				if err := json.Unmarshal(record.VM, &m); err != nil {
					t.Fatal(err)
				}
				spec := m["spec"].(map[string]any)
				volume := spec["template"].(map[string]any)["spec"].(map[string]any)["volumes"].([]any)[1].(map[string]any)
				warned := strings.Contains(strings.Join(plan.Warnings, "\n"), `dataVolumeTemplate "web-data"`)
				if tc.why != "" {
					if !warned || !strings.Contains(strings.Join(plan.Warnings, "\n"), tc.why) || spec["dataVolumeTemplates"] != nil || claim.Annotations[annotationPopulatedFor] != "" {
						t.Errorf("templates %v, annotations %v, warnings %q", spec["dataVolumeTemplates"], claim.Annotations, plan.Warnings)
					}
					if want := map[string]any{"name": "data", "persistentVolumeClaim": map[string]any{"claimName": claim.Name}}; !reflect.DeepEqual(volume, want) {
						t.Errorf("volume %v", volume)
					}
					return
				}
				// Nobody fills the restored disk anew.
				if claim.Annotations[annotationPopulatedFor] != claim.Name || warned {
					t.Errorf("annotations %v, warnings %q", claim.Annotations, plan.Warnings)
				}
				if want := map[string]any{"name": "data", "dataVolume": map[string]any{"name": claim.Name}}; !reflect.DeepEqual(volume, want) {
					t.Errorf("volume %v", volume)
				}
				want := map[string]any{}
				if err := json.Unmarshal([]byte(`{"metadata":{"name":"`+claim.Name+`","annotations":{"note":"keep"}},"spec":{`+tc.source+`"storage":{"resources":{"requests":{"storage":"20Gi"}}}}}`), &want); err != nil {
					t.Fatal(err)
				}
				if got := spec["dataVolumeTemplates"]; !reflect.DeepEqual(got, []any{want}) {
					t.Errorf("templates %v", got)
				}
				if root := record.Claims[0]; root.Annotations[annotationPopulatedFor] != "" {
					t.Errorf("a claim without a template: %v", root.Annotations)
				}
			})
		})
	}
}

// The disk of a kept template is as much the machine's as any other one.
func TestPatchMayNotTakeARestoredDataVolumeAway(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.dataVolumes = true
		c.templated(`"source":{"blank":{}},`)
		c.complete()
		req := restoreRequest()
		req.Patch = json.RawMessage(`[{"op":"replace","path":"/spec/template/spec/volumes/1/dataVolume/name","value":"somebody-elses"}]`)
		_, err := c.engine.PlanRestore(t.Context(), req)
		if e := failure(t, err, vmbackup.ReasonInvalidRequest); !strings.Contains(e.Message, "web-data") {
			t.Errorf("%s", e.Message)
		}
	})
}

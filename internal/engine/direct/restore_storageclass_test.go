// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"strings"
	"testing"

	authv1 "k8s.io/api/authorization/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// defaultClass is the StorageClass of the machine's volumes as a cluster's default.
func (c *cluster) defaultClass() {
	edit(c.apiServer, "storageclasses", "", "longhorn", func(s *storagev1.StorageClass) {
		s.Parameters = map[string]string{parameterReplicas: "2"}
		s.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
	})
}

// A cluster that lacks the StorageClass gets the one of the backup, but not as its default.
func TestMissingStorageClassComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.defaultClass()
		c.complete()
		c.vanish("storageclasses", "", "longhorn")
		plan, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.engine.StartRestore(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		r, err := c.runRestore(t.Context())
		if err != nil || r.Status.Phase != vmbackup.PhaseReady || r.Status.Steps[0].ID != "storage-classes" {
			t.Fatalf("%v, %+v", err, r)
		}
		class := c.classNow("longhorn")
		if class.Provisioner != Driver || class.Parameters[parameterReplicas] != "2" || len(class.Annotations) > 0 {
			t.Errorf("came back as %+v", class)
		}
		planned := 0
		for _, o := range plan.Objects {
			if o.Kind == "StorageClass" && o.Action == vmbackup.ActionCreate && o.Name == "longhorn" {
				planned++
			}
		}
		wantSame(t, "planned classes", planned, 1)
	})
}

// One of the same name with other parameters is taken, and told, unless it is mapped.
func TestStorageClassWithOtherParameters(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.defaultClass()
		c.complete()
		plan := func(req vmbackup.RestoreRequest) string {
			t.Helper()
			p, err := c.engine.PlanRestore(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Join(p.Warnings, "\n")
		}
		if got := plan(restoreRequest()); strings.Contains(got, "other parameters") {
			t.Errorf("unchanged: %s", got)
		}
		edit(c.apiServer, "storageclasses", "", "longhorn", func(s *storagev1.StorageClass) {
			s.Parameters = map[string]string{parameterReplicas: "3", "diskSelector": "ssd"}
		})
		if got := plan(restoreRequest()); !strings.Contains(got, `StorageClass "longhorn" has other parameters than when the backup was made (diskSelector "ssd" is new, numberOfReplicas is "3" and was "2")`) {
			t.Errorf("changed: %s", got)
		}
		req := restoreRequest()
		req.StorageClasses = map[string]string{"longhorn": "longhorn"}
		if got := plan(req); strings.Contains(got, "other parameters") {
			t.Errorf("mapped: %s", got)
		}
	})
}

func (c *cluster) classNow(name string) *storagev1.StorageClass {
	c.t.Helper()
	o, err := c.get(objectKey{"storageclasses", "", name}, schema.GroupResource{})
	if err != nil {
		c.t.Fatal(err)
	}
	return o.(*storagev1.StorageClass)
}

// A file on the target can be written by others than the tool: a class of another
// provisioner is not made, and one that is mapped is not replaced by the backup's.
func TestStorageClassesThatDoNotComeBack(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*metadata.Record)
		req  func(*vmbackup.RestoreRequest)
	}{
		"of another provisioner": {edit: func(r *metadata.Record) {
			for i := range r.Others {
				r.Others[i] = bytes.ReplaceAll(r.Others[i], []byte(Driver), []byte("evil.example.com"))
			}
		}},
		"mapped to a missing one": {req: func(r *vmbackup.RestoreRequest) { r.StorageClasses = map[string]string{"longhorn": "fast"} }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.vanish("storageclasses", "", "longhorn")
				if tt.edit != nil {
					c.editRecord(tt.edit)
				}
				req := restoreRequest()
				if tt.req != nil {
					tt.req(&req)
				}
				_, err := c.engine.PlanRestore(t.Context(), req)
				wantReason(t, err, vmbackup.ReasonStorageClassMissing)
			})
		})
	}
}

// Who may not make StorageClasses is told so before anything is changed.
func TestStorageClassNeedsItsRight(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.vanish("storageclasses", "", "longhorn")
		c.allow("other", authv1.ResourceRule{Verbs: []string{"*"}, APIGroups: []string{"", "kubevirt.io", "apps", "snapshot.storage.k8s.io", "longhorn.io", "subresources.kubevirt.io"}, Resources: []string{"*"}})
		c.forget()
		_, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		wantReason(t, err, vmbackup.ReasonForbidden)
		wantSame(t, "writes", c.writes(), nil)
	})
}

// Somebody else makes a class of that name after the plan.
func TestStorageClassThatAppearsMeanwhile(t *testing.T) {
	for name, tt := range map[string]struct {
		replicas string
		reason   vmbackup.Reason
	}{
		"the same": {"2", ""}, "another": {"3", vmbackup.ReasonConflict},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.defaultClass()
				c.complete()
				c.vanish("storageclasses", "", "longhorn")
				c.startRestore(restoreRequest())
				class := &storagev1.StorageClass{Provisioner: Driver, Parameters: map[string]string{parameterReplicas: tt.replicas}}
				class.Name = "longhorn"
				c.put("storageclasses", class)
				_, err := c.runRestore(t.Context())
				if tt.reason == "" && err != nil {
					t.Fatal(err)
				}
				if tt.reason != "" {
					wantReason(t, err, tt.reason)
				}
			})
		})
	}
}

// A record that was edited by hand makes no StorageClass but one of its own volumes'.
func TestEditedStorageClasses(t *testing.T) {
	for name, change := range map[string]func(*storagev1.StorageClass){
		"provisioner": func(s *storagev1.StorageClass) { s.Provisioner = "evil.example.com" },
		"no volume":   func(s *storagev1.StorageClass) { s.Name = "other" },
		"odd name":    func(s *storagev1.StorageClass) { s.Name = "../x" },
	} {
		t.Run(name, func(t *testing.T) {
			r := wholeRestore()
			r.Restore.Status.Volumes[0].StorageClass = "longhorn"
			class := storagev1.StorageClass{Provisioner: Driver}
			class.Name = "longhorn"
			r.StorageClasses = []storagev1.StorageClass{class}
			if data, err := r.encode(); err != nil {
				t.Fatal(err)
			} else if _, err := decodeRestore(r1, data); err != nil {
				t.Fatalf("unedited: %v", err)
			}
			change(&class)
			r.StorageClasses = []storagev1.StorageClass{class}
			data, err := r.encode()
			if err != nil {
				t.Fatal(err)
			}
			_, err = decodeRestore(r1, data)
			wantReason(t, err, vmbackup.ReasonDataDamaged)
		})
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// testElsewhere backs a machine up in a cluster of its own, takes that cluster
// away, and restores into the suite's, which has the same backup target.
func (s *suite) testElsewhere(t *testing.T) {
	source := &suite{repository: s.repository, instance: s.instance + "-source", plugin: s.plugin, sandbox: s.sandbox}
	source.startSandbox(t, "--s3-from", s.instance)
	source.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(source.kubeconfig, []byte(source.runSandbox(t, "kubeconfig")), 0o600); err != nil {
		t.Fatal(err)
	}
	source.cluster = newCluster(t, source.kubeconfig)
	class := source.get(t, storageClasses, "", "longhorn-1r").DeepCopy()
	class.Object["metadata"] = map[string]any{"name": "elsewhere", "annotations": map[string]any{"storageclass.kubernetes.io/is-default-class": "true"}}
	source.create(t, storageClasses, class.Object)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_ = s.in(storageClasses, "").Delete(ctx, "elsewhere", metav1.DeleteOptions{}) // it is not there when the test has failed early
	})
	namespace := "elsewhere-" + strings.ToLower(rand.Text()[:6])
	source.create(t, namespaces, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}})
	m := machine{namespace: namespace, name: "app", disks: []string{"root", "data"}, class: "elsewhere"}
	sums := source.make(t, m)
	source.backup(t, 0, "create", m.name, "-n", m.namespace, "--name", "moving")

	// Both are there: the source's machine keeps its addresses.
	run := func(args ...string) result {
		return s.exec(t.Context(), t, s.plugin, []string{"KUBECONFIG=" + source.kubeconfig}, append([]string{
			"restore", "moving", "-n", m.namespace, "--to-kubeconfig", s.kubeconfig, "--create-namespace",
		}, args...)...)
	}
	plan := run("--dry-run", "-o", "json")
	planned := &vmbackup.Restore{}
	if decode(t, plan, planned); plan.code != 0 {
		t.Fatalf("%s", plan)
	}
	compared := map[string]vmbackup.Comparison{}
	for _, c := range planned.Status.Comparison {
		compared[c.Subject] = c
	}
	if c := compared["StorageClass"]; c.Source != "elsewhere" || c.Destination != "elsewhere" || c.Note != "to be made" {
		t.Errorf("%+v", c)
	}
	if c := compared["Namespace"]; c.Note != "to be made" {
		t.Errorf("%+v", c)
	}
	if c := compared["MAC addresses"]; c.Destination != "new" {
		t.Errorf("%+v", c)
	}
	if c := compared["Backup target"]; c.Source == "" || c.Source != c.Destination {
		t.Errorf("%+v", c)
	}

	if got := s.exec(t.Context(), t, s.sandbox, nil, "--name", source.instance, "down"); got.code != 0 {
		t.Fatalf("%s", got)
	}
	began := time.Now()
	got := run("-o", "json", "--progress", "json")
	ended := time.Now()
	r := &vmbackup.Restore{}
	if decode(t, got, r); got.code != 3 || len(r.Status.Warnings) != 1 || !strings.Contains(r.Status.Warnings[0], "does not answer") {
		t.Fatalf("%s", got)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_ = s.in(namespaces, "").Delete(ctx, m.namespace, metav1.DeleteOptions{})
	})
	t.Logf("restored: %s", split(began, ended, got.stderr))
	s.restored(t, r, "Running", sums)
	back := s.get(t, storageClasses, "", "elsewhere")
	if len(back.GetAnnotations()) > 0 || text(back, "parameters", "numberOfReplicas") != text(class, "parameters", "numberOfReplicas") {
		t.Errorf("the StorageClass came back as %v", back.Object)
	}
}

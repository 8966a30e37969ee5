// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// tellStuck logs what the cluster still waits for when a command did not end:
// the snapshots and claims that are not ready, and what the CSI controllers have
// said of them last. By the time that a test's output is read the sandbox is gone.
func (s *suite) tellStuck(t *testing.T) {
	t.Helper()
	if s.cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	for _, kind := range []struct {
		resource schema.GroupVersionResource
		ready    func(*unstructured.Unstructured) bool
	}{
		{claims, func(o *unstructured.Unstructured) bool { return text(o, "status", "phase") == "Bound" }},
		{snapshots, snapshotReady},
		{contents, snapshotReady},
	} {
		list, err := s.client.Resource(kind.resource).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Logf("%s: %v", kind.resource.Resource, err)
			continue
		}
		for i := range list.Items {
			o := &list.Items[i]
			if kind.ready(o) && o.GetDeletionTimestamp() == nil {
				continue
			}
			t.Logf("%s %s/%s of %s, resourceVersion %s, finalizers %v, deleted %v, spec %v, status %v", kind.resource.Resource, o.GetNamespace(), o.GetName(),
				o.GetCreationTimestamp(), o.GetResourceVersion(), o.GetFinalizers(), o.GetDeletionTimestamp(), o.Object["spec"], o.Object["status"])
			s.tellLogs(t, o.GetName())
		}
	}
}

func snapshotReady(o *unstructured.Unstructured) bool {
	ready, _, err := unstructured.NestedBool(o.Object, "status", "readyToUse")
	return err == nil && ready
}

// tellLogs logs the last lines of the CSI controllers that name an object.
func (s *suite) tellLogs(t *testing.T, name string) {
	t.Helper()
	home := os.Getenv("SANDBOX_HOME")
	if home == "" {
		home = filepath.Join(s.repository, ".sandbox")
	}
	const most = 6
	for _, component := range []string{"snapshot-controller", "csi-snapshotter", "csi-provisioner"} {
		raw, err := os.ReadFile(filepath.Join(home, s.instance, "logs", component+".log"))
		if err != nil {
			t.Log(err)
			continue
		}
		var lines []string
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, name) {
				lines = append(lines, line[:min(len(line), 300)])
			}
		}
		for _, line := range lines[max(0, len(lines)-most):] {
			t.Logf("%s: %s", component, strings.TrimSpace(line))
		}
	}
}

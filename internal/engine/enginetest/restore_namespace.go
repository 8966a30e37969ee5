// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// startElsewhere starts the restore into the other namespace, under the machine's own
// name.
func startElsewhere(t *testing.T, c RestoreCluster) (restore, machine vmbackup.Ref) {
	t.Helper()
	e := c.Engine()
	plan, err := e.PlanRestore(t.Context(), vmbackup.RestoreRequest{Name: "again", Backup: ref(c), ToNamespace: c.Other()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.StartRestore(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	return vmbackup.Ref{Namespace: c.Other(), Name: "again"}, vmbackup.Ref{Namespace: c.Other(), Name: c.VM().Name}
}

// inNamespace are the objects of a namespace.
func inNamespace(c RestoreCluster, namespace string) []string {
	return slices.DeleteFunc(c.Objects(), func(o string) bool {
		_, name, _ := strings.Cut(o, " ")
		return !strings.HasPrefix(name, namespace+"/")
	})
}

// isElsewhere fails unless the machine is in the other namespace, on volumes and secrets
// that are there, and its own namespace is as it was.
func isElsewhere(t *testing.T, c RestoreCluster, r *vmbackup.Restore, machine vmbackup.Ref, before []string) {
	t.Helper()
	if r == nil || r.Status.Phase != vmbackup.PhaseReady || !r.Status.Ready || r.Status.VM != machine.String() || r.Spec.TargetNamespace != c.Other() {
		t.Fatalf("%+v", r)
	}
	if now := inNamespace(c, c.VM().Namespace); !slices.Equal(now, before) {
		t.Errorf("in the machine's namespace there is %v, and was %v", now, before)
	}
	source, restored := plain(t, c.Machine(c.VM())), plain(t, c.Machine(machine))
	had, has := takeSources(t, source), takeSources(t, restored)
	if !slices.Equal(slices.Sorted(maps.Keys(had)), slices.Sorted(maps.Keys(has))) {
		t.Errorf("volumes %v, want %v", has, had)
	}
	objects, claims := inNamespace(c, c.Other()), 0
	for volume, of := range has {
		if !slices.Contains(objects, of) {
			t.Errorf("volume %s is of %s, of all there is: %v", volume, of, objects)
		}
		if strings.HasPrefix(of, "persistentvolumeclaims ") {
			claims++
		}
	}
	made := slices.DeleteFunc(slices.Clone(objects), func(o string) bool { return !strings.HasPrefix(o, "persistentvolumeclaims ") })
	if claims != 2 || len(made) != 2 {
		t.Errorf("%d claims in use of %v", claims, made)
	}
	for _, o := range objects {
		if strings.HasPrefix(o, "volumesnapshots ") {
			t.Errorf("%s is left", o)
		}
	}
	labels, _, _ := unstructured.NestedStringMap(restored, "metadata", "labels")
	wanted, _, _ := unstructured.NestedStringMap(source, "metadata", "labels")
	if !maps.Equal(labels, wanted) {
		t.Errorf("labels %v, want %v", labels, wanted)
	}
}

func restoreIntoNamespace(t *testing.T, c RestoreCluster) {
	ready(t, c)
	before := inNamespace(c, c.VM().Namespace)
	restore, machine := startElsewhere(t, c)
	r, err := c.Engine().RunRestore(t.Context(), restore, vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isElsewhere(t, c, r, machine, before)
}

func restoreIntoNamespaceGoesOn(t *testing.T, c RestoreCluster) {
	ready(t, c)
	before := inNamespace(c, c.VM().Namespace)
	release := c.Hold()
	defer release()
	restore, machine := startElsewhere(t, c)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	_, err := c.Engine().RunRestore(ctx, restore, vmbackup.RunOptions{Sink: &Events{On: func(e vmbackup.Event) {
		if e.Step == "data" {
			stop()
		}
	}}})
	wantReason(t, err, false, vmbackup.ReasonCanceled)
	release()
	r, err := c.Engine().RunRestore(t.Context(), restore, vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isElsewhere(t, c, r, machine, before)
}

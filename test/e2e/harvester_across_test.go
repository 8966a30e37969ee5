// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// plainBeside is a cluster without Harvester that has the suite's backup target.
func (s *suite) plainBeside(t *testing.T) *suite {
	t.Helper()
	plain := &suite{repository: s.repository, instance: s.instance + "-plain", plugin: s.plugin, sandbox: s.sandbox}
	plain.startSandbox(t, "--s3-from", s.instance)
	plain.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(plain.kubeconfig, []byte(plain.runSandbox(t, "kubeconfig")), 0o600); err != nil {
		t.Fatal(err)
	}
	plain.cluster = newCluster(t, plain.kubeconfig)
	return plain
}

// testAcross moves machines from Harvester to a cluster without it, with the image below
// their disks, and from there to Harvester: by the plugin and by Harvester's controllers.
func (s *suite) testAcross(t *testing.T) {
	plain := s.plainBeside(t)
	out := s.namespace(t, "out")
	directory := t.TempDir()
	sums := makeImages(t, directory)
	image := s.image(t, "image", "create", "below", "-n", out, "--from-file", filepath.Join(directory, "cloud.raw"))
	m := machine{namespace: out, name: "app", disks: []string{"root"}, class: image.Status.StorageClass}
	at := s.make(t, m)
	for _, name := range []string{"theirs", "ours"} {
		engine := map[string]string{"theirs": vmbackup.EngineHarvester, "ours": vmbackup.EngineDirect}[name]
		if b := s.backup(t, 0, "create", m.name, "-n", out, "--name", name, "--engine", engine); b.Status.Engine != engine || len(b.Status.Images) != 1 {
			t.Fatalf("%s", asJSON(b))
		}
		// From Harvester's cluster, while that is there.
		began := time.Now()
		r := &vmbackup.Restore{}
		got := s.run(t, "restore", name, "-n", out, "--to-kubeconfig", plain.kubeconfig, "--create-namespace", "--to-name", name, "-o", "json")
		if decode(t, got, r); got.code != 0 && got.code != 3 {
			t.Fatalf("%s", got)
		}
		t.Logf("%s: in the plain cluster after %.0f s", name, time.Since(began).Seconds())
		plain.restored(t, r, "Running", at)
	}
	back := plain.image(t, "image", "describe", image.Status.BackingImage)
	if !back.Status.Ready || back.Status.Checksum != sums["cloud.raw"] || back.Status.Engine != vmbackup.EngineDirect || len(back.Status.Users.Machines) != 2 ||
		!slices.Contains(back.Status.Users.StorageClasses, image.Status.StorageClass) {
		t.Errorf("the image below: %s", asJSON(back))
	}

	// And from the plain cluster to Harvester, in a namespace that is new there.
	in := plain.namespace(t, "in")
	m = machine{namespace: in, name: "app", disks: []string{"root", "data"}}
	at = plain.make(t, m)
	plain.backup(t, 0, "create", m.name, "-n", in, "--name", "moving")
	r := &vmbackup.Restore{}
	got := plain.run(t, "restore", "moving", "-n", in, "--to-kubeconfig", s.kubeconfig, "--create-namespace", "--engine", "direct", "-o", "json")
	if decode(t, got, r); got.code != 0 && got.code != 3 {
		t.Fatalf("%s", got)
	}
	s.restored(t, r, "Running", at)
	s.patch(t.Context(), t, harvesterSettings, "", "backup-target", `{"metadata":{"annotations":{"harvesterhci.io/hash":null}}}`)
	s.wait(t, harvesterBackups, in, "moving", "ready for Harvester", func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		ready, _, err := unstructured.NestedBool(o.Object, "status", "readyToUse")
		return err == nil && ready
	})
	if listed := s.want(t, 0, "list", "-n", in, "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}"); !strings.HasPrefix(listed.stdout, "moving Ready") {
		t.Errorf("%s", listed)
	}
	theirs := s.restore(t, 0, "restore", "moving", "-n", in, "--to-name", "by-harvester", "--engine", "harvester")
	if theirs.Status.Engine != vmbackup.EngineHarvester || theirs.Status.Phase != vmbackup.PhaseReady {
		t.Errorf("%s", asJSON(theirs))
	}
	s.sameDisks(t, theirs, at)
}

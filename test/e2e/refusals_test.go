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
	"sigs.k8s.io/yaml"
)

// testRefusals asks for what cannot be done. Each is refused with what is wrong,
// and nothing at all has changed afterwards.
func (s *suite) testRefusals(t *testing.T) {
	m := machine{namespace: s.namespace(t, "refused"), name: "app", disks: []string{"root"}, off: true}
	s.make(t, m)
	s.diskless(t, m.namespace)
	s.elsewhere(t, m.namespace)
	s.unbound(t, m.namespace)
	s.backup(t, 0, "create", "app", "-n", m.namespace, "--name", "good")
	s.want(t, 0, "create", "app", "-n", m.namespace, "--name", "unfinished", "--wait=false")
	s.want(t, 0, "resume", "unfinished", "-n", m.namespace)

	before := s.world(t, m.namespace, "restored")
	for name, test := range map[string]struct {
		code  int
		words []string
		args  []string
	}{
		"no such machine":         {4, []string{"VirtualMachine", "missing"}, []string{"create", "missing"}},
		"no machine by label":     {4, []string{"no VirtualMachine"}, []string{"create", "-l", "machine=none"}},
		"no volumes":              {4, []string{"diskless", "no volume"}, []string{"create", "diskless"}},
		"another driver":          {4, []string{"elsewhere-disk", "other.csi.example"}, []string{"create", "elsewhere"}},
		"unbound claim":           {4, []string{"unbound-disk", "not Bound"}, []string{"create", "unbound"}},
		"another target":          {2, []string{"target", "moon"}, []string{"create", "app", "--target", "moon"}},
		"name of a backup taken":  {4, []string{"good", "already"}, []string{"create", "app", "--name", "good"}},
		"name of a machine taken": {4, []string{"VirtualMachine", "app", "already"}, []string{"restore", "good"}},
		"no such namespace":       {4, []string{"namespace", "nowhere"}, []string{"restore", "good", "--to-namespace", "nowhere"}},
		"no such backup":          {4, []string{"missing"}, []string{"restore", "missing", "--to-name", "copy"}},
		"deletion of no backup":   {4, []string{"missing"}, []string{"delete", "missing", "--yes"}},
		"machine's name invalid":  {2, []string{"NOT_A_NAME"}, []string{"create", "NOT_A_NAME"}},
		"nothing named":           {2, []string{"machines"}, []string{"create"}},
		"unknown format":          {2, []string{"output format"}, []string{"create", "app", "-o", "xml"}},
		"freeze time-out":         {2, []string{"freeze"}, []string{"create", "app", "--freeze-timeout", "20m"}},
		"unknown flag":            {2, []string{"--no-such-flag"}, []string{"create", "app", "--no-such-flag"}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			got := s.run(t, append(test.args, "-n", m.namespace)...)
			if got.code != test.code || got.stdout != "" {
				t.Errorf("want exit code %d and no output: %s", test.code, got)
			}
			for _, word := range test.words {
				if !strings.Contains(got.stderr, word) {
					t.Errorf("does not say %q: %s", word, got)
				}
			}
		})
	}
	t.Run("dry_run", func(t *testing.T) {
		for _, args := range [][]string{
			{"create", "app", "--dry-run=client"},
			{"create", "app", "--dry-run=server"},
			{"restore", "good", "--to-namespace", "restored", "--to-name", "copy", "--dry-run=client"},
			{"delete", "good", "--dry-run=client"},
		} {
			if got := s.want(t, 0, append(args, "-n", m.namespace)...); got.stdout == "" {
				t.Errorf("shows nothing: %s", got)
			}
		}
	})
	if err := compareWorlds(before, s.world(t, m.namespace, "restored")); err != nil {
		t.Errorf("refused commands have changed something:\n%v", err)
	}
}

// bare creates a machine, off, with volumes that need not be there.
func (s *suite) bare(t *testing.T, namespace, name string, disks, vols []any) {
	t.Helper()
	spec := map[string]any{"domain": map[string]any{
		"memory":    map[string]any{"guest": "64Mi"},
		"resources": map[string]any{"requests": map[string]any{"memory": "64Mi"}},
		"devices":   map[string]any{"disks": disks},
	}, "volumes": vols}
	s.create(t, machines, map[string]any{
		"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": map[string]any{"name": name, "namespace": namespace},
		"spec": map[string]any{"runStrategy": "Halted", "template": map[string]any{"spec": spec}},
	})
}

// diskless makes a machine that has cloud-init alone.
func (s *suite) diskless(t *testing.T, namespace string) {
	t.Helper()
	s.bare(t, namespace, "diskless",
		[]any{map[string]any{"name": "init", "disk": map[string]any{"bus": "virtio"}}},
		[]any{map[string]any{"name": "init", "cloudInitNoCloud": map[string]any{"userData": "#cloud-config\n"}}})
}

// claimed makes a machine with one claim.
func (s *suite) claimed(t *testing.T, namespace, name, class, volume string) {
	t.Helper()
	claim := map[string]any{
		"accessModes": []any{"ReadWriteOnce"}, "volumeMode": "Block", "storageClassName": class,
		"resources": map[string]any{"requests": map[string]any{"storage": "32Mi"}},
	}
	if volume != "" {
		claim["volumeName"] = volume
	}
	s.create(t, claims, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": map[string]any{"name": name + "-disk", "namespace": namespace}, "spec": claim,
	})
	s.bare(t, namespace, name,
		[]any{map[string]any{"name": "disk", "disk": map[string]any{"bus": "virtio"}}},
		[]any{map[string]any{"name": "disk", "persistentVolumeClaim": map[string]any{"claimName": name + "-disk"}}})
}

// elsewhere makes a machine whose disk is on the storage of another driver.
func (s *suite) elsewhere(t *testing.T, namespace string) {
	t.Helper()
	volume := namespace + "-elsewhere"
	s.create(t, volumes, map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolume", "metadata": map[string]any{"name": volume},
		"spec": map[string]any{
			"accessModes": []any{"ReadWriteOnce"}, "volumeMode": "Block", "storageClassName": "other-storage",
			"capacity": map[string]any{"storage": "32Mi"}, "persistentVolumeReclaimPolicy": "Retain",
			"csi": map[string]any{"driver": "other.csi.example", "volumeHandle": volume},
		},
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.in(volumes, "").Delete(ctx, volume, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	s.claimed(t, namespace, "elsewhere", "other-storage", volume)
	s.wait(t, claims, namespace, "elsewhere-disk", "bound", phase("Bound"))
}

// unbound makes a machine whose claim nobody provisions.
func (s *suite) unbound(t *testing.T, namespace string) {
	t.Helper()
	s.claimed(t, namespace, "unbound", "other-storage", "")
	s.wait(t, claims, namespace, "unbound-disk", "pending", phase("Pending"))
}

// testRights works as a user with no rights, with some and with those of
// docs/rbac.yaml, which have to be enough for everything.
func (s *suite) testRights(t *testing.T) {
	m := machine{namespace: s.namespace(t, "rights"), name: "app", disks: []string{"root"}}
	sums := s.make(t, m)
	user := "user-of-" + m.namespace
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(s.runSandbox(t, "kubeconfig", "--user", user)), 0o600); err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) []string { return append(args, "-n", m.namespace, "--kubeconfig", kubeconfig) }

	s.refused(t, []string{"forbidden"}, as("create", "app")...)
	s.makeRoles(t)
	subject := []any{map[string]any{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}}
	bind := func(namespace, role string) {
		t.Helper()
		kind, resource, metadata := "ClusterRoleBinding", clusterBindings, map[string]any{"name": "vmbackup-" + user}
		if namespace != "" {
			kind, resource, metadata = "RoleBinding", roleBindings, map[string]any{"name": "vmbackup-" + user, "namespace": namespace}
		}
		s.create(t, resource, map[string]any{
			"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "subjects": subject,
			"roleRef": map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
		})
		if namespace == m.namespace {
			return // it goes with the namespace
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
			defer cancel()
			if err := s.in(resource, namespace).Delete(ctx, "vmbackup-"+user, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	bind(m.namespace, "vmbackup-machines")
	s.refused(t, []string{"forbidden"}, as("create", "app")...)
	bind("", "vmbackup-cluster")
	s.refused(t, []string{"longhorn"}, as("create", "app")...)
	if left := s.list(t, snapshots, m.namespace, ""); len(left) > 0 {
		t.Errorf("VolumeSnapshots of a user without the rights: %s", namesOf(left))
	}
	bind(longhornNamespace, "vmbackup-longhorn")

	b := s.backup(t, 0, as("create", "app", "--name", "own", "--quiesce", "require")...)
	s.once(t, b)
	s.restored(t, s.restore(t, 0, as("restore", "own", "--to-name", "copy")...), "Running", sums)
	for _, args := range [][]string{{"list", "--from", "all"}, {"describe", "own"}, {"list", "restores"}} {
		if got := s.want(t, 0, as(args...)...); !strings.Contains(got.stdout, "own") {
			t.Errorf("does not show the backup: %s", got)
		}
	}
	// Another namespace is not theirs.
	s.refused(t, []string{"forbidden"}, as("restore", "own", "--to-namespace", "demo", "--to-name", "stolen")...)
	s.want(t, 0, as("delete", "own", "--yes")...)
	s.absent(t, b)
}

// makeRoles makes the roles of docs/rbac.yaml for the time of the test.
func (s *suite) makeRoles(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.repository, "docs", "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for document := range strings.SplitSeq(string(content), "\n---\n") {
		role := map[string]any{}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			t.Fatalf("docs/rbac.yaml: %v", err)
		}
		if role["kind"] != "ClusterRole" {
			continue
		}
		made++
		s.create(t, clusterRoles, role)
		name := role["metadata"].(map[string]any)["name"].(string)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
			defer cancel()
			if err := s.in(clusterRoles, "").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	if made != 6 {
		t.Fatalf("docs/rbac.yaml has %d ClusterRoles, want 6", made)
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// envHarvester asks for the tests beside Harvester's own controllers, whose
// building takes minutes. envHarvesterInstance names a running sandbox of that
// profile to use and to leave running.
const (
	envHarvester         = "SANDBOX_HARVESTER"
	envHarvesterInstance = "VMBACKUP_E2E_HARVESTER_INSTANCE"
)

// The kinds of Harvester.
var (
	harvesterBackups  = schema.GroupVersionResource{Group: "harvesterhci.io", Version: "v1beta1", Resource: "virtualmachinebackups"}
	harvesterRestores = schema.GroupVersionResource{Group: "harvesterhci.io", Version: "v1beta1", Resource: "virtualmachinerestores"}
)

// TestHarvester runs the plugin beside Harvester's controllers.
func TestHarvester(t *testing.T) {
	if os.Getenv(envHarvester) == "" {
		t.Skipf("set %s=1 (or use \"make e2e-harvester\"): this builds Harvester", envHarvester)
	}
	s := newHarvesterSuite(t)
	m := machine{namespace: s.namespace(t, "platform"), name: "app", disks: []string{"root", "data"}}
	sums := s.make(t, m)
	elsewhere := s.namespace(t, "elsewhere")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a backup of Harvester is followed and shown", func(t *testing.T) { s.testHarvesterShown(t, m) }},
		{"it is restored without its controllers", func(t *testing.T) { s.testHarvesterRestored(t, m, elsewhere, sums) }},
		{"its snapshots and its deletion are its own", func(t *testing.T) { s.testHarvestersOwn(t, m) }},
		{"its controllers make the plugin's backups", s.testByHarvester},
		{"restores are left to Harvester", s.testHarvesterRestores},
		{"Harvester finds and restores a backup of the plugin", func(t *testing.T) { s.testFoundByHarvester(t, m, sums) }},
		{"its target is shown, looked at and left as it is", s.testHarvesterTarget},
		{"a schedule is made, runs, rests and goes", func(t *testing.T) { s.testSchedules(t, m) }},
		{"a description that Harvester writes again confuses nobody", func(t *testing.T) { s.testRewritten(t, m) }},
		{"a backup of Harvester is restored from the target alone", func(t *testing.T) { s.testFromTheTargetAlone(t, m, elsewhere, sums) }},
		{"Harvester imports an image, and brings it back", s.testHarvesterImage},
		{"machines move between Harvester and a plain cluster", s.testAcross},
	} {
		if !t.Run(step.name, step.run) {
			return // every step starts from where the last one left the cluster
		}
	}
}

// newHarvesterSuite is a sandbox with Harvester, without the demonstration's machines.
func newHarvesterSuite(t *testing.T) *suite {
	t.Helper()
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{repository: repository, instance: "e2e-harvester"}
	s.plugin = program(t, envPlugin, filepath.Join(repository, "bin", "kubectl-vmbackup"))
	s.sandbox = program(t, envSandbox, filepath.Join(repository, "bin", "sandbox"))
	if name := os.Getenv(envHarvesterInstance); name != "" {
		s.instance = name
	} else {
		s.startSandbox(t, "--profile", "harvester")
	}
	s.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(s.kubeconfig, []byte(s.runSandbox(t, "kubeconfig")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cluster = newCluster(t, s.kubeconfig)
	return s
}

// harvesterBackup asks Harvester for a backup, as its UI does.
func (s *suite) harvesterBackup(t *testing.T, m machine, name string, kind vmbackup.BackupType) {
	t.Helper()
	s.create(t, harvesterBackups, map[string]any{
		"apiVersion": "harvesterhci.io/v1beta1", "kind": "VirtualMachineBackup",
		"metadata": map[string]any{"name": name, "namespace": m.namespace},
		"spec": map[string]any{
			"type":   string(kind),
			"source": map[string]any{"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": m.name},
		},
	})
}

func (s *suite) testHarvesterShown(t *testing.T, m machine) {
	s.harvesterBackup(t, m, "theirs", vmbackup.TypeBackup)
	began := time.Now()
	b := s.backup(t, 0, "watch", "theirs", "-n", m.namespace)
	t.Logf("backup by Harvester Ready after %.0f s", time.Since(began).Seconds())
	if b.Status.Phase != vmbackup.PhaseReady || !b.Status.Ready || b.Status.Engine != vmbackup.EngineHarvester || len(b.Status.Volumes) != 2 {
		t.Errorf("%+v", b)
	}
	for _, v := range b.Status.Volumes {
		if v.State != vmbackup.StateReady || !strings.HasPrefix(v.SnapshotHandle, "bak://") || v.UploadedBytes == 0 {
			t.Errorf("volume %+v", v)
		}
	}
	const columns = "jsonpath={.items[*].metadata.name} {.items[*].status.phase} {.items[*].status.foundOn}"
	for source, want := range map[string]string{"cluster": "theirs Ready cluster", "target": "theirs Ready target", "all": "theirs Ready cluster,target"} {
		if got := s.want(t, 0, "list", "-n", m.namespace, "--from", source, "-o", columns); got.stdout != want {
			t.Errorf("want %q: %s", want, got)
		}
	}
	described := s.want(t, 0, "describe", "theirs", "-n", m.namespace)
	for _, word := range []string{"theirs", "harvester", "one second before it asks for each volume's snapshot", "root", "data", "harvester/vmbackups/" + m.namespace + "/theirs.cfg"} {
		if !strings.Contains(described.stdout, word) {
			t.Errorf("does not say %q: %s", word, described)
		}
	}
}

// testHarvesterRestored restores with all that Harvester itself would drop.
func (s *suite) testHarvesterRestored(t *testing.T, m machine, to string, sums map[string]string) {
	// Harvester has fixed the machine's MAC address, so that a second one gets another, which is told.
	r := s.restore(t, 3, "restore", "theirs", "-n", m.namespace, "--to-namespace", to, "--engine", "direct")
	if len(r.Status.Warnings) != 1 || !strings.Contains(r.Status.Warnings[0], "MAC address") {
		t.Errorf("warnings %q", r.Status.Warnings)
	}
	s.restored(t, r, "Running", sums)
	restored := s.get(t, machines, to, m.name)
	if restored.GetLabels()["machine"] != m.name || text(restored, "spec", "runStrategy") != "Always" {
		t.Errorf("the machine came back as %v, %v", restored.GetLabels(), restored.Object["spec"])
	}
}

func (s *suite) testHarvestersOwn(t *testing.T, m machine) {
	s.refused(t, []string{"Harvester removes the data", "theirs"}, "delete", "theirs", "-n", m.namespace, "--keep-data", "--yes")
	s.harvesterBackup(t, m, "cut", vmbackup.TypeSnapshot)
	b := s.backup(t, 0, "watch", "cut", "-n", m.namespace)
	if b.Status.Phase != vmbackup.PhaseReady || b.Spec.Type != vmbackup.TypeSnapshot {
		t.Errorf("%+v", b)
	}
	s.refused(t, []string{"only Harvester can restore it", "--engine harvester"}, "restore", "cut", "-n", m.namespace, "--to-name", "other", "--engine", "direct")
}

// testFoundByHarvester lets Harvester find on the target what the plugin has
// written there, and restore it.
func (s *suite) testFoundByHarvester(t *testing.T, m machine, sums map[string]string) {
	s.backup(t, 0, "create", m.name, "-n", m.namespace, "--name", "ours", "--engine", "direct")
	began := time.Now()
	s.wait(t, harvesterBackups, m.namespace, "ours", "ready for Harvester", func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		ready, _, err := unstructured.NestedBool(o.Object, "status", "readyToUse")
		return err == nil && ready
	})
	t.Logf("found by Harvester after %.0f s", time.Since(began).Seconds())
	if b := s.backup(t, 0, "describe", "ours", "-n", m.namespace); b.Status.Engine != vmbackup.EngineDirect {
		t.Errorf("the plugin's own record is not used: %+v", b.Status)
	}
	s.create(t, harvesterRestores, map[string]any{
		"apiVersion": "harvesterhci.io/v1beta1", "kind": "VirtualMachineRestore",
		"metadata": map[string]any{"name": "by-harvester", "namespace": m.namespace},
		"spec": map[string]any{
			"newVM": true, "virtualMachineBackupName": "ours", "virtualMachineBackupNamespace": m.namespace,
			"target": map[string]any{"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "by-harvester"},
		},
	})
	shown := s.restore(t, 0, "watch", "restore/by-harvester", "-n", m.namespace)
	if shown.Status.Phase != vmbackup.PhaseReady || shown.Status.Engine != vmbackup.EngineHarvester || shown.Status.VM != m.namespace+"/by-harvester" {
		t.Errorf("%+v", shown)
	}
	for _, v := range shown.Status.Volumes {
		if v.State != vmbackup.StateReady || v.LonghornVolume == "" || !strings.HasPrefix(v.SnapshotHandle, "bak://") || v.SourcePVC != m.claim(v.Name) {
			t.Errorf("volume %+v", v)
		}
	}
	if got := s.want(t, 0, "list", "restores", "-n", m.namespace, "-o", "jsonpath={.items[*].metadata.name} {.items[*].status.phase}"); got.stdout != "by-harvester Ready" {
		t.Errorf("%s", got)
	}
	restore, err := s.in(harvesterRestores, m.namespace).Get(t.Context(), "by-harvester", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	restores, _, err := unstructured.NestedSlice(restore.Object, "status", "restores")
	if err != nil || len(restores) != len(m.disks) {
		t.Fatalf("%d disks are restored, %v", len(restores), err)
	}
	for _, r := range restores {
		volume, _ := r.(map[string]any)
		disk, _ := volume["volumeName"].(string)
		claim, _, _ := unstructured.NestedString(volume, "persistentVolumeClaimSpec", "metadata", "name")
		if got := s.sha256(t, m.namespace, claim); got != sums[m.claim(disk)] {
			t.Errorf("disk %s is %s, backed up was %s", disk, got, sums[m.claim(disk)])
		}
	}
}

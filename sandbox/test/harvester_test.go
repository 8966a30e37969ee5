// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build sandbox

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// harvesterVariable asks for the tests of the profile of that name: building
// Harvester takes minutes, which the other tests need not wait for.
const harvesterVariable = "SANDBOX_HARVESTER"

const (
	// harvesterMachineYAML is a machine as Harvester's UI makes them: a disk of its
	// own storage class and one of another, cloud-init from a Secret, a limit.
	harvesterMachineYAML = `
apiVersion: v1
kind: Secret
metadata: {name: vm-cloudinit, namespace: machines}
stringData: {userdata: "#cloud-config\nhostname: vm\n", networkdata: "version: 2\n"}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: root, namespace: machines}
spec:
  accessModes: [ReadWriteMany]
  volumeMode: Block
  storageClassName: harvester-longhorn
  resources: {requests: {storage: 64Mi}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: vm
  namespace: machines
  labels: {harvesterhci.io/creator: harvester, team: storage}
  annotations: {example.com/keep: "yes"}
spec:
  runStrategy: RerunOnFailure
  template:
    metadata: {labels: {harvesterhci.io/vmName: vm}}
    spec:
      domain:
        cpu: {cores: 1}
        devices:
          disks:
          - {name: root, disk: {bus: virtio}, bootOrder: 1}
          - {name: data, disk: {bus: virtio}}
          - {name: cloudinit, disk: {bus: virtio}}
          interfaces: [{name: default, masquerade: {}, macAddress: "52:54:00:aa:bb:cc"}]
        resources: {limits: {cpu: "1", memory: 128Mi}}
      networks: [{name: default, pod: {}}]
      volumes:
      - {name: root, persistentVolumeClaim: {claimName: root}}
      - {name: data, persistentVolumeClaim: {claimName: data}}
      - {name: cloudinit, cloudInitNoCloud: {secretRef: {name: vm-cloudinit}, networkDataSecretRef: {name: vm-cloudinit}}}
`
	harvesterBackupYAML = `
apiVersion: harvesterhci.io/v1beta1
kind: VirtualMachineBackup
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  type: %[3]s
  source: {apiGroup: kubevirt.io, kind: VirtualMachine, name: vm}
`
	harvesterRestoreYAML = `
apiVersion: harvesterhci.io/v1beta1
kind: VirtualMachineRestore
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  newVM: true
  target: {apiGroup: kubevirt.io, kind: VirtualMachine, name: %[2]s}
  virtualMachineBackupName: %[3]s
  virtualMachineBackupNamespace: machines
`
	harvesterScheduleYAML = `
apiVersion: harvesterhci.io/v1beta1
kind: ScheduleVMBackup
metadata: {name: nightly, namespace: machines}
spec:
  cron: 0 3 * * *
  retain: 3
  maxFailure: 2
  vmbackup:
    type: snapshot
    source: {apiGroup: kubevirt.io, kind: VirtualMachine, name: vm}
`
)

func harvesterKind(plural string) schema.GroupVersionResource {
	return resource("harvesterhci.io", "v1beta1", plural)
}

// TestHarvester drives Harvester's controllers as its UI does, by its objects.
func TestHarvester(t *testing.T) {
	if os.Getenv(harvesterVariable) == "" {
		t.Skipf("set %s=1 (or use \"make e2e-harvester\"): this builds Harvester", harvesterVariable)
	}
	c := newBox(t).up("harvester", "--profile", component.Harvester)
	for _, step := range []struct {
		name string
		run  func(*cluster)
	}{
		{"everything runs", (*cluster).harvesterRuns},
		{"the mirrored schemas are Harvester's", (*cluster).harvesterSchemas},
		{"its webhooks refuse", (*cluster).harvesterRefuses},
		{"a machine is backed up", (*cluster).harvesterBacksUp},
		{"a new machine has the content", func(c *cluster) { c.harvesterRestores("machines", "again") }},
		{"also in another namespace", func(c *cluster) { c.harvesterRestores("elsewhere", "there") }},
		{"a snapshot by schedule", (*cluster).harvesterSchedules},
		{"the controllers come back", (*cluster).harvesterRestarts},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			outer := c.t
			defer func() { c.t = outer }()
			c.t = t
			step.run(c)
		})
		if !ok {
			return // every step starts from where the last one left the cluster
		}
	}
}

func (c *cluster) harvesterRuns() {
	var statuses []component.Status
	if err := json.Unmarshal([]byte(c.run("status", "--name", "harvester", "--json")), &statuses); err != nil {
		c.t.Fatal(err)
	}
	roles := map[string]component.Role{}
	for _, s := range statuses {
		roles[s.Name] = s.Role
		if s.State != component.Ready || s.Restarts > 0 && strings.HasPrefix(s.Name, "harvester") {
			c.t.Errorf("%+v", s)
		}
	}
	if roles["harvester"] != component.Real || roles["harvester-webhook"] != component.Real {
		c.t.Errorf("roles %v", roles)
	}
	if _, stderr, err := c.try("up", "--name", "harvester"); err == nil || !strings.Contains(stderr, "runs with the profile harvester") {
		c.t.Errorf("up of another profile: %v, %s", err, stderr)
	}
	setting, err := c.client.Resource(harvesterKind("settings")).Get(c.t.Context(), "backup-target", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	credentials, err := component.ReadS3Credentials(c.env)
	if err != nil {
		c.t.Fatal(err)
	}
	if value := text(setting, "value"); strings.Contains(value, credentials.SecretAccessKey) || !strings.Contains(value, c.env.S3Endpoint()) {
		c.t.Errorf("the setting backup-target is %s", value)
	}
}

// harvesterSchemas compares the schemas by which the plugin's types are tested with
// those that are installed. UPDATE=1 writes them.
func (c *cluster) harvesterSchemas() {
	for _, plural := range []string{"virtualmachinebackups", "virtualmachinerestores", "virtualmachineimages", "schedulevmbackups", "settings"} {
		file := filepath.Join("..", "..", "internal", "harvester", "testdata", "crds", plural+".json")
		crd, err := os.ReadFile(filepath.Join(c.env.Share("harvester", "crds"), "harvesterhci.io_"+plural+".yaml"))
		if err != nil {
			c.t.Fatal(err)
		}
		var definition map[string]any
		if err := yamlInto(string(crd), &definition); err != nil {
			c.t.Fatal(err)
		}
		versions, _, err := unstructured.NestedSlice(definition, "spec", "versions")
		if err != nil || len(versions) != 1 {
			c.t.Fatalf("%s: versions %v, %v", plural, versions, err)
		}
		version, _ := versions[0].(map[string]any)
		found, _, err := unstructured.NestedMap(version, "schema", "openAPIV3Schema")
		if err != nil {
			c.t.Fatal(err)
		}
		data, err := json.Marshal(withoutDescriptions(found, false))
		if err != nil {
			c.t.Fatal(err)
		}
		data = append(data, '\n')
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(file, data, 0o644); err != nil {
				c.t.Fatal(err)
			}
		}
		kept, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		if !bytes.Equal(kept, data) {
			c.t.Errorf("%s is not the schema of the pinned release: run this test with UPDATE=1", file)
		}
	}
}

// withoutDescriptions removes the prose from a schema; of is true for the names of properties.
func withoutDescriptions(v any, of bool) any {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if _, prose := member.(string); key == "description" && !of && prose {
				delete(v, key)
				continue
			}
			v[key] = withoutDescriptions(member, key == "properties" && !of)
		}
	case []any:
		for i := range v {
			v[i] = withoutDescriptions(v[i], false)
		}
	}
	return v
}

func (c *cluster) harvesterRefuses() {
	c.apply(namespaceYAML, "machines")
	c.apply(namespaceYAML, "elsewhere")
	restore := map[string]any{}
	if err := yamlInto(fmt.Sprintf(harvesterRestoreYAML, "machines", "early", "no-such-backup"), &restore); err != nil {
		c.t.Fatal(err)
	}
	_, err := c.client.Resource(harvesterKind("virtualmachinerestores")).Namespace("machines").
		Create(c.t.Context(), &unstructured.Unstructured{Object: restore}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "can't get vmbackup machines/no-such-backup") {
		c.t.Fatalf("a restore of no backup: %v", err)
	}
}

// harvesterReady waits until a backup is ready by Harvester's own conditions.
func (c *cluster) harvesterReady(name string, conditions ...string) *unstructured.Unstructured {
	c.t.Helper()
	return c.wait(harvesterKind("virtualmachinebackups"), "machines", name, func(o *unstructured.Unstructured) (bool, string, error) {
		for _, kind := range conditions {
			if status := conditionOf(o, kind); status != "True" {
				return false, fmt.Sprintf("%s is %q, %s", kind, status, text(o, "status", "error", "message")), nil
			}
		}
		return true, "", nil
	})
}

func conditionOf(o *unstructured.Unstructured, kind string) string {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if condition, _ := c.(map[string]any); condition["type"] == kind {
			return fmt.Sprint(condition["status"])
		}
	}
	return ""
}

func (c *cluster) harvesterBacksUp() {
	c.apply(claimYAML, "data", "machines")
	c.apply(harvesterMachineYAML)
	c.running("")
	c.run("guest", "write", "machines/vm", "root", "--seed", "root", "--size", "5000000", "--offset", "4096", "--name", "harvester")
	c.run("guest", "write", "machines/vm", "data", "--seed", "data", "--size", "1000000", "--name", "harvester")
	started := time.Now()
	c.apply(harvesterBackupYAML, "machines", "backup", "backup")
	made := c.harvesterReady("backup", "Ready", "MetadataReady")
	c.t.Logf("backup after %s", time.Since(started).Round(time.Second))
	volumes, _, _ := unstructured.NestedSlice(made.Object, "status", "volumeBackups")
	if len(volumes) != 2 {
		c.t.Errorf("%d volumes are backed up", len(volumes))
	}
	file := c.env.Path("s3", c.env.S3Bucket, "harvester", "vmbackups", "machines", "backup.cfg")
	described, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, part := range []string{`"name":"backup"`, `"volumeName":"root"`, `"volumeName":"data"`, `"secretBackups":[{"name":"vm-cloudinit"`} {
		if !strings.Contains(string(described), part) {
			c.t.Errorf("%s has no %s:\n%s", file, part, described)
		}
	}
	if windows := c.run("guest", "freezes", "machines/vm", "-o", "json", "--name", "harvester"); windows == "" {
		c.t.Error("the guest was not frozen")
	}
}

// harvesterRestores restores the backup to a new machine and compares the disks.
func (c *cluster) harvesterRestores(namespace, name string) {
	started := time.Now()
	c.apply(harvesterRestoreYAML, namespace, name, "backup")
	restore := c.wait(harvesterKind("virtualmachinerestores"), namespace, name, func(o *unstructured.Unstructured) (bool, string, error) {
		complete, _, _ := unstructured.NestedBool(o.Object, "status", "complete")
		return complete, fmt.Sprint(o.Object["status"]), nil
	})
	c.t.Logf("restore after %s", time.Since(started).Round(time.Second))
	volumes, _, _ := unstructured.NestedSlice(restore.Object, "status", "restores")
	if len(volumes) != 2 {
		c.t.Errorf("%d volumes are restored", len(volumes))
	}
	for _, v := range volumes {
		volume, _ := v.(map[string]any)
		claim, _, _ := unstructured.NestedString(volume, "persistentVolumeClaimSpec", "metadata", "name")
		source := fmt.Sprint(volume["volumeName"])
		want := c.run("disk", "sha256", "machines/"+source, "--name", "harvester")
		if got := c.run("disk", "sha256", namespace+"/"+claim, "--name", "harvester"); got != want {
			c.t.Errorf("disk %s is %s, backed up was %s", source, got, want)
		}
	}
}

// harvesterSchedules is the clock for a schedule: Harvester refuses one that is due
// within the hour, and goes by the CronJob's last time.
func (c *cluster) harvesterSchedules() {
	c.apply(harvesterScheduleYAML)
	schedule, err := c.client.Resource(harvesterKind("schedulevmbackups")).Namespace("machines").Get(c.t.Context(), "nightly", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	jobs := resource("batch", "v1", "cronjobs")
	job := "svmb-" + string(schedule.GetUID())
	c.wait(jobs, "harvester-system", job, func(*unstructured.Unstructured) (bool, string, error) { return true, "", nil })
	due := time.Now().UTC().Truncate(time.Minute)
	_, err = c.client.Resource(jobs).Namespace("harvester-system").Patch(c.t.Context(), job, types.MergePatchType,
		fmt.Appendf(nil, `{"status":{"lastScheduleTime":%q}}`, due.Format(time.RFC3339)), metav1.PatchOptions{}, "status")
	if err != nil {
		c.t.Fatal(err)
	}
	c.harvesterReady(job+"-"+due.Format("20060102.1504"), "Ready")
	c.wait(harvesterKind("schedulevmbackups"), "machines", "nightly", func(o *unstructured.Unstructured) (bool, string, error) {
		made, _, _ := unstructured.NestedSlice(o.Object, "status", "vmbackupInfo")
		return len(made) == 1, fmt.Sprintf("knows %d backups", len(made)), nil
	})
}

func (c *cluster) harvesterRestarts() {
	c.run("component", "restart", "harvester-webhook", "harvester", "--name", "harvester")
	c.apply(harvesterBackupYAML, "machines", "second", "snapshot")
	c.harvesterReady("second", "Ready")
}

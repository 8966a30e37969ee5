// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// planned is the plan of a restore that is not refused, and the machine in it.
func (c *cluster) planned(req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, *kubevirtv1.VirtualMachine) {
	c.t.Helper()
	plan, err := c.engine.PlanRestore(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	vm := &kubevirtv1.VirtualMachine{}
	if err := json.Unmarshal(plan.State.(*restoreRecord).VM, vm); err != nil {
		c.t.Fatal(err)
	}
	return plan, vm
}

func TestMACPolicies(t *testing.T) {
	for _, tc := range []struct {
		name       string
		policy     vmbackup.MACPolicy
		gone, kept bool
		warns      string
	}{
		{name: "auto beside the source", policy: "", warns: "new MAC addresses (1 of them"},
		{name: "auto without the source", policy: vmbackup.MACAuto, gone: true, kept: true},
		{name: "keep beside the source", policy: vmbackup.MACKeep, kept: true, warns: "has the same MAC addresses (1 of them"},
		{name: "keep without the source", policy: vmbackup.MACKeep, gone: true, kept: true},
		{name: "new beside the source", policy: vmbackup.MACNew},
		{name: "new without the source", policy: vmbackup.MACNew, gone: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				if tc.gone {
					c.vms.remove(web)
				}
				req := restoreRequest()
				req.MAC = tc.policy
				plan, vm := c.planned(req)
				if mac := vm.Spec.Template.Spec.Domain.Devices.Interfaces[0].MacAddress; (mac != "") != tc.kept {
					t.Errorf("MAC address %q", mac)
				}
				if told := strings.Join(plan.Warnings, "\n"); (tc.warns == "") != (told == "") || !strings.Contains(told, tc.warns) {
					t.Errorf("warnings %q, want %q", told, tc.warns)
				}
			})
		})
	}
}

func TestStartPolicies(t *testing.T) {
	const always, manual, halted = kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyManual, kubevirtv1.RunStrategyHalted
	lost := map[string]error{"data": errors.New("gone")}
	for _, tc := range []struct {
		was, want kubevirtv1.VirtualMachineRunStrategy
		policy    vmbackup.StartPolicy
		lost      map[string]error
	}{
		{always, always, vmbackup.StartAuto, nil},
		{always, always, vmbackup.StartYes, nil},
		{always, halted, vmbackup.StartNo, nil},
		{halted, halted, vmbackup.StartAuto, nil},
		{halted, always, vmbackup.StartYes, nil},
		{kubevirtv1.RunStrategyOnce, kubevirtv1.RunStrategyOnce, vmbackup.StartYes, nil},
		{kubevirtv1.RunStrategyRerunOnFailure, halted, vmbackup.StartNo, nil},
		{manual, manual, vmbackup.StartAuto, nil},
		{manual, manual, vmbackup.StartYes, nil}, // and started, see below
		{manual, manual, vmbackup.StartNo, nil},  // which is off
		{always, halted, vmbackup.StartAuto, lost},
		{always, always, vmbackup.StartYes, lost},
	} {
		n := &renaming{startPolicy: tc.policy, lost: tc.lost}
		if got := n.strategy(tc.was); got != tc.want {
			t.Errorf("%s, --start %s, %d volumes lost: %s, want %s", tc.was, tc.policy, len(tc.lost), got, tc.want)
		}
	}
}

// A machine that only somebody's hand starts is started by the tool's on request.
func TestManualMachineIsStarted(t *testing.T) {
	for policy, want := range map[vmbackup.StartPolicy]int{vmbackup.StartAuto: 0, vmbackup.StartYes: 1, vmbackup.StartNo: 0} {
		inBubble(t, func(t *testing.T, c *cluster) {
			c.complete()
			c.editMachine(func(spec map[string]any) { spec["runStrategy"] = "Manual" })
			req := restoreRequest()
			req.Start = policy
			c.startRestore(req)
			if r, err := c.runRestore(t.Context()); err != nil || !r.Status.Ready {
				t.Fatalf("%s: %v", policy, err)
			}
			if got := c.log("start"); len(got) != want {
				t.Errorf("--start %s: %q", policy, got)
			}
		})
	}
}

func TestNewIdentity(t *testing.T) {
	const machine = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web"},"spec":{"template":{"spec":{
		"hostname":"web","domain":{"firmware":{"uuid":"u-1","serial":"s-1","bootloader":{"efi":{}}},"chassis":{"serial":"c-1","sku":"k"},"devices":{}},
		"volumes":[{"name":"init","cloudInitConfigDrive":{"userData":"x"}}]}}}}`
	spec := func(m map[string]any) map[string]any {
		return m["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	}
	firmware := func(m map[string]any) map[string]any {
		return spec(m)["domain"].(map[string]any)["firmware"].(map[string]any)
	}
	n := &renaming{operation: "0123456789ab", backup: b1, from: web, to: vmbackup.Ref{Namespace: "demo", Name: "copy.of.web"}, newIdentity: true}
	m, _, warnings := restored(t, []byte(machine), n)
	if spec(m)["hostname"] != "copy-of-web" || len(warnings) > 0 {
		t.Errorf("hostname %v, warnings %q", spec(m)["hostname"], warnings)
	}
	if f := firmware(m); f["uuid"] == "u-1" || f["serial"] == "s-1" || f["uuid"] == f["serial"] || len(f["uuid"].(string)) != 36 || f["bootloader"] == nil {
		t.Errorf("firmware %v", f)
	}
	if chassis := spec(m)["domain"].(map[string]any)["chassis"].(map[string]any); chassis["serial"] == "c-1" || chassis["sku"] != "k" {
		t.Errorf("chassis %v", chassis)
	}
	again, _, _ := restored(t, []byte(machine), n)
	if firmware(again)["uuid"] == firmware(m)["uuid"] {
		t.Error("two machines got one UUID")
	}

	// Under its old name in its old place, the guest still gets another hostname;
	// what KubeVirt makes of name and namespace stays, and is told.
	n.to = n.from
	m, _, warnings = restored(t, []byte(machine), n)
	if spec(m)["hostname"] != "web-0123" || len(warnings) != 1 || !strings.Contains(warnings[0], "ConfigDrive") {
		t.Errorf("hostname %v, warnings %q", spec(m)["hostname"], warnings)
	}

	// A machine without any of it gets firmware values alone: its hostname is its name.
	m, _, _ = restored(t, []byte(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web"},"spec":{"template":{"spec":{"domain":{}}}}}`), n)
	if _, found := spec(m)["hostname"]; found || firmware(m)["uuid"] == nil {
		t.Errorf("spec %v", spec(m))
	}
	// And without the flag nothing changes.
	n.newIdentity = false
	m, _, _ = restored(t, []byte(machine), n)
	wantSame(t, "firmware", firmware(m), map[string]any{"uuid": "u-1", "serial": "s-1", "bootloader": map[string]any{"efi": map[string]any{}}})
}

func TestMappedNetworks(t *testing.T) {
	const machine = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web"},"spec":{"template":{"spec":{
		"domain":{"devices":{"interfaces":[{"name":"default","masquerade":{},"ports":[{"port":80}]},{"name":"lan","bridge":{}},{"name":"san","sriov":{}}]}},
		"networks":[{"name":"default","pod":{"vmNetworkCIDR":"10.0.2.0/24"}},{"name":"lan","multus":{"networkName":"vlan10","default":false}},{"name":"san","multus":{"networkName":"store/fast"}}]}}}}`
	type shape struct{ networks, interfaces string }
	for _, tc := range []struct {
		mapping map[string]string
		want    shape
	}{
		{nil, shape{
			`[{"name":"default","pod":{"vmNetworkCIDR":"10.0.2.0/24"}},{"multus":{"default":false,"networkName":"vlan10"},"name":"lan"},{"multus":{"networkName":"store/fast"},"name":"san"}]`,
			`[{"masquerade":{},"name":"default","ports":[{"port":80}]},{"bridge":{},"name":"lan"},{"name":"san","sriov":{}}]`,
		}},
		{map[string]string{"demo/vlan10": "lab/vlan20", "store/fast": "slow"}, shape{ // with the namespace, although the machine has it without
			`[{"name":"default","pod":{"vmNetworkCIDR":"10.0.2.0/24"}},{"multus":{"default":false,"networkName":"lab/vlan20"},"name":"lan"},{"multus":{"networkName":"slow"},"name":"san"}]`,
			`[{"masquerade":{},"name":"default","ports":[{"port":80}]},{"bridge":{},"name":"lan"},{"name":"san","sriov":{}}]`,
		}},
		{map[string]string{"pod": "lab/vlan20", "store/fast": "pod"}, shape{
			`[{"multus":{"networkName":"lab/vlan20"},"name":"default"},{"multus":{"default":false,"networkName":"vlan10"},"name":"lan"},{"name":"san","pod":{}}]`,
			`[{"bridge":{},"name":"default","ports":[{"port":80}]},{"bridge":{},"name":"lan"},{"masquerade":{},"name":"san"}]`,
		}},
	} {
		m, _, _ := restored(t, []byte(machine), &renaming{backup: b1, from: web, to: other, networks: tc.mapping})
		spec := m["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		text := func(v any) string {
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		}
		wantSame(t, "shape", shape{text(spec["networks"]), text(spec["domain"].(map[string]any)["devices"].(map[string]any)["interfaces"])}, tc.want)
	}
}

func TestPatch(t *testing.T) {
	for _, tc := range []struct {
		name, patch string
		says        string // of the refusal; empty where the patch is applied
		check       func(vm *kubevirtv1.VirtualMachine) bool
	}{
		{
			name: "cores", patch: `[{"op":"test","path":"/spec/template/spec/domain/cpu/cores","value":4},{"op":"replace","path":"/spec/template/spec/domain/cpu/cores","value":2}]`,
			check: func(vm *kubevirtv1.VirtualMachine) bool { return vm.Spec.Template.Spec.Domain.CPU.Cores == 2 },
		},
		{
			name: "run strategy", patch: `[{"op":"replace","path":"/spec/runStrategy","value":"Once"}]`,
			// Whatever the patch says, the machine is created halted.
			check: func(vm *kubevirtv1.VirtualMachine) bool { return *vm.Spec.RunStrategy == kubevirtv1.RunStrategyHalted },
		},
		{
			name: "another disk", patch: `[{"op":"add","path":"/spec/template/spec/volumes/-","value":{"name":"more","persistentVolumeClaim":{"claimName":"more"}}}]`,
			check: func(vm *kubevirtv1.VirtualMachine) bool {
				return slices.ContainsFunc(vm.Spec.Template.Spec.Volumes, func(v kubevirtv1.Volume) bool { return v.Name == "more" })
			},
		},
		{name: "name", patch: `[{"op":"replace","path":"/metadata/name","value":"x"}]`, says: `changes name from "copy" to "x"`},
		{name: "namespace", patch: `[{"op":"remove","path":"/metadata/namespace"}]`, says: `changes namespace from "other" to ""`},
		{name: "kind", patch: `[{"op":"replace","path":"/kind","value":"VirtualMachineInstance"}]`, says: "changes kind"},
		{name: "operation", patch: `[{"op":"remove","path":"/metadata/annotations"}]`, says: "by which the restore knows its machine"},
		{name: "claim", patch: `[{"op":"replace","path":"/spec/template/spec/volumes/0/persistentVolumeClaim/claimName","value":"x"}]`, says: `volume "root" would not be on PersistentVolumeClaim all-root-new`},
		{name: "volume", patch: `[{"op":"remove","path":"/spec/template/spec/volumes/0"}]`, says: `volume "root" would not be`},
		{name: "template", patch: `[{"op":"remove","path":"/spec/template"}]`, says: "takes away the machine's template"},
		{name: "all", patch: `[{"op":"replace","path":"","value":[]}]`, says: "cannot be applied"},
		{name: "failed test", patch: `[{"op":"test","path":"/spec/template/spec/domain/cpu/cores","value":5}]`, says: "cannot be applied to VirtualMachine other/copy"},
		{name: "nothing there", patch: `[{"op":"remove","path":"/spec/none"}]`, says: "cannot be applied"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := everythingRenamed()
			n.patch = json.RawMessage(tc.patch)
			raw, strategy, _, err := restoredMachine(everything(t), n)
			if tc.says != "" {
				if e := failure(t, err, vmbackup.ReasonInvalidRequest); !strings.Contains(e.Message, tc.says) || e.Hint == "" {
					t.Errorf("%s", e.Message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			vm := &kubevirtv1.VirtualMachine{}
			if err := json.Unmarshal(raw, vm); err != nil {
				t.Fatal(err)
			}
			if !tc.check(vm) || !strings.Contains(string(raw), `"big":9007199254740993`) {
				t.Errorf("machine %s", raw)
			}
			if want := map[bool]kubevirtv1.VirtualMachineRunStrategy{true: kubevirtv1.RunStrategyOnce, false: kubevirtv1.RunStrategyRerunOnFailure}[tc.name == "run strategy"]; strategy != want {
				t.Errorf("strategy %s", strategy)
			}
		})
	}
}

func TestNamespaceIsMade(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		req := restoreRequest()
		req.ToNamespace, req.CreateNamespace = "lab", true
		plan, _ := c.planned(req)
		wantSame(t, "writes of the plan", c.writes(), nil)
		if o := plan.Objects[0]; o.Kind != "Namespace" || o.Name != "lab" || o.Action != vmbackup.ActionCreate {
			t.Errorf("first object %+v", o)
		}
		if _, err := c.engine.StartRestore(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		writes := c.writes()
		wantSame(t, "first writes", writes[:1], []string{"create namespaces lab"})
		// What the plan could not send to a namespace that was not there follows before anything is made in it.
		dry := position(t, c.log(), "create virtualmachines lab/web (dry run)")
		if record := position(t, c.log(), "create journal"); record < dry {
			t.Errorf("requests %q", c.log())
		}
		if r, err := c.engine.RunRestore(t.Context(), vmbackup.Ref{Namespace: "lab", Name: "r1"}, vmbackup.RunOptions{}); err != nil || !r.Status.Ready {
			t.Fatal(err)
		}
	})
}

func TestNamespaceThatIsThereIsUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		req := restoreRequest()
		req.CreateNamespace = true
		c.startRestore(req)
		if slices.Contains(c.writes(), "create namespaces other") {
			t.Errorf("writes %q", c.writes())
		}
	})
}

func TestNamespaceThatCannotBeMade(t *testing.T) {
	for _, tc := range []struct {
		name   string
		set    func(c *cluster)
		reason vmbackup.Reason
		says   string
		plan   bool // whether the plan refuses
	}{
		{"no right", func(c *cluster) {
			c.allow("lab", authv1.ResourceRule{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{"*"}, Resources: []string{"*"}})
		}, vmbackup.ReasonForbidden, "create namespaces (cluster-wide)", true},
		{"made by another in the meantime", func(c *cluster) {
			c.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lab"}})
		}, "", "", false},
		{"made and going", func(c *cluster) {
			now := metav1.NewTime(time.Now())
			c.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lab", DeletionTimestamp: &now}})
		}, vmbackup.ReasonConflict, "is being deleted", false},
		{"machine refused there", func(c *cluster) {
			c.fail("create", "virtualmachines", func(string) error { return apierrors.NewBadRequest("no such network") })
		}, vmbackup.ReasonInvalidRequest, "namespace lab was made, and then nothing in it", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				req := restoreRequest()
				req.ToNamespace, req.CreateNamespace = "lab", true
				if tc.plan {
					tc.set(c)
				}
				plan, err := c.engine.PlanRestore(t.Context(), req)
				if !tc.plan {
					if err != nil {
						t.Fatal(err)
					}
					tc.set(c)
					_, err = c.engine.StartRestore(t.Context(), plan)
				}
				if tc.reason == "" {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if e := failure(t, err, tc.reason); !strings.Contains(e.Message, tc.says) || e.Preflight != tc.plan {
					t.Errorf("preflight %t: %s", e.Preflight, e.Message)
				}
			})
		})
	}
}

// lose removes the data of volumes of b1 from the target.
func (c *cluster) lose(volumes ...string) {
	c.t.Helper()
	for _, v := range c.record(b1).Backup.Status.Volumes {
		if slices.Contains(volumes, v.Name) {
			if err := c.store.Store.Delete(c.t.Context(), target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup)); err != nil {
				c.t.Error(err)
			}
		}
	}
}

func TestIncompleteBackup(t *testing.T) {
	failed := func(b *vmbackup.Backup) {
		b.Status.Phase, b.Status.Ready = vmbackup.PhaseFailed, false
		b.Status.Error = vmbackup.Errorf(vmbackup.ReasonBackupFailed, "the upload of volume data failed")
		b.Status.Volumes[1].State, b.Status.Volumes[1].Message = vmbackup.StateFailed, "disk full"
	}
	for _, tc := range []struct {
		name         string
		set          func(*cluster)
		reason       vmbackup.Reason // without --allow-incomplete
		says         string
		allowed      bool
		allowedSays  string   // in a warning, or in the refusal
		volumes      []string // of the restored machine
		startedAgain bool
	}{
		{
			name: "a volume is lost", set: func(c *cluster) { c.lose("data") }, reason: vmbackup.ReasonDataLost, says: "the data of volume data is not on",
			allowed: true, allowedSays: `volume "data" is left out of the machine: the data of volume data is not on`,
		},
		{
			name: "the file lies there, but was never complete", set: func(c *cluster) { c.edit(failed) }, reason: vmbackup.ReasonBackupFailed, says: "volumes that it does not hold: data",
			allowed: true, allowedSays: "was never complete: disk full",
		},
		{
			name: "the claim is not in the record", set: func(c *cluster) {
				c.editRecord(func(r *metadata.Record) {
					r.Claims = slices.DeleteFunc(r.Claims, func(raw json.RawMessage) bool { return strings.Contains(string(raw), "web-data") })
				})
			}, reason: vmbackup.ReasonDataDamaged, says: "does not hold the PersistentVolumeClaim web-data",
			allowed: true, allowedSays: `volume "data" is left out`,
		},
		{
			name: "all is lost", set: func(c *cluster) { c.lose("root", "data") }, reason: vmbackup.ReasonDataLost, says: "nothing of the data of backup demo/b1 is left",
			allowedSays: "nothing of the data of backup demo/b1 is left",
		},
		{
			name: "not done yet", set: func(c *cluster) {
				c.edit(func(b *vmbackup.Backup) { b.Status.Phase, b.Status.Ready = vmbackup.PhaseRunning, false })
			}, reason: vmbackup.ReasonConflict, says: "is Running", allowedSays: "is Running",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				c.complete()
				c.vms.remove(web)
				tc.set(c)
				req := restoreRequest()
				req.From = vmbackup.SourceCluster
				_, err := c.engine.PlanRestore(t.Context(), req)
				e := failure(t, err, tc.reason)
				if !strings.Contains(e.Message, tc.says) || !e.Preflight {
					t.Errorf("preflight %t: %s", e.Preflight, e.Message)
				}
				if tc.allowed != strings.Contains(e.Hint, "--allow-incomplete") {
					t.Errorf("hint %q", e.Hint)
				}
				req.AllowIncomplete = true
				if !tc.allowed {
					_, err := c.engine.PlanRestore(t.Context(), req)
					if e := failure(t, err, tc.reason); !strings.Contains(e.Message, tc.allowedSays) {
						t.Errorf("%s", e.Message)
					}
					return
				}
				c.startRestore(req)
				r, err := c.runRestore(t.Context())
				if err != nil || !r.Status.Ready || len(r.Status.Volumes) != 1 {
					t.Fatalf("%v: %+v", err, r)
				}
				if told := strings.Join(r.Status.Warnings, "\n"); !strings.Contains(told, tc.allowedSays) || !strings.Contains(told, "is not started") {
					t.Errorf("warnings %q", told)
				}
				spec := c.machine(other)["spec"].(map[string]any)
				if spec["runStrategy"] != "Halted" {
					t.Errorf("run strategy %v", spec["runStrategy"])
				}
				var volumes []string
				for _, v := range spec["template"].(map[string]any)["spec"].(map[string]any)["volumes"].([]any) {
					volumes = append(volumes, v.(map[string]any)["name"].(string))
				}
				wantSame(t, "volumes", volumes, []string{"root", "cloudinit", "conf"})
			})
		})
	}
}

func TestLostDisksGoWithTheirVolumes(t *testing.T) {
	const machine = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"web"},"spec":{"runStrategy":"Always","template":{"spec":{
		"domain":{"devices":{"disks":[{"name":"a"},{"name":"b"}],"filesystems":[{"name":"b"}]}},
		"volumes":[{"name":"a","persistentVolumeClaim":{"claimName":"a"}},{"name":"b","persistentVolumeClaim":{"claimName":"b"}}]}}}}`
	m, strategy, warnings := restored(t, []byte(machine), &renaming{backup: b1, from: web, to: other, lost: map[string]error{"b": errors.New("gone")}})
	template := m["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	devices := template["domain"].(map[string]any)["devices"].(map[string]any)
	if len(devices["disks"].([]any)) != 1 || len(devices["filesystems"].([]any)) != 0 || len(template["volumes"].([]any)) != 1 {
		t.Errorf("template %v", template)
	}
	if strategy != kubevirtv1.RunStrategyHalted || len(warnings) != 2 {
		t.Errorf("%s, %q", strategy, warnings)
	}
}

func TestPartsThatNobodyHas(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.vms.remove(web)
		c.editRecord(func(r *metadata.Record) { r.Secrets, r.ConfigMaps = nil, nil })
		c.put("configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web-conf"}})
		plan, _ := c.planned(restoreRequest())
		if len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], `Secret "web-init", which the machine refers to, is not in the backup and not in namespace other`) {
			t.Errorf("warnings %q", plan.Warnings)
		}
	})
}

func TestSnapshotOfAnotherVolume(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.edit(func(b *vmbackup.Backup) {
			b.Spec.Type = vmbackup.TypeSnapshot
			for i, name := range c.names("snapshots") {
				v := &b.Status.Volumes[i]
				v.LonghornVolume, v.LonghornBackup, v.SnapshotHandle = "pvc-of-old", "", "snap://pvc-of-old/"+name
			}
		})
		_, err := c.engine.PlanRestore(t.Context(), restoreRequest())
		if e := failure(t, err, vmbackup.ReasonDataLost); !strings.Contains(e.Message, "of Longhorn volume pvc-of-old is gone") {
			t.Errorf("%s", e.Message)
		}
	})
}

// The plan of a machine with two disks and two networks costs few requests, most of
// them at the same time.
func TestRequestsOfAPlan(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		c.complete()
		c.onNetwork()
		c.network("other", "vlan10")
		c.forget()
		c.planned(restoreRequest())
		var requests []string
		for _, r := range c.log() {
			if verb, _, _ := cut(r); verb == "get" || verb == "list" || verb == "create" || verb == "review" {
				requests = append(requests, r)
			}
		}
		if len(requests) > 22 {
			t.Errorf("%d requests:\n%s", len(requests), strings.Join(requests, "\n"))
		}
	})
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build sandbox

package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
)

const machineYAML = `
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  runStrategy: Always
  template:
    spec:
      domain:
        devices:
          disks: [{name: %[4]s, disk: {bus: virtio}}]
          interfaces: [{name: default, masquerade: {}}]
        resources: {requests: {memory: 128Mi}}
      networks: [{name: default, pod: {}}]
      volumes: [{name: root, persistentVolumeClaim: {claimName: %[3]s}}]
`

func machines() schema.GroupVersionResource { return resource("kubevirt.io", "v1", "virtualmachines") }

func instances() schema.GroupVersionResource {
	return resource("kubevirt.io", "v1", "virtualmachineinstances")
}
func volumes() schema.GroupVersionResource { return resource("longhorn.io", "v1beta2", "volumes") }

// composedYAML is a VM that refers to what else a VM can refer to.
const composedYAML = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan, namespace: machines}
spec: {config: '{"cniVersion":"0.3.1","name":"lan","type":"bridge","bridge":"br0"}'}
---
apiVersion: instancetype.kubevirt.io/v1beta1
kind: VirtualMachineInstancetype
metadata: {name: small, namespace: machines}
spec: {cpu: {guest: 1}, memory: {guest: 128Mi}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm, namespace: machines}
spec:
  runStrategy: Always
  instancetype: {kind: VirtualMachineInstancetype, name: small}
  dataVolumeTemplates:
  - metadata: {name: composed}
    spec:
      source: {blank: {}}
      storage: {storageClassName: longhorn-1r, resources: {requests: {storage: 64Mi}}}
  template:
    spec:
      domain:
        devices:
          disks: [{name: root, disk: {bus: virtio}}]
          interfaces: [{name: lan, bridge: {}, macAddress: "52:54:00:11:22:33"}]
      networks: [{name: lan, multus: {networkName: machines/lan}}]
      volumes: [{name: root, dataVolume: {name: composed}}]
`

// TestKubeVirt follows one VM through its life: admission, start, freezes,
// a backup while it runs, restarts of KubeVirt and of its guest, stop, deletion.
func TestKubeVirt(t *testing.T) {
	c := newBox(t).up("kubevirt")
	c.apply(namespaceYAML, "machines")
	c.apply(claimYAML, "root", "machines")
	c.apply(snapshotClass)
	for _, step := range []struct {
		name string
		run  func(*cluster)
	}{
		{"an invalid VM is refused", (*cluster).kubevirtRefuses},
		{"a VM runs on its volume", (*cluster).kubevirtRuns},
		{"only permitted users reach the guest", (*cluster).kubevirtAuthorizes},
		{"freeze and unfreeze are recorded", (*cluster).kubevirtFreezes},
		{"the deadline thaws", (*cluster).kubevirtDeadline},
		{"faults of the guest", (*cluster).kubevirtFaults},
		{"a backup while it runs", (*cluster).kubevirtBackup},
		{"an open freeze survives its keeper", (*cluster).kubevirtStandInRestart},
		{"a volume is plugged in and out", (*cluster).kubevirtHotplug},
		{"KubeVirt restarts", (*cluster).kubevirtRestarts},
		{"a crash is answered by the run strategy", (*cluster).kubevirtCrash},
		{"Halted stops it", (*cluster).kubevirtHalts},
		{"started and deleted", (*cluster).kubevirtDeletes},
		{"DataVolume, instance type and secondary network", (*cluster).kubevirtComposed},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			outer := c.t
			defer func() { c.t = outer }()
			c.t = t
			step.run(c)
		})
		if !ok {
			return // every step starts from where the last one left the VM
		}
	}
}

// call sends a request to kube-apiserver and returns status and body.
func (c *cluster) call(cfg *rest.Config, method, path, body string) (int, string) {
	c.t.Helper()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, cfg.Host+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func (c *cluster) admin() *rest.Config {
	c.t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.state.Kubeconfig())
	if err != nil {
		c.t.Fatal(err)
	}
	return cfg
}

// subresource calls KubeVirt's aggregated API about the VM and wants success.
func (c *cluster) subresource(kind, action, body string) {
	c.t.Helper()
	path := fmt.Sprintf("/apis/subresources.kubevirt.io/v1/namespaces/machines/%s/vm/%s", kind, action)
	if code, answer := c.call(c.admin(), http.MethodPut, path, body); code >= 300 {
		c.t.Fatalf("%s: %d %s", action, code, answer)
	}
}

func (c *cluster) freeze(timeout string) {
	c.t.Helper()
	c.subresource("virtualmachineinstances", "freeze", fmt.Sprintf(`{"unfreezeTimeout":%q}`, timeout))
}

func (c *cluster) thaw() {
	c.t.Helper()
	c.subresource("virtualmachineinstances", "unfreeze", `{}`)
}

// freezes are the recorded ones, by the sandbox's own command.
func (c *cluster) freezes() []guest.Window {
	c.t.Helper()
	decoder := json.NewDecoder(strings.NewReader(c.run("guest", "freezes", "machines/vm", "-o", "json", "--name", "kubevirt")))
	var windows []guest.Window
	for decoder.More() {
		var w guest.Window
		if err := decoder.Decode(&w); err != nil {
			c.t.Fatal(err)
		}
		windows = append(windows, w)
	}
	return windows
}

// instance waits until the VMI is as wanted.
func (c *cluster) instance(want string, reached func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	c.t.Helper()
	return c.wait(instances(), "machines", "vm", func(o *unstructured.Unstructured) (bool, string, error) {
		return reached(o), "is not " + want, nil
	})
}

func text(o *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedString(o.Object, path...)
	return value
}

func (c *cluster) running(otherThan types.UID) *unstructured.Unstructured {
	c.t.Helper()
	return c.instance("running", func(o *unstructured.Unstructured) bool {
		return text(o, "status", "phase") == "Running" && o.GetUID() != otherThan
	})
}

func (c *cluster) frozen(want bool) {
	c.t.Helper()
	c.instance(fmt.Sprintf("frozen=%v", want), func(o *unstructured.Unstructured) bool {
		return (text(o, "status", "fsFreezeStatus") == "frozen") == want
	})
}

func (c *cluster) patch(what, name, body string) {
	c.t.Helper()
	_, err := c.client.Resource(resource("kubevirt.io", "v1", what)).Namespace("machines").
		Patch(c.t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// gone waits until the VMI and its launcher pods are gone and the volume is at rest.
func (c *cluster) gone() {
	c.t.Helper()
	c.awaitNone(instances(), "machines", "")
	c.awaitNone(resource("", "v1", "pods"), "machines", "kubevirt.io=virt-launcher")
	c.volumeState("root", "detached")
}

// volumeState waits for the state of the Longhorn volume behind a PVC.
func (c *cluster) volumeState(claim, want string) {
	c.t.Helper()
	c.wait(volumes(), "longhorn-system", c.volume(claim), func(o *unstructured.Unstructured) (bool, string, error) {
		state := text(o, "status", "state")
		return state == want, "is " + state, nil
	})
}

// volume is the Longhorn volume behind a PVC.
func (c *cluster) volume(claim string) string {
	c.t.Helper()
	bound := c.wait(resource("", "v1", "persistentvolumeclaims"), "machines", claim,
		func(o *unstructured.Unstructured) (bool, string, error) {
			phase := text(o, "status", "phase")
			return phase == "Bound", "is " + phase, nil
		})
	return text(bound, "spec", "volumeName")
}

func (c *cluster) kubevirtRefuses() {
	machine := map[string]any{}
	if err := yamlInto(fmt.Sprintf(machineYAML, "machines", "bad", "root", "no-such-volume"), &machine); err != nil {
		c.t.Fatal(err)
	}
	_, err := c.client.Resource(machines()).Namespace("machines").
		Create(c.t.Context(), &unstructured.Unstructured{Object: machine}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "'no-such-volume' not found") {
		c.t.Fatalf("a VM whose disk has no volume: %v", err)
	}
}

func (c *cluster) kubevirtRuns() {
	started := time.Now()
	c.apply(machineYAML, "machines", "vm", "root", "root")
	vmi := c.running("")
	c.t.Logf("running after %s", time.Since(started).Round(100*time.Millisecond))
	// Running is said only once the disk is there.
	volume, err := c.client.Resource(volumes()).Namespace("longhorn-system").Get(c.t.Context(), c.volume("root"), metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	if state := text(volume, "status", "state"); state != "attached" {
		c.t.Fatalf("the VM runs, and its volume is %s", state)
	}
	conditions, _, _ := unstructured.NestedSlice(vmi.Object, "status", "conditions")
	if !strings.Contains(fmt.Sprint(conditions), "AgentConnected") {
		c.t.Fatalf("conditions %v", conditions)
	}
	c.wait(machines(), "machines", "vm", func(o *unstructured.Unstructured) (bool, string, error) {
		status := text(o, "status", "printableStatus")
		return status == "Running", "is " + status, nil
	})
	code, body := c.call(c.admin(), http.MethodGet, "/apis/subresources.kubevirt.io/v1/namespaces/machines/virtualmachineinstances/vm/guestosinfo", "")
	if code != http.StatusOK || !strings.Contains(body, "guest-fsfreeze-freeze") {
		c.t.Fatalf("guestosinfo: %d %s", code, body)
	}
}

func (c *cluster) kubevirtAuthorizes() {
	cfg, err := clientcmd.RESTConfigFromKubeConfig([]byte(c.run("kubeconfig", "--name", "kubevirt", "--user", "carol")))
	if err != nil {
		c.t.Fatal(err)
	}
	const path = "/apis/subresources.kubevirt.io/v1/namespaces/machines/virtualmachineinstances/vm/unfreeze"
	if code, body := c.call(cfg, http.MethodPut, path, "{}"); code != http.StatusForbidden {
		c.t.Fatalf("a user without rights: %d %s", code, body)
	}
	c.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: carol, namespace: machines}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kubevirt.io:edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: carol}]
`)
	c.eventually("the user may unfreeze", func() bool {
		code, _ := c.call(cfg, http.MethodPut, path, "{}")
		return code < 300
	})
}

func (c *cluster) kubevirtFreezes() {
	before := len(c.freezes())
	c.freeze("5m")
	c.frozen(true)
	write := []string{"guest", "write", "machines/vm", "root", "--seed", "x", "--size", "65536", "--name", "kubevirt"}
	if _, stderr, err := c.try(write...); err == nil || !strings.Contains(stderr, "frozen") {
		c.t.Fatalf("a write to a frozen guest: %v %s", err, stderr)
	}
	c.thaw()
	c.frozen(false)
	c.run(write...)
	windows := c.freezes()
	if len(windows) != before+1 {
		c.t.Fatalf("recorded %+v", windows)
	}
	w := windows[before]
	if w.ThawedBy != guest.ThawedByClient || w.End == nil || w.TimeoutSeconds != 300 || w.DurationSeconds <= 0 {
		c.t.Fatalf("recorded %+v", w)
	}
}

func (c *cluster) kubevirtDeadline() {
	sum := c.run("disk", "sha256", "machines/root", "--name", "kubevirt")
	c.freeze("2s")
	// The write waits for the thaw, so its end comes after it.
	c.run("guest", "write", "machines/vm", "root", "--seed", "deadline", "--size", "1048576", "--wait", "--name", "kubevirt")
	windows := c.freezes()
	w := windows[len(windows)-1]
	if w.ThawedBy != guest.ThawedByDeadline || w.DurationSeconds < 2 || w.DurationSeconds > 4 {
		c.t.Fatalf("recorded %+v", w)
	}
	if again := c.run("disk", "sha256", "machines/root", "--name", "kubevirt"); again == sum {
		c.t.Fatal("the guest's write did not reach the disk")
	}
}

func (c *cluster) kubevirtFaults() {
	const path = "/apis/subresources.kubevirt.io/v1/namespaces/machines/virtualmachineinstances/vm/freeze"
	before := len(c.freezes())
	for annotation, want := range map[string]string{
		guest.FreezeAnnotation + "=" + guest.Fail:  "guest-fsfreeze-freeze",
		guest.AgentAnnotation + "=" + guest.Absent: "QEMU guest agent is not connected",
	} {
		key, value, _ := strings.Cut(annotation, "=")
		c.patch("virtualmachineinstances", "vm", fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, key, value))
		// The stand-in sees the annotation by its watch.
		c.eventually(annotation+" takes effect", func() bool {
			code, body := c.call(c.admin(), http.MethodPut, path, `{"unfreezeTimeout":"1s"}`)
			return code == http.StatusInternalServerError && strings.Contains(body, want)
		})
		c.patch("virtualmachineinstances", "vm", fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, key))
		c.eventually(annotation+" ends", func() bool {
			code, _ := c.call(c.admin(), http.MethodPut, path, `{"unfreezeTimeout":"1m"}`)
			return code < 300
		})
		c.thaw()
	}
	if after := len(c.freezes()); after < before+2 {
		c.t.Fatalf("%d freezes recorded, %d before", after, before)
	}
}

func (c *cluster) kubevirtBackup() {
	c.backUp("machines", "live", "root")
	vmi := c.running("")
	volume, err := c.client.Resource(volumes()).Namespace("longhorn-system").Get(c.t.Context(), c.volume("root"), metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	if state := text(volume, "status", "state"); state != "attached" || vmi.GetDeletionTimestamp() != nil {
		c.t.Fatalf("after the backup of the running VM its volume is %s", state)
	}
}

func (c *cluster) kubevirtStandInRestart() {
	c.freeze("5s")
	c.frozen(true)
	c.run("component", "restart", "virt-handler", "--name", "kubevirt")
	c.frozen(false)
	windows := c.freezes()
	w := windows[len(windows)-1]
	if w.ThawedBy != guest.ThawedByDeadline || w.DurationSeconds < 5 {
		c.t.Fatalf("recorded %+v", w)
	}
}

func (c *cluster) kubevirtHotplug() {
	c.apply(claimYAML, "extra", "machines")
	c.volume("extra")
	c.subresource("virtualmachines", "addvolume", `{"name":"extra","disk":{"disk":{"bus":"scsi"}},
		"volumeSource":{"persistentVolumeClaim":{"claimName":"extra","hotpluggable":true}}}`)
	plugged := func(o *unstructured.Unstructured) (phase, target string, found bool) {
		statuses, _, _ := unstructured.NestedSlice(o.Object, "status", "volumeStatus")
		for _, s := range statuses {
			if status, _ := s.(map[string]any); status["name"] == "extra" {
				return fmt.Sprint(status["phase"]), fmt.Sprint(status["target"]), true
			}
		}
		return "", "", false
	}
	c.instance("in possession of the plugged volume", func(o *unstructured.Unstructured) bool {
		phase, target, _ := plugged(o)
		return phase == "Ready" && target == "sda"
	})
	c.volumeState("extra", "attached")
	c.subresource("virtualmachines", "removevolume", `{"name":"extra"}`)
	c.instance("rid of the plugged volume", func(o *unstructured.Unstructured) bool {
		_, _, found := plugged(o)
		return !found
	})
	c.volumeState("extra", "detached")
	c.volumeState("root", "attached")
}

func (c *cluster) kubevirtRestarts() {
	uid := c.running("").GetUID()
	c.run("component", "restart", "virt-api", "--name", "kubevirt")
	c.run("component", "restart", "virt-controller", "--name", "kubevirt")
	c.kubevirtRefuses()
	// kube-apiserver looks at the aggregated API again a moment later.
	c.eventually("the subresource API is back", func() bool {
		code, _ := c.call(c.admin(), http.MethodPut,
			"/apis/subresources.kubevirt.io/v1/namespaces/machines/virtualmachineinstances/vm/unfreeze", "{}")
		return code < 300
	})
	if now := c.running("").GetUID(); now != uid {
		c.t.Fatal("the VM was restarted with KubeVirt")
	}
}

func (c *cluster) kubevirtCrash() {
	c.patch("virtualmachines", "vm", `{"spec":{"runStrategy":"RerunOnFailure"}}`)
	uid := c.running("").GetUID()
	c.run("guest", "power", "machines/vm", "crash", "--name", "kubevirt")
	c.running(uid)
	c.run("guest", "power", "machines/vm", "poweroff", "--name", "kubevirt")
	c.gone()
}

func (c *cluster) kubevirtHalts() {
	c.patch("virtualmachines", "vm", `{"spec":{"runStrategy":"Always"}}`)
	c.running("")
	c.patch("virtualmachines", "vm", `{"spec":{"runStrategy":"Halted"}}`)
	c.gone()
}

func (c *cluster) kubevirtDeletes() {
	c.subresource("virtualmachines", "start", `{}`)
	c.running("")
	if err := c.client.Resource(machines()).Namespace("machines").Delete(c.t.Context(), "vm", metav1.DeleteOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.gone()
	_, err := c.client.Resource(machines()).Namespace("machines").Get(c.t.Context(), "vm", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		c.t.Fatalf("the VM is still there: %v", err)
	}
}

func (c *cluster) kubevirtComposed() {
	c.apply(composedYAML)
	vmi := c.running("")
	interfaces, _, _ := unstructured.NestedSlice(vmi.Object, "status", "interfaces")
	if !strings.Contains(fmt.Sprint(interfaces), "52:54:00:11:22:33") {
		c.t.Errorf("interfaces %v", interfaces)
	}
	if memory := text(vmi, "spec", "domain", "memory", "guest"); memory != "128Mi" {
		c.t.Errorf("memory %q is not that of the instance type", memory)
	}
	c.volumeState("composed", "attached")
	machine, err := c.client.Resource(machines()).Namespace("machines").Get(c.t.Context(), "vm", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	revision := text(machine, "status", "instancetypeRef", "controllerRevisionRef", "name")
	_, err = c.client.Resource(resource("apps", "v1", "controllerrevisions")).Namespace("machines").
		Get(c.t.Context(), revision, metav1.GetOptions{})
	if err != nil {
		c.t.Errorf("the revision of the instance type: %v", err)
	}
}

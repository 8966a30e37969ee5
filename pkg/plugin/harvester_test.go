// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHarvesterSession goes the whole way on a cluster with Harvester's controllers.
func TestHarvesterSession(t *testing.T) {
	const group = "/apis/harvesterhci.io/v1beta1"
	lease := fmt.Sprintf(`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"harvester-controllers"},
		"spec":{"holderIdentity":"node1","leaseDurationSeconds":45,"renewTime":%q}}`, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
	objects := map[string]string{
		"/version": `{"major":"1","minor":"36","gitVersion":"v1.36.1"}`,
		group: `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"harvesterhci.io/v1beta1","resources":[
			{"name":"virtualmachinebackups","namespaced":true,"kind":"VirtualMachineBackup","verbs":["list"]},
			{"name":"virtualmachinerestores","namespaced":true,"kind":"VirtualMachineRestore","verbs":["list"]}]}`,
		group + "/settings/server-version":                                                                      `{"kind":"Setting","apiVersion":"harvesterhci.io/v1beta1","metadata":{"name":"server-version"},"value":"v1.8.2"}`,
		"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/harvester-controllers":                      lease,
		"/api/v1/namespaces/shop/secrets?app.kubernetes.io/managed-by=kubectl-vmbackup,vmbackup.io/kind=backup": `{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`,
		group + "/namespaces/shop/virtualmachinebackups": `{"kind":"VirtualMachineBackupList","apiVersion":"harvesterhci.io/v1beta1","metadata":{},"items":[
			{"kind":"VirtualMachineBackup","apiVersion":"harvesterhci.io/v1beta1","metadata":{"name":"theirs","namespace":"shop"},
			"spec":{"type":"snapshot","source":{"apiGroup":"kubevirt.io","kind":"VirtualMachine","name":"web"}},
			"status":{"readyToUse":true,"conditions":[{"type":"Ready","status":"True"}]}}]}`,
	}
	run := func(args ...string) ended {
		out, errOut := &buffer{}, &buffer{}
		g := newRig(t).globals(out, errOut)
		g.connect = g.newSession
		code := g.execute(t.Context(), append(args, "--kubeconfig", apiServer(t, objects)))
		return ended{code: code, out: out.String(), err: errOut.String()}
	}
	run("version").contains(t, exitDone, "Longhorn Version: unknown\nHarvester Version: v1.8.2 (controllers alive: held by node1)\n")
	run("version", "-o", "json").contains(t, exitDone, `"controllers": "alive"`)
	if got := run("list"); got.code != exitDone || !strings.Contains(got.out, "theirs") || !strings.Contains(got.out, "Ready") {
		t.Errorf("%+v", got)
	}
}

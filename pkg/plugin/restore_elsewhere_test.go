// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// twoClusters are the cluster of backup shop/web-1 and another one with the same
// backup target under another name.
func twoClusters(t *testing.T) (here, there *rig) {
	here, there = newRig(t), newRig(t)
	here.other = there
	b := backup("shop/web-1", "web", 5)
	b.Status.SourceUID = "uid-web"
	here.put(b)
	here.targets.all = []vmbackup.Target{sampleTarget("default"), sampleTarget("offsite")}
	shared := sampleTarget("main")
	shared.Spec.URL = strings.TrimSuffix(here.targets.all[0].Spec.URL, "/")
	there.targets.all = []vmbackup.Target{sampleTarget("offsite"), shared}
	return here, there
}

// asked is the request that the other cluster's engine was given.
func (r *rig) asked() vmbackup.RestoreRequest {
	r.t.Helper()
	if len(r.engine.requests) != 1 {
		r.t.Fatalf("asked for %v", r.engine.requests)
	}
	return r.engine.requests[0].(vmbackup.RestoreRequest)
}

func TestRestoreIntoAnotherCluster(t *testing.T) {
	here, there := twoClusters(t)
	here.uid = "uid-web"
	got := here.run("restore", "web-1", "--to-context", "dr")
	if got.code != exitDone {
		t.Fatalf("%+v", got)
	}
	if len(here.engine.calls) > 0 || !slices.Contains(there.engine.calls, "run restore shop/web-9") {
		t.Errorf("here %q, there %q", here.engine.calls, there.engine.calls)
	}
	request := there.asked()
	if request.From != vmbackup.SourceTarget || request.Target != "main" || request.Backup.String() != "shop/web-1" {
		t.Errorf("%+v", request)
	}
	if request.MAC != vmbackup.MACNew {
		t.Errorf("MAC policy %s while the source machine is there", request.MAC)
	}
	if !slices.Equal(there.connected, []string{"", "main"}) {
		t.Errorf("connected with targets %q", there.connected)
	}
}

func TestRestoreIntoAnotherClusterWhenItsOwnIsGone(t *testing.T) {
	here, there := twoClusters(t)
	here.down = vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "no route to host")
	got := here.run("restore", "web-1", "--to-context", "dr", "--target", "main", "--dry-run")
	if got.code != exitDone || !strings.Contains(got.out+got.err, "no route to host") {
		t.Fatalf("%+v", got)
	}
	if request := there.asked(); request.Target != "main" || request.MAC != vmbackup.MACAuto {
		t.Errorf("%+v", request)
	}
}

func TestPlanOfARestoreIntoAnotherCluster(t *testing.T) {
	here, there := twoClusters(t)
	here.tty, there.macs = true, map[string]vmbackup.Ref{}
	there.engine.planned = vmbackup.RestorePlan{
		Networks: []vmbackup.NetworkUse{
			{Source: "shop/vlan10", Destination: "lab/vlan10", Known: true}, {Source: "net/dmz", Destination: "net/dmz"}, {Source: "shop/vlan20", Destination: "pod", Known: true},
		},
		Quotas: []vmbackup.QuotaUse{{Quota: "q", Resource: "requests.storage", Needs: "30Gi", Used: "10Gi", Hard: "100Gi", Fits: true}},
	}
	got := here.run("restore", "web-1", "--to-context", "dr", "--to-namespace", "lab", "--map-storage-class", "longhorn=fast", "--dry-run")
	if got.code != exitDone || !slices.Equal(there.engine.calls, []string{"plan restore shop/web-1"}) {
		t.Fatalf("%+v, %q", got, there.engine.calls)
	}
	golden(t, "plan-elsewhere.txt", got.out)
	got = here.run("restore", "web-1", "--to-kubeconfig", "dr.yaml", "--dry-run", "-o", "jsonpath={.status.comparison[*].subject}")
	const want = "Cluster Kubernetes KubeVirt Longhorn Backup target Namespace VirtualMachine StorageClass Network Network Network Quota MAC addresses"
	if got.out != want {
		t.Errorf("%+v", got)
	}
}

func TestRestoreIntoAnotherClusterRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(here, there *rig)
		reason  string
	}{
		"backup that is not done": {func(here, _ *rig) {
			b := backup("shop/web-1", "web", 5)
			b.Status.Phase, b.Status.Ready = vmbackup.PhaseRunning, false
			here.put(b)
		}, "is not done yet: it is Running"},
		"snapshot": {func(here, _ *rig) {
			b := backup("shop/web-1", "web", 5)
			b.Spec.Type = vmbackup.TypeSnapshot
			here.put(b)
		}, "is a snapshot in the volumes of its own cluster"},
		"another target": {func(_, there *rig) { there.targets.all = there.targets.all[:1] }, "no backup target with the URL s3://default@eu-1/"},
		"no target":      {func(_, there *rig) { there.targets.all = nil }, "it has: none"},
		"target is away": {func(_, there *rig) { there.targets.all[1].Status.State = vmbackup.TargetUnavailable }, "cannot use backup target"},
		"cluster is away": {func(_, there *rig) {
			there.down = vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "no such host").AsPreflight()
		}, "no such host"},
		"no such context": {func(_, there *rig) { there.unreachable = kubeconfigError(errors.New("context \"dr\" does not exist")) }, "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := twoClusters(t)
			tt.prepare(here, there)
			got := here.run("restore", "web-1", "--to-context", "dr")
			if (got.code != exitRefused && got.code != exitUsage) || !strings.Contains(got.err, tt.reason) {
				t.Errorf("%+v", got)
			}
			if len(there.engine.calls) > 0 {
				t.Errorf("asked the engine: %q", there.engine.calls)
			}
		})
	}
}

// Machines of the other cluster may have the backup's MAC addresses, of which its own
// cluster knows nothing.
func TestRestoreBesideTheSameMACAddress(t *testing.T) {
	const mac = "02:00:00:00:00:0a"
	user := map[string]vmbackup.Ref{mac: {Namespace: "lab", Name: "web-old"}}
	for name, tt := range map[string]struct {
		macs   map[string]vmbackup.Ref
		policy string
		want   vmbackup.MACPolicy
		says   string
	}{
		"nobody has it":      {map[string]vmbackup.Ref{}, "auto", vmbackup.MACAuto, ""},
		"in use":             {user, "auto", vmbackup.MACNew, "gets new MAC addresses: VirtualMachine lab/web-old"},
		"in use, and kept":   {user, "keep", vmbackup.MACKeep, "let only one of the machines run"},
		"new anyway":         {user, "new", vmbackup.MACNew, ""},
		"nobody may look":    {nil, "auto", vmbackup.MACAuto, "others not seen"},
		"kept, without look": {nil, "keep", vmbackup.MACKeep, "others not seen"},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := twoClusters(t)
			there.macs = tt.macs
			there.engine.planned.MACs = []string{mac}
			got := here.run("restore", "web-1", "--to-context", "dr", "--mac", tt.policy, "--dry-run")
			if got.code != exitDone {
				t.Fatalf("%+v", got)
			}
			requests := there.engine.requests
			if last := requests[len(requests)-1].(vmbackup.RestoreRequest); last.MAC != tt.want {
				t.Errorf("asked for MAC policy %s, want %s", last.MAC, tt.want)
			}
			told := strings.Contains(got.out+got.err, "web-old") || strings.Contains(got.out+got.err, "not seen")
			if told != (tt.says != "") || !strings.Contains(got.out+got.err, tt.says) {
				t.Errorf("does not say %q: %+v", tt.says, got)
			}
		})
	}
}

// The way to go on names the other cluster.
func TestInterruptedRestoreIntoAnotherCluster(t *testing.T) {
	here, there := twoClusters(t)
	there.engine.errs["run restore shop/web-9"] = vmbackup.Errorf(vmbackup.ReasonTimeout, "waited")
	got := here.run("restore", "web-1", "--to-context", "dr", "--timeout", "1ns")
	if got.code != exitTimeout && got.code != exitRefused {
		t.Errorf("%+v", got)
	}
	to := here.globals(&buffer{}, &buffer{}).at(&elsewhere{context: "dr", kubeconfig: "/tmp/dr.yaml"})
	const want = "kubectl vmbackup resume restore/web-9 -n shop --context dr --kubeconfig /tmp/dr.yaml"
	if got := to.command("resume", operation{restore: true, ref: vmbackup.Ref{Namespace: "shop", Name: "web-9"}}); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Longhorn's versions that break a restore into another cluster are told.
func TestVersionsOfTwoClusters(t *testing.T) {
	for name, tt := range map[string]struct{ here, there, want string }{
		"the same":          {"v1.12.0", "v1.12.0", ""},
		"newer":             {"v1.11.2", "v1.12.0", ""},
		"older":             {"v1.12.0", "v1.11.2", "older than the v1.12.0"},
		"looks up a volume": {"v1.7.2", "v1.8.0", "update Longhorn to 1.8.1"},
		"unknown":           {"v1.7.2", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			from := origin{versions: &serverVersion{Longhorn: tt.here, KubeVirt: "v1.8.0"}}
			got := strings.Join(from.warnings(&serverVersion{Longhorn: tt.there, KubeVirt: "v1.8.1"}), "")
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// An older KubeVirt may not know what a newer one has written.
func TestOlderKubeVirt(t *testing.T) {
	from := origin{versions: &serverVersion{KubeVirt: "v1.8.1"}}
	got := from.warnings(&serverVersion{KubeVirt: "v1.7.0"})
	if len(got) != 1 || !strings.Contains(got[0], "KubeVirt there is v1.7.0, older than the v1.8.1") {
		t.Errorf("%q", got)
	}
}

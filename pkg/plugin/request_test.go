// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestFlagsBecomeRequests(t *testing.T) {
	create := func(vm string, change func(*vmbackup.BackupRequest)) vmbackup.BackupRequest {
		r := vmbackup.BackupRequest{
			Name: vm + "-20260301-120000", Namespace: "shop", VM: vm, Type: vmbackup.TypeBackup,
			Quiesce: vmbackup.QuiesceAuto, FreezeTimeout: 30 * time.Second,
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	restore := vmbackup.RestoreRequest{
		Backup: vmbackup.Ref{Namespace: "shop", Name: "web-1"}, From: vmbackup.SourceAll, Target: "default",
		MAC: vmbackup.MACAuto, Start: vmbackup.StartAuto,
	}
	patch := filepath.Join(t.TempDir(), "patch.yaml")
	if err := os.WriteFile(patch, []byte("- {op: remove, path: /spec/template/spec/hostname}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	remove := vmbackup.DeleteRequest{Backup: vmbackup.Ref{Namespace: "shop", Name: "web-1"}, From: vmbackup.SourceAll, Target: "default"}
	tests := []struct {
		args   string
		want   []any
		target string
	}{
		{args: "create web", want: []any{create("web", nil)}},
		{args: "backup web", want: []any{create("web", nil)}},
		{args: "create web db web --concurrency 1", want: []any{create("db", nil), create("web", nil)}},
		{args: "create --all --concurrency 1", want: []any{create("db", nil), create("web", nil), create("web-2", nil)}},
		{args: "create -l tier=db", want: []any{create("db", nil)}},
		{
			args: "create web --name monday --type snapshot --quiesce require --freeze-timeout 5s --target nas", target: "nas",
			want: []any{create("web", func(r *vmbackup.BackupRequest) {
				r.Name, r.Type, r.Quiesce, r.FreezeTimeout, r.Target = "monday", vmbackup.TypeSnapshot, vmbackup.QuiesceRequire, 5*time.Second, "nas"
			})},
		},
		{args: "restore web-1", want: []any{restore}, target: "default"},
		{args: "restore backup/web-1", want: []any{restore}, target: "default"},
		{
			args: "restore prod/web-1 --to-namespace test --to-name copy --name try --from target --target nas", target: "nas",
			want: []any{vmbackup.RestoreRequest{
				Name: "try", Backup: vmbackup.Ref{Namespace: "prod", Name: "web-1"}, From: vmbackup.SourceTarget,
				ToNamespace: "test", ToName: "copy", Target: "nas", MAC: vmbackup.MACAuto, Start: vmbackup.StartAuto,
			}},
		},
		{
			args: "restore web-1 --create-namespace --to-namespace lab --mac new --start no --new-identity --allow-incomplete" +
				" --map-storage-class fast=slow,gold=lead --map-network net=pod --map-network prod/a=lab/b --patch " + patch, target: "default",
			want: []any{vmbackup.RestoreRequest{
				Backup: vmbackup.Ref{Namespace: "shop", Name: "web-1"}, From: vmbackup.SourceAll, Target: "default",
				ToNamespace: "lab", CreateNamespace: true, MAC: vmbackup.MACNew, Start: vmbackup.StartNo, NewIdentity: true, AllowIncomplete: true,
				StorageClasses: map[string]string{"fast": "slow", "gold": "lead"}, Networks: map[string]string{"net": "pod", "prod/a": "lab/b"},
				Patch: json.RawMessage(`[{"op":"remove","path":"/spec/template/spec/hostname"}]`),
			}},
		},
		{args: "delete web-1 --yes", want: []any{remove}, target: "default"},
		{args: "delete web-1 shop/web-1 backup/web-1 -y", want: []any{remove}, target: "default"},
		{
			args: "delete prod/web-2 --keep-data --from cluster --target nas -y", target: "nas",
			want: []any{vmbackup.DeleteRequest{
				Backup: vmbackup.Ref{Namespace: "prod", Name: "web-2"}, From: vmbackup.SourceCluster, KeepData: true, Target: "nas",
			}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r := newRig(t)
			got := r.run(strings.Fields(tt.args)...)
			if got.code != exitDone {
				t.Fatalf("exit code %d: %s", got.code, got.err)
			}
			if !reflect.DeepEqual(r.engine.requests, tt.want) {
				t.Errorf("requests %+v\nwant %+v", r.engine.requests, tt.want)
			}
			if !slices.Equal(r.connected, []string{tt.target}) {
				t.Errorf("connected with targets %q, want %q", r.connected, tt.target)
			}
		})
	}
}

func TestWaitReachesTheEngine(t *testing.T) {
	for _, args := range []string{"create web", "restore web-1", "resume web-1", "resume restore/web-9"} {
		for flag, noWait := range map[string]bool{"": false, " --wait": false, " --wait=false": true} {
			r := newRig(t)
			if got := r.run(strings.Fields(args + flag)...); got.code != exitDone {
				t.Errorf("%s: exit code %d: %s", args+flag, got.code, got.err)
			}
			if r.engine.noWait != noWait {
				t.Errorf("%s: the engine is told not to wait: %t", args+flag, r.engine.noWait)
			}
		}
	}
}

func TestOperationsAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"resume web-1":         "run backup shop/web-1",
		"resume backup/web-1":  "run backup shop/web-1",
		"resume prod/web-1":    "run backup prod/web-1",
		"resume restore/web-9": "run restore shop/web-9",
	} {
		r := newRig(t)
		r.run(strings.Fields(args)...)
		if !slices.Equal(r.engine.calls, []string{want}) {
			t.Errorf("%s: calls %q, want %q", args, r.engine.calls, want)
		}
	}
}

// TestUsageErrors shows that wrong usage is told before a cluster is asked.
func TestUsageErrors(t *testing.T) {
	tests := map[string]string{
		"bogus":                                   `unknown command "bogus" for "kubectl vmbackup"`,
		"lsit":                                    "hint: did you mean list?",
		"--nope":                                  "unknown flag: --nope",
		"create":                                  "name the virtual machines to back up, or choose them with -l or --all",
		"create web --all":                        "names, -l and --all exclude each other",
		"create -l a=b --all":                     "names, -l and --all exclude each other",
		"create -l a=(":                           "-l a=(:",
		"create web db --name x":                  "--name is for the backup of a single machine",
		"create --all --name x":                   "--name is for the backup of a single machine",
		"create web --type tape":                  `type "tape" is neither backup nor snapshot`,
		"create -l a=b --type tape":               `type "tape" is neither backup nor snapshot`,
		"create web --quiesce maybe":              `quiesce policy "maybe" is none of auto, require, skip`,
		"create web --freeze-timeout 0":           "--freeze-timeout 0 would not freeze: use --quiesce skip",
		"create web --freeze-timeout 1h":          "freeze time-out 1h0m0s is not between 1s and 10m0s",
		"create Web":                              `virtual machine name "Web" must be lower case`,
		"create web --name _":                     `backup name "_" must be lower case`,
		"create web --target _":                   `target "_" must be lower case`,
		"create web --concurrency 0":              "--concurrency 0 is less than 1",
		"create web --timeout -1s":                "--timeout -1s is negative",
		"create web --dry-run=perhaps":            `--dry-run "perhaps" is none of none, client, server`,
		"create web -o xml":                       `output format "xml" is none of custom-columns,`,
		"create web -o jsonpath={":                "unclosed action",
		"create web -o go-template={{":            "unclosed action",
		"create web -o custom-columns":            "custom-columns",
		"create web --progress loud":              `--progress "loud" is none of auto, tty, plain, json, none`,
		"create web --color pink":                 `--color "pink" is none of auto, always, never`,
		"create web --engine steam":               `--engine "steam" is none of auto, harvester, direct`,
		"restore":                                 "the name of the backup to restore is missing",
		"restore a b":                             "accepts 1 arg(s), received 2",
		"restore a/b/c":                           `"a/b/c" is neither NAME nor NAMESPACE/NAME`,
		"restore a --from moon":                   `--from "moon" is none of cluster, target, all`,
		"restore a --to-name A":                   `target name "A" must be lower case`,
		"restore a --to-namespace A":              `target namespace "A" must be lower case`,
		"restore a --target A":                    `target "A" must be lower case`,
		"restore a --to-context b --in-place":     "--in-place restores the machine where it is",
		"restore a --to-context b --from cluster": "--from cluster does not go with another cluster",
		"restore a --dry-run=x":                   `--dry-run "x"`,
		"restore a --mac random":                  `--mac "random" is none of auto, keep, new`,
		"restore a --start maybe":                 `--start "maybe" is none of auto, yes, no`,
		"restore a --map-storage-class b":         "must be formatted as key=value",
		"restore a --map-storage-class b=":        "StorageClass mapped to is missing",
		"restore a --map-network b=c/d/e":         `network "c/d/e" in a mapping is neither NAME nor NAMESPACE/NAME`,
		"restore a --patch /none/such":            "--patch /none/such: open /none/such: no such file or directory",
		"restore a --patch -":                     "--patch -: it is empty",
		"restore a -o xml":                        `output format "xml"`,
		"restore a --timeout -1s":                 "--timeout -1s is negative",
		"resume":                                  "the name of what to go on with is missing",
		"resume a/b/c":                            `"a/b/c" is neither NAME nor NAMESPACE/NAME`,
		"resume a -o xml":                         `output format "xml"`,
		"resume a --timeout -1s":                  "--timeout -1s is negative",
		"watch":                                   "the name of what to watch is missing",
		"watch restore/":                          `"" is neither NAME nor NAMESPACE/NAME`,
		"watch a -o xml":                          `output format "xml"`,
		"describe":                                "the name of what to describe is missing",
		"describe a --from moon":                  `--from "moon"`,
		"describe a -o wide":                      `output format "wide" is none of`,
		"list shoes":                              `"shoes" is none of backups, restores, images, schedules`,
		"list backups x":                          "accepts at most 1 arg(s), received 2",
		"list --sort-by color":                    `--sort-by "color" is none of name, age, vm, phase, size`,
		"list --limit -1":                         "limit -1 is negative",
		"list --from moon":                        `--from "moon"`,
		"list -w --from all":                      "a backup target cannot be watched: leave --from out",
		"list -l a=(":                             "-l a=(:",
		"list -o xml":                             `output format "xml"`,
		"delete":                                  "the name of the backup to delete is missing",
		"delete a --from moon":                    `--from "moon"`,
		"delete a _":                              `backup name "_" must be lower case`,
		"delete a --dry-run=x":                    `--dry-run "x"`,
		"version -o wide":                         `output format "wide" is neither json nor yaml`,
		"version x":                               "unknown command",
		"options x":                               "unknown command",
		"completion":                              "the shell (bash, zsh, fish or powershell) is missing",
		"completion tcsh":                         `invalid argument "tcsh"`,
	}
	for args, want := range tests {
		t.Run(args, func(t *testing.T) {
			r := newRig(t)
			got := r.run(strings.Fields(args)...)
			got.contains(t, exitUsage, want, "hint: ")
			if got.out != "" {
				t.Errorf("output %q, want none", got.out)
			}
			if n := strings.Count(got.err, "error: "); n != 1 {
				t.Errorf("%d errors are told, want 1", n)
			}
			if len(r.connected)+len(r.engine.calls) > 0 {
				t.Errorf("a cluster was asked: %q %q", r.connected, r.engine.calls)
			}
		})
	}
}

func TestNoMachines(t *testing.T) {
	r := newRig(t)
	r.run("create", "-l", "tier=none").want(t, exitRefused, "", "error: there is no VirtualMachine in namespace shop with the labels tier=none\n")
	r.down = vmbackup.Errorf(vmbackup.ReasonForbidden, "cannot list VirtualMachines").WithHint("ask for the right")
	r.run("create", "--all").want(t, exitFailed, "", "error: cannot list VirtualMachines\nhint: ask for the right\n")
}

func TestUnusableKubeconfig(t *testing.T) {
	// Not the rig's connect, but the real one: it needs no cluster to fail.
	r := newRig(t)
	out, errOut := &buffer{}, &buffer{}
	g := r.globals(out, errOut)
	g.connect = g.newSession
	code := g.execute(t.Context(), []string{"list", "--kubeconfig", t.TempDir() + "/none"})
	if code != exitUsage || !strings.Contains(errOut.String(), "hint: check the kubeconfig with: kubectl config get-contexts") {
		t.Errorf("exit code %d: %s", code, errOut.String())
	}
}

// TestPatch shows that a patch is read from the standard input, too, and that one
// that is none is refused before a cluster is asked.
func TestPatch(t *testing.T) {
	for answer, want := range map[string]string{
		`[{"op": "add", "path": "/spec/a", "value": 1}]`: "",
		`{"op": "add"}`:                "the patch is not a JSON patch (a list of operations, RFC 6902)",
		`[{"op": "put", "path": "/"}]`: `operation 1 of the patch: "put" is none of add,`,
		`[{"op": "add", "path": "a"}]`: `operation 1 of the patch: path "a" does not begin with /`,
		"[":                            "--patch - is neither JSON nor YAML",
	} {
		r := newRig(t)
		r.answer = strings.NewReader(answer)
		got := r.run("restore", "web-1", "--patch", "-")
		if want == "" {
			if got.code != exitDone || string(r.engine.requests[0].(vmbackup.RestoreRequest).Patch) != `[{"op":"add","path":"/spec/a","value":1}]` {
				t.Errorf("%s: exit code %d: %s; requests %+v", answer, got.code, got.err, r.engine.requests)
			}
			continue
		}
		got.contains(t, exitUsage, want)
		if len(r.connected) > 0 {
			t.Errorf("%s: a cluster was asked", answer)
		}
	}
}

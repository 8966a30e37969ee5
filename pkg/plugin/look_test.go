// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// TestCompletion asks as kubectl_complete-vmbackup does.
func TestCompletion(t *testing.T) {
	r := newRig(t)
	running := backup("shop/db-1", "db", 2)
	running.Status.Phase = vmbackup.PhaseRunning
	r.put(backup("shop/web-1", "web", 1), running, backup("test/web-2", "web", 3), restore("shop/web-9", "web", vmbackup.PhaseReady))
	tests := map[string][]string{
		"create |":                  {"web", "db", "web-2"},
		"create w|":                 {"web", "web-2"},
		"create web |":              {"db", "web-2"},
		"restore |":                 {"web-1\tweb, Ready", "db-1\tdb, Running"},
		"restore web-1 |":           nil,
		"delete web-1 |":            {"db-1\tdb, Running"},
		"describe w|":               {"web-1\tweb, Ready"},
		"watch restore/|":           {"restore/web-9\tweb, Ready"},
		"resume |":                  {"web-1\tweb, Ready", "db-1\tdb, Running", "restore/web-9\tweb, Ready"},
		"resume web-1 |":            nil,
		"list |":                    {"backups", "restores", "images", "schedules"},
		"list --vm d|":              {"db"},
		"list -n t|":                {"test"},
		"list --from |":             {"cluster", "target", "all"},
		"list --sort-by |":          {"name", "age", "vm", "phase", "size"},
		"restore --to-namespace s|": {"shop"},
		"create --type |":           {"backup", "snapshot"},
		"create --quiesce |":        {"auto", "require", "skip"},
		"create --dry-run=|":        {"none", "client", "server"},
		"create --progress |":       {"auto", "tty", "plain", "json", "none"},
		"create --color |":          {"auto", "always", "never"},
		"create --engine |":         {"auto", "harvester", "direct"},
		"completion z|":             {"zsh"},
		"version -o |":              {"json", "yaml"},
	}
	for line, want := range tests {
		t.Run(line, func(t *testing.T) {
			args := strings.Split(strings.TrimSuffix(line, "|"), " ")
			got := r.run(append([]string{"__complete"}, args...)...)
			var lines []string
			for l := range strings.Lines(got.out) {
				if l = strings.TrimSuffix(l, "\n"); !strings.HasPrefix(l, ":") {
					lines = append(lines, l)
				}
			}
			if strings.Join(lines, "\n") != strings.Join(want, "\n") || got.code != exitDone {
				t.Errorf("%q, want %q; exit code %d %s", lines, want, got.code, got.err)
			}
			if !strings.Contains(got.out, ":4\n") { // no file names
				t.Errorf("directive: %s", got.out)
			}
		})
	}
}

func TestCompletionWithoutACluster(t *testing.T) {
	for _, line := range []string{"create", "restore", "resume", "watch"} {
		r := newRig(t)
		r.unreachable = errors.New("no cluster")
		if got := r.run("__complete", line, ""); got.code != exitDone || got.out != ":4\n" {
			t.Errorf("%s: %+v", line, got)
		}
		r.unreachable, r.down = nil, errors.New("no answer")
		if got := r.run("__complete", line, ""); got.code != exitDone || got.out != ":4\n" {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "__start_kubectl-vmbackup", "zsh": "#compdef kubectl-vmbackup", "fish": "complete -c kubectl-vmbackup", "powershell": "Register-ArgumentCompleter",
	} {
		newRig(t).run("completion", shell).contains(t, exitDone, want)
	}
}

func TestVersion(t *testing.T) {
	r := newRig(t)
	r.unreachable = failure(vmbackup.ReasonEngineUnavailable, "no cluster")
	got := r.run("version", "--client")
	if got.code != exitDone || !strings.HasPrefix(got.out, "Client Version: v1.2.3 (abc, go") || got.err != "" || len(r.connected) > 0 {
		t.Errorf("%+v, connected %q", got, r.connected)
	}
	// The client's version is told even when the server's cannot be.
	r.run("version").contains(t, exitFailed, "Client Version: v1.2.3", "error: no cluster\n")
	r.unreachable = nil
	r.run("version").contains(t, exitDone, "Server Version: v1.36.1\nKubeVirt Version: unknown\nLonghorn Version: v1.12.0\n")
	r.run("version", "-o", "json").contains(t, exitDone, `"serverVersion": {
    "kubernetes": "v1.36.1",
    "longhorn": "v1.12.0"
  }`)
	r.run("version", "-o", "yaml").contains(t, exitDone, "serverVersion:\n  kubernetes: v1.36.1\n  longhorn: v1.12.0\n")
	r.down = failure(vmbackup.ReasonForbidden, "may not")
	r.run("version", "-o", "yaml").contains(t, exitFailed, "version: v1.2.3\n", "error: may not\n")
}

// TestDescribe shows the events of what is not well, and of nothing else.
func TestDescribe(t *testing.T) {
	r := newRig(t)
	failed := backup("shop/web-1", "web", 1)
	failed.Status.Phase, failed.Status.Ready = vmbackup.PhaseRunning, false
	failed.Status.Volumes[0].State, failed.Status.Volumes[0].Progress = vmbackup.StateRunning, 0
	r.put(failed, restore("shop/web-9", "web", vmbackup.PhaseRunning))
	event := func(kind, name, reason string, minute int) corev1.Event {
		return corev1.Event{
			InvolvedObject: corev1.ObjectReference{Kind: kind, Name: name}, Type: corev1.EventTypeWarning, Reason: reason, Message: reason + " happened",
			LastTimestamp: metav1.NewTime(noon().Add(time.Duration(minute) * time.Minute)),
		}
	}
	r.happened = map[string][]corev1.Event{
		"shop":                 {event("Pod", "virt-launcher-web-abcde", "Later", 2), event("Pod", "virt-launcher-webshop-abcde", "Other", 1), event("VirtualMachine", "web", "Sooner", 1)},
		kube.LonghornNamespace: {event("Volume", "pvc-web", "Degraded", 3), event("Volume", "pvc-other", "Other", 1)},
	}
	got := r.run("describe", "web-1", "--from", "cluster")
	got.contains(t, exitDone, "Sooner happened", "Later happened", "Degraded happened", "42%")
	if strings.Contains(got.out, "Other") || strings.Index(got.out, "Sooner") > strings.Index(got.out, "Later") {
		t.Errorf("output:\n%s", got.out)
	}
	if got := r.run("describe", "web-1", "--from", "cluster", "--show-events=false"); strings.Contains(got.out, "happened") {
		t.Errorf("output:\n%s", got.out)
	}
	r.run("describe", "restore/web-9").contains(t, exitDone, "Sooner happened", "web-9")
	r.run("describe", "restore/web-9", "-o", "name").want(t, exitDone, "restore.vmbackup.io/web-9\n", "")
	r.run("describe", "none").want(t, exitFailed, "",
		"error: no backup shop/none in the cluster or on the backup target\nhint: see what is there with: kubectl vmbackup list -A --from all\n")
	r.down = errors.New("may not list events")
	r.run("describe", "web-1", "--from", "cluster").contains(t, exitDone, "web-1")
	r.engine.errs["observe shop/web-1"] = failure(vmbackup.ReasonForbidden, "may not")
	r.run("describe", "web-1", "--from", "cluster").contains(t, exitDone, "the progress is not known: may not")
}

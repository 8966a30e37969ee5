// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestOutputFormats(t *testing.T) {
	r := newRig(t)
	r.put(backup("shop/web-1", "web", 1), backup("shop/db-1", "db", 2))
	tests := map[string]string{
		"name":                               "backup.vmbackup.io/web-1\nbackup.vmbackup.io/db-1\n",
		"jsonpath={.items[*].metadata.name}": "web-1 db-1",
		"jsonpath={.items[0].status.volumes[0].sizeBytes}": "1073741824",
		"go-template={{range .items}}{{.spec.vm}};{{end}}": "web;db;",
		"custom-columns=VM:.spec.vm,PHASE:.status.phase":   "VM    PHASE\nweb   Ready\ndb    Ready\n",
	}
	for format, want := range tests {
		r.run("list", "-o", format).want(t, exitDone, want, "")
	}
	for args, want := range map[string]string{
		"describe web-1 --from=cluster -o jsonpath={.status.ready}":            "true",
		"describe web-1 -o name":                                               "backup.vmbackup.io/web-1\n",
		"create web -o jsonpath={.kind} --progress=none":                       "Backup",
		"create web db -o jsonpath={.kind} --progress=none":                    "List",
		"restore web-1 -o jsonpath={.kind} --progress=none":                    "Restore",
		"restore web-1 -o name --progress=none":                                "restore.vmbackup.io/web-9\n",
		"restore web-1 -o custom-columns=BACKUP:.spec.backup --dry-run=client": "BACKUP\nshop/web-1\n",
		"create web -o jsonpath={.status.phase} --dry-run=server":              "Planned",
	} {
		r.run(strings.Fields(args)...).want(t, exitDone, want, "")
	}
}

func TestObjectsSurviveTheFormats(t *testing.T) {
	r := newRig(t)
	want := backup("shop/web-1", "web", 1)
	r.put(want)
	want.Status.FoundOn = "cluster"
	for _, format := range []string{"json", "yaml"} {
		got := r.run("describe", "web-1", "--from", "cluster", "-o", format)
		b := &vmbackup.Backup{}
		if err := yaml.Unmarshal([]byte(got.out), b); err != nil { // JSON is YAML
			t.Fatal(err)
		}
		if !reflect.DeepEqual(b, want) || got.code != exitDone {
			t.Errorf("%s:\n%s\nwant %+v", format, got.out, want)
		}
	}
	list := struct {
		APIVersion, Kind string
		Items            []vmbackup.Backup
	}{}
	if err := json.Unmarshal([]byte(r.run("list", "-o", "json").out), &list); err != nil {
		t.Fatal(err)
	}
	if list.Kind != "List" || list.APIVersion != "vmbackup.io/v1alpha1" || len(list.Items) != 1 || !reflect.DeepEqual(list.Items[0], *want) {
		t.Errorf("%+v", list)
	}
}

func TestEmptyListIsAnObject(t *testing.T) {
	for _, args := range []string{"list -o json", "list restores -o json"} {
		got := newRig(t).run(strings.Fields(args)...)
		list := map[string]any{}
		if err := json.Unmarshal([]byte(got.out), &list); err != nil {
			t.Fatalf("%s: %v: %s", args, err, got.out)
		}
		if items, ok := list["items"].([]any); !ok || len(items) != 0 || got.err != "" || got.code != exitDone {
			t.Errorf("%s: %+v", args, got)
		}
	}
	newRig(t).run("list").want(t, exitDone, "", "No backups found in shop namespace.\n")
	newRig(t).run("list", "restores", "-A").want(t, exitDone, "", "No restores found.\n")
}

// TestJSONProgress shows that the error stream is one event a line, and the output
// the object alone.
func TestJSONProgress(t *testing.T) {
	for args, op := range map[string]string{
		"create web": "backup/shop/web-20260301-120000", "restore web-1": "restore/shop/web-9", "resume web-1": "backup/shop/web-1",
	} {
		got := newRig(t).run(append(strings.Fields(args), "--progress", "json", "-o", "json")...)
		object := map[string]any{}
		if err := json.Unmarshal([]byte(got.out), &object); err != nil || got.code != exitDone {
			t.Fatalf("%s: exit code %d, %v: %s", args, got.code, err, got.out)
		}
		var types []vmbackup.EventType
		for line := range strings.Lines(got.err) {
			e := vmbackup.Event{}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v: %q", args, err, line)
			}
			if e.Operation != op || e.Seq != int64(len(types)+1) {
				t.Errorf("%s: event %+v", args, e)
			}
			types = append(types, e.Type)
		}
		if !slices.Equal(types, []vmbackup.EventType{vmbackup.EventPlan, vmbackup.EventResult}) {
			t.Errorf("%s: events %q", args, types)
		}
	}
}

func TestFailedObjectIsStillPrinted(t *testing.T) {
	r := newRig(t)
	r.engine.errs["run backup shop/web-20260301-120000"] = failure(vmbackup.ReasonBackupFailed, "broken")
	r.run("create", "web", "-o", "jsonpath={.status.phase}", "--progress=none").want(t, exitFailed, "Failed", "error: broken\n")
}

func TestDryRunChangesNothing(t *testing.T) {
	for _, args := range []string{"create web db", "restore web-1", "delete web-1 web-2"} {
		for _, flag := range []string{"--dry-run", "--dry-run=client", "--dry-run=server"} {
			r := newRig(t)
			got := r.run(append(strings.Fields(args), flag)...)
			got.contains(t, exitDone, "(dry run: nothing was changed)")
			if changes := r.engine.changes(); len(changes) > 0 {
				t.Errorf("%s %s: %q", args, flag, changes)
			}
		}
	}
	r := newRig(t)
	r.engine.errs["plan backup shop/db"] = failure(vmbackup.ReasonNotFound, "gone").AsPreflight()
	r.run("create", "web", "db", "--dry-run").contains(t, exitPartly, "Backup web-20260301-120000 of VirtualMachine shop/web", "error: db: gone\n")
}

func TestPlansAreShown(t *testing.T) {
	r := newRig(t)
	var all strings.Builder
	for _, args := range []string{"create web db --dry-run", "restore web-1 --dry-run", "delete web-1 web-2 --dry-run"} {
		got := r.run(strings.Fields(args)...)
		all.WriteString("$ kubectl vmbackup " + args + "\n" + got.out + got.err + "\n")
	}
	golden(t, "plans.txt", all.String())
}

func TestColor(t *testing.T) {
	const sgr = "\x1b["
	tests := []struct {
		name string
		tty  bool
		env  string
		args string
		want bool
	}{
		{"terminal", true, "", "", true},
		{"NO_COLOR", true, "NO_COLOR", "", false},
		{"NO_COLOR, but asked for", true, "NO_COLOR", "--color=always", true},
		{"not wanted", true, "", "--color=never", false},
		{"pipe", false, "", "", false},
		{"pipe, but asked for", false, "", "--color=always", true},
	}
	for _, tt := range tests {
		r := newRig(t)
		r.tty = tt.tty
		r.env[tt.env] = "1"
		r.put(backup("shop/web-1", "web", 1))
		got := r.run(append([]string{"describe", "web-1"}, strings.Fields(tt.args)...)...)
		if tt.tty || !tt.want {
			if strings.Contains(got.out, sgr) != tt.want {
				t.Errorf("%s: output %q", tt.name, got.out)
			}
		}
		if got := r.run(append([]string{"describe", "none", "--from=cluster"}, strings.Fields(tt.args)...)...); strings.Contains(got.err, sgr) != tt.want || got.code != exitFailed {
			t.Errorf("%s: exit code %d, error %q", tt.name, got.code, got.err)
		}
	}
}

func TestWideTables(t *testing.T) {
	r := newRig(t)
	r.put(backup("shop/web-1", "web", 1))
	narrow, wide := r.run("list"), r.run("list", "-o", "wide")
	if strings.Contains(narrow.out, "TARGET") || !strings.Contains(wide.out, "TARGET") {
		t.Errorf("%s%s", narrow.out, wide.out)
	}
}

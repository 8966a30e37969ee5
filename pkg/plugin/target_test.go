// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// fakeTargets are targets that are as they are put here.
type fakeTargets struct {
	vmbackup.Targets // what is not overridden is not called

	all      []vmbackup.Target
	err      error
	contents vmbackup.TargetContentsStatus
	check    vmbackup.TargetCheckStatus
	sync     vmbackup.TargetSyncStatus
	planned  vmbackup.TargetPlan
	asked    vmbackup.TargetRequest
	sets     int
}

func (f *fakeTargets) PlanSet(_ context.Context, req vmbackup.TargetRequest) (*vmbackup.TargetPlan, error) {
	plan := f.planned
	plan.Request, f.asked = req, req
	return &plan, f.err
}

func (f *fakeTargets) Set(ctx context.Context, plan *vmbackup.TargetPlan) (*vmbackup.Target, error) {
	if _, limited := ctx.Deadline(); !limited {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "nothing ends this wait")
	}
	f.sets++
	t := sampleTarget(plan.Request.Name)
	return &t, f.err
}

func (f *fakeTargets) Sync(ctx context.Context, name string) (*vmbackup.TargetSync, error) {
	if _, limited := ctx.Deadline(); !limited {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "nothing ends this wait")
	}
	return &vmbackup.TargetSync{
		APIVersion: vmbackup.APIVersion, Kind: vmbackup.KindTargetSync, Metadata: vmbackup.ObjectMeta{Name: name},
		Spec: vmbackup.TargetContentsSpec{URL: "s3://bucket@region/"}, Status: f.sync,
	}, f.err
}

func (f *fakeTargets) Contents(_ context.Context, name string) (*vmbackup.TargetContents, error) {
	return &vmbackup.TargetContents{
		APIVersion: vmbackup.APIVersion, Kind: vmbackup.KindTargetContents, Metadata: vmbackup.ObjectMeta{Name: name},
		Spec: vmbackup.TargetContentsSpec{URL: "s3://bucket@region/"}, Status: f.contents,
	}, f.err
}

func (f *fakeTargets) Check(_ context.Context, name string) (*vmbackup.TargetCheck, error) {
	return &vmbackup.TargetCheck{
		APIVersion: vmbackup.APIVersion, Kind: vmbackup.KindTargetCheck, Metadata: vmbackup.ObjectMeta{Name: name},
		Spec: vmbackup.TargetContentsSpec{URL: "s3://bucket@region/"}, Status: f.check,
	}, f.err
}

func (f *fakeTargets) Names(context.Context) ([]string, error) {
	var names []string
	for _, t := range f.all {
		names = append(names, t.Metadata.Name)
	}
	return names, f.err
}

func (f *fakeTargets) List(context.Context) ([]vmbackup.Target, error) { return f.all, f.err }

func (f *fakeTargets) Get(_ context.Context, name string) (*vmbackup.Target, error) {
	for i := range f.all {
		if f.all[i].Metadata.Name == name {
			return &f.all[i], f.err
		}
	}
	return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "Longhorn has no backup target %q", name).AsPreflight()
}

// sampleTarget is a target on S3 that Longhorn can use.
func sampleTarget(name string) vmbackup.Target {
	synced := noon().Add(-3 * time.Minute)
	t := vmbackup.NewTarget(name)
	t.Spec = vmbackup.TargetSpec{URL: "s3://" + name + "@eu-1/", Type: "s3", PollIntervalSeconds: 300, CredentialSecret: name + "-keys"}
	t.Status = vmbackup.TargetStatus{
		State: vmbackup.TargetAvailable, LastSyncedAt: &synced,
		Credentials: vmbackup.TargetCredentials{State: vmbackup.StateReady, Keys: []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}},
		Holds:       &vmbackup.TargetHoldings{Volumes: 2, Backups: 7, Images: 1, Bytes: 3 << 30},
	}
	return *t
}

func targetRig(t *testing.T) *rig {
	r := newRig(t)
	r.targets.all = []vmbackup.Target{sampleTarget("default"), sampleTarget("offsite")}
	return r
}

func TestTargetShow(t *testing.T) {
	r := targetRig(t)
	r.targets.all[1].Status.State, r.targets.all[1].Status.Message = vmbackup.TargetUnavailable, "no route to host"
	r.run("target", "show").want(t, exitDone, `NAME      STATUS        URL                  BACKUPS   SIZE   SYNCED
default   Available     s3://default@eu-1/   7         3Gi    3m
offsite   Unavailable   s3://offsite@eu-1/   7         3Gi    3m
`, "")
	r.run("target", "show", "offsite", "default", "-o", "name").want(t, exitDone, "target.vmbackup.io/offsite\ntarget.vmbackup.io/default\n", "")
	r.run("target", "show", "offsite").contains(t, exitDone, "Target offsite  ✗ Unavailable\n", "no route to host", "7 backups of 2 volumes, 1 backing image  3 GiB", "AWS_ACCESS_KEY_ID")
	r.run("target", "show", "offsite", "-o", "wide").contains(t, exitDone, "offsite-keys", "Ready", "no route to host")
	r.run("target", "show", "default", "-o", "jsonpath={.status.state} {.status.holds.bytes} {.kind}").want(t, exitDone, "Available 3221225472 Target", "")
	r.run("target", "show", "-o", "jsonpath={.items[*].metadata.name}").want(t, exitDone, "default offsite", "")
	r.run("target", "show", "none").want(t, exitRefused, "", "error: Longhorn has no backup target \"none\"\n")
	r.run("target", "show", "-o", "xml").contains(t, exitUsage, "xml")
	r.run("target", "shwo").contains(t, exitUsage, "did you mean show?")
	r.run("__complete", "target", "show", "default", "").contains(t, exitDone, "offsite\n")
	r.targets.all = nil
	r.run("target", "show").want(t, exitDone, "", "Longhorn has no backup targets.\n")
	r.targets.err = vmbackup.Errorf(vmbackup.ReasonForbidden, "cannot list Longhorn BackupTargets: no").WithHint("ask")
	if got := r.run("target", "show"); got.code != exitFailed || !strings.Contains(got.err, "cannot list") {
		t.Errorf("%+v", got)
	}
}

func TestTargetContents(t *testing.T) {
	r := targetRig(t)
	latest := noon().Add(-time.Hour)
	r.targets.contents = vmbackup.TargetContentsStatus{
		Machines: []vmbackup.TargetMachine{{Namespace: "shop", Name: "web", Backups: 3, Latest: &latest, Earliest: &latest, Bytes: 6 << 30}},
		Backups:  3, Volumes: 1, VolumeBackups: 3, Bytes: 6 << 30,
	}
	r.run("target", "contents").want(t, exitDone, `NAMESPACE   NAME   BACKUPS   INCOMPLETE   SIZE   LATEST   EARLIEST
shop        web    3         0            6Gi    60m      60m
`, "")
	// What is wrong is told beside the table, and by the exit code.
	r.targets.contents.Incomplete, r.targets.contents.IncompleteCount = []vmbackup.TargetGap{{Backup: vmbackup.Ref{Namespace: "shop", Name: "web-1"}, Missing: []string{"volume root"}}}, 1
	r.targets.contents.Broken, r.targets.contents.BrokenCount, r.targets.contents.BlocksHarvester = []vmbackup.TargetFile{{Path: "harvester/vmbackups/x", Reason: "cut off", BlocksHarvester: true}}, 1, true
	got := r.run("target", "contents", "offsite")
	got.contains(t, exitPartly, "warning: 1 incomplete backup: shop/web-1 lacks volume root\n", "warning: 1 file that cannot be read: harvester/vmbackups/x: cut off\n", "keep Harvester from finding anything")
	r.run("target", "contents", "-o", "jsonpath={.metadata.name} {.status.backups} {.status.broken[0].path}").contains(t, exitPartly, "default 3 harvester/vmbackups/x")
	r.tty, r.env["NO_COLOR"] = true, "1"
	r.run("target", "contents").contains(t, exitPartly, "3 backups of 1 machine, 3 Longhorn backups of 1 volume  6 GiB", "Harvester finds nothing on this target")

	// Without a cluster.
	r.unreachable = vmbackup.Errorf(vmbackup.ReasonInternal, "the cluster was asked")
	dir := t.TempDir()
	r.run("target", "contents", "--url", "file://"+dir).contains(t, exitDone, "0 backups of 0 machines")
	r.run("target", "contents", "default", "--url", "file://"+dir).contains(t, exitUsage, "two targets")
	r.run("target", "contents", "--credentials", "x").contains(t, exitUsage, "--url")
	r.run("target", "contents", "--url", "s3://bucket@region/").contains(t, exitRefused, "AWS_ACCESS_KEY_ID")
	r.run("target", "contents", "--url", "s3://bucket@region/", "--credentials", filepath.Join(dir, "none")).contains(t, exitUsage, "no such file")
	keys := filepath.Join(dir, "keys")
	if err := os.WriteFile(keys, []byte("AWS_SECRET=topsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.run("target", "contents", "--url", "s3://bucket@region/", "--credentials", keys); got.code != exitUsage || strings.Contains(got.err, "topsecret") {
		t.Errorf("%+v", got)
	}
	r.answer = strings.NewReader(`{"AWS_ACCESS_KEY_ID":"x"}`)
	r.run("target", "contents", "--url", "s3://bucket@region/", "--credentials", "-").contains(t, exitRefused, "AWS_SECRET_ACCESS_KEY")
}

func TestTargetCheck(t *testing.T) {
	r := targetRig(t)
	ok := []vmbackup.TargetStep{{ID: "list", Title: "List what lies there", State: vmbackup.StateReady, Seconds: 0.0123}}
	r.targets.check = vmbackup.TargetCheckStatus{Usable: true, Steps: ok, Longhorn: vmbackup.TargetAvailable, Empty: true}
	r.run("target", "check").want(t, exitDone, `Target default  s3://bucket@region/
├─ From here  ● can be used  not one file lies there yet
│  └─ ● List what lies there  12 ms
└─ Longhorn   ● can use it
`, "")
	r.targets.check.Longhorn, r.targets.check.LonghornMessage, r.targets.check.Warnings = vmbackup.TargetUnavailable, "no route", []string{"they differ"}
	r.run("target", "check", "offsite").contains(t, exitPartly, "Target offsite", "cannot use it: no route", "warning: they differ\n")
	r.targets.check.Usable, r.targets.check.Error = false, vmbackup.Errorf(vmbackup.ReasonForbidden, "listing: AccessDenied").WithHint("rights")
	r.run("target", "check", "-o", "jsonpath={.status.usable} {.status.error.reason}").contains(t, exitFailed, "false Forbidden", "error: listing: AccessDenied\nhint: rights\n")

	r.unreachable = vmbackup.Errorf(vmbackup.ReasonInternal, "the cluster was asked")
	dir := t.TempDir()
	got := r.run("target", "check", "--url", "file://"+dir)
	got.contains(t, exitDone, "Delete it")
	if strings.Contains(got.out, "Longhorn") {
		t.Errorf("%+v", got)
	}
	r.run("target", "check", "--url", "file://"+dir+"/none").contains(t, exitFailed, "From here  ✗ cannot be used", "– Write a file", "no such file")
	r.run("target", "check", "--url", "nfs://10.0.0.5:/export").contains(t, exitRefused, "file:///<mount point>")
	r.run("target", "check", "a", "b").contains(t, exitUsage, "at most 1 arg")
}

func TestTargetSync(t *testing.T) {
	r := targetRig(t)
	at := noon()
	r.targets.sync = vmbackup.TargetSyncStatus{
		LonghornSyncedAt: &at, HarvesterRefreshedAt: &at, Holds: vmbackup.TargetHoldings{Backups: 2, Volumes: 1, Bytes: 1 << 20},
		Appeared: []vmbackup.TargetObject{{Kind: "Backup", Name: "backup-1"}, {Kind: "VirtualMachineBackup", Namespace: "shop", Name: "web-1"}},
	}
	r.run("target", "sync").want(t, exitDone, `Target default  s3://bucket@region/
├─ Longhorn        ● looked at 2026-03-01 12:00:00 UTC
├─ Harvester       ● looked at 2026-03-01 12:00:00 UTC
├─ Longhorn lists  2 backups of 1 volume, 0 backing images  1 MiB
├─ Appeared        2
│  ├─ Backup backup-1
│  └─ VirtualMachineBackup shop/web-1
└─ Disappeared     nothing
`, "")
	r.run("target", "sync", "offsite", "-o", "jsonpath={.metadata.name} {.status.appeared[*].name}").want(t, exitDone, "offsite backup-1 web-1", "")
	r.targets.sync.Warnings = []string{"Harvester was not asked"}
	r.run("target", "sync").contains(t, exitPartly, "warning: Harvester was not asked\n", "Appeared")
	r.targets.err = vmbackup.Errorf(vmbackup.ReasonTimeout, "timed out waiting for Longhorn")
	r.run("target", "sync").want(t, exitTimeout, "", "error: timed out waiting for Longhorn\n")
	r.run("target", "sync", "--timeout", "0s").contains(t, exitUsage, "--timeout")
}

func TestTargetSet(t *testing.T) {
	r := targetRig(t)
	r.targets.planned = vmbackup.TargetPlan{
		Before:  &r.targets.all[0],
		Objects: []vmbackup.PlannedObject{{Action: vmbackup.ActionUpdate, Kind: "BackupTarget", Namespace: "longhorn-system", Name: "default", Note: "URL s3://next@eu-1/ instead of s3://default@eu-1/"}},
	}
	got := r.run("target", "set", "s3://next@eu-1/", "--poll-interval", "0s", "--credential-secret", "keys")
	got.contains(t, exitDone, "target.vmbackup.io/default configured\n", "URL s3://next@eu-1/ instead of")
	if a := r.targets.asked; a.Name != "default" || a.URL != "s3://next@eu-1/" || a.CredentialSecret != "keys" || a.PollInterval == nil || *a.PollInterval != 0 || a.SkipCheck {
		t.Errorf("%+v", a)
	}
	r.targets.planned.Before = nil
	r.run("target", "set", "offsite", "nfs://10.0.0.5:/x", "--skip-check").contains(t, exitDone, "target.vmbackup.io/offsite created\n")
	if a := r.targets.asked; a.Name != "offsite" || a.PollInterval != nil || !a.SkipCheck || a.Credentials != nil {
		t.Errorf("%+v", a)
	}
	r.run("target", "set", "s3://next@eu-1/", "-o", "jsonpath={.kind} {.status.state}").contains(t, exitDone, "Target Available")
	r.targets.planned.Unchanged = true
	r.run("target", "set", "s3://next@eu-1/").contains(t, exitDone, "target.vmbackup.io/default unchanged\n")
	r.targets.planned.Unchanged = false

	// What hides backups is asked about.
	r.targets.planned.Before = &r.targets.all[0]
	sets := r.targets.sets
	r.targets.planned.Hides = &vmbackup.TargetHoldings{Backups: 7}
	r.run("target", "set", "s3://next@eu-1/", "--dry-run=client").contains(t, exitDone, "dry run: nothing was changed", "BackupTarget")
	r.run("target", "set", "s3://next@eu-1/").contains(t, exitUsage, "hides 7 backups", "--yes")
	r.tty, r.answer = true, strings.NewReader("n\n")
	r.run("target", "set", "s3://next@eu-1/").contains(t, exitRefused, "so that 7 backups are listed no more? [y/N]", "not confirmed; nothing was changed")
	if r.targets.sets != sets {
		t.Error("it was set without a yes")
	}
	r.answer = strings.NewReader("y\n")
	r.run("target", "set", "s3://next@eu-1/").contains(t, exitDone, "configured")
	r.tty = false
	r.run("target", "set", "s3://next@eu-1/", "--yes").contains(t, exitDone, "configured")
}

func TestTargetSetRefuses(t *testing.T) {
	r := targetRig(t)
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("AWS_ACCESS_KEY_ID=an-id\nAWS_SECRET_ACCESS_KEY=topsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "the URL of the target is missing"},
		{[]string{""}, "a target is not emptied here"},
		{[]string{"ftp://x/"}, "scheme"},
		{[]string{"default"}, "scheme"},
		{[]string{"a", "b", "s3://bucket@r/"}, "at most 2"},
		{[]string{"s3://bucket@r/", "--credentials", file, "--credentials-env"}, "exclude each other"},
		{[]string{"s3://bucket@r/", "--credential-secret", "x", "--credentials", file}, "exclude each other"},
		{[]string{"s3://bucket@r/", "--timeout", "0s"}, "--timeout"},
		{[]string{"s3://bucket@r/", "--poll-interval", "1500ms"}, "poll interval"},
		{[]string{"cifs://s/x", "--credentials-env"}, "CIFS_USERNAME"},
		{[]string{"s3://bucket@r/", "--dry-run=maybe"}, "--dry-run"},
	} {
		if got := r.run(append([]string{"target", "set"}, test.args...)...); got.code != exitUsage || !strings.Contains(got.err, test.says) {
			t.Errorf("%q: %+v", test.args, got)
		}
	}
	if r.targets.asked.URL != "" {
		t.Errorf("planned %+v", r.targets.asked)
	}
	r.run("target", "set", "s3://bucket@r/", "--credentials", file)
	if a := r.targets.asked; string(a.Credentials["AWS_SECRET_ACCESS_KEY"]) != "topsecret" || len(a.Credentials) != 2 {
		t.Errorf("%+v", a)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", " of-the-environment ")
	t.Setenv("CIFS_USERNAME", "of another type")
	r.run("target", "set", "s3://bucket@r/", "--credentials-env")
	if a := r.targets.asked; string(a.Credentials["AWS_ACCESS_KEY_ID"]) != "of-the-environment" || a.Credentials["CIFS_USERNAME"] != nil {
		t.Errorf("%+v", a)
	}
	r.targets.err = vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "away")
	r.run("target", "set", "s3://bucket@r/").contains(t, exitFailed, "error: away\n")
}

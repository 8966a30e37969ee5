// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// fakeTargets are targets that are as they are put here.
type fakeTargets struct {
	vmbackup.Targets // what is not overridden is not called

	all []vmbackup.Target
	err error
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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e runs the plugin, as users have it, against a sandbox: a real API
// server, Longhorn, KubeVirt and an S3 server. Guests are stand-ins that keep a
// record of every freeze; disks are compared below Longhorn, where the plugin
// has no part.
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Environment of the tests.
const (
	// envInstance names a running sandbox to use and to leave running. Without it
	// the tests start one of their own and end it.
	envInstance = "VMBACKUP_E2E_INSTANCE"
	// envAlone is envInstance for the tests that stop or break what an instance has.
	envAlone = "VMBACKUP_E2E_ALONE_INSTANCE"
	// envPlugin and envSandbox are the programs, bin/kubectl-vmbackup and bin/sandbox otherwise.
	envPlugin  = "VMBACKUP_E2E_PLUGIN"
	envSandbox = "VMBACKUP_E2E_SANDBOX"
)

// suite is what all tests share: one sandbox, the programs, and the disks as
// they were seeded.
type suite struct {
	repository string
	plugin     string
	sandbox    string
	instance   string
	kubeconfig string
	*cluster
	// seeded are the checksums of the demonstration's disks by namespace/claim.
	seeded map[string]string
}

// TestE2E runs on one sandbox what touches objects of its own.
func TestE2E(t *testing.T) {
	t.Parallel() // beside what has sandboxes of its own
	s := newSuite(t, "e2e", envInstance)
	t.Run("together", func(t *testing.T) {
		// The longest first, so that none of them runs alone at the end.
		for _, test := range []struct {
			name string
			run  func(*testing.T)
		}{
			{"KillWalkBefore", s.killWalk(false, "root", "data")},
			{"KillWalkAfter", s.killWalk(true, "root")},
			{"Examples", s.testExamples},
			{"Images", s.testImages},
			{"Uploads", s.testUploads},
			{"Delete", s.testDelete},
			{"Whole", s.testWhole},
			{"MainJob", s.testMainJob},
			{"BesideTheSource", s.testBesideTheSource},
			{"InPlaceOfDeleted", s.testInPlaceOfDeleted},
			{"FromTheTarget", s.testFromTheTarget},
			{"SnapshotType", s.testSnapshotType},
			{"FreezeFaults", s.testFreezeFaults},
			{"KilledAndResumed", s.testKilledAndResumed},
			{"Interrupted", s.testInterrupted},
			{"WithoutWaiting", s.testWithoutWaiting},
			{"InPlace", s.testInPlace},
			{"Cancel", s.testCancel},
			{"Rights", s.testRights},
			{"Contracts", s.testContracts},
			{"UnderAnotherName", s.testUnderAnotherName},
			{"HostileFiles", s.testHostileFiles},
			{"Options", s.testOptions},
			{"Targets", s.testTargets},
			{"Preflight", s.testPreflight},
			{"AllowIncomplete", s.testAllowIncomplete},
			{"Elsewhere", s.testElsewhere},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(t)
			})
		}
	})
}

// TestAlone runs what stops or breaks its sandbox, or looks at all of it.
func TestAlone(t *testing.T) {
	t.Parallel()
	s := newSuite(t, "e2e-alone", envAlone)
	t.Run("Refusals", s.testRefusals)
	t.Run("TimeOut", s.testTimeOut)
	t.Run("Outages", s.testOutages)
	t.Run("TargetAway", s.testTargetAway)
}

// newSuite is a sandbox with the demonstration's machines: the one that the variable
// names, or one of its own.
func newSuite(t *testing.T, instance, variable string) *suite {
	t.Helper()
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{repository: repository, instance: instance}
	s.plugin = program(t, envPlugin, filepath.Join(repository, "bin", "kubectl-vmbackup"))
	s.sandbox = program(t, envSandbox, filepath.Join(repository, "bin", "sandbox"))
	if name := os.Getenv(variable); name != "" {
		s.instance = name
	} else {
		s.startSandbox(t)
	}
	s.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(s.kubeconfig, []byte(s.runSandbox(t, "kubeconfig")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.cluster = newCluster(t, s.kubeconfig)
	began := time.Now()
	s.seeded = map[string]string{}
	for line := range strings.Lines(s.runSandbox(t, "seed")) {
		if disk, sum, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			s.seeded[disk] = strings.TrimSpace(sum)
		}
	}
	if len(s.seeded) != 6 {
		t.Fatalf("the seed has %d disks, want 6: %v", len(s.seeded), s.seeded)
	}
	t.Logf("seeded in %.0f s", time.Since(began).Seconds())
	return s
}

// startSandbox starts the suite's own sandbox, which ends with the test.
func (s *suite) startSandbox(t *testing.T, flags ...string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if t.Failed() {
			s.tellComponents(ctx, t)
		}
		if got := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "down"); got.code != 0 {
			t.Errorf("sandbox down: %s", got)
		}
	})
	began := time.Now()
	s.runSandbox(t, append([]string{"up", "--timeout", "10m"}, flags...)...)
	t.Logf("sandbox up in %.0f s", time.Since(began).Seconds())
}

// program is a file that can be run: the one that the environment names, or the usual one.
func program(t *testing.T, variable, usual string) string {
	t.Helper()
	path := usual
	if named := os.Getenv(variable); named != "" {
		path = named
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build it first (make build sandbox-build), or name another one in %s", err, variable)
	}
	return path
}

// tellComponents shows which parts of a sandbox are not well when a test has
// failed, and the ends of the logs, which go with the sandbox.
func (s *suite) tellComponents(ctx context.Context, t *testing.T) {
	t.Helper()
	status := s.exec(ctx, t, s.sandbox, nil, "--name", s.instance, "status")
	for line := range strings.Lines(status.stdout) {
		if fields := strings.Fields(line); len(fields) > 3 && (fields[2] != "ready" || fields[3] != "0") {
			t.Log(strings.TrimSpace(line))
		}
	}
	t.Log(s.exec(ctx, t, filepath.Join(s.repository, "hack", "sandbox-logs.sh"), nil).stdout)
}

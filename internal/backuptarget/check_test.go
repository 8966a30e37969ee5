// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"context"
	"strings"
	"testing"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// faulty is a store that does one thing not as it should.
type faulty struct {
	*target.Memory
	fault string
}

func (f *faulty) away(fault string) error {
	if f.fault != fault {
		return nil
	}
	return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%s: away", fault)
}

func (f *faulty) List(ctx context.Context, prefix string, each func(target.Object) error) error {
	if err := f.away("list"); err != nil {
		return err
	}
	return f.Memory.List(ctx, prefix, each)
}

func (f *faulty) Put(ctx context.Context, key string, content []byte) error {
	switch f.fault {
	case "swallows":
		return nil
	case "changes":
		content = append([]byte("x"), content[1:]...)
	}
	if err := f.Memory.Put(ctx, key, content); err != nil {
		return err
	}
	return f.away("answer of a write") // the file is there
}

func (f *faulty) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := f.away("read"); err != nil {
		return nil, err
	}
	return f.Memory.Get(ctx, key, limit)
}

func (f *faulty) Delete(ctx context.Context, key string) error {
	if f.fault == "keeps" {
		return nil
	}
	return f.Memory.Delete(ctx, key)
}

func TestCheckStore(t *testing.T) {
	const ok, failed, skipped = vmbackup.StateReady, vmbackup.StateFailed, vmbackup.StateSkipped
	for fault, want := range map[string]struct {
		states  []vmbackup.State
		reason  vmbackup.Reason
		message string
		left    bool
	}{
		"none":              {states: []vmbackup.State{ok, ok, ok, ok}},
		"list":              {states: []vmbackup.State{failed, skipped, skipped, skipped}, reason: vmbackup.ReasonTargetUnavailable, message: "list: away"},
		"answer of a write": {states: []vmbackup.State{ok, failed, skipped, skipped}, reason: vmbackup.ReasonTargetUnavailable, message: "away"},
		"swallows":          {states: []vmbackup.State{ok, ok, failed, skipped}, reason: vmbackup.ReasonTargetUnavailable, message: "does not have it"},
		"changes":           {states: []vmbackup.State{ok, ok, failed, skipped}, reason: vmbackup.ReasonDataDamaged, message: "another content"},
		"read":              {states: []vmbackup.State{ok, ok, failed, skipped}, reason: vmbackup.ReasonTargetUnavailable, message: "read: away"},
		"keeps":             {states: []vmbackup.State{ok, ok, ok, failed}, reason: vmbackup.ReasonTargetUnavailable, message: "keeps a file", left: true},
	} {
		t.Run(fault, func(t *testing.T) {
			store := &faulty{Memory: target.NewMemory(noon), fault: fault}
			got := CheckStore(t.Context(), store, noon)
			var states []vmbackup.State
			for _, step := range got.Status.Steps {
				states = append(states, step.State)
			}
			for i := range want.states {
				if states[i] != want.states[i] {
					t.Fatalf("steps %q, want %q", states, want.states)
				}
			}
			err := Failure(got)
			if vmbackup.ReasonOf(err) != want.reason || got.Status.Usable != (want.reason == "") || err != nil && !strings.Contains(err.Error(), want.message) {
				t.Errorf("%v, %+v", err, got.Status)
			}
			if empty, err := target.Empty(t.Context(), store.Memory); err != nil || empty == want.left {
				t.Errorf("the probe is left: %v, %v", !empty, err)
			}
		})
	}
	store := target.NewMemory(noon)
	put(t, store, "backupstore/x", "y")
	if got := CheckStore(t.Context(), store, noon); got.Status.Empty || !got.Status.Usable {
		t.Errorf("%+v", got)
	}
}

func TestCheckBesideLonghorn(t *testing.T) {
	for name, test := range map[string]struct {
		available bool
		fault     string
		warning   string
	}{
		"both":          {available: true},
		"only here":     {warning: "this machine can use the target and Longhorn cannot: no route"},
		"only Longhorn": {available: true, fault: "list", warning: "Longhorn can use the target and this machine cannot"},
		"neither":       {fault: "list"},
	} {
		t.Run(name, func(t *testing.T) {
			bt := backupTarget("default", "s3://bucket@region/")
			bt.Status.Available = test.available
			bt.Status.Conditions = []longhornv1.Condition{{Type: "Unavailable", Status: longhornv1.ConditionStatusTrue, Message: "no route"}}
			c := newCluster(t, bt, secret("default-keys"))
			c.open = func(config target.Config) (target.Store, error) {
				if config.URL != "s3://bucket@region/" || string(config.Credentials["AWS_ACCESS_KEY_ID"]) != secretValue {
					t.Errorf("opened %+v", config.URL)
				}
				return &faulty{Memory: c.store, fault: test.fault}, nil
			}
			got, err := c.Check(t.Context(), "default")
			if err != nil {
				t.Fatal(err)
			}
			if warnings := strings.Join(got.Status.Warnings, "\n"); !strings.Contains(warnings, test.warning) || (warnings == "") != (test.warning == "") {
				t.Errorf("warnings %q", warnings)
			}
			if got.Status.Usable != (test.fault == "") || (got.Status.Longhorn == vmbackup.TargetAvailable) != test.available {
				t.Errorf("%+v", got.Status)
			}
		})
	}
	c := newCluster(t, backupTarget("default", "s3://bucket@region/"))
	if _, err := c.Check(t.Context(), "default"); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound || !strings.Contains(err.Error(), "Secret longhorn-system/default-keys") {
		t.Errorf("without its Secret: %v", err)
	}
}

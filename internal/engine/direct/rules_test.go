// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/flow"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestShorten(t *testing.T) {
	if got := shorten("web", 253); got != "web" {
		t.Error(got)
	}
	long := strings.Repeat("a", 20)
	if got := shorten(long, 20); got != long {
		t.Error(got)
	}
	one, two := shorten(long+"b", 20), shorten(long+"c", 20)
	if len(one) != 20 || one == two || !strings.HasPrefix(one, "aaaaaaaaa-") {
		t.Errorf("%s, %s", one, two)
	}
	// What is cut never ends in a character that a name must not have before the hash.
	if got := shorten("abcdefgh.-"+long, 20); strings.Contains(got, ".-") || strings.Contains(got, "--") {
		t.Error(got)
	}
}

func TestSnapshotName(t *testing.T) {
	backup := vmbackup.NewBackup(b1)
	for _, tc := range []struct {
		pvc   string
		round int
		want  string
	}{{"web-root", 1, "b1-volume-web-root"}, {"web-root", 3, "b1-volume-web-root-3"}} {
		if got := snapshotName(backup, &vmbackup.BackupVolume{PVC: tc.pvc}, tc.round); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
	long := &vmbackup.BackupVolume{PVC: strings.Repeat("p", 253)}
	if one, two := snapshotName(backup, long, 1), snapshotName(backup, long, 2); len(one) > 253 || one == two {
		t.Errorf("two rounds share the name %s", one)
	}
}

func TestHandleParts(t *testing.T) {
	for handle, want := range map[string]string{
		"bak://vol/backup-1": "bak vol backup-1 true",
		"snap://vol/snap/x":  "snap vol snap/x true",
		"bak://vol/":         "bak vol  false",
		"bak:///backup-1":    "bak  backup-1 false",
		"bak://vol":          "bak vol  false",
		"vol/backup-1":       "   false",
		"":                   "   false",
	} {
		kind, volume, name, ok := handleParts(handle)
		if got := fmt.Sprintf("%s %s %s %t", kind, volume, name, ok); got != want {
			t.Errorf("%q: %q", handle, got)
		}
	}
}

func TestRestorable(t *testing.T) {
	for _, tc := range []struct {
		phase vmbackup.Phase
		ready bool
		want  vmbackup.Reason
	}{
		{vmbackup.PhaseReady, true, ""},
		{vmbackup.PhaseReady, false, vmbackup.ReasonConflict},
		{vmbackup.PhaseRunning, false, vmbackup.ReasonConflict},
		{vmbackup.PhasePlanned, false, vmbackup.ReasonConflict},
		{vmbackup.PhaseFailed, false, vmbackup.ReasonBackupFailed},
		{vmbackup.PhaseIncomplete, false, vmbackup.ReasonDataLost},
		{vmbackup.PhaseUnknown, false, vmbackup.ReasonConflict},
		{vmbackup.PhaseCanceled, false, vmbackup.ReasonConflict},
	} {
		b := vmbackup.NewBackup(b1)
		b.Status.Phase, b.Status.Ready, b.Status.Error = tc.phase, tc.ready, vmbackup.Errorf(vmbackup.ReasonInternal, "the cause")
		err := restorable(b, false)
		if got := vmbackup.ReasonOf(err); got != tc.want {
			t.Errorf("%s: %q", tc.phase, got)
		}
		if err != nil && (!strings.Contains(err.Error(), "the cause") || vmbackup.AsError(err, "").Hint == "") {
			t.Errorf("%s: %v", tc.phase, err)
		}
	}
}

func TestForbidden(t *testing.T) {
	if err := forbidden(nil, "demo"); err != nil {
		t.Error(err)
	}
	e := failure(t, forbidden([]right{{"update", "", "secrets", "demo"}, {"create", "", "secrets", "demo"}}, "demo"), vmbackup.ReasonForbidden)
	if !strings.HasSuffix(e.Message, "create secrets in namespace demo; update secrets in namespace demo") || !strings.Contains(e.Hint, "auth can-i") {
		t.Errorf("%s\n%s", e.Message, e.Hint)
	}
}

func TestMissingRights(t *testing.T) {
	wanted := []right{{"create", "", "secrets", "demo"}, {"watch", "longhorn.io", "backups", "longhorn-system"}, {"create", "snapshot.storage.k8s.io", "volumesnapshotclasses", ""}}
	for _, tc := range []struct {
		name   string
		status map[string]authv1.SubjectRulesReviewStatus
		want   []right
	}{
		{"all", nil, nil},
		{"none in one namespace", map[string]authv1.SubjectRulesReviewStatus{"longhorn-system": {}}, wanted[1:2]},
		{"cluster-wide with the namespace's", map[string]authv1.SubjectRulesReviewStatus{"demo": {ResourceRules: []authv1.ResourceRule{{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}}}, wanted[2:]},
		{"an answer that is not whole proves nothing", map[string]authv1.SubjectRulesReviewStatus{"demo": {Incomplete: true}, "longhorn-system": {Incomplete: true}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				for ns, s := range tc.status {
					c.rules[ns] = s
				}
				got, err := c.engine.missingRights(t.Context(), "demo", wanted)
				if err != nil {
					t.Fatal(err)
				}
				wantSame(t, "missing", got, tc.want)
				if n := len(c.log("review")); n != 2 {
					t.Errorf("%d requests, want one a namespace", n)
				}
			})
		})
	}
}

func TestTargetOf(t *testing.T) {
	volumes := func(targets ...string) *capture.Machine {
		c := &capture.Machine{}
		for _, name := range targets {
			c.Volumes = append(c.Volumes, capture.Volume{Target: name})
		}
		return c
	}
	for _, tc := range []struct {
		have   *capture.Machine
		asked  string
		kind   vmbackup.BackupType
		want   string
		reason vmbackup.Reason
	}{
		{volumes("default", "default"), "", vmbackup.TypeBackup, "default", ""},
		{volumes("second"), "second", vmbackup.TypeBackup, "second", ""},
		{volumes("default"), "second", vmbackup.TypeBackup, "", vmbackup.ReasonInvalidRequest},
		{volumes("default", "second"), "", vmbackup.TypeBackup, "", vmbackup.ReasonStorageUnsupported},
		{volumes("default", "second"), "", vmbackup.TypeSnapshot, "", ""},
	} {
		got, err := targetOf(tc.have, vmbackup.BackupRequest{VM: "web", Type: tc.kind, Target: tc.asked})
		if got != tc.want || vmbackup.ReasonOf(err) != tc.reason {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
}

func TestCheckQuiesce(t *testing.T) {
	vmi := func(agent corev1.ConditionStatus) *kubevirtv1.VirtualMachineInstance {
		v := &kubevirtv1.VirtualMachineInstance{}
		if agent != "" {
			v.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{
				{Type: kubevirtv1.VirtualMachineInstanceReady, Status: "True"},
				{Type: kubevirtv1.VirtualMachineInstanceAgentConnected, Status: agent},
			}
		}
		return v
	}
	for _, tc := range []struct {
		quiesce vmbackup.Quiesce
		running *kubevirtv1.VirtualMachineInstance
		warns   bool
		reason  vmbackup.Reason
	}{
		{vmbackup.QuiesceAuto, nil, false, ""},
		{vmbackup.QuiesceRequire, nil, false, ""},
		{vmbackup.QuiesceAuto, vmi("True"), false, ""},
		{vmbackup.QuiesceRequire, vmi("True"), false, ""},
		{vmbackup.QuiesceAuto, vmi("False"), true, ""},
		{vmbackup.QuiesceAuto, vmi(""), true, ""},
		{vmbackup.QuiesceRequire, vmi("False"), false, vmbackup.ReasonFreezeFailed},
		{vmbackup.QuiesceSkip, vmi("False"), false, ""},
	} {
		warning, err := checkQuiesce(vmbackup.BackupRequest{VM: "web", Quiesce: tc.quiesce}, tc.running)
		if (warning != "") != tc.warns || vmbackup.ReasonOf(err) != tc.reason {
			t.Errorf("%+v: %q, %v", tc, warning, err)
		}
	}
}

func TestStateIsKeptInTheRecord(t *testing.T) {
	record := &metadata.Record{}
	if s := loadState(record); s.FreezeTimeout != vmbackup.DefaultFreezeTimeout || s.cut() {
		t.Errorf("%+v", s)
	}
	want := &backupState{FreezeTimeout: time.Minute, Class: "c", Attempt: 2, Snapshots: map[string]string{"root": "snapshot-1"}, Estimates: map[string]int64{"root": 9007199254740993}}
	want.store(record)
	got := loadState(record)
	wantSame(t, "state", got, want)
	if !got.cut() {
		t.Error("not cut")
	}
	// A state of another shape is as good as none.
	record.State = json.RawMessage(`["x"]`)
	if s := loadState(record); s.FreezeTimeout != vmbackup.DefaultFreezeTimeout || s.cut() {
		t.Errorf("%+v", s)
	}
}

func TestInterrupted(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want bool
	}{
		{t.Context(), flow.ErrDetached, true},
		{t.Context(), vmbackup.Errorf(vmbackup.ReasonTimeout, "x"), true},
		{t.Context(), fmt.Errorf("step: %w", vmbackup.Errorf(vmbackup.ReasonCanceled, "x")), true},
		{t.Context(), vmbackup.Errorf(vmbackup.ReasonConflict, "x"), true},
		{t.Context(), vmbackup.Errorf(vmbackup.ReasonEngineUnavailable, "x"), true},
		{t.Context(), vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "x"), true},
		{t.Context(), vmbackup.Errorf(vmbackup.ReasonBackupFailed, "x"), false},
		{t.Context(), vmbackup.Errorf(vmbackup.ReasonDataLost, "x"), false},
		{t.Context(), errors.New("x"), false},
		{ended, errors.New("x"), true},
	} {
		if got := interrupted(tc.ctx, tc.err); got != tc.want {
			t.Errorf("%v: %t", tc.err, got)
		}
	}
}

func TestConsistencyAndWindow(t *testing.T) {
	now := time.Now()
	run := &backupRun{state: &backupState{FreezeTimeout: 30 * time.Second}}
	at := func(seconds float64) time.Time { return now.Add(time.Duration(seconds * float64(time.Second))) }
	for _, tc := range []struct {
		name    string
		g       guest
		want    vmbackup.Consistency
		seconds float64
	}{
		{"off", guest{}, vmbackup.ConsistencyOffline, 0},
		{"not frozen", guest{running: true, frozenAt: now}, vmbackup.ConsistencyCrash, 0},
		{"in time", guest{running: true, frozen: true, frozenAt: now, cutAt: at(1), thawed: at(1.5)}, vmbackup.ConsistencyApplication, 1.5},
		{"at the deadline", guest{running: true, frozen: true, frozenAt: now, cutAt: at(30), thawed: at(31)}, vmbackup.ConsistencyCrash, 30},
		{"after it", guest{running: true, frozen: true, frozenAt: now, cutAt: at(99), thawed: at(100)}, vmbackup.ConsistencyCrash, 30},
		{"thawed late", guest{running: true, frozen: true, frozenAt: now, cutAt: at(2), thawed: at(40)}, vmbackup.ConsistencyApplication, 30},
	} {
		tc.g.run = run
		if got, seconds := tc.g.consistency(); got != tc.want || seconds != tc.seconds {
			t.Errorf("%s: %s, %v s", tc.name, got, seconds)
		}
	}
}

func TestNewOperationIsALabel(t *testing.T) {
	one, two := newOperation(), newOperation()
	if len(one) != 12 || one == two || strings.Trim(one, "0123456789abcdef") != "" {
		t.Errorf("%q, %q", one, two)
	}
}

func TestPreflight(t *testing.T) {
	if err := preflight(nil); err != nil {
		t.Error(err)
	}
	e := failure(t, preflight(errors.New("x")), vmbackup.ReasonInternal)
	if !e.Preflight {
		t.Error("not marked")
	}
}

// names asks planObjects for one secret, with what is there already.
func (c *cluster) planSecret(n *renaming, have *corev1.Secret) (*plannedObjects, error) {
	if have != nil {
		c.put("secrets", have)
	}
	raw := json.RawMessage(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"init","namespace":"demo"},"type":"Opaque","data":{"a":"YQ=="}}`)
	return c.engine.planObjects(c.t.Context(), []json.RawMessage{raw}, n, "Secret", c.engine.readSecret)
}

func TestPlanObjects(t *testing.T) {
	secret := func(name, value string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name, Labels: map[string]string{"of": "somebody"}}, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"a": []byte(value)}}
	}
	owned := func(s *corev1.Secret) *corev1.Secret {
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachine", Name: "web", UID: "1"}}
		return s
	}
	same := vmbackup.Ref{Namespace: "other", Name: "web"}
	renamed := vmbackup.Ref{Namespace: "other", Name: "copy"}
	for _, tc := range []struct {
		name   string
		to     vmbackup.Ref
		have   *corev1.Secret
		want   string
		action vmbackup.Action
	}{
		{"free", same, nil, "init", vmbackup.ActionCreate},
		{"taken with the same content", same, secret("init", "a"), "init", vmbackup.ActionUse},
		{"taken with other content", same, secret("init", "b"), "init-op", vmbackup.ActionCreate},
		{"taken with the same content, and owned", same, owned(secret("init", "a")), "init", vmbackup.ActionUse},
		{"renamed and free", renamed, nil, "init", vmbackup.ActionCreate},
		{"renamed, with the same content", renamed, secret("init", "a"), "init", vmbackup.ActionUse},
		// It goes with the machine that owns it, and the copy would be left without.
		{"renamed, with the same content, and owned", renamed, owned(secret("init", "a")), "copy-init", vmbackup.ActionCreate},
		{"renamed and taken with other content", renamed, secret("init", "b"), "copy-init", vmbackup.ActionCreate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				got, err := c.planSecret(&renaming{operation: "op", backup: b1, from: web, to: tc.to}, tc.have)
				if err != nil {
					t.Fatal(err)
				}
				wantSame(t, "names", got.names, map[string]string{"init": tc.want})
				if len(got.planned) != 1 || got.planned[0].Action != tc.action || got.planned[0].Name != tc.want {
					t.Errorf("planned %+v", got.planned)
				}
				if (len(got.create) == 1) != (tc.action == vmbackup.ActionCreate) {
					t.Errorf("%d to create", len(got.create))
				}
			})
		})
	}
}

// Both the old name and the copy's own are taken by something else.
func TestPlanObjectsOfATwiceTakenName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		for _, name := range []string{"init", "copy-init"} {
			c.put("secrets", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name}, Data: map[string][]byte{"a": []byte("b")}})
		}
		got, err := c.planSecret(&renaming{operation: "op", backup: b1, from: web, to: vmbackup.Ref{Namespace: "other", Name: "copy"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, "names", got.names, map[string]string{"init": "copy-init-op"})
	})
}

func TestClaimNames(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   vmbackup.Ref
		want map[string]string
	}{
		{"free", vmbackup.Ref{Namespace: "other", Name: "web"}, map[string]string{"web-root": "web-root", "web-data": "web-data"}},
		{"taken", vmbackup.Ref{Namespace: "demo", Name: "web"}, map[string]string{"web-root": "web-root-op", "web-data": "web-data-op"}},
		{"renamed", vmbackup.Ref{Namespace: "demo", Name: "copy"}, map[string]string{"web-root": "copy-root", "web-data": "copy-data"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			backup := vmbackup.NewBackup(b1)
			backup.Status.Volumes = []vmbackup.BackupVolume{{Name: "root", PVC: "web-root"}, {Name: "data", PVC: "web-data"}}
			taken := map[string]bool{}
			if tc.to.Namespace == "demo" {
				taken["web-root"], taken["web-data"] = true, true
			}
			wantSame(t, "names", claimNames(backup, &renaming{operation: "op", backup: b1, from: web, to: tc.to}, taken), tc.want)
		})
	}
}

func TestClaimThatTheBackupDoesNotHold(t *testing.T) {
	record := &metadata.Record{Backup: *vmbackup.NewBackup(b1), Claims: []json.RawMessage{json.RawMessage(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"a"}}`)}}
	if _, err := claimOf(record, "a"); err != nil {
		t.Error(err)
	}
	_, err := claimOf(record, "b")
	wantReason(t, err, vmbackup.ReasonDataDamaged)
}

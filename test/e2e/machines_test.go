// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const diskSize = 32 << 20

// machine is a small virtual machine of a test.
type machine struct {
	namespace, name string
	disks           []string
	class           string
	off             bool
}

// claim is the name of a disk's claim.
func (m machine) claim(disk string) string { return m.name + "-" + disk }

// make makes a machine with disks that hold known bytes, waits until it runs,
// and returns the disks' checksums by the claim.
func (s *suite) make(t *testing.T, m machine) map[string]string {
	t.Helper()
	if m.class == "" {
		m.class = "longhorn-1r"
	}
	var disks, vols []any
	sums := map[string]string{}
	var mu sync.Mutex
	var filling sync.WaitGroup
	for _, disk := range m.disks {
		claim := m.claim(disk)
		s.create(t, claims, map[string]any{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim",
			"metadata": map[string]any{"name": claim, "namespace": m.namespace, "labels": map[string]any{"machine": m.name}},
			"spec": map[string]any{
				"accessModes": []any{"ReadWriteOnce"}, "volumeMode": "Block", "storageClassName": m.class,
				"resources": map[string]any{"requests": map[string]any{"storage": fmt.Sprint(diskSize)}},
			},
		})
		disks = append(disks, map[string]any{"name": disk, "disk": map[string]any{"bus": "virtio"}})
		vols = append(vols, map[string]any{"name": disk, "persistentVolumeClaim": map[string]any{"claimName": claim}})
		filling.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), commandDeadline)
			defer cancel()
			path := m.namespace + "/" + claim
			for _, args := range [][]string{
				{"disk", "write", path, "--seed", path, "--size", "3145728"},
				{"disk", "sha256", path},
			} {
				got := s.exec(ctx, t, s.sandbox, nil, append([]string{"--name", s.instance}, args...)...)
				if got.code != 0 {
					t.Errorf("sandbox %s", got)
					return
				}
				mu.Lock()
				sums[claim] = strings.TrimSpace(got.stdout)
				mu.Unlock()
			}
		})
	}
	filling.Wait()
	if t.Failed() {
		t.FailNow()
	}
	strategy, state := "Always", "Running"
	if m.off {
		strategy, state = "Halted", "Stopped"
	}
	s.create(t, machines, map[string]any{
		"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
		"metadata": map[string]any{"name": m.name, "namespace": m.namespace, "labels": map[string]any{"machine": m.name}},
		"spec": map[string]any{
			"runStrategy": strategy,
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"machine": m.name}},
				"spec": map[string]any{
					"domain": map[string]any{
						"memory":    map[string]any{"guest": "64Mi"},
						"resources": map[string]any{"requests": map[string]any{"memory": "64Mi"}},
						"devices": map[string]any{
							"disks":      disks,
							"interfaces": []any{map[string]any{"name": "default", "masquerade": map[string]any{}}},
						},
					},
					"networks": []any{map[string]any{"name": "default", "pod": map[string]any{}}},
					"volumes":  vols,
				},
			},
		},
	})
	s.wait(t, machines, m.namespace, m.name, state, printable(state))
	if !m.off {
		s.wait(t, instances, m.namespace, m.name, "with its guest agent", agentIs(true))
	}
	return sums
}

// agentIs says whether the guest agent answers, as KubeVirt knows it.
func agentIs(connected bool) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		if err != nil {
			return false
		}
		for _, c := range conditions {
			if condition, ok := c.(map[string]any); ok && condition["type"] == "AgentConnected" {
				return (condition["status"] == "True") == connected
			}
		}
		return !connected
	}
}

// sha256 is the checksum of a disk's full content, read below Longhorn.
func (s *suite) sha256(t *testing.T, namespace, claim string) string {
	t.Helper()
	return strings.TrimSpace(s.runSandbox(t, "disk", "sha256", namespace+"/"+claim))
}

// sameDisks compares the restored disks with the checksums at the time of the
// backup, by the source's claim.
func (s *suite) sameDisks(t *testing.T, r *vmbackup.Restore, at map[string]string) {
	t.Helper()
	if len(r.Status.Volumes) != len(at) {
		t.Errorf("restore %s has %d volumes, want %d", r.Ref(), len(r.Status.Volumes), len(at))
	}
	for _, v := range r.Status.Volumes {
		want, found := at[v.SourcePVC]
		if !found {
			t.Errorf("restore %s has a volume of claim %q", r.Ref(), v.SourcePVC)
			continue
		}
		if got := s.sha256(t, r.Metadata.Namespace, v.PVC); got != want {
			t.Errorf("disk %s/%s is %s, and %s was %s", r.Metadata.Namespace, v.PVC, got, v.SourcePVC, want)
		}
	}
}

// restored checks a restore that is said to be done: Ready, its machine in the
// wanted state, the bytes of every disk, and no composed objects left.
func (s *suite) restored(t *testing.T, r *vmbackup.Restore, state string, at map[string]string) {
	t.Helper()
	if r.Status.Phase != vmbackup.PhaseReady || !r.Status.Ready || r.Status.Error != nil {
		t.Fatalf("restore %s: %+v", r.Ref(), r.Status)
	}
	s.wait(t, machines, r.Spec.TargetNamespace, r.Spec.TargetName, state, printable(state))
	s.sameDisks(t, r, at)
	// Of this restore: others may run beside it.
	own := "vmbackup.io/operation=" + s.get(t, machines, r.Spec.TargetNamespace, r.Spec.TargetName).GetAnnotations()["vmbackup.io/operation"]
	for _, v := range s.list(t, snapshots, r.Metadata.Namespace, own) {
		t.Errorf("the composed VolumeSnapshot %s is left", v.GetName())
	}
	for _, v := range s.list(t, contents, "", own) {
		if v.GetDeletionTimestamp() == nil {
			t.Errorf("the composed VolumeSnapshotContent %s is left", v.GetName())
		}
	}
}

// window is one freeze as the guest has recorded it.
type window struct {
	Start           time.Time  `json:"start"`
	TimeoutSeconds  float64    `json:"timeoutSeconds"`
	End             *time.Time `json:"end"`
	ThawedBy        string     `json:"thawedBy"`
	DurationSeconds float64    `json:"durationSeconds"`
}

// freezes are all freezes of a machine's guest, oldest first.
func (s *suite) freezes(t *testing.T, namespace, vm string) []window {
	t.Helper()
	var windows []window
	for line := range strings.Lines(s.runSandbox(t, "guest", "freezes", namespace+"/"+vm, "-o", "json")) {
		var w window
		if err := json.Unmarshal([]byte(line), &w); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		windows = append(windows, w)
	}
	return windows
}

// thawed fails when a guest is frozen.
func (s *suite) thawed(t *testing.T, namespace, vm string) {
	t.Helper()
	for _, w := range s.freezes(t, namespace, vm) {
		if w.End == nil {
			t.Errorf("guest %s/%s is frozen since %s", namespace, vm, w.Start)
		}
	}
}

// store opens the backup target as the S3 server has it.
func (s *suite) store(t *testing.T) target.Store {
	t.Helper()
	url, credentials := s.target(t)
	data := map[string][]byte{}
	for key, value := range credentials {
		data[key] = []byte(value)
	}
	store, err := target.Open(target.Config{URL: url, Credentials: data})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// target is the backup target's URL and credentials as Longhorn has them.
func (s *suite) target(t *testing.T) (url string, credentials map[string]string) {
	t.Helper()
	bt := s.get(t, backupTargets, longhornNamespace, "default")
	secret := s.get(t, secrets, longhornNamespace, text(bt, "spec", "credentialSecret"))
	data, _, err := unstructured.NestedStringMap(secret.Object, "data")
	if err != nil {
		t.Fatal(err)
	}
	credentials = map[string]string{}
	for key, value := range data {
		plain, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			t.Fatalf("the target's Secret, %s: %v", key, err)
		}
		credentials[key] = string(plain)
	}
	return text(bt, "spec", "backupTargetURL"), credentials
}

// onTarget says whether a file lies on the backup target.
func (s *suite) onTarget(t *testing.T, key string) bool {
	t.Helper()
	_, err := s.store(t).Stat(t.Context(), key)
	if err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Fatal(err)
	}
	return err == nil
}

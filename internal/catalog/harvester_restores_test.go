// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// harvesterRestore is one to a new machine; claims are its volumes' once they are named.
func harvesterRestore(name, complete string, claims ...string) string {
	var volumes []string
	for _, claim := range claims {
		volumes = append(volumes, fmt.Sprintf(`{"volumeName":"root","volumeBackupName":"a-volume-web-root","volumeSize":1073741824,
			"persistentVolumeClaimSpec":{"metadata":{"name":%q,"namespace":"demo"},"spec":{"storageClassName":"lh"}}}`, claim))
	}
	return fmt.Sprintf(`{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineRestore","metadata":{"name":%q,"namespace":"demo","uid":%[1]q,"creationTimestamp":"2026-03-01T12:00:00Z"},
		"spec":{"newVM":true,"virtualMachineBackupName":"a","virtualMachineBackupNamespace":"demo","target":{"kind":"VirtualMachine","name":"copy"}},
		"status":{"complete":%s,"targetUID":"m","restores":[%s],"conditions":[{"type":"InProgress","status":"True"}]}}`, name, complete, strings.Join(volumes, ","))
}

const (
	coreAPI  = "/api/v1/namespaces/demo"
	restores = harvesterAPI + "/virtualmachinerestores"
	ofDemo   = harvesterAPI + "/namespaces/demo/virtualmachinerestores"
)

func restoreList(items ...string) string {
	return `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineRestoreList","metadata":{"resourceVersion":"1"},"items":[` + strings.Join(items, ",") + `]}`
}

// restoringAnswers is a Harvester cluster with a restore that has ended and one whose
// data is on its way.
func restoringAnswers() map[string]string {
	answers := answersOf()
	answers[restores] = restoreList(harvesterRestore("old", "true", "old-root"), harvesterRestore("new", "false", "new-root"))
	answers[ofDemo] = restoreList(harvesterRestore("new", "false", "new-root"))
	answers[ofDemo+"/old"], answers[ofDemo+"/new"] = harvesterRestore("old", "true", "old-root"), harvesterRestore("new", "false", "new-root")
	claim := `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"new-root","namespace":"demo","uid":"c"},"spec":{"volumeName":"pvc-c"},"status":{"phase":"Bound"}}`
	answers[coreAPI+"/persistentvolumeclaims/new-root"] = claim
	answers[coreAPI+"/persistentvolumeclaims"] = `{"apiVersion":"v1","kind":"PersistentVolumeClaimList","metadata":{"resourceVersion":"1"},"items":[` + claim + `]}`
	answers[coreAPI+"/events"] = `{"apiVersion":"v1","kind":"EventList","metadata":{"resourceVersion":"1"},"items":[]}`
	answers[harvesterAPI+"/namespaces/demo/virtualmachinebackups"] = `{"apiVersion":"harvesterhci.io/v1beta1","kind":"VirtualMachineBackupList","metadata":{"resourceVersion":"1"},"items":[` + harvesterBackup("a") + `]}`
	answers["/apis/kubevirt.io/v1/namespaces/demo/virtualmachines"] = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineList","metadata":{"resourceVersion":"1"},"items":[]}`
	restoringVolume(answers, true)
	answers[longhornAPI+"/engines"] = list("Engine", `{"metadata":{"name":"e","namespace":"longhorn-system"},"spec":{"volumeName":"pvc-c"},"status":{"restoreStatus":{"tcp://a":{"isRestoring":true,"progress":70}}}}`)
	return answers
}

func restoringVolume(answers map[string]string, required bool) {
	volume := fmt.Sprintf(`{"apiVersion":"longhorn.io/v1beta2","kind":"Volume","metadata":{"name":"pvc-c","namespace":"longhorn-system"},"status":{"restoreInitiated":true,"restoreRequired":%v}}`, required)
	answers[longhornAPI+"/volumes/pvc-c"] = volume
	answers[longhornAPI+"/volumes"] = list("Volume", volume)
}

func toldRestores(list []vmbackup.Restore) (told []string) {
	for _, r := range list {
		progress := 0
		for _, v := range r.Status.Volumes {
			progress = v.Progress
		}
		told = append(told, fmt.Sprintf("%s %s %d%%", r.Ref(), r.Status.Phase, progress))
	}
	return told
}

func TestHarvesterRestores(t *testing.T) {
	forbidden := func(paths ...string) map[string]string {
		m := map[string]string{}
		for _, p := range paths {
			m[p] = "forbidden"
		}
		return m
	}
	for name, test := range map[string]struct {
		change map[string]string // "" removes an answer
		want   []string
		reason vmbackup.Reason
	}{
		"seen through": {want: []string{"demo/old Ready 100%", "demo/new Running 70%"}},
		"no Harvester": {change: map[string]string{harvesterAPI: "", restores: ""}},
		"no right to Harvester's": {
			change: map[string]string{restores: "forbidden"}, reason: vmbackup.ReasonForbidden,
		},
		"no right to anything else": {
			change: forbidden(coreAPI+"/persistentvolumeclaims/new-root", coreAPI+"/events", longhornAPI+"/volumes/pvc-c", longhornAPI+"/engines",
				harvesterAPI+"/namespaces/demo/virtualmachinebackups/a"),
			want: []string{"demo/old Ready 100%", "demo/new Running 0%"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			answers := restoringAnswers()
			for path, answer := range test.change {
				if answers[path] = answer; answer == "" {
					delete(answers, path)
				}
			}
			foreign, _ := harvesterAt(t, answers)
			got, err := foreign.Restores(t.Context(), vmbackup.ListOptions{})
			if vmbackup.ReasonOf(err) != test.reason || !slices.Equal(toldRestores(got), test.want) {
				t.Errorf("got %q, %v; want %q, %s", toldRestores(got), err, test.want, test.reason)
			}
		})
	}
}

// The labels of the machine are in its backup, which is looked at where they are asked for.
func TestHarvesterRestoresByLabel(t *testing.T) {
	foreign, _ := harvesterAt(t, restoringAnswers())
	c := newPlace(t).catalog().With(foreign)
	for selector, want := range map[string]int{"app=web": 2, "app=other": 0} {
		got, warnings, err := c.Restores(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceCluster, Selector: selector})
		if err != nil || len(warnings) > 0 || len(got) != want {
			t.Errorf("%s: %q, %q, %v", selector, toldRestores(got), warnings, err)
		}
	}
	got, _, err := c.Restores(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceCluster, VM: "web"})
	if err != nil || len(got) != 0 {
		t.Errorf("of another machine: %q, %v", toldRestores(got), err)
	}
}

func TestHarvesterRestore(t *testing.T) {
	foreign, _ := harvesterAt(t, restoringAnswers())
	c := newPlace(t).catalog().With(foreign)
	got, err := c.Restore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "new"})
	if err != nil {
		t.Fatal(err)
	}
	want := vmbackup.RestoreVolume{
		Name: "root", SourcePVC: "web-root", PVC: "new-root", StorageClass: "lh", SizeBytes: 1 << 30,
		SnapshotHandle: "bak://pvc-web/backup-a", LonghornVolume: "pvc-c", State: vmbackup.StateRunning, Progress: 70,
	}
	if len(got.Status.Volumes) != 1 || got.Status.Volumes[0] != want || got.Metadata.Labels["app"] != "web" {
		t.Errorf("%+v", got)
	}
	for _, answers := range []map[string]string{restoringAnswers(), {}} {
		foreign, _ := harvesterAt(t, answers)
		if _, err := newPlace(t).catalog().With(foreign).Restore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "none"}); vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
			t.Errorf("a restore that is not there: %v", err)
		}
	}
}

// Each layer that the view rests on is watched: here Longhorn's volume is restored.
func TestHarvesterRestoreIsWatched(t *testing.T) {
	foreign, server := harvesterAt(t, restoringAnswers())
	var seen []string
	err := newPlace(t).catalog().With(foreign).WatchRestore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "new"}, func(r *vmbackup.Restore) bool {
		v := r.Status.Volumes[0]
		seen = append(seen, fmt.Sprintf("%s %d%%", v.State, v.Progress))
		server.mu.Lock()
		restoringVolume(server.answers, false)
		server.mu.Unlock()
		return v.State == vmbackup.StateReady
	})
	if err != nil || !slices.Equal(seen, []string{"Running 70%", "Ready 100%"}) {
		t.Errorf("%q, %v", seen, err)
	}
	err = newPlace(t).catalog().With(foreign).WatchRestore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: "none"}, func(*vmbackup.Restore) bool { return true })
	if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		t.Errorf("a restore that is not there: %v", err)
	}
}

// The tool's own record of a restore goes before Harvester's, and what may not be
// looked at hides nothing.
func TestForeignRestoresAreListed(t *testing.T) {
	p := newPlace(t)
	if _, err := p.journal.Create(t.Context(), restoreEntry(t, "r1", "web", vmbackup.PhaseRunning, 1)); err != nil {
		t.Fatal(err)
	}
	theirs := func(name string) vmbackup.Restore {
		r := vmbackup.NewRestore(vmbackup.Ref{Namespace: "demo", Name: name})
		r.Status.Phase = vmbackup.PhaseReady
		return *r
	}
	c := p.catalog().With(others{restores: []vmbackup.Restore{theirs("r1"), theirs("r2")}, err: vmbackup.Errorf(vmbackup.ReasonForbidden, "not all")})
	got, warnings, err := c.Restores(t.Context(), vmbackup.ListOptions{Source: vmbackup.SourceCluster})
	if err != nil || !slices.Equal(toldRestores(got), []string{"demo/r1 Running 0%", "demo/r2 Ready 0%"}) || !slices.Equal(warnings, []string{"not all"}) {
		t.Errorf("%q, %q, %v", toldRestores(got), warnings, err)
	}
	for name, phase := range map[string]vmbackup.Phase{"r1": vmbackup.PhaseRunning, "r2": vmbackup.PhaseReady} {
		one, err := c.Restore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: name})
		if err != nil || one.Status.Phase != phase {
			t.Errorf("%s: %+v, %v", name, one, err)
		}
		err = c.WatchRestore(t.Context(), vmbackup.Ref{Namespace: "demo", Name: name}, func(r *vmbackup.Restore) bool {
			one = r
			return true
		})
		if err != nil || one.Status.Phase != phase {
			t.Errorf("watched %s: %+v, %v", name, one, err)
		}
	}
	var _ catalog.Foreign = others{}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"slices"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// RestoreCluster is a Cluster on which backups of its machine can be restored.
type RestoreCluster interface {
	Cluster
	// Other is a namespace beside the machine's, in which nothing is.
	Other() string
	// Machine is a machine as the API server has it, nil where there is none.
	Machine(ref vmbackup.Ref) map[string]any
	// Objects are all machines, claims, snapshots, secrets and config maps, and what a
	// platform makes for restores, as "resource namespace/name".
	Objects() []string
	// Hold keeps the data of restored volumes from coming, until release is called.
	Hold() (release func())
}

// RestoreFactory runs a test on a cluster of its own.
type RestoreFactory func(t *testing.T, test func(t *testing.T, c RestoreCluster))

// Restores tests the half of an engine that is about restores.
func Restores(t *testing.T, on RestoreFactory) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, c RestoreCluster)
	}{
		{"a plan of a restore changes nothing", restorePlanChangesNothing},
		{"a plan of a restore refuses", restoreRefusedByPlan},
		{"a machine's name that is taken", restoreNameOfMachineTaken},
		{"a restore ends as Ready", restoreEndsReady},
		{"a restored machine is the machine", restoredIsTheMachine},
		{"a restore into another namespace", restoreIntoNamespace},
		{"an interrupted restore into another namespace", restoreIntoNamespaceGoesOn},
		{"a restore's name is taken once", restoreNameIsTakenOnce},
		{"an interrupted restore is gone on with elsewhere", restoreGoesOn},
		{"a restore whose time is up", restoreTimesOut},
		{"a restore that does not wait", restoreWithoutWaiting},
		{"two runs make one restore", twoRestoreRuns},
		{"somebody else follows a restore", followRestore},
		{"a restore is canceled", cancelRestore},
		{"a run of a restore that is canceled stops", cancelStopsRestoreRun},
		{"a restore that has ended is not canceled", cancelEndedRestore},
		{"the record of a restore is deleted", deleteRestore},
		{"a restore that nobody knows", unknownRestore},
		{"a plan of a restore of somebody else's", foreignRestorePlan},
	} {
		t.Run(test.name, func(t *testing.T) { on(t, test.run) })
	}
}

// restoreRequest asks for the machine of the suite's backup, beside the machine itself.
func restoreRequest(c Cluster) vmbackup.RestoreRequest {
	return vmbackup.RestoreRequest{Name: "again", Backup: ref(c), ToNamespace: c.VM().Namespace, ToName: "copy"}
}

func restoreRef(c Cluster) vmbackup.Ref {
	return vmbackup.Ref{Namespace: c.VM().Namespace, Name: "again"}
}

func copyRef(c Cluster) vmbackup.Ref {
	return vmbackup.Ref{Namespace: c.VM().Namespace, Name: "copy"}
}

func planRestore(t *testing.T, c Cluster, e vmbackup.Engine) *vmbackup.RestorePlan {
	t.Helper()
	plan, err := e.PlanRestore(t.Context(), restoreRequest(c))
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// startRestore plans and starts the restore.
func startRestore(t *testing.T, c Cluster, e vmbackup.Engine) *vmbackup.Restore {
	t.Helper()
	restore, err := e.StartRestore(t.Context(), planRestore(t, c, e))
	if err != nil {
		t.Fatal(err)
	}
	return restore
}

// restoreReady makes the backup and restores it.
func restoreReady(t *testing.T, c Cluster) {
	t.Helper()
	ready(t, c)
	e := c.Engine()
	startRestore(t, c, e)
	r, err := e.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
}

func isRestored(t *testing.T, c Cluster, r *vmbackup.Restore) {
	t.Helper()
	if r == nil || r.Status.Phase != vmbackup.PhaseReady || !r.Status.Ready || r.Status.Error != nil || r.Status.CompletedAt == nil ||
		len(r.Status.Volumes) != 2 || r.Status.VM != copyRef(c).String() {
		t.Fatalf("%+v", r)
	}
	for _, v := range r.Status.Volumes {
		if v.State != vmbackup.StateReady || v.Progress != 100 || v.PVC == "" || v.LonghornVolume == "" {
			t.Errorf("volume %+v", v)
		}
	}
}

// unwritten fails if something was changed since there were so many writes.
func unwritten(t *testing.T, c Cluster, before int) {
	t.Helper()
	if w := c.Writes()[before:]; len(w) > 0 {
		t.Errorf("written: %v", w)
	}
}

// count is how many objects of a resource there are.
func count(c RestoreCluster, resource string) int {
	n := 0
	for _, o := range c.Objects() {
		if strings.HasPrefix(o, resource+" ") {
			n++
		}
	}
	return n
}

// oneRestore fails unless the machine was restored once, on volumes of its own.
func oneRestore(t *testing.T, c RestoreCluster) {
	t.Helper()
	if machines, claims := count(c, "virtualmachines"), count(c, "persistentvolumeclaims"); machines != 2 || claims != 4 {
		t.Errorf("%d machines and %d claims: %v", machines, claims, c.Objects())
	}
}

func restorePlanChangesNothing(t *testing.T, c RestoreCluster) {
	ready(t, c)
	before, e := len(c.Writes()), c.Engine()
	plan := planRestore(t, c, e)
	unwritten(t, c, before)
	r := plan.Restore
	if r.Status.Phase != vmbackup.PhasePlanned || r.Status.Ready || r.Status.Engine != e.Name() || r.Ref() != restoreRef(c) ||
		r.Spec.Backup != ref(c).String() || r.Spec.TargetName != "copy" || r.Spec.TargetNamespace != c.VM().Namespace || r.Spec.Mode != vmbackup.ModeNew {
		t.Errorf("%+v", r)
	}
	creates := func(o vmbackup.PlannedObject) bool {
		return o.Action == vmbackup.ActionCreate && o.Kind == "PersistentVolumeClaim"
	}
	if len(r.Status.Volumes) != 2 || len(plan.Steps) == 0 || plan.Backup.Ref() != ref(c) || !slices.ContainsFunc(plan.Objects, creates) {
		t.Errorf("%+v", plan)
	}
}

func restoreRefusedByPlan(t *testing.T, c RestoreCluster) {
	ready(t, c)
	before := len(c.Writes())
	for name, test := range map[string]struct {
		change  func(*vmbackup.RestoreRequest)
		reasons []vmbackup.Reason
	}{
		// An engine that restores only what a platform keeps says that it cannot.
		"no such backup":    {func(r *vmbackup.RestoreRequest) { r.Backup.Name = "nobody" }, []vmbackup.Reason{vmbackup.ReasonNotFound, vmbackup.ReasonEngineUnavailable}},
		"no such policy":    {func(r *vmbackup.RestoreRequest) { r.MAC = "maybe" }, []vmbackup.Reason{vmbackup.ReasonInvalidRequest}},
		"no such namespace": {func(r *vmbackup.RestoreRequest) { r.ToNamespace = "nowhere" }, []vmbackup.Reason{vmbackup.ReasonNotFound}},
	} {
		req := restoreRequest(c)
		test.change(&req)
		plan, err := c.Engine().PlanRestore(t.Context(), req)
		if plan != nil {
			t.Errorf("%s: a plan with the error", name)
		}
		wantReason(t, err, true, test.reasons...)
	}
	unwritten(t, c, before)
}

func restoreNameOfMachineTaken(t *testing.T, c RestoreCluster) {
	ready(t, c)
	before, objects := len(c.Writes()), c.Objects()
	req := restoreRequest(c)
	req.ToName = c.VM().Name
	_, err := c.Engine().PlanRestore(t.Context(), req)
	wantReason(t, err, true, vmbackup.ReasonAlreadyExists)
	unwritten(t, c, before)
	if now := c.Objects(); !slices.Equal(now, objects) {
		t.Errorf("there is %v, and was %v", now, objects)
	}
}

func restoreEndsReady(t *testing.T, c RestoreCluster) {
	ready(t, c)
	snapshots := count(c, "volumesnapshots") + count(c, "volumesnapshotcontents")
	e := c.Engine()
	if r := startRestore(t, c, e); r.Status.Phase != vmbackup.PhaseRunning || r.Status.StartedAt == nil || r.Ref() != restoreRef(c) {
		t.Errorf("started as %+v", r)
	}
	events := &Events{}
	// Another process takes it to its end.
	r, err := c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{Sink: events})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	oneRestore(t, c)
	if now := count(c, "volumesnapshots") + count(c, "volumesnapshotcontents"); now != snapshots {
		t.Errorf("snapshots are left: %v", c.Objects())
	}
	if r.Status.Engine != e.Name() {
		t.Errorf("done by %s", r.Status.Engine)
	}
	all := events.All()
	wantStream(t, all)
	if last := all[len(all)-1]; last.Type != vmbackup.EventResult || last.Phase != vmbackup.PhaseReady {
		t.Errorf("the last event is %+v", last)
	}
	done := map[string]bool{}
	for _, e := range all {
		if e.Type == vmbackup.EventStep && e.State == vmbackup.StateReady {
			done[e.Step] = true
		}
	}
	for _, s := range all[0].Steps {
		if !done[s.ID] {
			t.Errorf("step %s is never told done", s.ID)
		}
	}
	// Once more, it is only told.
	before, told := len(c.Writes()), &Events{}
	again, err := c.Engine().RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{Sink: told})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, again)
	unwritten(t, c, before)
	if all := told.All(); len(all) != 2 || all[0].Type != vmbackup.EventPlan || all[1].Type != vmbackup.EventResult || all[1].Phase != vmbackup.PhaseReady {
		t.Errorf("told by the second run: %+v", all)
	}
}

func restoreNameIsTakenOnce(t *testing.T, c RestoreCluster) {
	ready(t, c)
	one, other := c.Engine(), c.Engine()
	first, second := planRestore(t, c, one), planRestore(t, c, other)
	if _, err := one.StartRestore(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	_, err := other.StartRestore(t.Context(), second)
	wantReason(t, err, false, vmbackup.ReasonAlreadyExists)
	r, err := one.RunRestore(t.Context(), restoreRef(c), vmbackup.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	isRestored(t, c, r)
	// Neither is another machine restored under the name of a restore that has ended.
	objects := c.Objects()
	req := restoreRequest(c)
	req.ToName = "third"
	plan, err := other.PlanRestore(t.Context(), req)
	if err == nil {
		_, err = other.StartRestore(t.Context(), plan)
	}
	wantReason(t, err, false, vmbackup.ReasonAlreadyExists)
	if now := c.Objects(); !slices.Equal(now, objects) {
		t.Errorf("there is %v, and was %v", now, objects)
	}
	oneRestore(t, c)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the tests with -update to write it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run the tests with -update to rewrite it)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

// noon is the time in all tests.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// rig is a command line before a cluster with the namespace shop, a journal and a
// backup target, and an engine that does as it is told.
type rig struct {
	t         *testing.T
	engine    *fakeEngine
	scheduler *fakeScheduler
	journal   *journal.Memory
	store     *target.Memory
	images    vmbackup.Images
	targets   *fakeTargets
	// down is the error of everything that is asked of the cluster itself.
	down error
	// happened are the events of namespaces.
	happened map[string][]corev1.Event

	// tty says that all streams are terminals; answer is what is typed.
	tty    bool
	answer io.Reader
	env    map[string]string
	width  int
	// macs are the machines that have a MAC address; nil where nobody may look.
	macs map[string]vmbackup.Ref
	// uid is that of every machine.
	uid string
	// other is the cluster of --to-context.
	other *rig
	// unreachable is what connecting comes back with.
	unreachable error

	mu        sync.Mutex
	connected []string // the targets asked for
}

func newRig(t *testing.T) *rig {
	return &rig{
		t: t, engine: &fakeEngine{errs: map[string]error{}}, scheduler: &fakeScheduler{errs: map[string]error{}},
		journal: journal.NewMemory(), store: target.NewMemory(noon), targets: &fakeTargets{},
		answer: strings.NewReader(""), env: map[string]string{"LANG": "C.UTF-8"}, width: 100,
	}
}

// rigCluster is the rig as a cluster: namespaces shop and test, machines db, web and web-2.
type rigCluster struct{ *rig }

func (c rigCluster) machines(_ context.Context, namespace, selector string) ([]string, error) {
	switch {
	case c.down != nil || namespace != "shop" || selector == "tier=none":
		return nil, c.down
	case selector == "tier=db":
		return []string{"db"}, nil
	}
	return []string{"web", "db", "web-2"}, nil
}

func (c rigCluster) namespaces(context.Context) ([]string, error) {
	return []string{"shop", "test"}, c.down
}

func (c rigCluster) events(_ context.Context, namespace string) ([]corev1.Event, error) {
	return c.happened[namespace], c.down
}

func (c rigCluster) machineUID(context.Context, vmbackup.Ref) (string, error) { return c.uid, c.down }

func (c rigCluster) macUsers(_ context.Context, macs []string) (map[string]vmbackup.Ref, bool, error) {
	users := map[string]vmbackup.Ref{}
	for _, mac := range macs {
		if ref, found := c.macs[mac]; found {
			users[mac] = ref
		}
	}
	return users, c.macs != nil, c.down
}

func (c rigCluster) versions(context.Context) (*serverVersion, error) {
	if c.down != nil {
		return nil, c.down
	}
	return &serverVersion{Kubernetes: "v1.36.1", Longhorn: "v1.12.0"}, nil
}

// ended is how a command ended.
type ended struct {
	code     int
	out, err string
}

func (r *rig) run(args ...string) ended { return r.runIn(r.t.Context(), args...) }

func (r *rig) runIn(ctx context.Context, args ...string) ended {
	r.t.Helper()
	out, errOut := &buffer{}, &buffer{}
	code := r.globals(out, errOut).execute(ctx, args)
	return ended{code: code, out: out.String(), err: errOut.String()}
}

func (r *rig) globals(out, errOut io.Writer) *globals {
	g := newGlobals(genericiooptions.IOStreams{In: r.answer, Out: out, ErrOut: errOut}, Build{Version: "v1.2.3", Commit: "abc"})
	g.clock = noon
	g.facts = func(io.Writer) render.Facts {
		return render.Facts{
			TTY: r.tty, Size: func() (int, int) { return r.width, 50 },
			Getenv: func(name string) string { return r.env[name] },
		}
	}
	g.answers = func(io.Reader) bool { return r.tty }
	g.connect = r.connect
	g.connector = func(*globals) func(string) (*session, error) { return r.other.connect }
	return g
}

func (r *rig) connect(targetName string) (*session, error) {
	r.mu.Lock()
	r.connected = append(r.connected, targetName)
	r.mu.Unlock()
	if r.unreachable != nil {
		return nil, r.unreachable
	}
	open := func(context.Context, string) (target.Store, error) { return r.store, nil }
	return &session{
		namespace: "shop", cluster: rigCluster{r}, engine: r.engine, images: r.images, targets: r.targets, scheduler: r.scheduler,
		catalog: catalog.New(r.journal, catalog.Target{Name: vmbackup.DefaultTarget, Open: open}, decodeRestore),
	}, nil
}

func decodeRestore(_ vmbackup.Ref, data []byte) (*vmbackup.Restore, error) {
	r := &vmbackup.Restore{}
	return r, json.Unmarshal(data, r)
}

// backup is a finished backup of a machine, begun some hours before noon.
func backup(ref, vm string, hours int) *vmbackup.Backup {
	namespace, name, _ := strings.Cut(ref, "/")
	began := noon().Add(time.Duration(-hours) * time.Hour)
	ended := began.Add(4 * time.Minute)
	b := vmbackup.NewBackup(vmbackup.Ref{Namespace: namespace, Name: name})
	b.Metadata.Labels = map[string]string{"app": vm}
	b.Spec = vmbackup.BackupSpec{VM: vm, Type: vmbackup.TypeBackup, Target: vmbackup.DefaultTarget}
	b.Status = vmbackup.BackupStatus{
		Phase: vmbackup.PhaseReady, Ready: true, StartedAt: &began, CompletedAt: &ended, Engine: vmbackup.EngineDirect,
		Volumes: []vmbackup.BackupVolume{{
			Name: "root", PVC: vm + "-root", StorageClass: "longhorn", SizeBytes: 1 << 30, LonghornVolume: "pvc-" + vm,
			State: vmbackup.StateReady, Progress: 100,
		}},
	}
	return b
}

// put records backups and restores in the cluster; again replaces the record.
func (r *rig) put(objects ...any) {
	r.t.Helper()
	for _, o := range objects {
		var e journal.Entry
		var err error
		switch o := o.(type) {
		case *vmbackup.Backup:
			e = journal.Entry{Kind: journal.KindBackup, Ref: o.Ref(), Labels: map[string]string{journal.LabelVM: o.Spec.VM}}
			e.Data, err = metadata.EncodeJournal(&metadata.Record{Backup: *o, VM: json.RawMessage(fmt.Sprintf(
				`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":%q,"namespace":%q},"spec":{"template":{"spec":{}}}}`, o.Spec.VM, o.Metadata.Namespace))})
		case *vmbackup.Restore:
			e = journal.Entry{Kind: journal.KindRestore, Ref: o.Ref(), Labels: map[string]string{journal.LabelVM: o.Spec.TargetName}}
			e.Data, err = json.Marshal(o)
		default:
			r.t.Fatalf("%T", o)
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if old, getErr := r.journal.Get(r.t.Context(), e.Kind, e.Ref); getErr == nil {
			e.Version = old.Version
			_, err = r.journal.Update(r.t.Context(), e)
		} else {
			_, err = r.journal.Create(r.t.Context(), e)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func restore(ref, vm string, phase vmbackup.Phase) *vmbackup.Restore {
	namespace, name, _ := strings.Cut(ref, "/")
	began := noon().Add(-time.Hour)
	r := vmbackup.NewRestore(vmbackup.Ref{Namespace: namespace, Name: name})
	r.Spec = vmbackup.RestoreSpec{Backup: namespace + "/" + vm + "-1", TargetNamespace: namespace, TargetName: vm, Mode: vmbackup.ModeNew}
	r.Status = vmbackup.RestoreStatus{Phase: phase, Ready: phase == vmbackup.PhaseReady, StartedAt: &began, Engine: vmbackup.EngineDirect}
	return r
}

// want compares the parts of a command's end. Empty texts mean an empty stream.
func (e ended) want(t *testing.T, code int, out, err string) {
	t.Helper()
	if e.code != code {
		t.Errorf("exit code %d, want %d", e.code, code)
	}
	for _, s := range []struct{ name, got, want string }{{"output", e.out, out}, {"error stream", e.err, err}} {
		if s.got != s.want {
			t.Errorf("%s:\n%s\nwant:\n%s", s.name, s.got, s.want)
		}
	}
}

// contains compares only parts of both streams taken together.
func (e ended) contains(t *testing.T, code int, parts ...string) {
	t.Helper()
	if e.code != code {
		t.Errorf("exit code %d, want %d", e.code, code)
	}
	for _, part := range parts {
		if !strings.Contains(e.out+e.err, part) {
			t.Errorf("%q is told nowhere", part)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s\nerror stream:\n%s", e.out, e.err)
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fakeEngine notes what is asked of it, and fails where errs says so.
type fakeEngine struct {
	// errs are by call: "plan backup shop/web", "run backup shop/web-1".
	errs map[string]error
	// warned is the warning of every backup and restore.
	warned string
	// others are the other Ready backups of a machine, by the backup to be deleted;
	// one that is not here has another one.
	others map[string][]vmbackup.Ref
	// during runs within RunBackup, RunRestore and Delete, and in place of the end of Follow.
	during func(ctx context.Context, call string) error
	// planned is what a plan of a restore says beside its objects.
	planned vmbackup.RestorePlan
	// planning runs within PlanBackup.
	planning func(ctx context.Context)
	// fails makes the run end with the phase Failed where it has an error.
	fails bool

	mu       sync.Mutex
	calls    []string
	requests []any
	noWait   bool
}

var _ vmbackup.Engine = (*fakeEngine)(nil)

func (e *fakeEngine) call(call string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, call)
	return e.errs[call]
}

func (e *fakeEngine) ask(request any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, request)
}

// changes are the calls that change something.
func (e *fakeEngine) changes() []string {
	return slices.DeleteFunc(slices.Clone(e.calls), func(s string) bool { return strings.HasPrefix(s, "plan ") })
}

func (e *fakeEngine) Name() string { return "fake" }

func steps() []vmbackup.StepStatus {
	return []vmbackup.StepStatus{{ID: "upload", Title: "Upload the volumes", State: vmbackup.StatePending}}
}

func (e *fakeEngine) PlanBackup(ctx context.Context, req vmbackup.BackupRequest) (*vmbackup.BackupPlan, error) {
	e.ask(req)
	if e.planning != nil {
		e.planning(ctx)
	}
	if err := e.call("plan backup " + req.Namespace + "/" + req.VM); err != nil {
		return nil, err
	}
	b := backup(req.Ref().String(), req.VM, 0)
	b.Status = vmbackup.BackupStatus{Phase: vmbackup.PhasePlanned}
	return &vmbackup.BackupPlan{
		Request: req, Backup: b, Steps: steps(), Warnings: []string{"the guest agent does not answer"},
		Objects: []vmbackup.PlannedObject{{Action: vmbackup.ActionCreate, Kind: "VolumeSnapshot", Namespace: req.Namespace, Name: req.Name + "-root"}},
	}, nil
}

func (e *fakeEngine) StartBackup(_ context.Context, plan *vmbackup.BackupPlan) (*vmbackup.Backup, error) {
	if err := e.call("start backup " + plan.Request.Ref().String()); err != nil {
		return nil, err
	}
	plan.Backup.Status.Phase = vmbackup.PhaseRunning
	return plan.Backup, nil
}

func (e *fakeEngine) RunBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	vm, _, _ := strings.Cut(ref.Name, "-")
	b := backup(ref.String(), vm, 1)
	phase, err := e.perform(ctx, "backup", ref, opts)
	b.Status.Phase, b.Status.Ready = phase, phase == vmbackup.PhaseReady
	if e.warned != "" {
		b.Status.Warnings = []string{e.warned}
	}
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, err
	}
	return b, err
}

// perform runs an operation and tells its events.
func (e *fakeEngine) perform(ctx context.Context, kind string, ref vmbackup.Ref, opts vmbackup.RunOptions) (vmbackup.Phase, error) {
	e.mu.Lock()
	e.noWait = opts.NoWait
	e.mu.Unlock()
	seq := int64(0)
	emit := func(event vmbackup.Event) {
		seq++
		event.Seq, event.Time, event.Operation = seq, noon(), kind+"/"+ref.String()
		opts.Sink.Emit(event)
	}
	emit(vmbackup.Event{Type: vmbackup.EventPlan, Steps: steps(), Message: kind + " " + ref.Name})
	err := e.call("run " + kind + " " + ref.String())
	if err == nil && e.during != nil {
		err = e.during(ctx, kind+" "+ref.String())
	}
	end := vmbackup.Event{Type: vmbackup.EventResult, Phase: vmbackup.PhaseReady}
	switch {
	case err != nil && (ctx.Err() == nil || e.fails):
		end.Phase, end.Reason, end.Message = vmbackup.PhaseFailed, vmbackup.ReasonOf(err), err.Error()
	case err != nil || opts.NoWait:
		end.Phase = vmbackup.PhaseRunning
	}
	emit(end)
	return end.Phase, err
}

func (e *fakeEngine) PlanRestore(_ context.Context, req vmbackup.RestoreRequest) (*vmbackup.RestorePlan, error) {
	e.ask(req)
	if err := e.call("plan restore " + req.Backup.String()); err != nil {
		return nil, err
	}
	req = req.Default()
	r := restore(req.ToNamespace+"/web-9", "web", vmbackup.PhasePlanned)
	r.Spec.Backup = req.Backup.String()
	b := backup(req.Backup.String(), "web", 5)
	r.Status.Volumes = []vmbackup.RestoreVolume{{Name: "root", PVC: "web-root", StorageClass: cmp.Or(req.StorageClasses["longhorn"], "longhorn")}}
	plan := &vmbackup.RestorePlan{
		Request: req, Backup: b, Restore: r, Steps: steps(), Networks: e.planned.Networks, Quotas: e.planned.Quotas,
		Objects: []vmbackup.PlannedObject{{Action: vmbackup.ActionCreate, Kind: "VirtualMachine", Namespace: req.ToNamespace, Name: "web"}},
	}
	if req.MAC != vmbackup.MACNew {
		plan.MACs = e.planned.MACs
	}
	return plan, nil
}

func (e *fakeEngine) StartRestore(_ context.Context, plan *vmbackup.RestorePlan) (*vmbackup.Restore, error) {
	if err := e.call("start restore " + plan.Restore.Ref().String()); err != nil {
		return nil, err
	}
	return plan.Restore, nil
}

func (e *fakeEngine) RunRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	phase, err := e.perform(ctx, "restore", ref, opts)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, err
	}
	r := restore(ref.String(), "web", phase)
	if e.warned != "" {
		r.Status.Warnings = []string{e.warned}
	}
	return r, err
}

func (e *fakeEngine) PlanDelete(_ context.Context, req vmbackup.DeleteRequest) (*vmbackup.DeletePlan, error) {
	e.ask(req)
	if err := e.call("plan delete " + req.Backup.String()); err != nil {
		return nil, err
	}
	others, known := e.others[req.Backup.Name]
	if !known {
		others = []vmbackup.Ref{{Namespace: "shop", Name: "web-0"}}
	}
	return &vmbackup.DeletePlan{
		Request: req, Backup: backup(req.Backup.String(), "web", 1), Bytes: 3 << 20, OtherReady: others, LastReady: len(others) == 0,
		Objects: []vmbackup.PlannedObject{{Action: vmbackup.ActionDelete, Kind: vmbackup.KindFile, Name: "harvester/vmbackups/" + req.Backup.String() + ".cfg"}},
	}, nil
}

func (e *fakeEngine) Delete(ctx context.Context, plan *vmbackup.DeletePlan, opts vmbackup.RunOptions) error {
	_, err := e.perform(ctx, "delete", plan.Request.Backup, opts)
	return err
}

func (e *fakeEngine) CancelBackup(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Backup, error) {
	phase, err := e.perform(ctx, "cancel backup", ref, opts)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, err
	}
	vm, _, _ := strings.Cut(ref.Name, "-")
	b := backup(ref.String(), vm, 1)
	if b.Status.Phase = phase; err == nil {
		b.Status.Phase = vmbackup.PhaseCanceled
	}
	b.Status.Ready = false
	return b, err
}

func (e *fakeEngine) CancelRestore(ctx context.Context, ref vmbackup.Ref, opts vmbackup.RunOptions) (*vmbackup.Restore, error) {
	phase, err := e.perform(ctx, "cancel restore", ref, opts)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil, err
	}
	if err == nil {
		phase = vmbackup.PhaseCanceled
	}
	return restore(ref.String(), "web", phase), err
}

func (e *fakeEngine) DeleteRestore(_ context.Context, ref vmbackup.Ref) error {
	return e.call("delete restore " + ref.String())
}

func (e *fakeEngine) Observe(_ context.Context, b *vmbackup.Backup) error {
	if err := e.errs["observe "+b.Ref().String()]; err != nil {
		return err
	}
	if b.Status.Phase == vmbackup.PhaseRunning {
		b.Status.Volumes[0].Progress = 42
	}
	return nil
}

func (e *fakeEngine) FollowBackup(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	return e.follow(ctx, "backup", ref, sink)
}

func (e *fakeEngine) FollowRestore(ctx context.Context, ref vmbackup.Ref, sink vmbackup.Sink) error {
	return e.follow(ctx, "restore", ref, sink)
}

func (e *fakeEngine) follow(ctx context.Context, kind string, ref vmbackup.Ref, sink vmbackup.Sink) error {
	sink.Emit(vmbackup.Event{Seq: 1, Time: noon(), Type: vmbackup.EventPlan, Operation: kind + "/" + ref.String(), Steps: steps()})
	if e.during != nil {
		return e.during(ctx, "follow "+kind+" "+ref.String())
	}
	return nil
}

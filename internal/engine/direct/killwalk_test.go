// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"k8s.io/apimachinery/pkg/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// command is a flow as a user runs it: from its plan to its end, or, where it was
// started before, from where it stands.
type command struct {
	name string
	// prepare makes what the command works on.
	prepare func(*cluster)
	run     func(context.Context, *Engine) error
}

// commands are the flows that are walked. Whoever adds a flow adds it here.
func commands() []command {
	snapshot := request()
	snapshot.Type = vmbackup.TypeSnapshot
	discarding := inPlaceRequest()
	discarding.DeleteOldVolumes = true
	return []command{
		{"create", func(*cluster) {}, createCommand(request())},
		{"create, type snapshot", func(*cluster) {}, createCommand(snapshot)},
		{"restore", func(c *cluster) { c.complete() }, restoreCommand(restoreRequest())},
		{"restore, backups to be listed", func(c *cluster) { c.complete(); c.forgetBackups() }, restoreCommand(restoreRequest())},
		{"restore in place", func(c *cluster) { c.complete(); c.changed() }, restoreCommand(inPlaceRequest())},
		{"restore in place, old volumes deleted", func(c *cluster) { c.complete() }, restoreCommand(discarding)},
		{"cancel", halfMade(createCommand(request()), false, "create volumesnapshots"), cancelCommand(journal.KindBackup, b1)},
		{"cancel of uploads", halfMade(createCommand(request()), false, "put file"), cancelCommand(journal.KindBackup, b1)},
		{"cancel of a restore", halfMade(restoreCommand(restoreRequest()), true, "create virtualmachines"), cancelCommand(journal.KindRestore, r1)},
		{"cancel of a restore in place", halfMade(restoreCommand(inPlaceRequest()), true, "patch virtualmachines"), cancelCommand(journal.KindRestore, p1)},
		{"delete", func(c *cluster) { c.complete() }, deleteCommand(deleteRequest())},
	}
}

// createCommand is create: the same command goes on with what it has started.
func createCommand(req vmbackup.BackupRequest) func(context.Context, *Engine) error {
	req.FreezeTimeout = 20 * time.Second
	return func(ctx context.Context, e *Engine) error {
		if _, err := e.journal.Get(ctx, journal.KindBackup, req.Ref()); err == nil {
			_, err := e.RunBackup(ctx, req.Ref(), vmbackup.RunOptions{})
			return err
		}
		plan, err := e.PlanBackup(ctx, req)
		if err != nil {
			return err
		}
		if _, err := e.StartBackup(ctx, plan); err != nil {
			return err
		}
		_, err = e.RunBackup(ctx, req.Ref(), vmbackup.RunOptions{})
		return err
	}
}

// restoreCommand is restore, or resume where the restore has begun.
func restoreCommand(req vmbackup.RestoreRequest) func(context.Context, *Engine) error {
	return func(ctx context.Context, e *Engine) error {
		ref := vmbackup.Ref{Namespace: req.Default().ToNamespace, Name: req.Name}
		if _, err := e.journal.Get(ctx, journal.KindRestore, ref); err != nil {
			plan, err := e.PlanRestore(ctx, req)
			if err != nil {
				return err
			}
			if _, err := e.StartRestore(ctx, plan); err != nil {
				return err
			}
		}
		_, err := e.RunRestore(ctx, ref, vmbackup.RunOptions{})
		return err
	}
}

// halfMade prepares what a process has left that was killed after its first change of
// a kind. A restore is of a whole backup.
func halfMade(run func(context.Context, *Engine) error, whole bool, change string) func(*cluster) {
	return func(c *cluster) {
		c.t.Helper()
		if whole {
			c.complete()
		}
		p := c.process(0, dieAfter)
		p.until = change
		if err := p.live(run); !errors.Is(err, errDead) {
			c.t.Fatalf("no %s in %q: %v", change, p.changes, err)
		}
		p.bury()
	}
}

// cancelCommand is cancel: the same command finishes what was interrupted.
func cancelCommand(kind journal.Kind, ref vmbackup.Ref) func(context.Context, *Engine) error {
	return func(ctx context.Context, e *Engine) (err error) {
		if kind == journal.KindBackup {
			_, err = e.CancelBackup(ctx, ref, vmbackup.RunOptions{})
		} else {
			_, err = e.CancelRestore(ctx, ref, vmbackup.RunOptions{})
		}
		return err
	}
}

// deleteCommand is delete; what is gone need not be deleted.
func deleteCommand(req vmbackup.DeleteRequest) func(context.Context, *Engine) error {
	return func(ctx context.Context, e *Engine) error {
		plan, err := e.PlanDelete(ctx, req)
		if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		return e.Delete(ctx, plan, vmbackup.RunOptions{})
	}
}

// summary is what is there in the cluster and on the target, without names that
// follow from when something was made.
func (c *cluster) summary() map[string][]string {
	c.t.Helper()
	sum := map[string][]string{}
	note := func(resource string, tell func(runtime.Object) string) {
		for _, o := range c.all(resource) {
			sum[resource] = append(sum[resource], tell(o))
		}
		slices.Sort(sum[resource])
	}
	round := regexp.MustCompile(`-\d+$`)
	token := regexp.MustCompile(`-[0-9a-f]{12}$`)
	named := func(o runtime.Object) string {
		m := accessor(c.t, o)
		return m.GetNamespace() + "/" + token.ReplaceAllString(m.GetName(), "-TOKEN")
	}
	note("volumesnapshots", func(o runtime.Object) string { return round.ReplaceAllString(named(o), "") })
	note("volumesnapshotcontents", func(o runtime.Object) string {
		return round.ReplaceAllString(o.(*snapshotv1.VolumeSnapshotContent).Spec.VolumeSnapshotRef.Name, "")
	})
	note("snapshots", func(o runtime.Object) string { return o.(*longhornv1.Snapshot).Spec.Volume })
	note("backups", func(o runtime.Object) string { return o.(*longhornv1.Backup).Status.VolumeName })
	note("virtualmachines", func(o runtime.Object) string {
		vm := o.(*kubevirtv1.VirtualMachine)
		return fmt.Sprint(named(o), " ", *vm.Spec.RunStrategy, " ", vm.Status.Ready, " on ", len(capture.ReferencesOf(vm).Claims), " disks")
	})
	for _, resource := range []string{"persistentvolumeclaims", "secrets", "configmaps", "volumesnapshotclasses", "namespaces"} {
		note(resource, named)
	}
	name := regexp.MustCompile(`backup-[0-9a-f]{16}`)
	for _, key := range c.files() {
		sum["files"] = append(sum["files"], name.ReplaceAllString(key, "backup-X"))
	}
	entries, err := c.journal.List(c.t.Context(), journal.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		sum["records"] = append(sum["records"], fmt.Sprint(e.Kind, " ", e.Ref, " ", e.Labels[journal.LabelPhase]))
	}
	return sum
}

// settle lets the controllers come to rest.
func (c *cluster) settle() {
	c.t.Helper()
	if err := sleep(c.t.Context(), 15*time.Second); err != nil {
		c.t.Fatal(err)
	}
}

// same sees that the state is that of an undisturbed run and no guest stands still.
func (c *cluster) same(want map[string][]string) {
	c.t.Helper()
	if c.vms.standsStill(web) {
		c.t.Error("the guest is left frozen")
	}
	c.settle()
	got := c.summary()
	for _, resource := range slices.Sorted(mapKeys(want, got)) {
		if !reflect.DeepEqual(got[resource], want[resource]) {
			c.t.Errorf("%s:\n got %q\nwant %q", resource, got[resource], want[resource])
		}
	}
}

func mapKeys(maps ...map[string][]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		seen := map[string]bool{}
		for _, m := range maps {
			for key := range m {
				if !seen[key] && !yield(key) {
					return
				}
				seen[key] = true
			}
		}
	}
}

// undisturbed is the state after the command, and the changes that it makes.
func (cmd command) undisturbed(t *testing.T) (sum map[string][]string, changes []string) {
	t.Helper()
	inBubble(t, func(t *testing.T, c *cluster) {
		cmd.prepare(c)
		p := c.process(0, "")
		if err := p.live(cmd.run); err != nil {
			t.Fatal(err)
		}
		c.settle()
		sum, changes = c.summary(), p.changes
	})
	return sum, changes
}

// The command is killed at every request that changes something, before and after
// it, and run again: the result is that of an undisturbed run, with nothing twice,
// nothing left and no frozen guest. Where the API server is away from that request
// on, or the answer is lost, the very same run gets there by itself.
func TestKillWalk(t *testing.T) {
	for _, cmd := range commands() {
		t.Run(cmd.name, func(t *testing.T) {
			want, changes := cmd.undisturbed(t)
			if len(changes) < 3 || want["records"] == nil && cmd.name != "delete" {
				t.Fatalf("the flow changes only %q; state %q", changes, want)
			}
			for _, f := range []mishap{dieBefore, dieAfter, outage, blip} {
				points := 0
				for n := 1; ; n++ {
					reached := false
					t.Run(fmt.Sprintf("%s %d", f, n), func(t *testing.T) {
						inBubble(t, func(t *testing.T, c *cluster) {
							cmd.prepare(c)
							p := c.process(n, f)
							err := p.live(cmd.run)
							reached = len(p.changes) >= n
							survives := f == outage || f == blip || !reached
							if survives && err != nil {
								t.Fatalf("%v after %q", err, p.changes)
							}
							if !survives {
								again := c.process(0, "")
								if err := again.live(cmd.run); err != nil {
									t.Fatalf("does not go on after %q: %v", p.changes, err)
								}
							}
							c.same(want)
							if t.Failed() {
								t.Logf("changes: %q", p.changes)
							}
						})
					})
					if !reached {
						break
					}
					points++
				}
				t.Logf("%s: %d points", f, points)
				// The walk ends with a run that has met nothing. How many requests that is
				// varies a little: a removal, for one, is none where nothing is there yet.
				if points < len(changes)/2 {
					t.Errorf("%d points of %d changes", points, len(changes))
				}
			}
		})
	}
}

// Whoever is killed once may be killed again: several deaths in a row, at random.
func TestKilledAgainAndAgain(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, cmd := range commands() {
		t.Run(cmd.name, func(t *testing.T) {
			want, changes := cmd.undisturbed(t)
			for range 12 {
				inBubble(t, func(t *testing.T, c *cluster) {
					cmd.prepare(c)
					var deaths []string
					for range 1 + random.IntN(4) {
						n, f := 1+random.IntN(len(changes)), []mishap{dieBefore, dieAfter}[random.IntN(2)]
						p := c.process(n, f)
						if err := p.live(cmd.run); err != nil && len(p.changes) < n {
							t.Errorf("%v after %q", err, deaths)
						}
						deaths = append(deaths, fmt.Sprint(f, " ", n, " of ", strings.Join(p.changes, ", ")))
					}
					p := c.process(0, "")
					if err := p.live(cmd.run); err != nil {
						t.Errorf("%v after %q", err, deaths)
					}
					c.same(want)
					if t.Failed() {
						t.Logf("deaths %q", deaths)
					}
				})
			}
		})
	}
}

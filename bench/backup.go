// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	benchNamespace    = "bench"
	longhornNamespace = "longhorn-system"
	// A backup may ask the API server for so much, whatever it waits for.
	requestsBase, requestsPerVolume = 20, 5
	// repeatsGoal is how often the same thing may be read in one backup: before, after, and once more.
	repeatsGoal = 3
	// freezeGoal is the freeze window of eight volumes relative to that of one.
	freezeGoal = 1.5
	// exitGoal is how long the command may need, in seconds, once the data is safe.
	exitGoal = 0.5
)

// backupRun is what was measured of one backup.
type backupRun struct {
	freeze   float64 // seconds
	took     time.Duration
	tail     time.Duration // from the last Longhorn Backup's completion to the command's exit
	requests requestCount
}

// measureBackups backs up machines with more and more volumes.
func measureBackups(ctx context.Context, p *programs, s *sandbox, r *report) error {
	proxy, err := startProxy(ctx, s.config)
	if err != nil {
		return err
	}
	defer proxy.Close()
	dir, err := os.MkdirTemp("", "vmbackup-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s.kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := proxy.WriteKubeconfig(s.kubeconfig); err != nil {
		return err
	}

	frozen := map[int]float64{}
	// The freeze window is short, so that it is taken three times where its goal is.
	for _, load := range []struct{ volumes, rounds int }{{1, 3}, {4, 1}, {8, 3}, {16, 1}} {
		vm := fmt.Sprintf("vm-%d", load.volumes)
		if err := s.makeMachine(ctx, vm, load.volumes); err != nil {
			return err
		}
		var took, freeze, tail []float64
		var first backupRun
		for round := range load.rounds {
			run, err := s.backup(ctx, p, proxy, vm, round)
			if err != nil {
				return fmt.Errorf("backup of a machine with %d volumes: %w", load.volumes, err)
			}
			if round == 0 {
				first = run
			}
			took = append(took, run.took.Seconds())
			freeze = append(freeze, run.freeze)
			tail = append(tail, run.tail.Seconds())
		}
		frozen[load.volumes] = median(freeze)
		name := fmt.Sprintf("backup of %d volumes: ", load.volumes)
		times := fmt.Sprintf(", median of %d", load.rounds)
		r.add(name+"time", median(took), "s", "16 MiB a volume"+times)
		r.add(name+"frozen", frozen[load.volumes], "s", "as the backup's status tells"+times)
		r.addGoal(name+"end to exit", median(tail), exitGoal, "s", "from the last Longhorn backup's completion, seen by watch, to the exit"+times)
		r.addGoal(name+"API requests", float64(first.requests.Total), requestsBase+requestsPerVolume*float64(load.volumes), "", "counted by a proxy before the API server")
		r.addGoal(name+"repeated reads", float64(first.requests.MostReads), repeatsGoal, "", "the most repeated: "+first.requests.MostRead)
	}
	if frozen[1] > 0 {
		r.addGoal("freeze of 8 volumes relative to 1", frozen[8]/frozen[1], freezeGoal, "x", "medians of 3")
	}
	return nil
}

// backup makes one backup with the plugin and measures it.
func (s *sandbox) backup(ctx context.Context, p *programs, proxy *countingProxy, vm string, round int) (backupRun, error) {
	completions, stop, err := s.followCompletions(ctx)
	if err != nil {
		return backupRun{}, err
	}
	defer stop()

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.plugin, "--kubeconfig", s.kubeconfig, "--namespace", benchNamespace,
		"create", vm, "--name", fmt.Sprintf("%s-bench-%d", vm, round), "--progress", "none", "-o", "json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	proxy.reset()
	began := time.Now()
	err = cmd.Run()
	ended := time.Now()
	counts := proxy.reset()
	if err != nil {
		return backupRun{}, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	backup, err := readBackup(stdout.Bytes())
	if err != nil {
		return backupRun{}, err
	}
	if !backup.Status.Ready {
		return backupRun{}, fmt.Errorf("backup %s ended in phase %s", backup.Metadata.Name, backup.Status.Phase)
	}
	last, err := completions.last(ctx, len(backup.Status.Volumes))
	if err != nil {
		return backupRun{}, err
	}
	if round == 0 {
		printCounts(s.progress, counts)
	}
	return backupRun{
		freeze:   backup.Status.FreezeSeconds,
		took:     ended.Sub(began),
		tail:     ended.Sub(last),
		requests: summarize(counts),
	}, nil
}

// readBackup decodes the output of create: one Backup, or a List of one.
func readBackup(data []byte) (*vmbackup.Backup, error) {
	var printed struct {
		Kind  string            `json:"kind"`
		Items []vmbackup.Backup `json:"items"`
	}
	if err := json.Unmarshal(data, &printed); err != nil {
		return nil, fmt.Errorf("output of create: %w", err)
	}
	if printed.Kind == vmbackup.KindList {
		if len(printed.Items) != 1 {
			return nil, fmt.Errorf("create printed %d backups, want 1", len(printed.Items))
		}
		return &printed.Items[0], nil
	}
	backup := &vmbackup.Backup{}
	if err := json.Unmarshal(data, backup); err != nil {
		return nil, fmt.Errorf("output of create: %w", err)
	}
	return backup, nil
}

// completions delivers the times at which Longhorn Backups were seen to turn Completed.
type completions chan time.Time

// last returns the latest of the next n completions.
func (c completions) last(ctx context.Context, n int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var latest time.Time
	for i := range n {
		select {
		case seen, open := <-c:
			if !open {
				return latest, fmt.Errorf("the watch of Longhorn's backups ended after %d of %d", i, n)
			}
			latest = seen
		case <-ctx.Done():
			return latest, fmt.Errorf("%d of %d Longhorn backups were seen to complete: %w", i, n, ctx.Err())
		}
	}
	return latest, nil
}

// followCompletions watches Longhorn's backups, directly and not through the proxy.
func (s *sandbox) followCompletions(ctx context.Context) (completions, func(), error) {
	client, err := dynamic.NewForConfig(s.config)
	if err != nil {
		return nil, nil, err
	}
	backups := client.Resource(schema.GroupVersionResource{Group: "longhorn.io", Version: "v1beta2", Resource: "backups"}).Namespace(longhornNamespace)
	list, err := backups.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("list Longhorn's backups: %w", err)
	}
	watch, err := backups.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		return nil, nil, fmt.Errorf("watch Longhorn's backups: %w", err)
	}
	seen := make(completions, 256)
	go func() {
		defer close(seen)
		done := map[string]bool{}
		for _, b := range list.Items {
			done[b.GetName()] = isCompleted(&b)
		}
		for event := range watch.ResultChan() {
			backup, ok := event.Object.(*unstructured.Unstructured)
			if !ok || done[backup.GetName()] || !isCompleted(backup) {
				continue
			}
			done[backup.GetName()] = true
			seen <- time.Now()
		}
	}()
	return seen, watch.Stop, nil
}

func isCompleted(backup *unstructured.Unstructured) bool {
	state, _, err := unstructured.NestedString(backup.Object, "status", "state")
	return err == nil && state == "Completed"
}

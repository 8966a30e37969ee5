// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// harvesterSandbox has Harvester's controllers, and is apart from the other one.
const harvesterSandbox = "bench-harvester"

const (
	// throughGoal is the time of a backup by Harvester that the plugin follows, relative
	// to that of the same object made without it.
	throughGoal = 1.25
	// directGoal is the time of a backup by the direct engine relative to Harvester's.
	directGoal = 1.0
)

// measureHarvester starts a sandbox with Harvester, measures backups by its
// controllers beside the direct engine's, and the listing of thousands, and stops it.
func measureHarvester(ctx context.Context, progress io.Writer, p *programs, r *report) (err error) {
	s := &sandbox{program: p.sandbox, name: harvesterSandbox, progress: progress}
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		_, downErr := s.run(cleanup, "down")
		err = errors.Join(err, downErr)
	}()
	if _, err := s.run(ctx, "up", "--profile", "harvester"); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
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
	for _, volumes := range []int{1, 4, 8} {
		if err := s.compareEngines(ctx, p, proxy, volumes, r); err != nil {
			return fmt.Errorf("backups of a machine with %d volumes: %w", volumes, err)
		}
	}
	return s.measureListing(ctx, p, "vm-4-object-0", r)
}

// comparedRounds is how often each way is taken, in turns.
const comparedRounds = 2

// compareEngines backs one machine up in three ways: by the direct engine, by
// Harvester through the plugin, and by Harvester's object alone.
func (s *sandbox) compareEngines(ctx context.Context, p *programs, proxy *countingProxy, volumes int, r *report) error {
	vm := fmt.Sprintf("vm-%d", volumes)
	if err := s.makeMachine(ctx, vm, volumes); err != nil {
		return err
	}
	took, frozen, asked := map[string][]float64{}, map[string][]float64{}, map[string]requestCount{}
	for round := range comparedRounds {
		for _, way := range []string{vmbackup.EngineDirect, vmbackup.EngineHarvester, "object"} {
			name := fmt.Sprintf("%s-%s-%d", vm, way, round)
			began := time.Now()
			proxy.reset()
			var err error
			if way == "object" {
				err = s.backupByObject(ctx, vm, name)
			} else {
				err = s.backupBy(ctx, p, way, vm, name)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", way, err)
			}
			took[way] = append(took[way], time.Since(began).Seconds())
			asked[way] = summarize(proxy.reset())
			window, err := s.frozen(ctx, vm, began)
			if err != nil {
				return err
			}
			frozen[way] = append(frozen[way], window)
			fmt.Fprintf(s.progress, "  %s took %.1f s\n", name, took[way][round])
		}
	}
	direct, through, object := median(took[vmbackup.EngineDirect]), median(took[vmbackup.EngineHarvester]), median(took["object"])
	name, how := fmt.Sprintf("Harvester, %d volumes: ", volumes), fmt.Sprintf("16 MiB a volume, median of %d in turns", comparedRounds)
	r.add(name+"its object alone", object, "s", how+", until it is Ready and its description written")
	r.add(name+"through the plugin", through, "s", how+", which also looks at the target and adds what Harvester leaves out")
	r.addGoal(name+"plugin relative to the object", through/object, throughGoal, "x", how)
	r.add(name+"plugin's API requests", float64(asked[vmbackup.EngineHarvester].Total), "", "counted by a proxy before the API server")
	r.add(name+"direct engine", direct, "s", how)
	r.addGoal(name+"direct relative to Harvester", direct/object, directGoal, "x", how)
	r.add(name+"frozen by the direct engine", median(frozen[vmbackup.EngineDirect]), "s", "seen by the guest's stand-in, all freezes together")
	r.add(name+"frozen by Harvester", median(frozen["object"]), "s", "seen by the guest's stand-in, all freezes together")
	return nil
}

// backupBy makes a backup with an engine of the plugin.
func (s *sandbox) backupBy(ctx context.Context, p *programs, engine, vm, name string) error {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.plugin, "--kubeconfig", s.kubeconfig, "--namespace", benchNamespace, "--engine", engine,
		"create", vm, "--name", name, "--progress", "none", "-o", "json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	backup, err := readBackup(stdout.Bytes())
	if err == nil && !backup.Status.Ready {
		err = fmt.Errorf("backup %s ended in phase %s", name, backup.Status.Phase)
	}
	return err
}

// backupByObject asks Harvester for a backup as its UI does, and waits until it is
// Ready and described on the target.
func (s *sandbox) backupByObject(ctx context.Context, vm, name string) error {
	client, err := dynamic.NewForConfig(s.config)
	if err != nil {
		return err
	}
	backups := client.Resource(vmBackups).Namespace(benchNamespace)
	_, err = backups.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "harvesterhci.io/v1beta1", "kind": "VirtualMachineBackup", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"type": "backup", "source": map[string]any{"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": vm}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return kube.WaitFor(ctx, kube.One(backups, name), "backup "+name, func(o *unstructured.Unstructured) (bool, error) {
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		met := 0
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["status"] == "True" && (c["type"] == "Ready" || c["type"] == "MetadataReady") {
				met++
			}
		}
		return met == 2, err
	})
}

// frozen is for how long a guest's file systems stood still since began, in seconds.
func (s *sandbox) frozen(ctx context.Context, vm string, began time.Time) (float64, error) {
	output, err := s.run(ctx, "guest", "freezes", benchNamespace+"/"+vm, "-o", "json")
	if err != nil {
		return 0, err
	}
	total := 0.0
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		var freeze struct {
			Start   time.Time `json:"start"`
			Seconds float64   `json:"durationSeconds"`
		}
		if err := json.Unmarshal(lines.Bytes(), &freeze); err != nil {
			return 0, fmt.Errorf("freezes of %s: %w", vm, err)
		}
		if freeze.Start.After(began) {
			total += freeze.Seconds
		}
	}
	return total, lines.Err()
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// programs are the paths of what is measured.
type programs struct {
	bin, plugin, kubectl, sandbox string
}

func findPrograms(bin string) (*programs, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	p := &programs{
		bin:     bin,
		plugin:  filepath.Join(bin, "kubectl-vmbackup"),
		kubectl: filepath.Join(bin, "tools", "kubectl"),
		sandbox: filepath.Join(bin, "sandbox"),
	}
	for _, path := range []string{p.plugin, p.kubectl} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("use make bench, which builds the programs: %w", err)
		}
	}
	return p, nil
}

const (
	// startupPairs is how often both programs are started, in turns, so that
	// whatever else the machine does hits both alike.
	startupPairs = 40
	// startupGoal is the start-up time relative to kubectl's.
	startupGoal = 1.0
)

// measureStartup compares the plugin's start-up with kubectl's.
func (p *programs) measureStartup(ctx context.Context, r *report) error {
	home, err := os.MkdirTemp("", "vmbackup-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)

	start := func(program string) (time.Duration, error) {
		cmd := exec.CommandContext(ctx, program, "version", "--client")
		// An empty home: neither may win by what an earlier run left in a cache.
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		began := time.Now()
		output, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%s: %w\n%s", cmd, err, output)
		}
		return time.Since(began), nil
	}
	var ours, theirs, ratios []float64
	for i := range startupPairs + 3 {
		order := []string{p.plugin, p.kubectl}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		took := map[string]time.Duration{}
		for _, program := range order {
			if took[program], err = start(program); err != nil {
				return err
			}
		}
		if i < 3 { // the first rounds fill the page cache
			continue
		}
		ours = append(ours, took[p.plugin].Seconds()*1000)
		theirs = append(theirs, took[p.kubectl].Seconds()*1000)
		ratios = append(ratios, took[p.plugin].Seconds()/took[p.kubectl].Seconds())
	}
	pairs := fmt.Sprintf("median of %d pairs of `version --client`", startupPairs)
	r.addGoal("start-up relative to kubectl", median(ratios), startupGoal, "x", pairs)
	r.add("start-up", median(ours), "ms", pairs)
	r.add("start-up of kubectl", median(theirs), "ms", pairs)
	return nil
}

// measureSize tells the size of the plugin, with kubectl's to compare.
func (p *programs) measureSize(_ context.Context, r *report) error {
	for _, program := range []struct{ name, path string }{
		{"size of the plugin", p.plugin}, {"size of kubectl", p.kubectl},
	} {
		info, err := os.Stat(program.path)
		if err != nil {
			return err
		}
		r.add(program.name, float64(info.Size())/(1<<20), "MiB", "stripped, no cgo")
	}
	return nil
}

// Goals of a CI run: its time on a machine with warm caches.
const ciWarmGoal = 25 * 60

// measureCI tells what the last run of .ci/run recorded in timings.tsv.
func (p *programs) measureCI(_ context.Context, r *report) error {
	timings, err := os.Open(filepath.Join(p.bin, "timings.tsv"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer timings.Close()
	scanner := bufio.NewScanner(timings)
	for scanner.Scan() {
		fields := strings.Split(scanner.Text(), "\t")
		if len(fields) != 3 || fields[2] != "0" {
			continue
		}
		seconds, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return fmt.Errorf("timings.tsv: %w", err)
		}
		switch fields[0] {
		case "ci":
			r.addGoal("CI run", seconds, ciWarmGoal, "s", "the last .ci/run here; the goal is for warm caches")
		case "sandbox-build":
			r.add("sandbox build", seconds, "s", "as the last .ci/run or make test found its caches")
		}
	}
	return scanner.Err()
}

// median of values; NaN for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

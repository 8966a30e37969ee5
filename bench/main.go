// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Bench measures the plugin against its goals: on its own (start-up, size) and
// on a sandbox that it starts and stops (backups of machines with many volumes).
// It prints a table, each figure with its goal and whether it holds, and writes
// the same as JSON.
//
//	go run ./bench [-json FILE] [-only startup,size,ci,backup,harvester] [-strict]
//
// The part harvester builds and starts Harvester's controllers, which takes minutes
// when it was never done, and is measured only when it is asked for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Stderr, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// harvesterPart is measured only when it is asked for.
const harvesterPart = "harvester"

// part is one group of figures, measured together.
type part struct {
	name    string
	measure func(context.Context, *report) error
}

func run(ctx context.Context, out, progress io.Writer, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	jsonFile := flags.String("json", "", "file to write the figures to as JSON")
	only := flags.String("only", "", "comma-separated parts to measure; all when empty")
	strict := flags.Bool("strict", false, "fail when a goal is missed")
	bin := flags.String("bin", "bin", "folder with the programs that make builds")
	if err := flags.Parse(args); err != nil {
		return err
	}
	programs, err := findPrograms(*bin)
	if err != nil {
		return err
	}
	parts := []part{
		{"startup", programs.measureStartup},
		{"size", programs.measureSize},
		{"ci", programs.measureCI},
		{"backup", func(ctx context.Context, r *report) error {
			return measureSandbox(ctx, progress, programs, r)
		}},
		{harvesterPart, func(ctx context.Context, r *report) error {
			return measureHarvester(ctx, progress, programs, r)
		}},
	}
	wanted, err := selectParts(parts, *only)
	if err != nil {
		return err
	}

	r := newReport()
	var failed []error
	for _, p := range wanted {
		fmt.Fprintf(progress, "measuring %s\n", p.name)
		if err := p.measure(ctx, r); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	if err := r.print(out); err != nil {
		return err
	}
	if *jsonFile != "" {
		if err := r.write(*jsonFile); err != nil {
			return err
		}
	}
	if missed := r.missed(); *strict && len(missed) > 0 {
		failed = append(failed, fmt.Errorf("missed: %s", strings.Join(missed, ", ")))
	}
	return errors.Join(failed...)
}

func selectParts(parts []part, list string) ([]part, error) {
	if list == "" {
		return slices.DeleteFunc(parts, func(p part) bool { return p.name == harvesterPart }), nil
	}
	var selected []part
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no part is called %q", name)
		}
		selected = append(selected, parts[i])
	}
	return selected, nil
}

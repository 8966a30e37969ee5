// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Release makes what is published: the archives of the plugin and the krew
// manifest that names them.
//
//	release dist     -version v0.1.0 -out dist [-platforms linux/amd64,...]
//	release manifest -out FILE | -check FILE
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
)

// nextVersion is the version that the committed manifest announces.
const nextVersion = "v0.1.0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	if len(args) == 0 {
		return errors.New("want a subcommand: dist or manifest")
	}
	switch args[0] {
	case "dist":
		return runDist(ctx, out, args[1:])
	case "manifest":
		return runManifest(out, args[1:])
	}
	return fmt.Errorf("unknown subcommand %q: want dist or manifest", args[0])
}

func runDist(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("dist", flag.ContinueOnError)
	version := flags.String("version", nextVersion, "version of the release, with the v")
	commit := flags.String("commit", "unknown", "commit that the binaries tell")
	dir := flags.String("out", "dist", "folder to write to")
	only := flags.String("platforms", "", "comma-separated os/arch to build; all when empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	platforms, err := selectPlatforms(*only)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	r := release{version: *version, commit: *commit, dir: *dir, out: out}
	return r.build(ctx, platforms)
}

// selectPlatforms returns those of platforms() named in a comma-separated list
// of os/arch, all for an empty list.
func selectPlatforms(list string) ([]platform, error) {
	if list == "" {
		return platforms(), nil
	}
	var selected []platform
	for name := range strings.SplitSeq(list, ",") {
		p, err := findPlatform(name)
		if err != nil {
			return nil, err
		}
		selected = append(selected, p)
	}
	return selected, nil
}

func runManifest(out io.Writer, args []string) error {
	flags := flag.NewFlagSet("manifest", flag.ContinueOnError)
	target := flags.String("out", "", "file to write")
	check := flags.String("check", "", "file to compare with what would be written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	want, err := renderManifest(nextVersion, unreleased())
	if err != nil {
		return err
	}
	switch {
	case *target != "":
		return os.WriteFile(*target, want, 0o644)
	case *check != "":
		have, err := os.ReadFile(*check)
		if err != nil {
			return err
		}
		if string(have) != string(want) {
			return fmt.Errorf("%s is not what the generator writes: run make generate", *check)
		}
		fmt.Fprintf(out, "%s is up to date\n", *check)
		return nil
	}
	return errors.New("manifest: want -out or -check")
}

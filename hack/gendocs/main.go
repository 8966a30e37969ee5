// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Gendocs writes docs/cli.md from the command tree, or checks that it is what it
// would write.
//
//	gendocs -out FILE | -check FILE
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/util/homedir"

	"github.com/vmbackup/kubectl-vmbackup/hack/gendocs/clidoc"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, args []string) error {
	flags := flag.NewFlagSet("gendocs", flag.ContinueOnError)
	target := flags.String("out", "", "file to write")
	check := flags.String("check", "", "file to compare with what would be written")
	if err := flags.Parse(args); err != nil {
		return err
	}
	root := plugin.NewCommand(genericiooptions.NewTestIOStreamsDiscard(), plugin.Build{})
	want := clidoc.Render(root, homedir.HomeDir())
	switch {
	case *target != "":
		return os.WriteFile(*target, []byte(want), 0o644)
	case *check != "":
		have, err := os.ReadFile(*check)
		if err != nil {
			return err
		}
		if string(have) != want {
			return fmt.Errorf("%s is not what the command tree gives: run make generate", *check)
		}
		fmt.Fprintf(out, "%s is up to date\n", *check)
		return nil
	}
	return errors.New("want -out or -check")
}

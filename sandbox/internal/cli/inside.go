// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/instance"
)

func (a *app) execCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "exec NAME -- COMMAND [ARG...]",
		Short: "Run a command inside the namespaces of an instance",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := a.named(args[0])
			if err != nil {
				return err
			}
			pid, err := i.PID("init")
			if err != nil {
				return err
			}
			nsenter, err := exec.LookPath("nsenter")
			if err != nil {
				return fmt.Errorf("nsenter (util-linux) is needed: %w", err)
			}
			argv := []string{"nsenter", "--target", strconv.Itoa(pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--"}
			argv = append(argv, args[1:]...)
			environment := append(instance.BaseEnvironment(i.Dir), "TERM="+os.Getenv("TERM"))
			return syscall.Exec(nsenter, argv, environment)
		},
	}
}

func (a *app) logsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logs COMPONENT",
		Short: "Print the log of a component (pod-NAME for the program of a pod)",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := a.instance()
			if err != nil {
				return err
			}
			log, err := os.Open(i.Log(args[0]))
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("instance %s has no log of %s", i.Name, args[0])
			}
			if err != nil {
				return err
			}
			defer log.Close()
			_, err = io.Copy(a.out, log)
			return err
		},
	}
}

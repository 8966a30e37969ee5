// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/guest"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin/virthandler"
)

func (a *app) guestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "guest",
		Short: "Look into the stand-ins for guests of virtual machines, and act in them",
		Long: `Look into the stand-ins for guests of virtual machines, and act in them.

Annotations of a VM's template (or of its running VirtualMachineInstance) give its guest a fault:
  sandbox.vmbackup.io/guest-agent: absent        no guest agent answers
  sandbox.vmbackup.io/freeze: fail               freeze is refused
  sandbox.vmbackup.io/freeze: hang               no answer (virt-api gives up after 10 s), not frozen
  sandbox.vmbackup.io/freeze: lost-answer        frozen, but no answer
  sandbox.vmbackup.io/thaw: fail                 unfreeze is refused, only the deadline thaws
  sandbox.vmbackup.io/shutdown: ignore           the power button does nothing`,
	}
	cmd.AddCommand(a.guestFreezesCommand(), a.guestWriteCommand(), a.guestPowerCommand())
	return cmd
}

func (a *app) guestFreezesCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "freezes NAMESPACE/VM",
		Short: "List every freeze of a guest's file systems, oldest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			env, namespace, vm, err := a.guestArg(args[0])
			if err != nil {
				return err
			}
			windows, err := guest.NewJournal(virthandler.JournalDir(env), namespace, vm).Windows()
			if err != nil {
				return err
			}
			switch output {
			case "json":
				encoder := json.NewEncoder(a.out)
				for _, w := range windows {
					if err := encoder.Encode(w); err != nil {
						return err
					}
				}
				return nil
			case "":
				return a.printFreezes(windows)
			default:
				return fmt.Errorf("output format %q: use json, or leave it out", output)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", `"json" prints one JSON object a line`)
	return cmd
}

func (a *app) printFreezes(windows []guest.Window) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "START\tDURATION\tTIMEOUT\tTHAWED BY")
	for _, window := range windows {
		duration, by := "frozen now", "-"
		if window.End != nil {
			duration = window.End.Sub(window.Start).Round(time.Millisecond).String()
			by = string(window.ThawedBy)
		}
		fmt.Fprintf(w, "%s\t%s\t%gs\t%s\n", window.Start.UTC().Format(time.RFC3339Nano), duration, window.TimeoutSeconds, by)
	}
	return w.Flush()
}

func (a *app) guestWriteCommand() *cobra.Command {
	var request virthandler.WriteRequest
	cmd := &cobra.Command{
		Use:   "write NAMESPACE/VM DISK --seed SEED --size BYTES [--offset BYTES] [--wait]",
		Short: "Have a running guest write bytes that follow from a seed; a frozen guest refuses",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request.Seed == "" || request.Size <= 0 {
				return errors.New("--seed and a positive --size are needed")
			}
			env, namespace, vm, err := a.guestArg(args[0])
			if err != nil {
				return err
			}
			request.Disk = args[1]
			return virthandler.NewClient(env).Write(cmd.Context(), namespace, vm, request)
		},
	}
	cmd.Flags().StringVar(&request.Seed, "seed", "", "where the bytes come from: the same seed gives the same bytes")
	cmd.Flags().Int64Var(&request.Size, "size", 0, "how many bytes")
	cmd.Flags().Int64Var(&request.Offset, "offset", 0, "where, in bytes from the start of the disk")
	cmd.Flags().BoolVar(&request.Wait, "wait", false, "wait until a frozen guest is thawed instead of failing")
	return cmd
}

func (a *app) guestPowerCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "power NAMESPACE/VM poweroff|crash",
		Short:     "Have a running guest turn itself off, or crash",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{virthandler.PowerOff, virthandler.Crash},
		RunE: func(cmd *cobra.Command, args []string) error {
			env, namespace, vm, err := a.guestArg(args[0])
			if err != nil {
				return err
			}
			return virthandler.NewClient(env).Power(cmd.Context(), namespace, vm, args[1])
		},
	}
}

// guestArg resolves NAMESPACE/VM of the instance that --name means.
func (a *app) guestArg(arg string) (env *component.Env, namespace, vm string, err error) {
	namespace, vm, ok := strings.Cut(arg, "/")
	if !ok || namespace == "" || vm == "" {
		return nil, "", "", fmt.Errorf("%q: say NAMESPACE/VM", arg)
	}
	i, err := a.instance()
	if err != nil {
		return nil, "", "", err
	}
	env, err = i.Env()
	return env, namespace, vm, err
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/longhorndisk"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/seed"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/standin"
)

func (a *app) seedCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Make the virtual machines of the demonstration, with known disks",
		Long: `Make the virtual machines of the demonstration in namespace demo: web and db
(running) and legacy (stopped), with secrets, disks of known content and an
empty namespace restored. Prints the checksum of every disk. Run again, it
changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			cfg, env, err := a.client()
			if err != nil {
				return err
			}
			disks, err := seed.Run(ctx, cfg, env, a.err)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
			for _, d := range disks {
				fmt.Fprintf(w, "%s/%s\t%s\n", d.Namespace, d.Name, d.SHA256)
			}
			return w.Flush()
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up after this")
	return cmd
}

func (a *app) diskCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Read and write the content of PVCs on Longhorn, as a guest would",
	}
	cmd.PersistentFlags().DurationVar(&timeout, "timeout", 2*time.Minute, "give up after this")

	var from string
	var size, offset int64
	write := &cobra.Command{
		Use:   "write NAMESPACE/PVC --seed SEED --size BYTES [--offset BYTES]",
		Short: "Write bytes that follow from a seed to a disk",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from == "" || size <= 0 {
				return errors.New("--seed and a positive --size are needed")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			disks, namespace, pvc, err := a.disk(args[0])
			if err != nil {
				return err
			}
			return disks.Write(ctx, namespace, pvc, longhorndisk.Random(from), offset, size)
		},
	}
	write.Flags().StringVar(&from, "seed", "", "where the bytes come from: the same seed gives the same bytes")
	write.Flags().Int64Var(&size, "size", 0, "how many bytes")
	write.Flags().Int64Var(&offset, "offset", 0, "where, in bytes from the start of the disk")

	sum := &cobra.Command{
		Use:   "sha256 NAMESPACE/PVC",
		Short: "Print the checksum of the full content of a disk",
		Long: `Print the checksum of the full content of a disk: the volume's head, its
snapshots and its backing file together, attached or not. It fails while the
volume is being restored.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			disks, namespace, pvc, err := a.disk(args[0])
			if err != nil {
				return err
			}
			checksum, err := disks.SHA256(ctx, namespace, pvc)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, checksum)
			return err
		},
	}
	cmd.AddCommand(write, sum)
	return cmd
}

// disk resolves NAMESPACE/PVC of the instance that --name means.
func (a *app) disk(arg string) (disks *standin.Disks, namespace, pvc string, err error) {
	namespace, pvc, ok := strings.Cut(arg, "/")
	if !ok || namespace == "" || pvc == "" {
		return nil, "", "", fmt.Errorf("%q: say NAMESPACE/PVC", arg)
	}
	cfg, env, err := a.client()
	if err != nil {
		return nil, "", "", err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, "", "", err
	}
	return standin.NewDisks(client, env), namespace, pvc, nil
}

// client is the administrator's way into the instance that --name means.
func (a *app) client() (*rest.Config, *component.Env, error) {
	i, err := a.instance()
	if err != nil {
		return nil, nil, err
	}
	env, err := i.Env()
	if err != nil {
		return nil, nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", i.Kubeconfig())
	if err != nil {
		return nil, nil, err
	}
	cfg.QPS, cfg.Burst = 50, 100
	return cfg, env, nil
}

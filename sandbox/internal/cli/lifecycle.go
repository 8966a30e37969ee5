// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/instance"
)

func (a *app) buildCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the programs of the sandbox from their pinned modules into the cache",
		Long: `Build the programs of the sandbox from their pinned modules into the cache,
$SANDBOX_CACHE or kubectl-vmbackup/sandbox in the user's cache directory.
What is up to date is not touched; a changed pin rebuilds its family only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := a.builder(profile)
			if err != nil {
				return err
			}
			return b.Build(cmd.Context())
		},
	}
	profileFlag(cmd, &profile)
	return cmd
}

func profileFlag(cmd *cobra.Command, profile *string) {
	cmd.Flags().StringVar(profile, "profile", component.Default, `what runs in an instance: "default", or "harvester" for Harvester's controllers beside it`)
}

func (a *app) upCommand() *cobra.Command {
	var s3From, profile string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring an instance up and print how to reach it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("the sandbox makes namespaces and mounts: run it as root")
			}
			i, err := a.instance()
			if err != nil {
				return err
			}
			b, err := a.builder(profile)
			if err != nil {
				return err
			}
			// Building is idempotent and instant when nothing changed.
			if err := b.Build(cmd.Context()); err != nil {
				return err
			}
			families, err := b.Entries(cmd.Context())
			if err != nil {
				return err
			}
			options := instance.UpOptions{Profile: profile, Families: families, Timeout: timeout, Out: a.err}
			if s3From != "" {
				if options.S3From, err = a.named(s3From); err != nil {
					return err
				}
			}
			err = i.Up(cmd.Context(), options)
			if errors.Is(err, instance.ErrRunning) {
				err = a.reuse(i, profile)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "export KUBECONFIG=%s\n", i.Kubeconfig())
			return err
		},
	}
	profileFlag(cmd, &profile)
	cmd.Flags().StringVar(&s3From, "s3-from", "", "share the S3 server (the backup target) of this running instance")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "give up when not everything is ready by then")
	return cmd
}

// reuse says that an instance runs already; it must be of the profile that was asked for.
func (a *app) reuse(i *instance.Instance, profile string) error {
	env, err := i.Env()
	if err != nil {
		return err
	}
	if env.Profile != profile {
		return fmt.Errorf("instance %s runs with the profile %s: take it down first, or give another --name", i.Name, env.Profile)
	}
	fmt.Fprintf(a.err, "instance %s is running already\n", i.Name)
	return nil
}

func (a *app) downCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End an instance and remove everything it left",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := home()
			if err != nil {
				return err
			}
			existing, err := instance.List(dir)
			if err != nil {
				return err
			}
			if !all {
				i, err := a.instance()
				if err != nil {
					return err
				}
				for _, other := range existing {
					env, err := other.Env()
					running, _ := other.Running()
					if err == nil && running && env.S3From == i.Name {
						return fmt.Errorf("instance %s uses the S3 server of %s: take it down first, or use --all", other.Name, i.Name)
					}
				}
				existing = []*instance.Instance{i}
			}
			var errs []error
			for _, i := range existing {
				if err := i.Down(cmd.Context()); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(a.err, "instance %s is down\n", i.Name)
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every instance")
	return cmd
}

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the components of an instance",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := a.instance()
			if err != nil {
				return err
			}
			statuses, err := i.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(a.out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(statuses)
			}
			return a.printStatus(statuses)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printStatus(statuses []component.Status) error {
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tROLE\tSTATE\tRESTARTS\tAGE\tWHAT")
	for _, s := range statuses {
		what := s.About
		if s.State != component.Ready {
			what = cmp.Or(s.Message, what)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", s.Name, s.Role, s.State, s.Restarts,
			time.Since(s.Since).Round(time.Second), what)
	}
	return w.Flush()
}

func (a *app) componentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "component",
		Short: "Stop, start or restart one component, to see what happens without it",
		Long: `Stop, start or restart one component, to see what happens without it.
A stopped component stays stopped until it is started; the others keep running.
"sandbox status" shows the names.`,
	}
	for _, action := range []string{"stop", "start", "restart"} {
		cmd.AddCommand(&cobra.Command{
			Use:   action + " COMPONENT...",
			Short: action + " components and return when that is done",
			Args:  cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				i, err := a.instance()
				if err != nil {
					return err
				}
				for _, name := range args {
					if err := i.Control(cmd.Context(), name, action); err != nil {
						return fmt.Errorf("%s %s: %w", action, name, err)
					}
				}
				return nil
			},
		})
	}
	return cmd
}

func (a *app) kubeconfigCommand() *cobra.Command {
	var user string
	var groups []string
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig, or one for a new user",
		Long: `Print the administrator's kubeconfig. With --user, sign a client certificate
for that user and print a kubeconfig with it; what the user may do is up to RBAC.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			i, err := a.instance()
			if err != nil {
				return err
			}
			env, err := i.Env()
			if err != nil {
				return err
			}
			if user == "" && len(groups) > 0 {
				return errors.New("--group needs --user")
			}
			var data []byte
			if user == "" {
				data, err = os.ReadFile(i.Kubeconfig())
			} else {
				data, err = i.ClientKubeconfig(env, user, slices.Compact(groups)...)
			}
			if err != nil {
				return err
			}
			_, err = a.out.Write(data)
			return err
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "the user to sign a certificate for")
	cmd.Flags().StringArrayVar(&groups, "group", nil, "a group of the user (repeatable)")
	return cmd
}

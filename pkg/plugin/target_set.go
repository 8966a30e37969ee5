// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/plugin/internal/render"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// targetSetOptions are the flags of target set.
type targetSetOptions struct {
	*globals
	output
	dryRun dryRun

	request     vmbackup.TargetRequest
	credentials string
	fromEnv     bool
	poll        time.Duration
	timeout     time.Duration
	yes         bool
}

func (g *globals) newTargetSet() *cobra.Command {
	o := &targetSetOptions{globals: g}
	cmd := &cobra.Command{
		Use:   "set [NAME] URL",
		Short: "Set a backup target, after proving that it can be used",
		Long: `Set where a backup target lies and with what credentials it is used, and wait
until Longhorn can use it. Without a name it is Longhorn's target "default";
another one that is not there is made. On Harvester "default" is set by its
setting backup-target, which takes S3 and NFS.

URLs are Longhorn's, and credentials the keys of its Secrets:
    s3://BUCKET@REGION/PATH/         AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY;
                                     for other servers than Amazon's
                                     AWS_ENDPOINTS, AWS_CERT,
                                     VIRTUAL_HOSTED_STYLE
    nfs://SERVER:/PATH               none; options as ?nfsOptions=...
    cifs://SERVER/SHARE              CIFS_USERNAME, CIFS_PASSWORD
    azblob://CONTAINER@SUFFIX/PATH/  AZBLOB_ACCOUNT_NAME, AZBLOB_ACCOUNT_KEY

First everything is checked, and the new target used from here as 'target
check' does. This machine cannot do that with NFS, CIFS and Azure: they need
--skip-check. Backups on the old target are listed no more; that is asked
about. The URL goes over in one step and is never empty in between, since
Longhorn would drop its lists.

Credentials are never given on the command line, and never shown.`,
		Example: `
# A bucket, with keys from a file of lines KEY=VALUE
kubectl vmbackup target set s3://vm-backups@eu-1/ --credentials keys.env

# With keys that the environment has
kubectl vmbackup target set s3://vm-backups@eu-1/ --credentials-env

# A second target on NFS
kubectl vmbackup target set offsite nfs://10.0.0.5:/export/vm --skip-check

# See what would be changed
kubectl vmbackup target set s3://other@eu-1/ --dry-run=client`,
		Args:              named("the URL of the target", cobra.MaximumNArgs(2)),
		ValidArgsFunction: g.completeTarget,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.validate(cmd, args); err != nil {
				return usageError(cmd, err)
			}
			return o.execute(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.credentials, "credentials", "", "File with the keys of Longhorn's Secret, as lines KEY=VALUE or a JSON object. - reads the standard input")
	flags.BoolVar(&o.fromEnv, "credentials-env", false, "Take the keys of Longhorn's Secret from the environment")
	flags.StringVar(&o.request.CredentialSecret, "credential-secret", "", "Use this Secret of Longhorn's namespace. If nothing is given, the one that the target has")
	flags.DurationVar(&o.poll, "poll-interval", 0, "How often Longhorn, and on Harvester its controllers, look at the target. Zero is never. If not given, it stays")
	flags.BoolVar(&o.request.SkipCheck, "skip-check", false, "Do not try the target from here first")
	flags.BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	flags.DurationVar(&o.timeout, "timeout", syncTimeout, "How long to wait until Longhorn can use the target")
	must(cmd.MarkFlagFilename("credentials"))
	o.dryRun.addFlag(cmd, "show what would be changed")
	o.addFlags(cmd, false)
	return cmd
}

func (o *targetSetOptions) validate(cmd *cobra.Command, args []string) error {
	o.request.Name, o.request.URL = vmbackup.DefaultTarget, args[len(args)-1]
	if len(args) == 2 {
		o.request.Name = args[0]
	}
	given := 0
	for _, is := range []bool{o.credentials != "", o.fromEnv, o.request.CredentialSecret != ""} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return invalid("--credentials, --credentials-env and --credential-secret exclude each other")
	case o.timeout <= 0:
		return invalid("--timeout %s is not more than nothing", o.timeout)
	}
	if cmd.Flags().Changed("poll-interval") {
		o.request.PollInterval = &o.poll
	}
	if err := o.request.Validate(); err != nil {
		return err
	}
	if err := target.CheckURL(o.request.URL); err != nil {
		return err
	}
	var err error
	if o.request.Credentials, err = o.readCredentials(o.credentials); err != nil {
		return err
	}
	if o.fromEnv {
		if o.request.Credentials = credentialsOf(target.Type(o.request.URL), os.LookupEnv); len(o.request.Credentials) == 0 {
			return invalid("--credentials-env: the environment has none of %s", strings.Join(target.CredentialKeys(target.Type(o.request.URL)), ", "))
		}
	}
	if err := o.dryRun.validate(); err != nil {
		return err
	}
	return o.check()
}

// credentialsOf are the keys of a type of target that the environment has.
func credentialsOf(kind string, lookup func(string) (string, bool)) map[string][]byte {
	keys := map[string][]byte{}
	for _, key := range target.CredentialKeys(kind) {
		if value, set := lookup(key); set && strings.TrimSpace(value) != "" {
			keys[key] = []byte(strings.TrimSpace(value))
		}
	}
	return keys
}

func (o *targetSetOptions) execute(ctx context.Context) error {
	s, err := o.connect("")
	if err != nil {
		return err
	}
	plan, err := s.targets.PlanSet(ctx, o.request)
	if err != nil {
		return unbegun(ctx, err, 0)
	}
	if o.dryRun.on() || !plan.Unchanged {
		if err := o.showPlan(plan); err != nil || o.dryRun.on() {
			return err
		}
	}
	if plan.Hides != nil && !o.yes {
		if err := o.confirm(ctx, plan); err != nil {
			return err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	now, err := s.targets.Set(waiting, plan)
	if err != nil {
		return err
	}
	if !o.human() {
		return o.print(o.streams.Out, now)
	}
	done := "configured"
	switch {
	case plan.Unchanged:
		done = "unchanged"
	case plan.Before == nil:
		done = "created"
	}
	if _, err := fmt.Fprintf(o.streams.Out, "target.%s/%s %s\n", vmbackup.Group, o.request.Name, done); err != nil {
		return err
	}
	if now.Status.State != vmbackup.TargetAvailable {
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn cannot use backup target %q: %s", o.request.Name, now.Status.Message).
			WithHint("have it look again with: kubectl vmbackup target sync %s", o.request.Name)
	}
	return nil
}

func (o *targetSetOptions) showPlan(plan *vmbackup.TargetPlan) error {
	terminal := o.errTerminal()
	what := fmt.Sprintf("Backup target %s", o.request.Name)
	if o.dryRun.on() {
		terminal = o.outTerminal()
		what += " (dry run: nothing was changed)"
	}
	if _, err := fmt.Fprintf(terminal.Writer, "%s\n\n", what); err != nil {
		return err
	}
	return render.Plan(terminal.Writer, plan.Objects, nil, plan.Warnings, terminal.Options(o.clock()))
}

// confirm asks on a terminal, and refuses where nobody can answer.
func (o *targetSetOptions) confirm(ctx context.Context, plan *vmbackup.TargetPlan) error {
	if !o.facts(o.streams.ErrOut).TTY || !o.answers(o.streams.In) {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "setting backup target %s hides %d backups and has to be confirmed, and there is no terminal to ask on; nothing was changed", o.request.Name, plan.Hides.Backups).
			AsPreflight().WithHint("confirm with --yes")
	}
	if _, err := fmt.Fprintf(o.streams.ErrOut, "\nSet backup target %s, so that %d backups are listed no more? [y/N] ", o.request.Name, plan.Hides.Backups); err != nil {
		return err
	}
	read := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(o.streams.In).ReadString('\n')
		read <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case <-ctx.Done(): // a read from a terminal cannot be ended
		return vmbackup.Errorf(vmbackup.ReasonCanceled, "interrupted; nothing was changed").AsPreflight()
	case answer := <-read:
		if answer != "y" && answer != "yes" {
			return vmbackup.Errorf(vmbackup.ReasonCanceled, "not confirmed; nothing was changed").AsPreflight()
		}
	}
	return nil
}

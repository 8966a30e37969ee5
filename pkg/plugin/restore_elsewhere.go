// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// elsewhere names another cluster to restore into.
type elsewhere struct{ context, kubeconfig string }

func (e *elsewhere) on() bool { return e.context != "" || e.kubeconfig != "" }

func (e *elsewhere) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&e.context, "to-context", "", "Restore into the cluster of this context. The backup is read from the backup target, which both clusters must have; this cluster need not answer any more")
	flags.StringVar(&e.kubeconfig, "to-kubeconfig", "", "Kubeconfig with the context of the cluster to restore into, or with that cluster as its current context. If empty, the same kubeconfig")
	must(cmd.MarkFlagFilename("to-kubeconfig"))
}

// validateElsewhere refuses what makes no sense with another cluster.
func (o *restoreOptions) validateElsewhere() error {
	switch {
	case !o.elsewhere.on():
		return nil
	case o.request.InPlace:
		return invalid("--in-place restores the machine where it is, which is not in another cluster")
	case o.request.From == vmbackup.SourceCluster:
		return invalid("--from cluster does not go with another cluster, which finds the backup on the backup target alone")
	}
	return nil
}

// at are the surroundings of a command in another cluster. Of the connection flags
// only the kubeconfig and the time-out go along: the others name a user, a server or
// a namespace of this cluster.
func (g *globals) at(e *elsewhere) *globals {
	other := *g
	config := genericclioptions.NewConfigFlags(true)
	config.CacheDir = nil
	config.KubeConfig, config.Timeout = g.config.KubeConfig, g.config.Timeout
	if e.kubeconfig != "" {
		config.KubeConfig = &e.kubeconfig
	}
	if e.context != "" {
		config.Context = &e.context
	}
	other.config = config
	other.connect = g.connector(&other)
	return &other
}

// originDeadline is how long the cluster of a backup may take to answer. It may be
// gone for good, which must not keep anybody from restoring.
const originDeadline = 10 * time.Second

// origin is what the cluster that a backup comes from says of it.
type origin struct {
	// silent is why the cluster could not be asked; the rest is empty then.
	silent error
	// backup is nil when the cluster has no record of it.
	backup *vmbackup.Backup
	target *vmbackup.Target
	// machine says that the machine which was backed up is still there.
	machine  bool
	versions *serverVersion
}

// lookAtOrigin asks the cluster of a backup, as far as it answers.
func (o *restoreOptions) lookAtOrigin(ctx context.Context, s *session, ref vmbackup.Ref) *origin {
	ctx, cancel := context.WithTimeout(ctx, originDeadline)
	defer cancel()
	from := &origin{}
	if from.versions, from.silent = s.cluster.versions(ctx); from.silent != nil {
		return from
	}
	backup, err := s.catalog.Backup(ctx, ref, vmbackup.SourceCluster)
	switch {
	case err == nil:
		from.backup = backup
	case vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound:
		from.silent = err
		return from
	}
	name := o.request.Target
	if backup != nil {
		name = cmp.Or(backup.Spec.Target, name)
		var uid string
		if uid, err = s.cluster.machineUID(ctx, vmbackup.Ref{Namespace: ref.Namespace, Name: backup.Spec.VM}); err != nil {
			from.silent = err
			return from
		}
		from.machine = uid != "" && uid == backup.Status.SourceUID
	}
	if from.target, err = s.targets.Get(ctx, name); err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound {
		from.silent = err
	}
	return from
}

// check refuses a backup that cannot be on the target yet, or ever.
func (f *origin) check() error {
	switch b := f.backup; {
	case b == nil:
		return nil
	case b.Spec.Type == vmbackup.TypeSnapshot:
		return vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "backup %s is a snapshot in the volumes of its own cluster, and cannot be restored into another one", b.Ref()).AsPreflight().
			WithHint("make a backup of type backup, which goes to the backup target")
	case !b.Status.Phase.Done():
		return vmbackup.Errorf(vmbackup.ReasonConflict, "backup %s is not done yet: it is %s in its own cluster", b.Ref(), b.Status.Phase).AsPreflight().
			WithHint("wait for its end with: kubectl vmbackup watch %s -n %s", b.Metadata.Name, b.Metadata.Namespace)
	}
	return nil
}

// sharedTarget finds the target of the backup among those of the destination.
func (o *restoreOptions) sharedTarget(targets []vmbackup.Target, from *origin, where string) (*vmbackup.Target, error) {
	same := func(t vmbackup.Target) bool { return t.Metadata.Name == o.request.Target }
	wanted := fmt.Sprintf("no backup target %q", o.request.Target)
	if from.target != nil && from.target.Spec.URL != "" {
		same = func(t vmbackup.Target) bool { return plainURL(t.Spec.URL) == plainURL(from.target.Spec.URL) }
		wanted = "no backup target with the URL " + from.target.Spec.URL + ", on which the backup lies"
	}
	i := slices.IndexFunc(targets, same)
	if i < 0 {
		var have []string
		for _, t := range targets {
			have = append(have, t.Metadata.Name+" ("+cmp.Or(t.Spec.URL, "no URL")+")")
		}
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%s has %s; it has: %s", where, wanted, cmp.Or(strings.Join(have, ", "), "none")).AsPreflight().
			WithHint("give Longhorn there the same backup target, in its settings or in Harvester's setting backup-target, with credentials of its own; reading suffices for a restore")
	}
	t := &targets[i]
	if t.Status.State != vmbackup.TargetAvailable {
		return nil, vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "Longhorn in %s cannot use backup target %q (%s): %s", where, t.Metadata.Name, t.Spec.URL, cmp.Or(t.Status.Message, string(t.Status.State))).AsPreflight().
			WithHint("mend it or its credentials there, then run the same command again")
	}
	return t, nil
}

// plainURL is a URL for comparison: a slash at its end means nothing to Longhorn.
func plainURL(url string) string { return strings.TrimRight(url, "/") }

// planElsewhere checks the restore in the other cluster and compares both.
func (o *restoreOptions) planElsewhere(ctx context.Context, to *globals) (*session, *vmbackup.RestorePlan, error) {
	s, err := o.connect(o.request.Target)
	if err != nil {
		return nil, nil, err
	}
	request, err := o.requestIn(s.namespace)
	if err != nil {
		return nil, nil, err
	}
	destination, err := to.connect("")
	if err != nil {
		return nil, nil, err
	}
	where := "the cluster of " + o.elsewhere.String()
	there, err := destination.cluster.versions(ctx)
	if err != nil {
		return nil, nil, err
	}
	targets, err := destination.targets.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	from := o.lookAtOrigin(ctx, s, request.Backup)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := from.check(); err != nil {
		return nil, nil, err
	}
	shared, err := o.sharedTarget(targets, from, where)
	if err != nil {
		return nil, nil, err
	}
	// The backup is looked for on that target; Longhorn there may not list it yet.
	request.From, request.Target = vmbackup.SourceTarget, shared.Metadata.Name
	if from.machine && request.MAC == vmbackup.MACAuto {
		request.MAC = vmbackup.MACNew
	}
	if destination, err = to.connect(shared.Metadata.Name); err != nil {
		return nil, nil, err
	}
	plan, err := destination.engine.PlanRestore(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	macs := &macCheck{kept: plan.MACs}
	if macs.users, macs.known, err = destination.cluster.macUsers(ctx, plan.MACs); err != nil {
		return nil, nil, err
	}
	if len(macs.users) > 0 && request.MAC == vmbackup.MACAuto {
		request.MAC = vmbackup.MACNew
		if plan, err = destination.engine.PlanRestore(ctx, request); err != nil {
			return nil, nil, err
		}
	}
	plan.Comparison = o.compare(plan, from, there, shared, macs)
	plan.Warnings = slices.Concat(plan.Warnings, from.warnings(there), macs.warnings(request.MAC))
	plan.Restore.Status.Warnings = plan.Warnings
	return destination, plan, nil
}

// String names the cluster as it was given.
func (e *elsewhere) String() string {
	switch {
	case e.context == "":
		return "kubeconfig " + e.kubeconfig
	case e.kubeconfig == "":
		return "context " + e.context
	}
	return "context " + e.context + " of kubeconfig " + e.kubeconfig
}

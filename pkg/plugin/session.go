// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/vmbackup/kubectl-vmbackup/internal/backuptarget"
	"github.com/vmbackup/kubectl-vmbackup/internal/catalog"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/direct"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/engine/router"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/image"
	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/schedule"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// session is what a command works with: one cluster, seen with the user's rights.
type session struct {
	// namespace is the one of -n, or of the kubeconfig's context.
	namespace string
	cluster   cluster
	catalog   vmbackup.Catalog
	engine    vmbackup.Engine
	images    vmbackup.Images
	targets   vmbackup.Targets
	scheduler vmbackup.Scheduler
}

// newSession makes the clients of the cluster that the kubeconfig names. Nothing
// is sent yet.
func (g *globals) newSession(targetName string) (*session, error) {
	namespace, _, err := g.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	config, err := g.config.ToRESTConfig()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	config.WarningHandler = rest.NoWarnings{}
	if !klog.V(1).Enabled() {
		// What a client does about a lost connection is for -v: the error stream
		// carries progress, which may be drawn in place or be JSON.
		klog.SetLogger(logr.Discard())
	}
	config.UserAgent = kube.FieldManager + "/" + g.build.Version
	clients, err := kube.NewClients(config)
	if err != nil {
		return nil, kubeconfigError(err)
	}
	store := journal.NewSecrets(clients.Core.CoreV1())
	open := func(ctx context.Context, name string) (target.Store, error) {
		bt, err := clients.ReadBackupTarget(ctx, name)
		if err != nil {
			return nil, err
		}
		return target.Open(target.Config{URL: bt.URL, Credentials: bt.Credentials})
	}
	if targetName == "" {
		targetName = vmbackup.DefaultTarget
	}
	found := catalog.New(store, catalog.Target{Name: targetName, Open: open}, direct.DecodeRestore).With(catalog.Harvester(clients))
	own := direct.New(clients, store, found, open, g.clock)
	theirs := harvester.New(clients, own, found, open, g.clock, g.build.Version)
	return &session{
		namespace: namespace, cluster: kubeCluster{clients}, catalog: found,
		images:  image.New(clients, open, g.engine, g.clock),
		engine:  router.New(own, theirs, g.engine, clients.Lookup, hv.NewDetector(clients.Core.Discovery(), clients.Harvester.Settings()).Detect),
		targets: backuptarget.New(clients, g.clock, target.Open),

		scheduler: schedule.New(clients, catalog.Harvester(clients), g.clock),
	}, nil
}

func kubeconfigError(err error) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "%w", err).AsPreflight().
		WithHint("check the kubeconfig with: kubectl config get-contexts")
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/rancher/lasso/pkg/controller"
	"github.com/rancher/wrangler/v3/pkg/generic"
	"github.com/rancher/wrangler/v3/pkg/leader"
	"github.com/rancher/wrangler/v3/pkg/ratelimit"
	"github.com/rancher/wrangler/v3/pkg/schemes"
	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	harvesterv1 "github.com/harvester/harvester/pkg/apis/harvesterhci.io/v1beta1"
	"github.com/harvester/harvester/pkg/config"
	"github.com/harvester/harvester/pkg/controller/admission"
	"github.com/harvester/harvester/pkg/controller/global"
	"github.com/harvester/harvester/pkg/controller/master/backup"
	"github.com/harvester/harvester/pkg/controller/master/image"
	"github.com/harvester/harvester/pkg/controller/master/schedulevmbackup"
	"github.com/harvester/harvester/pkg/controller/master/virtualmachine"
	"github.com/harvester/harvester/pkg/indexeres"
)

// registrations are those of Harvester's own list that have to do with
// machines, their images and their backups, in its order.
var registrations = []func(context.Context, *config.Management, config.Options) error{
	backup.RegisterBackup,
	backup.RegisterBackupBackingImage,
	backup.RegisterBackupMetadata,
	backup.RegisterBackupTarget,
	backup.RegisterRestore,
	image.Register,
	schedulevmbackup.Register,
	virtualmachine.Register,
}

// runControllers does what Harvester's server does around its controllers:
// waits for the webhooks, creates the settings, becomes the leader, and starts.
func runControllers(ctx context.Context, cfg *rest.Config, o options) error {
	cfg.RateLimiter = ratelimit.None
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{harvesterv1.AddToScheme, kubevirtv1.AddToScheme, schemes.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	factory, err := controller.NewSharedControllerFactoryFromConfig(cfg, scheme)
	if err != nil {
		return err
	}
	ctx, scaled, err := config.SetupScaled(ctx, cfg, &generic.FactoryOptions{SharedControllerFactory: factory})
	if err != nil {
		return err
	}
	settings := config.Options{Namespace: namespace, Threadiness: 4, HCIMode: true}
	if err := admission.Wait(ctx, scaled.Management.ClientSet); err != nil {
		return fmt.Errorf("wait for the webhooks: %w", err)
	}
	if err := indexeres.Setup(ctx, nil, nil, settings); err != nil {
		return err
	}
	if err := global.Setup(ctx, nil, nil, settings); err != nil {
		return fmt.Errorf("create the settings: %w", err)
	}
	if err := scaled.Start(settings.Threadiness); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go leader.RunOrDie(ctx, "", "harvester-controllers", scaled.Management.ClientSet, func(ctx context.Context) {
		if err := startControllers(ctx, scaled.Management, settings, o.health); err != nil {
			failed <- err
		}
	})
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startControllers starts what only the leader runs, and tells so on health.
func startControllers(ctx context.Context, management *config.Management, settings config.Options, health string) error {
	for _, register := range registrations {
		if err := register(ctx, management, settings); err != nil {
			return err
		}
	}
	if err := management.Start(settings.Threadiness); err != nil {
		return err
	}
	logrus.Info("the controllers run")
	if health == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", health)
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: time.Second,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }),
	}
	return server.Serve(listener)
}

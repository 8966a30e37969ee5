// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"k8s.io/client-go/rest"

	"github.com/harvester/harvester/pkg/webhook/config"
	"github.com/harvester/harvester/pkg/webhook/server"
)

// runWebhook is Harvester's admission webhook server: it makes its own
// certificates, and registers itself at kube-apiserver a quarter of a minute
// after its start.
func runWebhook(ctx context.Context, cfg *rest.Config, o options) error {
	// The data of the kubeconfig goes before the file; validators that ask kubelets read the file.
	cfg.CAFile = o.ca
	s := server.New(ctx, cfg, &config.Options{
		Namespace:                   namespace,
		Threadiness:                 4,
		HTTPSListenPort:             o.port,
		HarvesterControllerUsername: o.user,
		GarbageCollectionUsername:   "system:serviceaccount:kube-system:generic-garbage-collector",
	})
	if err := s.ListenAndServe(); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

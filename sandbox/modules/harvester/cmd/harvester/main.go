// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Command harvester runs two parts of Harvester as processes of a sandbox:
//
//	harvester controllers   the controllers that back up, restore and schedule VMs and keep their images
//	harvester webhook       all of its admission webhooks
//
// Every controller, webhook, setting and index is Harvester's own, registered
// by its own functions and in its own order. What its server has besides (the
// HTTP API and UI, Rancher, upgrades, add-ons, nodes, networks) is left out:
// there is nothing in a sandbox for it to act on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// namespace is where Harvester lives; its code has the name in many places.
const namespace = "harvester-system"

// options are the flags of both commands.
type options struct {
	config string
	ca     string
	health string
	port   int
	user   string
	debug  bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "harvester:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, *rest.Config, options) error{
		"controllers": runControllers,
		"webhook":     runWebhook,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: harvester controllers|webhook [FLAG...]")
	}
	var o options
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	// Not "kubeconfig": a package that Harvester imports defines that flag for itself.
	flags.StringVar(&o.config, "config", "", "kubeconfig file")
	flags.StringVar(&o.ca, "ca", "", "webhook: file with the cluster's authority, which Harvester reads as a file")
	flags.StringVar(&o.health, "health", "", "controllers: address that answers once the controllers run")
	flags.IntVar(&o.port, "port", 443, "webhook: port to serve on")
	flags.StringVar(&o.user, "controller-user", "", "webhook: the user that the controllers are")
	flags.BoolVar(&o.debug, "debug", false, "say more")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if o.debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", o.config)
	if err != nil {
		return err
	}
	return commands[args[0]](ctx, cfg, o)
}

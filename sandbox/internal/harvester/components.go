// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/build"
	"github.com/vmbackup/kubectl-vmbackup/sandbox/internal/component"
)

// Namespace is where Harvester lives.
const Namespace = "harvester-system"

const version = "v1.8.2"

// account is the user that the controllers and the webhooks are.
const account = "system:serviceaccount:" + Namespace + ":harvester"

// Names of the components.
const (
	objectsTask = "harvester-objects"
	webhook     = "harvester-webhook"
	webhookTask = "harvester-webhook-ready"
	controllers = "harvester"
	targetTask  = "harvester-backup-target"
)

// health answers once the controllers run.
const health = "127.0.0.1:9446"

// After names the components of the cluster that Harvester starts after.
type After struct {
	// Objects: the kinds of Kubernetes, Longhorn, KubeVirt and the snapshots are defined.
	Objects []string
	// Storage: Longhorn works and its backup target is available.
	Storage string
}

// Components is Harvester: what it needs, its webhooks, its controllers, and
// its backup target, after which machines can be backed up.
func Components(env *component.Env, after After) ([]component.Component, error) {
	config, err := env.Kubeconfig(account, "system:serviceaccounts", "system:serviceaccounts:"+Namespace, "system:authenticated")
	if err != nil {
		return nil, err
	}
	program := env.Binary(build.Harvester, "harvester")
	return []component.Component{
		{
			Name:  objectsTask,
			Role:  component.Task,
			About: "Harvester's CRDs, roles and classes",
			After: after.Objects,
			Run:   func(ctx context.Context) error { return install(ctx, env) },
		},
		{
			Name:  webhook,
			Role:  component.Real,
			About: "Harvester's admission webhooks",
			After: []string{objectsTask},
			Path:  program,
			// The port that the server writes into its registration.
			Args:  []string{"webhook", "--config=" + config, "--ca=" + env.Path("pki", "ca.crt"), "--port=443", "--controller-user=" + account},
			Ready: component.TCPReady("127.0.0.1:443"),
		},
		{
			Name:  controllers,
			Role:  component.Real,
			About: "Harvester's controllers of VM backups, restores, schedules, images and VMs",
			// They take Longhorn's backup target away as long as their own setting is empty,
			// which must not happen before Storage has seen it.
			After: []string{webhook, after.Storage},
			Path:  program,
			Args:  []string{"controllers", "--config=" + config, "--health=" + health},
			// As its image sets it.
			Env:   []string{"HARVESTER_SERVER_VERSION=" + version},
			Ready: component.HTTPReady("http://" + health),
		},
		{
			Name:  webhookTask,
			Role:  component.Task,
			About: "Harvester's webhooks at kube-apiserver",
			After: []string{webhook},
			Run:   func(ctx context.Context) error { return tryWebhooks(ctx, env) },
		},
		{
			Name:  targetTask,
			Role:  component.Task,
			About: "Harvester's backup target, set as an administrator sets it",
			After: []string{controllers, webhookTask, after.Storage},
			Run:   func(ctx context.Context) error { return setBackupTarget(ctx, env) },
		},
	}, nil
}

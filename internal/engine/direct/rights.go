// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
)

// right is a kube.Right, to be written down in a row of a table.
type right struct{ verb, group, resource, namespace string }

func (e *Engine) missingRights(ctx context.Context, namespace string, wanted []right) ([]right, error) {
	missing, err := e.clients.MissingRights(ctx, namespace, kubeRights(wanted))
	var rights []right
	for _, m := range missing {
		rights = append(rights, right{m.Verb, m.Group, m.Resource, m.Namespace})
	}
	return rights, err
}

// forbidden is the error for missing rights, nil when none is missing.
func forbidden(missing []right, namespace string) error {
	return kube.ForbiddenWithout(kubeRights(missing), namespace)
}

func kubeRights(rights []right) []kube.Right {
	list := make([]kube.Right, len(rights))
	for i, r := range rights {
		list[i] = kube.Right{Verb: r.verb, Group: r.group, Resource: r.resource, Namespace: r.namespace}
	}
	return list
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// findNetworks looks up the definitions that the restored machine refers to.
func (e *Engine) findNetworks(ctx context.Context, vm json.RawMessage, n *renaming) (map[vmbackup.Ref]kube.Existence, error) {
	attachments, err := attachmentsOf(vm)
	if err != nil {
		return nil, err
	}
	found := map[vmbackup.Ref]kube.Existence{}
	for _, a := range attachments {
		if to, _ := n.network(a.definition); to != podNetwork && to != "" {
			found[definitionIn(to, n.to.Namespace)] = kube.Unknown
		}
	}
	wanted := make([]vmbackup.Ref, 0, len(found))
	for ref := range found {
		wanted = append(wanted, ref)
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, ref := range wanted {
		group.Go(func() error {
			existence, err := e.clients.Networks.Exists(ctx, ref.Namespace, ref.Name)
			mu.Lock()
			defer mu.Unlock()
			found[ref] = existence
			return err
		})
	}
	return found, group.Wait()
}

// checkNetworks refuses a machine whose networks are not there: it would be
// restored and then never start.
func (e *Engine) checkNetworks(ctx context.Context, d *destination, vm json.RawMessage, n *renaming) (warnings []string, err error) {
	attachments, err := attachmentsOf(vm)
	if err != nil {
		return nil, err
	}
	for _, a := range attachments {
		to, mapped := n.network(a.definition)
		if to == podNetwork || to == "" {
			continue
		}
		ref := definitionIn(to, n.to.Namespace)
		switch d.networks[ref] {
		case kube.Unknown:
			warnings = append(warnings, fmt.Sprintf("whether NetworkAttachmentDefinition %s exists, which network %q of the machine needs, could not be seen: this user may not look", ref, a.name))
		case kube.Absent:
			return nil, e.networkMissing(ctx, a, ref, mapped, n)
		}
	}
	return warnings, nil
}

func (e *Engine) networkMissing(ctx context.Context, a attachment, ref vmbackup.Ref, mapped bool, n *renaming) error {
	what := "which network " + a.name + " of the machine in backup " + n.backup.String() + " is on"
	if mapped {
		what = "to which network " + a.name + " (" + a.definition + ") is mapped"
	}
	there, err := e.clients.Networks.List(ctx, ref.Namespace)
	if err != nil {
		return err
	}
	list := "none"
	for i, name := range there {
		if i == 0 {
			list = ""
		} else {
			list += ", "
		}
		list += ref.Namespace + "/" + name
	}
	return vmbackup.Errorf(vmbackup.ReasonNetworkMissing, "NetworkAttachmentDefinition %s, %s, does not exist in this cluster", ref, what).
		WithHint("map the network to another one with --map-network %s=NAMESPACE/NAME, or to the cluster's own with --map-network %s=%s; in namespace %s there are: %s", a.definition, a.definition, podNetwork, ref.Namespace, list)
}

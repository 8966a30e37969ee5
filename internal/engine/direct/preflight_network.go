// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// networkResource is that of Multus' definitions.
var networkResource = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}

// existence is what is known of an object that may exist.
type existence int

const (
	notKnown existence = iota // this user may not look
	absent
	present
)

// findNetworks looks up the definitions that the restored machine refers to.
func (e *Engine) findNetworks(ctx context.Context, vm json.RawMessage, n *renaming) (map[vmbackup.Ref]existence, error) {
	attachments, err := attachmentsOf(vm)
	if err != nil {
		return nil, err
	}
	found := map[vmbackup.Ref]existence{}
	for _, a := range attachments {
		if to, _ := n.network(a.definition); to != podNetwork && to != "" {
			found[definitionIn(to, n.to.Namespace)] = notKnown
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
			exists, err := e.clients.Lookup.Exists(ctx, networkResource, ref.Namespace, ref.Name)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case exists:
				found[ref] = present
			case err == nil:
				found[ref] = absent
			case !apierrors.IsForbidden(err):
				return kube.Error(err, "read", "NetworkAttachmentDefinition "+ref.String())
			}
			return nil
		})
	}
	return found, group.Wait()
}

// checkNetworks refuses a machine whose networks are not there: it would be
// restored and then never start.
func (e *Engine) checkNetworks(ctx context.Context, d *destination, vm json.RawMessage, n *renaming) (uses []vmbackup.NetworkUse, warnings []string, err error) {
	attachments, err := attachmentsOf(vm)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range attachments {
		to, mapped := n.network(a.definition)
		if to == podNetwork || to == "" {
			if mapped {
				uses = append(uses, vmbackup.NetworkUse{Source: networkName(a.definition, n.from.Namespace), Destination: podNetwork, Known: true})
			}
			continue
		}
		ref := definitionIn(to, n.to.Namespace)
		uses = append(uses, vmbackup.NetworkUse{Source: networkName(a.definition, n.from.Namespace), Destination: ref.String(), Known: d.networks[ref] != notKnown})
		switch d.networks[ref] {
		case notKnown:
			warnings = append(warnings, fmt.Sprintf("whether NetworkAttachmentDefinition %s exists, which network %q of the machine needs, could not be seen: this user may not look", ref, a.name))
		case absent:
			return nil, nil, e.networkMissing(ctx, a, ref, mapped, n)
		}
	}
	return uses, warnings, nil
}

// networkName is a network as the command line names it.
func networkName(definition, namespace string) string {
	if definition == podNetwork {
		return podNetwork
	}
	return definitionIn(definition, namespace).String()
}

func (e *Engine) networkMissing(ctx context.Context, a attachment, ref vmbackup.Ref, mapped bool, n *renaming) error {
	what := "which network " + a.name + " of the machine in backup " + n.backup.String() + " is on"
	if mapped {
		what = "to which network " + a.name + " (" + a.definition + ") is mapped"
	}
	list := "none"
	names, err := e.clients.Lookup.Names(ctx, networkResource, ref.Namespace)
	switch {
	case err != nil:
		list = "(not to be seen by this user)" // it is for the hint alone
	case len(names) > 0:
		list = ref.Namespace + "/" + strings.Join(names, ", "+ref.Namespace+"/")
	}
	return vmbackup.Errorf(vmbackup.ReasonNetworkMissing, "NetworkAttachmentDefinition %s, %s, does not exist in this cluster", ref, what).
		WithHint("map the network to another one with --map-network %s=NAMESPACE/NAME, or to the cluster's own with --map-network %s=%s; in namespace %s there are: %s", a.definition, a.definition, podNetwork, ref.Namespace, list)
}

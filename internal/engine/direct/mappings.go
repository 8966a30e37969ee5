// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// podNetwork stands for the cluster's own network in a mapping: a
// NetworkAttachmentDefinition of that name is written with its namespace.
const podNetwork = "pod"

// attachment is a network of a machine: the name by which its interface finds it,
// and the definition as the machine writes it, or podNetwork.
type attachment struct{ name, definition string }

// attachmentsOf are the networks of a machine that a mapping can be about.
func attachmentsOf(vm json.RawMessage) ([]attachment, error) {
	var machine struct {
		Spec struct {
			Template struct {
				Spec struct {
					Networks []struct {
						Name   string    `json:"name"`
						Pod    *struct{} `json:"pod"`
						Multus *struct {
							NetworkName string `json:"networkName"`
						} `json:"multus"`
					} `json:"networks"`
				} `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(vm, &machine); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in the backup cannot be read: %w", err)
	}
	var list []attachment
	for _, n := range machine.Spec.Template.Spec.Networks {
		switch {
		case n.Pod != nil:
			list = append(list, attachment{n.Name, podNetwork})
		case n.Multus != nil:
			list = append(list, attachment{n.Name, n.Multus.NetworkName})
		}
	}
	return list, nil
}

// definitionIn is a definition by namespace and name: one that is written without
// its namespace is in that of its machine.
func definitionIn(definition, namespace string) vmbackup.Ref {
	if ns, name, found := strings.Cut(definition, "/"); found {
		return vmbackup.Ref{Namespace: ns, Name: name}
	}
	return vmbackup.Ref{Namespace: namespace, Name: definition}
}

// network is the definition that a restored machine has in place of its old one.
func (n *renaming) network(definition string) (to string, mapped bool) {
	for _, from := range slices.Sorted(maps.Keys(n.networks)) {
		same := from == definition
		if from != podNetwork && definition != podNetwork {
			same = definitionIn(from, n.from.Namespace) == definitionIn(definition, n.from.Namespace)
		}
		if same {
			return n.networks[from], true
		}
	}
	return definition, false
}

// checkMappedNetworks refuses a mapping of a network that the machine does not
// have, and one by which it would be on the pod network twice.
func checkMappedNetworks(vm json.RawMessage, n *renaming) error {
	if len(n.networks) == 0 {
		return nil
	}
	attachments, err := attachmentsOf(vm)
	if err != nil {
		return err
	}
	has, onPod := make([]string, 0, len(attachments)), 0
	for _, a := range attachments {
		has = append(has, a.definition)
		if to, _ := n.network(a.definition); to == podNetwork {
			onPod++
		}
	}
	for _, from := range slices.Sorted(maps.Keys(n.networks)) {
		alone := &renaming{from: n.from, networks: map[string]string{from: ""}}
		if !slices.ContainsFunc(has, func(d string) bool { _, mapped := alone.network(d); return mapped }) {
			return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "network %q is mapped to %q, but the machine of backup %s is not on it", from, n.networks[from], n.backup).
				WithHint("the networks of this machine are: %s", cmp.Or(strings.Join(has, ", "), "none"))
		}
	}
	if onPod > 1 {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "the machine of backup %s would be on the pod network twice, and a machine can be on it once", n.backup).
			WithHint("map one of its networks to a NetworkAttachmentDefinition: --map-network FROM=NAMESPACE/NAME")
	}
	return nil
}

// networks puts the machine on the networks that it is mapped to. The interface
// goes along where its binding works on one kind of network only.
func (e *editor) networks(n *renaming) {
	for _, network := range e.list("spec", "template", "spec", "networks") {
		_, onPod := network["pod"]
		multus, _ := network["multus"].(map[string]any)
		definition, _ := multus["networkName"].(string)
		if onPod {
			definition = podNetwork
		}
		to, mapped := n.network(definition)
		if !mapped || (definition == "" && !onPod) {
			continue
		}
		delete(network, "pod")
		delete(network, "multus")
		if to == podNetwork {
			network["pod"] = map[string]any{}
			e.rebind(network["name"], "masquerade", "bridge", "sriov", "macvtap")
			continue
		}
		if multus == nil {
			multus = map[string]any{}
		}
		multus["networkName"] = to
		network["multus"] = multus
		e.rebind(network["name"], "bridge", "masquerade", "passt", "slirp")
	}
}

// rebind gives the interface of a network another binding, where it has one of those.
func (e *editor) rebind(network any, to string, from ...string) {
	for _, i := range e.list("spec", "template", "spec", "domain", "devices", "interfaces") {
		if i["name"] != network {
			continue
		}
		for _, binding := range from {
			if _, found := i[binding]; found {
				delete(i, binding)
				i[to] = map[string]any{}
			}
		}
	}
}

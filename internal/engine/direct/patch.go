// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"errors"
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// patch applies the request's JSON patch to the machine, and refuses one by which
// it would be another machine, or lose what was restored for it.
func (e *editor) patch(n *renaming) error {
	if len(n.patch) == 0 {
		return nil
	}
	refused := func(err error) error {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "the patch cannot be applied to VirtualMachine %s: %w", n.to, err).
			WithHint("see what it is applied to with: kubectl vmbackup describe %s -n %s; every path is one of the VirtualMachine's, such as /spec/template/spec/domain/cpu/cores", n.backup.Name, n.backup.Namespace)
	}
	operations, err := jsonpatch.DecodePatch(n.patch)
	if err != nil {
		return refused(err)
	}
	before, err := json.Marshal(e.root)
	if err != nil {
		return fmt.Errorf("manifest of VirtualMachine %s: %w", n.to, err)
	}
	after, err := operations.Apply(before)
	if err != nil {
		return refused(err)
	}
	patched := &editor{}
	if err := kjson.Unmarshal(after, &patched.root); err != nil {
		return refused(err)
	}
	if patched.at("spec", "template", "spec") == nil {
		return refused(errors.New("it takes away the machine's template"))
	}
	for _, path := range [][]string{
		{"apiVersion"},
		{"kind"},
		{"metadata", "name"},
		{"metadata", "namespace"},
		{"metadata", "annotations", AnnotationRestoredFrom},
		{"metadata", "annotations", LabelOperation},
	} {
		was, is := e.text(path...), patched.text(path...)
		if was != is {
			return refused(fmt.Errorf("it changes %s from %q to %q, by which the restore knows its machine", path[len(path)-1], was, is))
		}
	}
	claims := patched.claims()
	for volume, claim := range e.claims() {
		if claims[volume] != claim {
			return refused(fmt.Errorf("volume %q would not be on PersistentVolumeClaim %s any more, which is restored for it", volume, claim))
		}
	}
	e.root = patched.root
	return nil
}

// text is the string at a path, empty where there is none.
func (e *editor) text(path ...string) string {
	text, _ := e.at(path[:len(path)-1]...)[path[len(path)-1]].(string)
	return text
}

// claims are the claims of the machine's volumes, by the volume's name.
func (e *editor) claims() map[string]string {
	claims := map[string]string{}
	for _, v := range e.list("spec", "template", "spec", "volumes") {
		name, _ := v["name"].(string)
		of := v
		if ephemeral, ok := v["ephemeral"].(map[string]any); ok {
			of = ephemeral
		}
		for kind, field := range map[string]string{"persistentVolumeClaim": "claimName", "memoryDump": "claimName", "dataVolume": "name"} {
			if source, ok := of[kind].(map[string]any); ok {
				claims[name], _ = source[field].(string)
			}
		}
		if source, ok := v["dataVolume"].(map[string]any); ok {
			claims[name], _ = source["name"].(string)
		}
	}
	return claims
}

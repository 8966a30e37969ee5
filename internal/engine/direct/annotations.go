// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
)

// Annotations of a machine in which Harvester keeps JSON.
const (
	// annotationClaimTemplates lists the claims that Harvester makes for the machine.
	annotationClaimTemplates = "harvesterhci.io/volumeClaimTemplates"
	// annotationMACs holds the MAC addresses that the machine keeps over its runs.
	annotationMACs = "harvesterhci.io/mac-address"
)

// ownedByControllers are annotations of a machine that controllers write of what they
// have seen, and write anew on the restored one.
func ownedByControllers() []string {
	return []string{
		kubevirtv1.ControllerAPILatestVersionObservedAnnotation,
		kubevirtv1.ControllerAPIStorageVersionObservedAnnotation,
		"restore.kubevirt.io/lastRestoreUID",
		"network.harvesterhci.io/ips",
		annotationRemovedClaims,
		AnnotationStopped,
	}
}

// annotate gives the machine the annotations that a restored one has.
func (e *editor) annotate(n *renaming) {
	annotations := e.at("metadata", "annotations")
	if annotations == nil {
		annotations = map[string]any{}
		e.at("metadata")["annotations"] = annotations
	}
	annotations[AnnotationRestoredFrom], annotations[LabelOperation] = n.backup.String(), n.operation
	for _, key := range ownedByControllers() {
		delete(annotations, key)
	}
	if n.moved() {
		// What somebody has applied describes the machine in its old place.
		delete(annotations, corev1.LastAppliedConfigAnnotation)
	}
	if n.newMACs {
		delete(annotations, annotationMACs)
	}
	e.inAnnotation(annotations, annotationClaimTemplates, func(list []map[string]any) {
		for _, template := range list {
			rename(template, "metadata", "name", n.claims)
		}
	})
	e.inAnnotation(e.at("spec", "template", "metadata", "annotations"), capture.AnnotationHooks, func(list []map[string]any) {
		for _, sidecar := range list {
			rename(sidecar, "configMap", "name", n.configMaps)
		}
	})
}

// inAnnotation edits the list that an annotation holds as JSON. One that the edit
// leaves as it is keeps its text.
func (e *editor) inAnnotation(annotations map[string]any, key string, edit func([]map[string]any)) {
	text, found := annotations[key].(string)
	if !found || text == "" {
		return
	}
	var list []map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		e.warn("annotation %s cannot be read, so the names in it were left as they are: %v", key, err)
		return
	}
	before := fmt.Sprint(list)
	edit(list)
	if fmt.Sprint(list) == before {
		return
	}
	edited, err := json.Marshal(list)
	if err != nil {
		e.warn("annotation %s cannot be written, so the names in it were left as they are: %v", key, err)
		return
	}
	annotations[key] = string(edited)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// A dataVolumeTemplate has KubeVirt make a DataVolume, and the containerized data
// importer (CDI) fill its claim from an image or another claim. A restored claim is
// full already. annotationPopulatedFor tells CDI so: it takes the claim as it is and
// ties it to the DataVolume of that name, as after its own import.
const annotationPopulatedFor = "cdi.kubevirt.io/storage.populatedFor"

// Resources that DataVolumes come from.
var (
	dataVolumeResource     = schema.GroupVersionResource{Group: "cdi.kubevirt.io", Version: "v1beta1", Resource: "datavolumes"}
	dataSourceResource     = schema.GroupVersionResource{Group: "cdi.kubevirt.io", Version: "v1beta1", Resource: "datasources"}
	claimResource          = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumeSnapshotResource = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
)

// templatePlan is what becomes of one dataVolumeTemplate.
type templatePlan struct {
	kept bool
	// why it is not kept.
	why string
}

// planTemplates decides which dataVolumeTemplates a restored machine keeps. One that
// clones is kept only where its source is there and KubeVirt may clone it: KubeVirt
// resolves the source although nothing is left to fill, and does not start a machine
// for which it cannot.
func (e *Engine) planTemplates(ctx context.Context, backedUp json.RawMessage, n *renaming) (map[string]templatePlan, error) {
	vm := &unstructured.Unstructured{}
	if err := vm.UnmarshalJSON(backedUp); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in backup %s cannot be read: %w", n.backup, err)
	}
	templates := (&editor{root: vm.Object}).list("spec", "dataVolumeTemplates")
	if len(templates) == 0 {
		return nil, nil
	}
	served, err := e.clients.Lookup.Serves(ctx, dataVolumeResource)
	if err != nil {
		return nil, kube.Error(err, "look for", "the API of DataVolumes (cdi.kubevirt.io)")
	}
	plans := map[string]templatePlan{}
	for _, template := range templates {
		name, _, _ := unstructured.NestedString(template, "metadata", "name")
		switch {
		case !served:
			plans[name] = templatePlan{why: "DataVolumes (cdi.kubevirt.io) are not known in this cluster"}
		case n.claims[name] == "":
			plans[name] = templatePlan{why: "the backup holds no volume of this name"}
		default:
			why := e.cloneObstacle(ctx, template, n)
			plans[name] = templatePlan{kept: why == "", why: why}
		}
	}
	return plans, nil
}

// cloneObstacle says why KubeVirt could not resolve the source of a template that
// clones, empty where it can or where there is nothing to resolve.
func (e *Engine) cloneObstacle(ctx context.Context, template map[string]any, n *renaming) string {
	kind, resource := "", schema.GroupVersionResource{}
	var source map[string]any
	for _, s := range []struct {
		kind     string
		resource schema.GroupVersionResource
		path     []string
	}{
		{"PersistentVolumeClaim", claimResource, []string{"spec", "source", "pvc"}},
		{"VolumeSnapshot", volumeSnapshotResource, []string{"spec", "source", "snapshot"}},
		{"DataSource", dataSourceResource, []string{"spec", "sourceRef"}},
	} {
		if found, ok, _ := unstructured.NestedMap(template, s.path...); ok {
			kind, resource, source = s.kind, s.resource, found
		}
	}
	if source == nil {
		return ""
	}
	name, _ := source["name"].(string)
	namespace, _ := source["namespace"].(string)
	if namespace == "" {
		// It means the machine's own namespace, and what is there under this name is
		// the same object only where the machine is in its old one.
		namespace = n.to.Namespace
	}
	if n.to.Namespace != n.from.Namespace && namespace != n.to.Namespace {
		return fmt.Sprintf("it clones %s %s/%s, which this namespace may not be allowed to do", kind, namespace, name)
	}
	exists, err := e.clients.Lookup.Exists(ctx, resource, namespace, name)
	switch {
	case err != nil:
		return fmt.Sprintf("it clones %s %s/%s, which this user may not read (%v)", kind, namespace, name, err)
	case !exists:
		return fmt.Sprintf("it clones %s %s/%s, which is not there", kind, namespace, name)
	}
	return ""
}

// dataVolumes keeps the templates whose claims are restored for them, under the
// claims' names, and takes the others away. A volume whose DataVolume is not made
// from a template refers to its claim from now on: nobody would make the DataVolume.
func (e *editor) dataVolumes(n *renaming) {
	for _, v := range e.list("spec", "template", "spec", "volumes") {
		dv, ok := v["dataVolume"].(map[string]any)
		if !ok {
			continue
		}
		name, _ := dv["name"].(string)
		if n.templates[name].kept {
			dv["name"] = n.claims[name]
			continue
		}
		claim := map[string]any{"claimName": name}
		if hotplug, found := dv["hotpluggable"]; found {
			claim["hotpluggable"] = hotplug
		}
		delete(v, "dataVolume")
		v["persistentVolumeClaim"] = claim
	}
	var kept []any
	for _, template := range e.list("spec", "dataVolumeTemplates") {
		meta, _ := template["metadata"].(map[string]any)
		name, _ := meta["name"].(string)
		plan := n.templates[name]
		if !plan.kept {
			e.warn("dataVolumeTemplate %q is not restored: %s; the disk comes from the backup, and the machine refers to it as a PersistentVolumeClaim", name, plan.why)
			continue
		}
		meta["name"] = n.claims[name]
		if _, found := meta["namespace"]; found {
			meta["namespace"] = n.to.Namespace
		}
		kept = append(kept, template)
	}
	if len(kept) == 0 {
		delete(e.at("spec"), "dataVolumeTemplates")
		return
	}
	e.at("spec")["dataVolumeTemplates"] = kept
}

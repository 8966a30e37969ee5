// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// renaming says under which names a machine and its parts come back, and with
// which changes.
type renaming struct {
	operation string
	backup    vmbackup.Ref
	from, to  vmbackup.Ref
	// inPlace is true where the machine that is there gets what the backup has.
	inPlace bool
	// tokens are those of the restores that the backed-up claims come from.
	tokens map[string]string
	// claims, secrets and configMaps map the backed-up names to the restored ones.
	claims, secrets, configMaps map[string]string
	// revisions are the restored ControllerRevisions by the field of the machine.
	revisions map[string]string
	// templates says what becomes of the machine's dataVolumeTemplates, by name.
	templates map[string]templatePlan
	// sourceExists is true when the machine that the backup is of is still there.
	sourceExists bool
	// newMACs leaves the choice of MAC addresses to the new machine, as macPolicy says.
	newMACs   bool
	macPolicy vmbackup.MACPolicy
	// newIdentity gives the machine another hostname and firmware UUID than its source has.
	newIdentity bool
	// networks maps the machine's networks to others, as the request has them.
	networks map[string]string
	// lost are the volumes that are left out, and why.
	lost map[string]error
	// startPolicy is whether the machine is started.
	startPolicy vmbackup.StartPolicy
	// patch is a JSON patch on the machine.
	patch json.RawMessage
}

func (n *renaming) renamed() bool { return n.from.Name != n.to.Name }

// moved reports whether the machine comes back anywhere but in its old place. What
// somebody has applied then describes another object.
func (n *renaming) moved() bool { return n.from != n.to }

// restoredMachine is the manifest of the machine to create, halted, with the run
// strategy that it gets once its disks are there, and what could not be kept.
func restoredMachine(backedUp json.RawMessage, n *renaming) (manifest json.RawMessage, strategy kubevirtv1.VirtualMachineRunStrategy, warnings []string, err error) {
	vm := &unstructured.Unstructured{}
	if err := vm.UnmarshalJSON(backedUp); err != nil {
		return nil, "", nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "the machine in backup %s cannot be read: %w", n.backup, err)
	}
	vm.SetNamespace(n.to.Namespace)
	vm.SetName(n.to.Name)
	e := editor{root: vm.Object}
	e.annotate(n)
	if n.renamed() {
		e.renameLabels(n.from.Name, n.to.Name)
	} else {
		e.keepFirmwareUUID(n.from.Name)
	}
	e.dropLost(n)
	e.dataVolumes(n)
	e.volumes(n)
	e.credentials(n)
	e.networks(n)
	e.macs(n)
	if n.newIdentity {
		e.identify(n)
	}
	e.revisions(n)
	if err := e.patch(n); err != nil {
		return nil, "", nil, err
	}
	strategy = n.strategy(e.halt())
	manifest, err = json.Marshal(e.root)
	return manifest, strategy, e.warnings, err
}

// editor changes the JSON of a machine in place; fields that it does not know stay.
type editor struct {
	root     map[string]any
	warnings []string
}

func (e *editor) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

// at returns the object at a path, nil when it is not there.
func (e *editor) at(path ...string) map[string]any {
	object := e.root
	for _, p := range path {
		next, ok := object[p].(map[string]any)
		if !ok {
			return nil
		}
		object = next
	}
	return object
}

// list returns the objects of the list at a path.
func (e *editor) list(path ...string) []map[string]any {
	parent := e.at(path[:len(path)-1]...)
	items, _ := parent[path[len(path)-1]].([]any)
	objects := make([]map[string]any, 0, len(items))
	for _, item := range items {
		if object, ok := item.(map[string]any); ok {
			objects = append(objects, object)
		}
	}
	return objects
}

// halt makes the machine be created off and returns how it ran.
func (e *editor) halt() kubevirtv1.VirtualMachineRunStrategy {
	spec := e.at("spec")
	strategy, _ := spec["runStrategy"].(string)
	if strategy == "" {
		strategy = string(kubevirtv1.RunStrategyHalted)
		if running, _ := spec["running"].(bool); running {
			strategy = string(kubevirtv1.RunStrategyAlways)
		}
	}
	delete(spec, "running") // deprecated, and never beside runStrategy
	spec["runStrategy"] = string(kubevirtv1.RunStrategyHalted)
	return kubevirtv1.VirtualMachineRunStrategy(strategy)
}

// strategy is the run strategy that the machine gets once its disks are there.
func (n *renaming) strategy(was kubevirtv1.VirtualMachineRunStrategy) kubevirtv1.VirtualMachineRunStrategy {
	switch {
	case n.startPolicy == vmbackup.StartYes && was == kubevirtv1.RunStrategyHalted:
		return kubevirtv1.RunStrategyAlways
	case n.startPolicy == vmbackup.StartYes || was == kubevirtv1.RunStrategyManual:
		return was // a Manual machine is off until somebody starts it
	case n.startPolicy == vmbackup.StartNo || len(n.lost) > 0:
		return kubevirtv1.RunStrategyHalted
	}
	return was
}

// nameLabels returns labels of the template that carry the machine's name, by which
// services and other tools find its pods.
func nameLabels() []string {
	return []string{"kubevirt.io/vm", "kubevirt.io/domain", "vm.kubevirt.io/name", "harvesterhci.io/vmName"}
}

func (e *editor) renameLabels(from, to string) {
	for _, labels := range []map[string]any{e.at("metadata", "labels"), e.at("spec", "template", "metadata", "labels")} {
		for _, key := range nameLabels() {
			if labels[key] == from {
				labels[key] = to
			}
		}
	}
}

// volumes points the machine's volumes at the restored objects.
func (e *editor) volumes(n *renaming) {
	for _, v := range e.list("spec", "template", "spec", "volumes") {
		rename(v, "persistentVolumeClaim", "claimName", n.claims)
		rename(v, "memoryDump", "claimName", n.claims)
		if ephemeral, ok := v["ephemeral"].(map[string]any); ok {
			rename(ephemeral, "persistentVolumeClaim", "claimName", n.claims)
		}
		for _, kind := range []string{"cloudInitNoCloud", "cloudInitConfigDrive"} {
			if cloudInit, ok := v[kind].(map[string]any); ok {
				rename(cloudInit, "secretRef", "name", n.secrets)
				rename(cloudInit, "networkDataSecretRef", "name", n.secrets)
			}
		}
		if sysprep, ok := v["sysprep"].(map[string]any); ok {
			rename(sysprep, "secret", "name", n.secrets)
			rename(sysprep, "configMap", "name", n.configMaps)
		}
		rename(v, "secret", "secretName", n.secrets)
		rename(v, "containerDisk", "imagePullSecret", n.secrets)
		rename(v, "configMap", "name", n.configMaps)
	}
}

func (e *editor) credentials(n *renaming) {
	if boot := e.at("spec", "template", "spec", "domain", "firmware", "kernelBoot"); boot != nil {
		rename(boot, "container", "imagePullSecret", n.secrets)
	}
	for _, c := range e.list("spec", "template", "spec", "accessCredentials") {
		for _, kind := range []string{"sshPublicKey", "userPassword"} {
			if credential, ok := c[kind].(map[string]any); ok {
				if source, ok := credential["source"].(map[string]any); ok {
					rename(source, "secret", "secretName", n.secrets)
				}
			}
		}
	}
}

// rename replaces the name in object[kind][field] as names say.
func rename(object map[string]any, kind, field string, names map[string]string) {
	ref, ok := object[kind].(map[string]any)
	if !ok {
		return
	}
	old, _ := ref[field].(string)
	if to, found := names[old]; found {
		ref[field] = to
	}
}

// ofSourceLife reports whether an annotation of a claim belongs to the life that
// its data had on the source.
func ofSourceLife(annotation string) bool {
	for _, prefix := range []string{"pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/", "cdi.kubevirt.io/", "kubectl.kubernetes.io/"} {
		if strings.HasPrefix(annotation, prefix) {
			return true
		}
	}
	return false
}

// restoredClaim is the claim for one volume, filled from the VolumeSnapshot.
func restoredClaim(backedUp json.RawMessage, v *vmbackup.RestoreVolume, n *renaming, snapshot string) (*corev1.PersistentVolumeClaim, error) {
	old := &corev1.PersistentVolumeClaim{}
	if err := metadata.ReadObject(backedUp, old); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonDataDamaged, "claim %s in backup %s cannot be read: %w", v.SourcePVC, n.backup, err)
	}
	annotations := map[string]string{AnnotationRestoredFrom: n.backup.String(), AnnotationVolume: v.Name}
	for key, value := range old.Annotations {
		if !ofSourceLife(key) || key == corev1.LastAppliedConfigAnnotation && !n.moved() && v.PVC == old.Name {
			annotations[key] = value
		}
	}
	if n.templates[v.SourcePVC].kept {
		annotations[annotationPopulatedFor] = v.PVC
	}
	labels := map[string]string{LabelOperation: n.operation}
	for key, value := range old.Labels {
		if key != LabelOperation {
			labels[key] = value
		}
	}
	if capture.IsState(old, n.from.Name) {
		labels[labelPersistentState] = n.to.Name
	}
	group := "snapshot.storage.k8s.io"
	claim := &corev1.PersistentVolumeClaim{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
		ObjectMeta: metav1.ObjectMeta{Name: v.PVC, Namespace: n.to.Namespace, Labels: labels, Annotations: annotations},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: old.Spec.AccessModes, VolumeMode: old.Spec.VolumeMode, StorageClassName: &v.StorageClass,
			// Longhorn restores into a volume of exactly the backup's size.
			Resources:  corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(v.SizeBytes, resource.BinarySI)}},
			DataSource: &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: snapshot},
		},
	}
	return claim, nil
}

// restoredObject is a Secret or ConfigMap under its new name.
func restoredObject(backedUp json.RawMessage, name string, n *renaming) (json.RawMessage, error) {
	m, err := metadata.ParseManifest(backedUp)
	if err != nil {
		return nil, err
	}
	old := m.Metadata.Name
	m.Metadata.Name, m.Metadata.Namespace = name, n.to.Namespace
	delete(m.Metadata.Annotations, AnnotationRevisionOf)
	if m.Metadata.Labels == nil {
		m.Metadata.Labels = map[string]string{}
	}
	m.Metadata.Labels[LabelOperation], m.Metadata.Labels[LabelManagedBy] = n.operation, kube.FieldManager
	if n.moved() || m.Metadata.Name != old {
		delete(m.Metadata.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return m.JSON()
}

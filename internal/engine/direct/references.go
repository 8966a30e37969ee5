// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// claimRef is a volume of a virtual machine that lies on a claim.
type claimRef struct{ volume, claim string }

// references are the names of the namespaced objects that a machine's template
// refers to, each once and in the order of the template.
type references struct {
	claims              []claimRef
	secrets, configMaps []string
	// warnings name what the machine has and a backup cannot hold.
	warnings []string
}

func (r *references) secret(name string) {
	if name != "" && !slices.Contains(r.secrets, name) {
		r.secrets = append(r.secrets, name)
	}
}

func (r *references) configMap(name string) {
	if name != "" && !slices.Contains(r.configMaps, name) {
		r.configMaps = append(r.configMaps, name)
	}
}

func (r *references) claim(volume, name string) {
	for _, c := range r.claims {
		if c.claim == name {
			return // the same disk attached twice is backed up once
		}
	}
	r.claims = append(r.claims, claimRef{volume, name})
}

// referencesOf walks the template of a machine.
func referencesOf(vm *kubevirtv1.VirtualMachine) references {
	var r references
	for _, v := range vm.Spec.Template.Spec.Volumes {
		r.volume(v)
	}
	if f := vm.Spec.Template.Spec.Domain.Firmware; f != nil && f.KernelBoot != nil && f.KernelBoot.Container != nil {
		r.secret(f.KernelBoot.Container.ImagePullSecret)
	}
	r.hooks(vm.Spec.Template.ObjectMeta.Annotations)
	if owner := metav1.GetControllerOf(vm); owner != nil {
		r.warnings = append(r.warnings, fmt.Sprintf("the machine belongs to %s %q, which is not in the backup: restored, it belongs to nobody", owner.Kind, owner.Name))
	}
	for _, c := range vm.Spec.Template.Spec.AccessCredentials {
		if c.SSHPublicKey != nil && c.SSHPublicKey.Source.Secret != nil {
			r.secret(c.SSHPublicKey.Source.Secret.SecretName)
		}
		if c.UserPassword != nil && c.UserPassword.Source.Secret != nil {
			r.secret(c.UserPassword.Source.Secret.SecretName)
		}
	}
	return r
}

func (r *references) volume(v kubevirtv1.Volume) {
	switch {
	case v.PersistentVolumeClaim != nil:
		r.claim(v.Name, v.PersistentVolumeClaim.ClaimName)
	case v.DataVolume != nil:
		// The claim of a DataVolume has its name.
		r.claim(v.Name, v.DataVolume.Name)
	case v.Ephemeral != nil && v.Ephemeral.PersistentVolumeClaim != nil:
		r.claim(v.Name, v.Ephemeral.PersistentVolumeClaim.ClaimName)
	case v.MemoryDump != nil:
		r.claim(v.Name, v.MemoryDump.ClaimName)
	case v.CloudInitNoCloud != nil:
		r.cloudInit(v.CloudInitNoCloud.UserDataSecretRef, v.CloudInitNoCloud.NetworkDataSecretRef)
	case v.CloudInitConfigDrive != nil:
		r.cloudInit(v.CloudInitConfigDrive.UserDataSecretRef, v.CloudInitConfigDrive.NetworkDataSecretRef)
	case v.Sysprep != nil:
		if v.Sysprep.Secret != nil {
			r.secret(v.Sysprep.Secret.Name)
		}
		if v.Sysprep.ConfigMap != nil {
			r.configMap(v.Sysprep.ConfigMap.Name)
		}
	case v.Secret != nil:
		r.secret(v.Secret.SecretName)
	case v.ConfigMap != nil:
		r.configMap(v.ConfigMap.Name)
	case v.ContainerDisk != nil:
		r.secret(v.ContainerDisk.ImagePullSecret)
	case v.ServiceAccount != nil:
		// It carries rights, which are the cluster's to give: the restore looks for it.
	case v.HostDisk != nil:
		r.warnings = append(r.warnings, fmt.Sprintf("volume %q is a file on the node (hostDisk): its data is not in the backup", v.Name))
	case v.EmptyDisk != nil:
		r.warnings = append(r.warnings, fmt.Sprintf("volume %q is an emptyDisk: its data lives only as long as the machine runs and is not in the backup", v.Name))
	}
}

func (r *references) cloudInit(userData, networkData *corev1.LocalObjectReference) {
	if userData != nil {
		r.secret(userData.Name)
	}
	if networkData != nil {
		r.secret(networkData.Name)
	}
}

// annotationHooks is KubeVirt's annotation of a template that lists hook sidecars as JSON.
const annotationHooks = "hooks.kubevirt.io/hookSidecars"

// hookSidecar is what a hook sidecar can refer to.
type hookSidecar struct {
	ConfigMap *struct {
		Name string `json:"name"`
	} `json:"configMap"`
	PVC *struct {
		Name string `json:"name"`
	} `json:"pvc"`
}

func (r *references) hooks(annotations map[string]string) {
	list, found := annotations[annotationHooks]
	if !found {
		return
	}
	var sidecars []hookSidecar
	if err := json.Unmarshal([]byte(list), &sidecars); err != nil {
		r.warnings = append(r.warnings, fmt.Sprintf("annotation %s cannot be read (%v), so what its hooks refer to is not in the backup", annotationHooks, err))
		return
	}
	for _, s := range sidecars {
		if s.ConfigMap != nil {
			r.configMap(s.ConfigMap.Name)
		}
		if s.PVC != nil {
			r.warnings = append(r.warnings, fmt.Sprintf("PersistentVolumeClaim %q of a hook sidecar is not in the backup: it is no disk of the machine", s.PVC.Name))
		}
	}
}

// pluggedOnly warns of volumes that only the running instance has: they end with it,
// and no machine to restore refers to them.
func pluggedOnly(vm *kubevirtv1.VirtualMachine, running *kubevirtv1.VirtualMachineInstance) []string {
	if running == nil {
		return nil
	}
	var warnings []string
	for _, v := range running.Spec.Volumes {
		hotplugged := v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.Hotpluggable || v.DataVolume != nil && v.DataVolume.Hotpluggable
		inTemplate := slices.ContainsFunc(vm.Spec.Template.Spec.Volumes, func(t kubevirtv1.Volume) bool { return t.Name == v.Name })
		if hotplugged && !inTemplate {
			warnings = append(warnings, fmt.Sprintf("volume %q is plugged into the running instance alone and is not in the backup; plug it with: virtctl addvolume %s --volume-name=%s --persist", v.Name, vm.Name, v.Name))
		}
	}
	return warnings
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// ClaimRef is a volume of a virtual machine that lies on a claim.
type ClaimRef struct{ Volume, Claim string }

// References are the names of the namespaced objects that a machine's template
// refers to, each once and in the order of the template.
type References struct {
	Claims              []ClaimRef
	Secrets, ConfigMaps []string
	// Warnings name what the machine has and a backup cannot hold.
	Warnings []string
}

func (r *References) secret(name string) {
	if name != "" && !slices.Contains(r.Secrets, name) {
		r.Secrets = append(r.Secrets, name)
	}
}

func (r *References) configMap(name string) {
	if name != "" && !slices.Contains(r.ConfigMaps, name) {
		r.ConfigMaps = append(r.ConfigMaps, name)
	}
}

func (r *References) claim(volume, name string) {
	for _, c := range r.Claims {
		if c.Claim == name {
			return // the same disk attached twice is backed up once
		}
	}
	r.Claims = append(r.Claims, ClaimRef{volume, name})
}

// ReferencesOf walks the template of a machine.
func ReferencesOf(vm *kubevirtv1.VirtualMachine) References {
	var r References
	for _, v := range vm.Spec.Template.Spec.Volumes {
		r.volume(v)
	}
	if f := vm.Spec.Template.Spec.Domain.Firmware; f != nil && f.KernelBoot != nil && f.KernelBoot.Container != nil {
		r.secret(f.KernelBoot.Container.ImagePullSecret)
	}
	r.hooks(vm.Spec.Template.ObjectMeta.Annotations)
	if owner := metav1.GetControllerOf(vm); owner != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the machine belongs to %s %q, which is not in the backup: restored, it belongs to nobody", owner.Kind, owner.Name))
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

// ClaimOf is the claim that a volume of a machine lies on, empty for none.
func ClaimOf(v kubevirtv1.Volume) string {
	var r References
	if r.volume(v); len(r.Claims) == 0 {
		return ""
	}
	return r.Claims[0].Claim
}

func (r *References) volume(v kubevirtv1.Volume) {
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
		r.Warnings = append(r.Warnings, fmt.Sprintf("volume %q is a file on the node (hostDisk): its data is not in the backup", v.Name))
	case v.EmptyDisk != nil:
		r.Warnings = append(r.Warnings, fmt.Sprintf("volume %q is an emptyDisk: its data lives only as long as the machine runs and is not in the backup", v.Name))
	}
}

func (r *References) cloudInit(userData, networkData *corev1.LocalObjectReference) {
	if userData != nil {
		r.secret(userData.Name)
	}
	if networkData != nil {
		r.secret(networkData.Name)
	}
}

// AnnotationHooks is KubeVirt's annotation of a template that lists hook sidecars as JSON.
const AnnotationHooks = "hooks.kubevirt.io/hookSidecars"

// hookSidecar is what a hook sidecar can refer to.
type hookSidecar struct {
	ConfigMap *struct {
		Name string `json:"name"`
	} `json:"configMap"`
	PVC *struct {
		Name string `json:"name"`
	} `json:"pvc"`
}

func (r *References) hooks(annotations map[string]string) {
	list, found := annotations[AnnotationHooks]
	if !found {
		return
	}
	var sidecars []hookSidecar
	if err := json.Unmarshal([]byte(list), &sidecars); err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("annotation %s cannot be read (%v), so what its hooks refer to is not in the backup", AnnotationHooks, err))
		return
	}
	for _, s := range sidecars {
		if s.ConfigMap != nil {
			r.configMap(s.ConfigMap.Name)
		}
		if s.PVC != nil {
			r.Warnings = append(r.Warnings, fmt.Sprintf("PersistentVolumeClaim %q of a hook sidecar is not in the backup: it is no disk of the machine", s.PVC.Name))
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

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
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

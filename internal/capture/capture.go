// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

// Package capture reads a virtual machine with everything that a backup of it has to
// hold, and refuses what Longhorn cannot back up. It changes nothing.
package capture

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// parallel is how many requests are under way at once.
const parallel = 8

// Driver is the name of Longhorn's CSI driver.
const Driver = "driver.longhorn.io"

// Machine is a virtual machine with everything that a backup of it needs.
type Machine struct {
	VM       *kubevirtv1.VirtualMachine
	Manifest json.RawMessage
	// Running is the machine's instance, nil when it is off.
	Running *kubevirtv1.VirtualMachineInstance
	Volumes []Volume
	// Secrets and ConfigMaps are sanitized manifests, with their keys beside them.
	Secrets, ConfigMaps       []json.RawMessage
	SecretKeys, ConfigMapKeys []vmbackup.KeyedObject
	// Revisions are the ControllerRevisions of the instance type and the preference.
	Revisions []json.RawMessage
	// StorageClasses are those of the volumes.
	StorageClasses []json.RawMessage
	// InstanceType and Preference are the names of those whose revision is held.
	InstanceType, Preference string
	Warnings                 []string
	// MissingSecrets are the Secrets that the machine refers to and that do not exist.
	MissingSecrets []string
}

// Volume is one disk to back up.
type Volume struct {
	vmbackup.BackupVolume
	Claim json.RawMessage
	// Target is the BackupTarget that the Longhorn volume backs up to.
	Target string
	// Estimate is what the volume's data takes at most, in bytes.
	Estimate int64
}

// reader reads with the rights of its clients.
type reader struct{ clients *kube.Clients }

// Read reads the machine and what it refers to.
func Read(ctx context.Context, clients *kube.Clients, ref vmbackup.Ref) (*Machine, error) {
	return reader{clients}.read(ctx, ref)
}

func (e reader) read(ctx context.Context, ref vmbackup.Ref) (*Machine, error) {
	raw, err := e.clients.VMs.Get(ctx, ref.Namespace, ref.Name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no VirtualMachine %q in namespace %q", ref.Name, ref.Namespace).
				WithHint("list the machines with: kubectl get virtualmachines.kubevirt.io -n %s", ref.Namespace)
		}
		return nil, kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	c := &Machine{VM: &kubevirtv1.VirtualMachine{}}
	if err := json.Unmarshal(raw, c.VM); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "VirtualMachine %s: %w", ref, err)
	}
	if c.Manifest, err = metadata.Sanitize(raw); err != nil {
		return nil, fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	if c.VM.Spec.Template == nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "VirtualMachine %s has no template, so no volumes to back up", ref)
	}
	refs := ReferencesOf(c.VM)
	state, err := StateClaim(ctx, e.clients, c.VM)
	if err != nil {
		return nil, err
	}
	if state != nil {
		refs.claim(state.Volume, state.Claim)
	}
	if len(refs.Claims) == 0 {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "VirtualMachine %s has no volume on a PersistentVolumeClaim, so there is no data to back up", ref).
			WithHint("save the manifest alone with: kubectl get virtualmachines.kubevirt.io %s -n %s -o yaml", ref.Name, ref.Namespace)
	}
	c.Warnings = slices.Concat(refs.Warnings, shared(c.VM))

	c.Volumes = make([]Volume, len(refs.Claims))
	secrets := make([]*corev1.Secret, len(refs.Secrets))
	configMaps := make([]*corev1.ConfigMap, len(refs.ConfigMaps))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	group.Go(func() error {
		vmi, err := e.clients.KubeVirt.KubevirtV1().VirtualMachineInstances(ref.Namespace).Get(gctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "read", "VirtualMachineInstance "+ref.String())
		}
		if err == nil && !vmi.IsFinal() {
			c.Running = vmi
		}
		return nil
	})
	var ofRevisions []string
	group.Go(func() (err error) {
		ofRevisions, err = e.revisions(gctx, c)
		return err
	})
	for i, claim := range refs.Claims {
		group.Go(func() error {
			volume, err := e.volume(gctx, ref, claim)
			if err == nil {
				c.Volumes[i] = *volume
			}
			return err
		})
	}
	for i, name := range refs.Secrets {
		group.Go(func() error {
			s, err := e.clients.Core.CoreV1().Secrets(ref.Namespace).Get(gctx, name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return kube.Error(err, "read", "Secret "+ref.Namespace+"/"+name)
			}
			if err == nil {
				secrets[i] = s
			}
			return nil
		})
	}
	for i, name := range refs.ConfigMaps {
		group.Go(func() error {
			m, err := e.clients.Core.CoreV1().ConfigMaps(ref.Namespace).Get(gctx, name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return kube.Error(err, "read", "ConfigMap "+ref.Namespace+"/"+name)
			}
			if err == nil {
				configMaps[i] = m
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := e.storageClasses(ctx, c); err != nil {
		return nil, err
	}
	c.Warnings = append(c.Warnings, ofRevisions...)
	c.Warnings = append(c.Warnings, pluggedOnly(c.VM, c.Running)...)
	if err := c.keepSecrets(refs.Secrets, secrets); err != nil {
		return nil, err
	}
	if err := c.keepConfigMaps(refs.ConfigMaps, configMaps); err != nil {
		return nil, err
	}
	return c, nil
}

// Others are the objects that a record of the machine holds beside secrets and config maps.
func (c *Machine) Others() []json.RawMessage { return slices.Concat(c.Revisions, c.StorageClasses) }

// HasDisks reports whether a volume of the machine itself is backed up. Harvester
// takes a backup without any for one that it cannot use.
func (c *Machine) HasDisks() bool {
	return slices.ContainsFunc(c.Volumes, func(v Volume) bool { return v.Name != StateVolume(c.VM.Name) })
}

func (c *Machine) keepSecrets(names []string, found []*corev1.Secret) error {
	for i, s := range found {
		if s == nil {
			c.MissingSecrets = append(c.MissingSecrets, names[i])
			c.Warnings = append(c.Warnings, fmt.Sprintf("Secret %q, which the machine refers to, does not exist and is not in the backup; Harvester's own controllers could not restore such a backup, so no file for them is written", names[i]))
			continue
		}
		s.APIVersion, s.Kind = "v1", "Secret"
		manifest, err := Sanitized(s)
		if err != nil {
			return fmt.Errorf("manifest of Secret %s: %w", s.Name, err)
		}
		c.Secrets = append(c.Secrets, manifest)
		c.SecretKeys = append(c.SecretKeys, vmbackup.KeyedObject{Name: s.Name, Keys: keysOf(s.Data)})
	}
	return nil
}

func (c *Machine) keepConfigMaps(names []string, found []*corev1.ConfigMap) error {
	for i, m := range found {
		if m == nil {
			c.Warnings = append(c.Warnings, fmt.Sprintf("ConfigMap %q, which the machine refers to, does not exist and is not in the backup", names[i]))
			continue
		}
		m.APIVersion, m.Kind = "v1", "ConfigMap"
		manifest, err := Sanitized(m)
		if err != nil {
			return fmt.Errorf("manifest of ConfigMap %s: %w", m.Name, err)
		}
		c.ConfigMaps = append(c.ConfigMaps, manifest)
		keys := append(keysOf(m.Data), keysOf(m.BinaryData)...)
		slices.Sort(keys)
		c.ConfigMapKeys = append(c.ConfigMapKeys, vmbackup.KeyedObject{Name: m.Name, Keys: keys})
	}
	return nil
}

// volume follows a claim to its Longhorn volume and refuses what Longhorn
// cannot back up.
func (e reader) volume(ctx context.Context, vm vmbackup.Ref, ref ClaimRef) (*Volume, error) {
	name := vm.Namespace + "/" + ref.Claim
	claim, err := e.clients.Core.CoreV1().PersistentVolumeClaims(vm.Namespace).Get(ctx, ref.Claim, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "volume %q of VirtualMachine %s needs PersistentVolumeClaim %s, which does not exist", ref.Volume, vm, name).
			WithHint("a disk that is gone cannot be backed up; remove the volume from the machine or bring the claim back")
	}
	if err != nil {
		return nil, kube.Error(err, "read", "PersistentVolumeClaim "+name)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "volume %q of VirtualMachine %s: PersistentVolumeClaim %s is %s, not Bound, so there is no data to back up", ref.Volume, vm, name, claim.Status.Phase).
			WithHint("see why with: kubectl describe pvc %s -n %s", ref.Claim, vm.Namespace)
	}
	volume, err := e.longhornVolumeOf(ctx, claim, ref, vm)
	if err != nil {
		return nil, err
	}
	if err := checkEngine(volume, ref, vm); err != nil {
		return nil, err
	}
	claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
	manifest, err := Sanitized(claim)
	if err != nil {
		return nil, fmt.Errorf("manifest of PersistentVolumeClaim %s: %w", name, err)
	}
	captured := &Volume{
		BackupVolume: vmbackup.BackupVolume{
			Name: ref.Volume, PVC: claim.Name, SizeBytes: volume.Spec.Size,
			LonghornVolume: volume.Name, Image: volume.Spec.BackingImage, State: vmbackup.StatePending,
			Encrypted: &volume.Spec.Encrypted,
		},
		Claim: manifest, Target: volume.Spec.BackupTargetName, Estimate: volume.Status.ActualSize,
	}
	if claim.Spec.StorageClassName != nil {
		captured.StorageClass = *claim.Spec.StorageClassName
	}
	return captured, nil
}

// longhornVolumeOf finds the Longhorn volume behind a bound claim. A provisioned
// volume has the PersistentVolume's name, and Longhorn's own note of the claim
// proves it; else the PersistentVolume tells, which not everybody may read.
func (e reader) longhornVolumeOf(ctx context.Context, claim *corev1.PersistentVolumeClaim, ref ClaimRef, vm vmbackup.Ref) (*longhornv1.Volume, error) {
	volumes := e.clients.Longhorn.LonghornV1beta2().Volumes(kube.LonghornNamespace)
	name := claim.Spec.VolumeName
	volume, err := volumes.Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, kube.Error(err, "read", "Longhorn volume "+name)
	}
	if err == nil {
		if noted := volume.Status.KubernetesStatus; noted.PVName == name && noted.Namespace == claim.Namespace && noted.PVCName == claim.Name {
			return volume, nil
		}
	}
	pv, err := e.clients.Core.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Error(err, "read", "PersistentVolume "+name)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Driver {
		driver := "no CSI driver"
		if pv.Spec.CSI != nil {
			driver = pv.Spec.CSI.Driver
		}
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "volume %q of VirtualMachine %s lies on %s (PersistentVolumeClaim %s/%s), not on Longhorn (%s)", ref.Volume, vm, driver, claim.Namespace, claim.Name, Driver).
			WithHint("move the disk to a StorageClass of Longhorn, or back it up with that storage's own tools")
	}
	volume, err = volumes.Get(ctx, pv.Spec.CSI.VolumeHandle, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Error(err, "read", "Longhorn volume "+pv.Spec.CSI.VolumeHandle)
	}
	return volume, nil
}

// Sanitized is the manifest of a typed object as a backup keeps it.
func Sanitized(object runtime.Object) (json.RawMessage, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	return metadata.Sanitize(raw)
}

func keysOf[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

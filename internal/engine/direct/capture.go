// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

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

// parallel is how many requests the engine has under way at once.
const parallel = 8

// capture is a virtual machine with everything that a backup of it needs.
type capture struct {
	vm       *kubevirtv1.VirtualMachine
	manifest json.RawMessage
	// running is the machine's instance, nil when it is off.
	running *kubevirtv1.VirtualMachineInstance
	volumes []capturedVolume
	// secrets and configMaps are sanitized manifests, with their keys beside them.
	secrets, configMaps       []json.RawMessage
	secretKeys, configMapKeys []vmbackup.KeyedObject
	// revisions are the ControllerRevisions of the instance type and the preference.
	revisions []json.RawMessage
	// instanceType and preference are the names of those whose revision is held.
	instanceType, preference string
	warnings                 []string
	// secretsMissing is true when the machine refers to a Secret that does not exist.
	secretsMissing bool
}

// capturedVolume is one disk to back up.
type capturedVolume struct {
	vmbackup.BackupVolume
	claim json.RawMessage
	// target is the BackupTarget that the Longhorn volume backs up to.
	target string
	// estimate is what the volume's data takes at most, in bytes.
	estimate int64
}

// capture reads the machine and what it refers to.
func (e *Engine) capture(ctx context.Context, ref vmbackup.Ref) (*capture, error) {
	raw, err := e.clients.VMs.Get(ctx, ref.Namespace, ref.Name)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "there is no VirtualMachine %q in namespace %q", ref.Name, ref.Namespace).
				WithHint("list the machines with: kubectl get virtualmachines.kubevirt.io -n %s", ref.Namespace)
		}
		return nil, kube.Error(err, "read", "VirtualMachine "+ref.String())
	}
	c := &capture{vm: &kubevirtv1.VirtualMachine{}}
	if err := json.Unmarshal(raw, c.vm); err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInternal, "VirtualMachine %s: %w", ref, err)
	}
	if c.manifest, err = metadata.Sanitize(raw); err != nil {
		return nil, fmt.Errorf("manifest of VirtualMachine %s: %w", ref, err)
	}
	if c.vm.Spec.Template == nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "VirtualMachine %s has no template, so no volumes to back up", ref)
	}
	refs := referencesOf(c.vm)
	state, err := e.stateClaim(ctx, c.vm)
	if err != nil {
		return nil, err
	}
	if state != nil {
		refs.claim(state.volume, state.claim)
	}
	if len(refs.claims) == 0 {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "VirtualMachine %s has no volume on a PersistentVolumeClaim, so there is no data to back up", ref).
			WithHint("save the manifest alone with: kubectl get virtualmachines.kubevirt.io %s -n %s -o yaml", ref.Name, ref.Namespace)
	}
	c.warnings = slices.Concat(refs.warnings, shared(c.vm))

	c.volumes = make([]capturedVolume, len(refs.claims))
	secrets := make([]*corev1.Secret, len(refs.secrets))
	configMaps := make([]*corev1.ConfigMap, len(refs.configMaps))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	group.Go(func() error {
		vmi, err := e.clients.KubeVirt.KubevirtV1().VirtualMachineInstances(ref.Namespace).Get(gctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return kube.Error(err, "read", "VirtualMachineInstance "+ref.String())
		}
		if err == nil && !vmi.IsFinal() {
			c.running = vmi
		}
		return nil
	})
	var ofRevisions []string
	group.Go(func() (err error) {
		ofRevisions, err = e.captureRevisions(gctx, c)
		return err
	})
	for i, claim := range refs.claims {
		group.Go(func() error {
			volume, err := e.captureVolume(gctx, ref, claim)
			if err == nil {
				c.volumes[i] = *volume
			}
			return err
		})
	}
	for i, name := range refs.secrets {
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
	for i, name := range refs.configMaps {
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
	c.warnings = append(c.warnings, ofRevisions...)
	c.warnings = append(c.warnings, pluggedOnly(c.vm, c.running)...)
	if err := c.keepSecrets(refs.secrets, secrets); err != nil {
		return nil, err
	}
	if err := c.keepConfigMaps(refs.configMaps, configMaps); err != nil {
		return nil, err
	}
	return c, nil
}

// hasDisks reports whether a volume of the machine itself is backed up. Harvester
// takes a backup without any for one that it cannot use.
func (c *capture) hasDisks() bool {
	return slices.ContainsFunc(c.volumes, func(v capturedVolume) bool { return v.Name != stateVolume(c.vm.Name) })
}

func (c *capture) keepSecrets(names []string, found []*corev1.Secret) error {
	for i, s := range found {
		if s == nil {
			c.secretsMissing = true
			c.warnings = append(c.warnings, fmt.Sprintf("Secret %q, which the machine refers to, does not exist and is not in the backup; Harvester's own controllers could not restore such a backup, so no file for them is written", names[i]))
			continue
		}
		s.APIVersion, s.Kind = "v1", "Secret"
		manifest, err := sanitized(s)
		if err != nil {
			return fmt.Errorf("manifest of Secret %s: %w", s.Name, err)
		}
		c.secrets = append(c.secrets, manifest)
		c.secretKeys = append(c.secretKeys, vmbackup.KeyedObject{Name: s.Name, Keys: keysOf(s.Data)})
	}
	return nil
}

func (c *capture) keepConfigMaps(names []string, found []*corev1.ConfigMap) error {
	for i, m := range found {
		if m == nil {
			c.warnings = append(c.warnings, fmt.Sprintf("ConfigMap %q, which the machine refers to, does not exist and is not in the backup", names[i]))
			continue
		}
		m.APIVersion, m.Kind = "v1", "ConfigMap"
		manifest, err := sanitized(m)
		if err != nil {
			return fmt.Errorf("manifest of ConfigMap %s: %w", m.Name, err)
		}
		c.configMaps = append(c.configMaps, manifest)
		keys := append(keysOf(m.Data), keysOf(m.BinaryData)...)
		slices.Sort(keys)
		c.configMapKeys = append(c.configMapKeys, vmbackup.KeyedObject{Name: m.Name, Keys: keys})
	}
	return nil
}

// captureVolume follows a claim to its Longhorn volume and refuses what Longhorn
// cannot back up.
func (e *Engine) captureVolume(ctx context.Context, vm vmbackup.Ref, ref claimRef) (*capturedVolume, error) {
	name := vm.Namespace + "/" + ref.claim
	claim, err := e.clients.Core.CoreV1().PersistentVolumeClaims(vm.Namespace).Get(ctx, ref.claim, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, vmbackup.Errorf(vmbackup.ReasonNotFound, "volume %q of VirtualMachine %s needs PersistentVolumeClaim %s, which does not exist", ref.volume, vm, name).
			WithHint("a disk that is gone cannot be backed up; remove the volume from the machine or bring the claim back")
	}
	if err != nil {
		return nil, kube.Error(err, "read", "PersistentVolumeClaim "+name)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "volume %q of VirtualMachine %s: PersistentVolumeClaim %s is %s, not Bound, so there is no data to back up", ref.volume, vm, name, claim.Status.Phase).
			WithHint("see why with: kubectl describe pvc %s -n %s", ref.claim, vm.Namespace)
	}
	volume, err := e.longhornVolumeOf(ctx, claim, ref, vm)
	if err != nil {
		return nil, err
	}
	if err := checkEngine(volume, ref, vm); err != nil {
		return nil, err
	}
	claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
	manifest, err := sanitized(claim)
	if err != nil {
		return nil, fmt.Errorf("manifest of PersistentVolumeClaim %s: %w", name, err)
	}
	captured := &capturedVolume{
		BackupVolume: vmbackup.BackupVolume{
			Name: ref.volume, PVC: claim.Name, SizeBytes: volume.Spec.Size,
			LonghornVolume: volume.Name, Image: volume.Spec.BackingImage, State: vmbackup.StatePending,
			Encrypted: &volume.Spec.Encrypted,
		},
		claim: manifest, target: volume.Spec.BackupTargetName, estimate: volume.Status.ActualSize,
	}
	if claim.Spec.StorageClassName != nil {
		captured.StorageClass = *claim.Spec.StorageClassName
	}
	return captured, nil
}

// longhornVolumeOf finds the Longhorn volume behind a bound claim. A provisioned
// volume has the PersistentVolume's name, and Longhorn's own note of the claim
// proves it; else the PersistentVolume tells, which not everybody may read.
func (e *Engine) longhornVolumeOf(ctx context.Context, claim *corev1.PersistentVolumeClaim, ref claimRef, vm vmbackup.Ref) (*longhornv1.Volume, error) {
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
		return nil, vmbackup.Errorf(vmbackup.ReasonStorageUnsupported, "volume %q of VirtualMachine %s lies on %s (PersistentVolumeClaim %s/%s), not on Longhorn (%s)", ref.volume, vm, driver, claim.Namespace, claim.Name, Driver).
			WithHint("move the disk to a StorageClass of Longhorn, or back it up with that storage's own tools")
	}
	volume, err = volumes.Get(ctx, pv.Spec.CSI.VolumeHandle, metav1.GetOptions{})
	if err != nil {
		return nil, kube.Error(err, "read", "Longhorn volume "+pv.Spec.CSI.VolumeHandle)
	}
	return volume, nil
}

// sanitized is the manifest of a typed object as a backup keeps it.
func sanitized(object runtime.Object) (json.RawMessage, error) {
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

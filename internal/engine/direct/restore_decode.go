// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/journal"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// restoreLimit is the most bytes that the record of a restore may take unpacked.
const restoreLimit = metadata.FileLimit

// decodeRestore reads the journal's data of the restore ref. Whoever may write
// Secrets in its namespace may have written it, and a run creates what it holds
// with the rights of whoever resumes it: it is taken only if every object in it is
// one that a restore of that name makes, in its namespace and under its names. The
// error is DataDamaged.
func decodeRestore(ref vmbackup.Ref, data []byte) (*restoreRecord, error) {
	place := "record of restore " + ref.String()
	damaged := func(err error) error {
		return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%s: %w", place, err).
			WithHint("nothing was done from it; remove it with: kubectl delete secret %s -n %s; then start a new restore", journal.SecretName(journal.KindRestore, ref), ref.Namespace)
	}
	if len(data) > metadata.JournalLimit {
		return nil, damaged(fmt.Errorf("%d bytes are more than %d", len(data), metadata.JournalLimit))
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, damaged(err)
	}
	content, err := io.ReadAll(io.LimitReader(unpacked, restoreLimit+1))
	if err != nil {
		return nil, damaged(err)
	}
	r := &restoreRecord{}
	if err := metadata.DecodeStrict(place, content, r); err != nil {
		return nil, err
	}
	if err := r.check(ref); err != nil {
		return nil, damaged(err)
	}
	return r, nil
}

// DecodeRestore reads the journal's data of the restore ref, for the catalog.
func DecodeRestore(ref vmbackup.Ref, data []byte) (*vmbackup.Restore, error) {
	r, err := decodeRestore(ref, data)
	if err != nil {
		return nil, err
	}
	return &r.Restore, nil
}

// operationToken is what newOperation makes.
var operationToken = regexp.MustCompile(`^[0-9a-f]{12}$`)

// check refuses a record that no restore of this name would have written, and takes
// from its objects what a restore never sets: owners, finalizers, status.
func (r *restoreRecord) check(ref vmbackup.Ref) error {
	spec := &r.Restore.Spec
	switch {
	case r.Restore.Ref() != ref:
		return fmt.Errorf("it is of restore %s", r.Restore.Ref())
	case spec.TargetNamespace != ref.Namespace:
		return fmt.Errorf("restore.spec.targetNamespace %q is not its own", spec.TargetNamespace)
	case !isName(spec.TargetName):
		return fmt.Errorf("restore.spec.targetName %q is no name of Kubernetes", spec.TargetName)
	case !operationToken.MatchString(r.Operation):
		return fmt.Errorf("operation %q is not valid", r.Operation)
	case r.Class != "" && !isName(r.Class):
		return fmt.Errorf("class %q is no name of Kubernetes", r.Class)
	case !knownStrategy(r.RunStrategy):
		return fmt.Errorf("runStrategy %q is not known", r.RunStrategy)
	}
	var err error
	if len(r.VM) > 0 {
		vm, clean, err := manifestIn(r.VM, ref.Namespace)
		switch {
		case err != nil:
			return fmt.Errorf("vm: %w", err)
		case vm.Kind != "VirtualMachine" || vm.Group() != "kubevirt.io" || vm.Metadata.Name != spec.TargetName:
			return fmt.Errorf("vm: %s %s %q is not VirtualMachine %q", vm.APIVersion, vm.Kind, vm.Metadata.Name, spec.TargetName)
		}
		r.VM = clean
	}
	if r.Secrets, err = objectsIn(r.Secrets, "Secret", ref.Namespace); err != nil {
		return fmt.Errorf("secrets%w", err)
	}
	if r.ConfigMaps, err = objectsIn(r.ConfigMaps, "ConfigMap", ref.Namespace); err != nil {
		return fmt.Errorf("configMaps%w", err)
	}
	if err := r.checkVolumes(); err != nil {
		return err
	}
	if err := r.checkImages(); err != nil {
		return err
	}
	if err := r.checkClasses(); err != nil {
		return err
	}
	if err := r.checkBelongings(); err != nil {
		return err
	}
	if (spec.Mode == vmbackup.ModeInPlace) != (r.InPlace != nil) {
		return fmt.Errorf("restore.spec.mode %q does not go with inPlace", spec.Mode)
	}
	if r.InPlace == nil {
		return nil
	}
	if err := r.InPlace.check(ref.Namespace, spec.TargetName, r.Restore.Status.Volumes); err != nil {
		return fmt.Errorf("inPlace: %w", err)
	}
	return nil
}

// checkVolumes refuses claims that are not those of the restore's volumes.
func (r *restoreRecord) checkVolumes() error {
	snapshots := map[string]string{} // the VolumeSnapshot that a claim is filled from
	for i, v := range r.Restore.Status.Volumes {
		kind, volume, name, ok := handleParts(v.SnapshotHandle)
		switch {
		case r.Delegate != "" && v.SnapshotHandle == "": // it is the delegate's to find the data
		case !ok || kind != "bak" && kind != "snap" || !metadata.IsStoreName(volume) || !metadata.IsStoreName(name):
			return fmt.Errorf("restore.status.volumes[%d].snapshotHandle %q is not valid", i, v.SnapshotHandle)
		case !metadata.IsStoreName(v.Name):
			return fmt.Errorf("restore.status.volumes[%d].name %q is not valid", i, v.Name)
		case !isName(v.PVC) || snapshots[v.PVC] != "":
			return fmt.Errorf("restore.status.volumes[%d].pvc %q is not valid", i, v.PVC)
		case v.LonghornVolume != "" && !metadata.IsStoreName(v.LonghornVolume):
			return fmt.Errorf("restore.status.volumes[%d].longhornVolume %q is not valid", i, v.LonghornVolume)
		}
		snapshots[v.PVC] = r.snapshotName(&v)
	}
	for i := range r.Claims {
		c := &r.Claims[i]
		source := c.Spec.DataSource
		switch {
		case c.Namespace != r.Restore.Metadata.Namespace:
			return fmt.Errorf("claims[%d]: %q is in namespace %q, not in the restore's", i, c.Name, c.Namespace)
		case snapshots[c.Name] == "":
			return fmt.Errorf("claims[%d]: %q is the claim of no volume, or there twice", i, c.Name)
		case c.Spec.VolumeName != "" || c.Spec.DataSourceRef != nil || source == nil || source.Kind != "VolumeSnapshot" || source.Name != snapshots[c.Name]:
			return fmt.Errorf("claims[%d]: %q is not filled from the snapshot of its volume", i, c.Name)
		}
		delete(snapshots, c.Name)
		c.OwnerReferences, c.Finalizers, c.ManagedFields, c.Status = nil, nil, nil, corev1.PersistentVolumeClaimStatus{}
	}
	return nil
}

// objectsIn are the Secrets or ConfigMaps of a record without what a restore never sets.
func objectsIn(objects []json.RawMessage, kind, namespace string) ([]json.RawMessage, error) {
	clean := make([]json.RawMessage, len(objects))
	for i, raw := range objects {
		m, out, err := manifestIn(raw, namespace)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		if m.APIVersion != "v1" || m.Kind != kind {
			return nil, fmt.Errorf("[%d]: %s %s is no %s", i, m.APIVersion, m.Kind, kind)
		}
		if why := unwarranted(m); why != "" {
			return nil, fmt.Errorf("[%d]: %s %q %s", i, kind, m.Metadata.Name, why)
		}
		clean[i] = out
	}
	return clean, nil
}

// manifestIn reads a manifest, which must be of an object in the namespace.
func manifestIn(raw json.RawMessage, namespace string) (*metadata.Manifest, json.RawMessage, error) {
	m, err := metadata.ParseManifest(raw)
	if err != nil {
		return nil, nil, err
	}
	if m.Metadata.Namespace != namespace {
		return nil, nil, fmt.Errorf("%s %q is in namespace %q, not in %q", m.Kind, m.Metadata.Name, m.Metadata.Namespace, namespace)
	}
	clean, err := m.JSON()
	return m, clean, err
}

// knownStrategy reports whether a run strategy is one that a machine can be given.
func knownStrategy(s kubevirtv1.VirtualMachineRunStrategy) bool {
	switch s {
	case "", kubevirtv1.RunStrategyHalted, kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyManual,
		kubevirtv1.RunStrategyRerunOnFailure, kubevirtv1.RunStrategyOnce, kubevirtv1.RunStrategyWaitAsReceiver:
		return true
	}
	return false
}

// isName reports whether s can be the name of an object (RFC 1123 subdomain).
func isName(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }

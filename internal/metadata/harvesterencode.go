// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	kjson "sigs.k8s.io/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// EncodeHarvester writes what Harvester 1.8.2 would have written of the backup,
// so that Harvester discovers it. Every volume must have its Longhorn backup and
// its claim: Harvester takes a file with less for a backup that it cannot use.
// Of the secrets it holds what Harvester would have captured, those of cloud-init
// NoCloud volumes and of access credentials; config maps and other objects have
// no place in this format. The error is InvalidRequest and names the field.
func EncodeHarvester(rec *Record) ([]byte, error) {
	clean, err := checked(rec)
	if err != nil {
		return nil, refused(rec, err)
	}
	file, err := harvesterFile(clean)
	if err != nil {
		return nil, refused(rec, fmt.Errorf("for Harvester: %w", err))
	}
	content, err := json.Marshal(file)
	if err != nil {
		return nil, refused(rec, err)
	}
	if len(content) > FileLimit {
		return nil, refused(rec, fmt.Errorf("for Harvester: %d bytes are more than the %d that metadata may have", len(content), FileLimit))
	}
	return content, nil
}

// harvesterFile builds the file of a record that has been checked.
func harvesterFile(rec *Record) (*harvesterBackup, error) {
	b := &rec.Backup
	if b.Spec.Type != vmbackup.TypeBackup {
		return nil, fmt.Errorf("backup.spec.type %q is not on the target", b.Spec.Type)
	}
	vm, err := parseManifest(rec.VM)
	if err != nil {
		return nil, err
	}
	group := vmGroup
	file := &harvesterBackup{
		Name:         b.Metadata.Name,
		Namespace:    b.Metadata.Namespace,
		BackupSpec:   harvesterBackupSpec{Source: harvesterSource{APIGroup: &group, Kind: vmKind, Name: b.Spec.VM}, Type: b.Spec.Type},
		VMSourceSpec: &harvesterObject{Metadata: harvesterMetaOf(vm), Spec: vm.Fields["spec"]},
	}
	claims := map[string]*Manifest{}
	for _, raw := range rec.Claims {
		claim, err := parseManifest(raw)
		if err != nil {
			return nil, err
		}
		claims[claim.Metadata.Name] = claim
	}
	inTemplate, err := templateVolumes(vm.Fields["spec"])
	if err != nil {
		return nil, err
	}
	for i, v := range b.Status.Volumes {
		// Harvester gives a volume's claim to the machine's volume of that name: what
		// is no volume of the machine, as its TPM's state, has no place in its format.
		if !slices.Contains(inTemplate, v.Name) {
			continue
		}
		claim, found := claims[v.PVC]
		if !found {
			return nil, fmt.Errorf("backup.status.volumes[%d]: claim %q is missing", i, v.PVC)
		}
		volume, err := harvesterVolumeOf(b.Metadata.Name, v, claim)
		if err != nil {
			return nil, fmt.Errorf("backup.status.volumes[%d]%w", i, err)
		}
		file.VolumeBackups = append(file.VolumeBackups, volume)
	}
	file.SecretBackups, err = harvesterSecretsOf(rec, vm.Fields["spec"])
	return file, err
}

// templateVolumes are the names of the machine's volumes.
func templateVolumes(spec json.RawMessage) ([]string, error) {
	var vm struct {
		Template struct {
			Spec struct {
				Volumes []struct {
					Name string `json:"name"`
				} `json:"volumes"`
			} `json:"spec"`
		} `json:"template"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(spec, &vm); err != nil {
		return nil, fmt.Errorf("vm.spec: %w", err)
	}
	var names []string
	for _, v := range vm.Template.Spec.Volumes {
		names = append(names, v.Name)
	}
	return names, nil
}

func harvesterMetaOf(m *Manifest) harvesterMeta {
	return harvesterMeta{Name: m.Metadata.Name, Namespace: m.Metadata.Namespace, Labels: m.Metadata.Labels, Annotations: m.Metadata.Annotations}
}

func harvesterVolumeOf(backup string, v vmbackup.BackupVolume, claim *Manifest) (harvesterVolume, error) {
	none := harvesterVolume{}
	switch {
	case v.LonghornVolume == "":
		return none, fmt.Errorf(".longhornVolume is missing")
	case v.LonghornBackup == "":
		return none, fmt.Errorf(".longhornBackup is missing")
	case !isObject(claim.Fields["spec"]):
		return none, fmt.Errorf(": claim %q has no spec", v.PVC)
	}
	// Harvester looks for the volume's backup under the claim's volumeName. For a
	// statically provisioned volume Longhorn's name may be another.
	spec, err := withField(claim.Fields["spec"], v.LonghornVolume, "volumeName")
	if err != nil {
		return none, fmt.Errorf(": claim %q: %w", v.PVC, err)
	}
	name := harvesterVolumeName(backup, v.PVC)
	return harvesterVolume{
		Name:                  &name,
		VolumeName:            v.Name,
		CSIDriverName:         longhornDriver,
		PersistentVolumeClaim: harvesterObject{Metadata: harvesterMetaOf(claim), Spec: spec},
		LonghornBackupName:    &v.LonghornBackup,
		VolumeSize:            v.SizeBytes,
		Progress:              100,
	}, nil
}

// harvesterSecretsOf returns the secrets that Harvester captures, in its order:
// access credentials first, then volumes, each secret once, without empty values.
func harvesterSecretsOf(rec *Record, spec json.RawMessage) ([]harvesterSecret, error) {
	type secretRef struct {
		Name string `json:"name"`
	}
	type credential struct {
		Source struct {
			Secret *struct {
				SecretName string `json:"secretName"`
			} `json:"secret"`
		} `json:"source"`
	}
	var vm struct {
		Template struct {
			Spec struct {
				AccessCredentials []struct {
					SSHPublicKey *credential `json:"sshPublicKey"`
					UserPassword *credential `json:"userPassword"`
				} `json:"accessCredentials"`
				Volumes []struct {
					CloudInitNoCloud *struct {
						SecretRef            *secretRef `json:"secretRef"`
						NetworkDataSecretRef *secretRef `json:"networkDataSecretRef"`
					} `json:"cloudInitNoCloud"`
				} `json:"volumes"`
			} `json:"spec"`
		} `json:"template"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(spec, &vm); err != nil {
		return nil, fmt.Errorf("vm.spec: %w", err)
	}
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, c := range vm.Template.Spec.AccessCredentials {
		for _, from := range []*credential{c.SSHPublicKey, c.UserPassword} {
			if from != nil && from.Source.Secret != nil {
				add(from.Source.Secret.SecretName)
			}
		}
	}
	for _, v := range vm.Template.Spec.Volumes {
		if v.CloudInitNoCloud == nil {
			continue
		}
		for _, ref := range []*secretRef{v.CloudInitNoCloud.SecretRef, v.CloudInitNoCloud.NetworkDataSecretRef} {
			if ref != nil {
				add(ref.Name)
			}
		}
	}
	secrets := map[string]*Manifest{}
	for _, raw := range rec.Secrets {
		m, err := parseManifest(raw)
		if err != nil {
			return nil, err
		}
		secrets[m.Metadata.Name] = m
	}
	var out []harvesterSecret
	for _, name := range names {
		m, found := secrets[name]
		if !found {
			return nil, fmt.Errorf("secret %q, which the virtual machine refers to, is missing", name)
		}
		s := harvesterSecret{Name: name}
		if raw := m.Fields["data"]; raw != nil {
			if err := json.Unmarshal(raw, &s.Data); err != nil {
				return nil, fmt.Errorf("secret %q: data is not base64", name)
			}
		}
		// Harvester cannot read a secret with an empty value back.
		maps.DeleteFunc(s.Data, func(_ string, value []byte) bool { return len(value) == 0 })
		out = append(out, s)
	}
	return out, nil
}

// manifest is the secret as Kubernetes knows it, with its keys in order.
func (s *harvesterSecret) manifest(namespace string) (json.RawMessage, []string, error) {
	data, err := json.Marshal(s.Data)
	if err != nil {
		return nil, nil, err
	}
	m := &Manifest{APIVersion: "v1", Kind: "Secret", Metadata: Meta{Name: s.Name, Namespace: namespace}, Fields: map[string]json.RawMessage{}}
	if len(s.Data) > 0 {
		m.Fields["data"] = data
	}
	raw, err := m.JSON()
	return raw, slices.Sorted(maps.Keys(s.Data)), err
}

// withClaims returns the machine's spec with the claims given, by volume. It
// leaves a spec that has them as it is, byte for byte.
func withClaims(spec json.RawMessage, claims map[string]string) (json.RawMessage, error) {
	var outer struct {
		Template struct {
			Spec struct {
				Volumes []json.RawMessage `json:"volumes"`
			} `json:"spec"`
		} `json:"template"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(spec, &outer); err != nil {
		return nil, err
	}
	volumes := outer.Template.Spec.Volumes
	changed := false
	for i, raw := range volumes {
		var volume struct {
			Name  string `json:"name"`
			Claim *struct {
				ClaimName string `json:"claimName"`
			} `json:"persistentVolumeClaim"`
		}
		if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &volume); err != nil {
			return nil, fmt.Errorf("template.spec.volumes[%d]: %w", i, err)
		}
		claim, backedUp := claims[volume.Name]
		if !backedUp || volume.Claim == nil || volume.Claim.ClaimName == claim {
			continue
		}
		restored, err := withField(raw, claim, "persistentVolumeClaim", "claimName")
		if err != nil {
			return nil, fmt.Errorf("template.spec.volumes[%d]: %w", i, err)
		}
		volumes[i], changed = restored, true
	}
	if !changed {
		return spec, nil
	}
	return withField(spec, volumes, "template", "spec", "volumes")
}

// withField returns the object with the field at the path set. It leaves an
// object that has it as it is, byte for byte; otherwise the objects along the
// path are written with their keys in order.
func withField(object json.RawMessage, value any, at ...string) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if object != nil {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(object, &fields); err != nil {
			return nil, err
		}
	}
	var (
		set json.RawMessage
		err error
	)
	if len(at) > 1 {
		set, err = withField(fields[at[0]], value, at[1:]...)
	} else {
		set, err = json.Marshal(value)
	}
	if err != nil {
		return nil, err
	}
	if bytes.Equal(fields[at[0]], set) {
		return object, nil
	}
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	fields[at[0]] = set
	return json.Marshal(fields)
}

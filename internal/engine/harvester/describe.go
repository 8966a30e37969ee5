// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package harvester

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/capture"
	hv "github.com/vmbackup/kubectl-vmbackup/internal/harvester"
	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// openTarget opens the target for the steps that look at it themselves. A user who
// cannot reach it is told once, and does without.
func (r *backupRun) openTarget(ctx context.Context) (target.Store, error) {
	if r.store != nil {
		return r.store, nil
	}
	store, err := r.engine.open(ctx, vmbackup.DefaultTarget)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		text := notReached(err)
		if !slices.Contains(r.warnings, text) {
			r.warn(text)
		}
		return nil, nil
	}
	r.store = store
	return store, nil
}

// verify sees every volume's backup, and the images below, on the target itself.
func (r *backupRun) verify(ctx context.Context) error {
	store, err := r.openTarget(ctx)
	if err != nil || store == nil {
		return err
	}
	for _, v := range r.last.backup.Status.Volumes {
		if err := target.See(ctx, store, target.BackupConfigKey(v.LonghornVolume, v.LonghornBackup), fmt.Sprintf("backup %s of volume %s", v.LonghornBackup, v.Name)); err != nil {
			return err
		}
	}
	for _, image := range r.last.backup.Status.Images {
		if err := target.See(ctx, store, target.BackingImageConfigKey(image.Name), "the backup of backing image "+image.Name); err != nil {
			return err
		}
	}
	return target.See(ctx, store, metadata.HarvesterBackupKey(r.ref), "Harvester's description of backup "+r.ref.String())
}

// describe writes what Harvester's description lacks beside it: everything that a
// restore with full fidelity needs.
func (r *backupRun) describe(ctx context.Context) error {
	store, err := r.openTarget(ctx)
	if err != nil || store == nil {
		return err
	}
	key := metadata.RecordKey(r.ref)
	if have, err := r.written(ctx, store, key); err != nil || have {
		return err
	}
	record, err := r.record(ctx)
	if err != nil {
		return err
	}
	content, err := metadata.EncodeRecord(record)
	if err != nil {
		return err
	}
	err = target.PutChecked(ctx, store, key, content)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonDataDamaged {
		// Another run of this backup may have written its own in between.
		if have, readErr := r.written(ctx, store, key); readErr == nil && have {
			return nil
		}
	}
	return err
}

// written reports whether this very backup is described on the target already.
func (r *backupRun) written(ctx context.Context, store target.Store, key string) (bool, error) {
	content, err := store.Get(ctx, key, metadata.FileLimit)
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	record, err := metadata.DecodeRecord(key, content)
	// One that cannot be read is written anew.
	return err == nil && record.Operation == r.operation, nil
}

// record is everything that is known of the backup: what Harvester has noted at its
// beginning, and of what it leaves out the objects as they were read then, or are now.
func (r *backupRun) record(ctx context.Context) (*metadata.Record, error) {
	object := r.last.object
	record, err := object.Record(hv.Evidence{TargetName: vmbackup.DefaultTarget, Unseen: "looked at already"})
	if err != nil {
		return nil, err
	}
	record.Operation = r.operation
	record.Backup = *r.last.backup
	status := &record.Backup.Status
	status.Warnings = slices.Clone(status.Warnings)
	status.Metadata = vmbackup.MetadataStatus{Path: metadata.RecordKey(r.ref), State: vmbackup.StateReady}
	status.FoundOn = ""
	m := r.machine
	if m == nil {
		if m, err = capture.Read(ctx, r.engine.clients, vmbackup.Ref{Namespace: r.ref.Namespace, Name: record.Backup.Spec.VM}); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			r.lacks(&record.Backup, fmt.Sprintf("the machine cannot be read any more (%v)", err))
			return record, nil
		}
		if string(m.VM.UID) != status.SourceUID {
			r.lacks(&record.Backup, "the machine is another one by now")
			return record, nil
		}
	}
	return record, enrich(record, m)
}

// lacks says that the description is Harvester's alone.
func (r *backupRun) lacks(b *vmbackup.Backup, why string) {
	text := why + ": instance type, config maps and other secrets than Harvester's are not in the backup"
	b.Status.Warnings = append(b.Status.Warnings, text)
	r.warn(text)
}

// enrich adds to a record what Harvester leaves out of it. What Harvester has noted
// goes first where the two differ: it is from the time of the backup.
func enrich(record *metadata.Record, m *capture.Machine) error {
	noted := map[string]*corev1.Secret{}
	raw := map[string]json.RawMessage{}
	for _, r := range record.Secrets {
		s := &corev1.Secret{}
		if err := metadata.ReadObject(r, s); err != nil {
			return err
		}
		noted[s.Name], raw[s.Name] = s, r
	}
	status := &record.Backup.Status
	record.Secrets, status.Secrets = nil, nil
	for i, r := range m.Secrets {
		s := &corev1.Secret{}
		if err := metadata.ReadObject(r, s); err != nil {
			return err
		}
		had := noted[s.Name]
		delete(noted, s.Name)
		if had != nil && !sameData(had.Data, s.Data) {
			r = raw[s.Name]
		}
		record.Secrets, status.Secrets = append(record.Secrets, r), append(status.Secrets, m.SecretKeys[i])
	}
	for _, name := range slices.Sorted(maps.Keys(noted)) {
		record.Secrets = append(record.Secrets, raw[name])
		status.Secrets = append(status.Secrets, vmbackup.KeyedObject{Name: name, Keys: slices.Sorted(maps.Keys(noted[name].Data))})
	}
	record.ConfigMaps, status.ConfigMaps = m.ConfigMaps, m.ConfigMapKeys
	record.Others, status.InstanceType, status.Preference = m.Others(), m.InstanceType, m.Preference
	for _, w := range m.Warnings {
		if !slices.Contains(status.Warnings, w) {
			status.Warnings = append(status.Warnings, w)
		}
	}
	for i := range status.Volumes {
		for _, v := range m.Volumes {
			if v.Name == status.Volumes[i].Name {
				status.Volumes[i].Encrypted = v.Encrypted
			}
		}
	}
	return nil
}

// sameData compares what Harvester has noted of a Secret, without empty values, with the Secret.
func sameData(noted, have map[string][]byte) bool {
	full := maps.Clone(have)
	maps.DeleteFunc(full, func(_ string, value []byte) bool { return len(value) == 0 })
	return maps.EqualFunc(noted, full, slices.Equal)
}

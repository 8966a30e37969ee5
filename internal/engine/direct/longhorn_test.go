// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package direct

import (
	"fmt"
	"time"

	longhornv1 "github.com/longhorn/longhorn-manager/k8s/pkg/apis/longhorn/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/kube"
	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// upload is Longhorn's backup of a snapshot.
func (c *cluster) upload(volume, snapshot string) {
	c.mu.Lock()
	c.backups++
	name := fmt.Sprintf("backup-%016x", c.backups)
	c.mu.Unlock()
	b := &longhornv1.Backup{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.LonghornNamespace, Name: name, Finalizers: []string{"longhorn.io"},
			Labels: map[string]string{"backup-volume": volume, "backup-target": vmbackup.DefaultTarget},
		},
		Spec: longhornv1.BackupSpec{SnapshotName: snapshot},
	}
	c.put("backups", b)
	c.carryOut(name, volume, snapshot)
}

// carryOut is what becomes of a Backup that Longhorn was asked for.
func (c *cluster) carryOut(name, volume, snapshot string) {
	c.mu.Lock()
	why, takes, loses := c.uploadFails[volume], c.uploadTakes, c.loses
	c.mu.Unlock()
	step := func(after time.Duration, f func(*longhornv1.Backup)) {
		time.AfterFunc(after, func() {
			edit(c.apiServer, "backups", kube.LonghornNamespace, name, func(b *longhornv1.Backup) {
				if b.DeletionTimestamp == nil {
					f(b)
				}
			})
		})
	}
	step(takes/2, func(b *longhornv1.Backup) {
		b.Status.State, b.Status.Progress, b.Status.SnapshotName, b.Status.VolumeName = longhornv1.BackupStateInProgress, 50, snapshot, volume
	})
	step(takes, func(b *longhornv1.Backup) {
		if why != "" {
			b.Status.State, b.Status.Error = longhornv1.BackupStateError, why
			return
		}
		b.Status.State, b.Status.Progress = longhornv1.BackupStateCompleted, 100
	})
	// An upload that runs writes the backup's file in the end, also when its Backup is
	// deleted meanwhile.
	time.AfterFunc(takes/2, func() {
		if why != "" || loses || !c.has("backups", kube.LonghornNamespace, name) {
			return
		}
		c.setUploading(name, true)
		time.AfterFunc(takes-takes/2, func() {
			c.write(target.BackupConfigKey(volume, name))
			c.setUploading(name, false)
		})
	})
	// Longhorn reads back what it wrote: only then it knows the sizes, and the volume.
	step(takes+100*time.Millisecond, func(b *longhornv1.Backup) {
		if b.Status.State != longhornv1.BackupStateCompleted {
			return
		}
		readBack(b)
		c.listVolume(volume)
		c.mu.Lock()
		c.listed[name] = b.DeepCopy()
		c.mu.Unlock()
	})
}

func readBack(b *longhornv1.Backup) {
	b.Status.Size, b.Status.NewlyUploadedDataSize, b.Status.LastSyncedAt = "2097152", "1048576", metav1.NewTime(time.Now())
}

func (c *cluster) write(key string) {
	if err := c.store.Store.Put(c.t.Context(), key, []byte("{}")); err != nil {
		c.t.Error(err)
	}
}

func (c *cluster) setUploading(name string, uploading bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uploading[name] = uploading
}

// listVolume lists a volume on the target.
func (c *cluster) listVolume(volume string) {
	if !c.has("backupvolumes", kube.LonghornNamespace, volume) {
		c.put("backupvolumes", &longhornv1.BackupVolume{
			ObjectMeta: metav1.ObjectMeta{Namespace: kube.LonghornNamespace, Name: volume},
			Spec:       longhornv1.BackupVolumeSpec{BackupTargetName: vmbackup.DefaultTarget, VolumeName: volume},
		})
	}
}

// purge is Longhorn's deletion of a backup with its data, which it leaves alone where
// it does not list the volume. Of one that it lists, it waits for an upload to end.
func (c *cluster) purge(b *longhornv1.Backup) {
	listed := c.has("backupvolumes", kube.LonghornNamespace, b.Labels["backup-volume"])
	c.mu.Lock()
	keeps := c.keeps || !listed
	if !keeps && c.uploading[b.Name] {
		c.mu.Unlock()
		time.AfterFunc(time.Second, func() { c.purge(b) })
		return
	}
	delete(c.listed, b.Name)
	c.mu.Unlock()
	if !keeps {
		if err := c.store.Store.Delete(c.t.Context(), target.BackupConfigKey(b.Labels["backup-volume"], b.Name)); err != nil {
			c.t.Error(err)
		}
	}
	c.vanish("backups", b.Namespace, b.Name)
}

// forgetBackups drops Longhorn's records of the backups, as it does when the target looks empty.
func (c *cluster) forgetBackups() {
	for _, name := range c.names("backups") {
		c.vanish("backups", kube.LonghornNamespace, name)
	}
}

// relist takes up the backups that are on the target, under their names and with new UIDs.
func (c *cluster) relist() {
	c.mu.Lock()
	listed := make([]*longhornv1.Backup, 0, len(c.listed))
	for _, b := range c.listed {
		listed = append(listed, b.DeepCopy())
	}
	c.mu.Unlock()
	for _, b := range listed {
		if c.has("backups", b.Namespace, b.Name) {
			continue
		}
		b.UID, b.ResourceVersion, b.Spec.SnapshotName = "", "", ""
		c.put("backups", b)
	}
}

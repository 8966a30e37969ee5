// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package backuptarget

import (
	"bytes"
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"github.com/vmbackup/kubectl-vmbackup/internal/metadata"
)

// readKind is what Harvester does with a file in its folders.
type readKind int

const (
	readNever   readKind = iota
	readAsFile           // it decodes the content
	readBlocked          // it takes it for something else, and stops
)

// harvesterReads says what Harvester's discovery does with a file, by the code of
// v1.8: pkg/controller/master/backup/backup_metadata.go. It does not look at how a
// file's name ends.
func harvesterReads(key string, directory bool) readKind {
	if rest, found := strings.CutPrefix(key, metadata.HarvesterBackupPrefix); found {
		// Files in the folder itself are read to be moved; deeper folders are no files.
		if strings.Count(rest, "/") > 1 {
			return readNever
		}
		return readAsFile
	}
	rest, found := strings.CutPrefix(key, metadata.HarvesterImagePrefix)
	if !found {
		return readNever
	}
	switch strings.Count(rest, "/") {
	case 0:
		// It is listed as a folder: one without files in a bucket, and an error of the
		// file system in a directory.
		if directory {
			return readBlocked
		}
		return readNever
	case 1:
		return readAsFile
	}
	return readBlocked // a folder where only files may be
}

// harvesterFile is a description of a backup as Harvester decodes it: a field of
// another type stops it, one that it does not know does not.
type harvesterFile struct {
	Name       string `json:"name"`
	Namespace  string `json:"namespace"`
	BackupSpec struct {
		Source corev1.TypedLocalObjectReference `json:"source"`
		Type   string                           `json:"type"`
	} `json:"backupSpec"`
	VMSourceSpec *struct {
		ObjectMeta metav1.ObjectMeta             `json:"metadata"`
		Spec       kubevirtv1.VirtualMachineSpec `json:"spec"`
	} `json:"vmSourceSpec"`
	VolumeBackups []struct {
		Name                  *string      `json:"name"`
		VolumeName            string       `json:"volumeName"`
		CreationTime          *metav1.Time `json:"creationTime"`
		CSIDriverName         string       `json:"csiDriverName"`
		PersistentVolumeClaim struct {
			ObjectMeta metav1.ObjectMeta                `json:"metadata"`
			Spec       corev1.PersistentVolumeClaimSpec `json:"spec"`
		} `json:"persistentVolumeClaim"`
		LonghornBackupName *string `json:"longhornBackupName"`
		VolumeSize         int64   `json:"volumeSize"`
		ReadyToUse         *bool   `json:"readyToUse"`
		Progress           int     `json:"progress"`
	} `json:"volumeBackups"`
	SecretBackups []struct {
		Name string            `json:"name"`
		Data map[string][]byte `json:"data"`
	} `json:"secretBackups"`
}

// chokes says why Harvester cannot decode a file in one of its folders, and so stops
// its discovery; empty when it can.
func chokes(prefix string, content []byte) string {
	var into any = &harvesterFile{}
	if prefix == metadata.HarvesterImagePrefix {
		into = &metadata.HarvesterImage{}
	}
	if err := json.NewDecoder(bytes.NewReader(content)).Decode(into); err != nil {
		return "Harvester cannot decode it: " + err.Error()
	}
	return ""
}

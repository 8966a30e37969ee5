// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"crypto/sha512"
	"encoding/hex"
)

// The folders of Longhorn's backup store below the target's root, as
// github.com/longhorn/backupstore lays them out.
const (
	VolumesPrefix       = "backupstore/volumes/"
	BackingImagesPrefix = "backupstore/backing-images/backing-images/"
)

// VolumePrefix is the folder of a Longhorn volume with its backups, with a
// trailing '/': volumes spread over folders named by the SHA-512 of their name.
func VolumePrefix(volume string) string {
	sum := sha512.Sum512([]byte(volume))
	h := hex.EncodeToString(sum[:2])
	return VolumesPrefix + h[:2] + "/" + h[2:4] + "/" + volume + "/"
}

// VolumeConfigKey is the file that describes a Longhorn volume.
func VolumeConfigKey(volume string) string { return VolumePrefix(volume) + "volume.cfg" }

// BackupsPrefix is the folder of the descriptions of a volume's backups.
func BackupsPrefix(volume string) string { return VolumePrefix(volume) + "backups/" }

// BackupConfigKey is the file that describes one backup of a Longhorn volume.
// Longhorn writes it when the upload begins and again when it is complete, so that
// the file alone does not prove that the backup is whole.
func BackupConfigKey(volume, backup string) string {
	return BackupsPrefix(volume) + "backup_" + backup + ".cfg"
}

// BackingImageConfigKey is the file that describes the backup of a backing image.
func BackingImageConfigKey(image string) string {
	return BackingImagesPrefix + image + "/backing-image.cfg"
}

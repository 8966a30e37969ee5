// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target_test

import (
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestOpen(t *testing.T) {
	keys := credentials("https://s3.example.test:9000")
	for _, test := range []struct {
		name, url   string
		credentials map[string][]byte
		want        string // the store's String, or
		reason      vmbackup.Reason
	}{
		{"S3", "s3://bucket@us-east-1/", keys, "s3://bucket@us-east-1/", ""},
		{"S3Folder", "s3://bucket@us-east-1/a/b", keys, "s3://bucket@us-east-1/a/b", ""},
		{"S3NoRegion", "s3://bucket/a/", keys, "s3://bucket/a/", ""},
		{"S3Amazon", "s3://bucket@us-east-1/", credentials(""), "s3://bucket@us-east-1/", ""},
		{"S3Password", "s3://bucket:hidden@us-east-1/", keys, "s3://bucket@us-east-1/", ""},
		{"S3NoPath", "s3://bucket@us-east-1", keys, "", vmbackup.ReasonInvalidRequest},
		{"S3NoBucket", "s3:///path/", keys, "", vmbackup.ReasonInvalidRequest},
		{"S3BadBucket", "s3://b@us-east-1/", keys, "", vmbackup.ReasonInvalidRequest},
		{"S3NoSecret", "s3://bucket@us-east-1/", nil, "", vmbackup.ReasonForbidden},
		{"S3HalfAKey", "s3://bucket@us-east-1/", credentials("", "AWS_SECRET_ACCESS_KEY", ""), "", vmbackup.ReasonForbidden},
		{"S3EndpointWithoutScheme", "s3://bucket@us-east-1/", credentials("minio:9000"), "", vmbackup.ReasonInvalidRequest},
		{"S3EndpointWithPath", "s3://bucket@us-east-1/", credentials("https://host/path"), "", vmbackup.ReasonInvalidRequest},
		{"S3EndpointWithPassword", "s3://bucket@us-east-1/", credentials("https://a:hidden@host/"), "", vmbackup.ReasonInvalidRequest},
		{"S3BadCertificate", "s3://bucket@us-east-1/", credentials("", "AWS_CERT", "hidden"), "", vmbackup.ReasonInvalidRequest},
		{"S3BadProxy", "s3://bucket@us-east-1/", credentials("", "HTTPS_PROXY", "http://hidden:\x7f"), "", vmbackup.ReasonInvalidRequest},
		{"File", "file:///mnt/backup", nil, "file:///mnt/backup", ""},
		{"VFS", "vfs:///mnt/backup/", nil, "file:///mnt/backup", ""},
		{"FileWithHost", "file://mnt/backup", nil, "", vmbackup.ReasonInvalidRequest},
		{"FileWithoutPath", "file:backup", nil, "", vmbackup.ReasonInvalidRequest},
		{"NFS", "nfs://host:/export?nfsOptions=hidden", nil, "", vmbackup.ReasonStorageUnsupported},
		{"NFSPath", "nfs://host/export", nil, "", vmbackup.ReasonStorageUnsupported},
		{"CIFS", "cifs://user:hidden@host/share", nil, "", vmbackup.ReasonStorageUnsupported},
		{"Azure", "azblob://container@core.windows.net/", nil, "", vmbackup.ReasonStorageUnsupported},
		{"None", "", nil, "", vmbackup.ReasonTargetUnavailable},
		{"OtherScheme", "ftp://hidden/", nil, "", vmbackup.ReasonInvalidRequest},
		{"NoURL", "s3://hidden\x7f", nil, "", vmbackup.ReasonInvalidRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := target.Open(target.Config{URL: test.url, Credentials: test.credentials})
			if vmbackup.ReasonOf(err) != test.reason {
				t.Fatalf("Open: %v, want reason %q", err, test.reason)
			}
			if err == nil {
				if got := s.String(); got != test.want {
					t.Errorf("String = %q, want %q", got, test.want)
				}
				return
			}
			e := vmbackup.AsError(err, "")
			if !e.Preflight {
				t.Error("the error does not say that nothing was changed")
			}
			for _, hidden := range []string{"hidden", testSecret, testKeyID} {
				if strings.Contains(e.Message+e.Hint, hidden) {
					t.Errorf("%q, %q repeats what may be a secret", e.Message, e.Hint)
				}
			}
		})
	}
}

func TestLayout(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		// as Longhorn 1.12.1 named them on a target
		{target.VolumeConfigKey("vol1"), "backupstore/volumes/01/9c/vol1/volume.cfg"},
		{target.BackupConfigKey("vol1", "backup-6a610933601d4f25"), "backupstore/volumes/01/9c/vol1/backups/backup_backup-6a610933601d4f25.cfg"},
		{
			target.BackupConfigKey("pvc-eced759f-7a81-4e1f-b4d2-a7e54048c0e1", "backup-84051277adf44a39"),
			"backupstore/volumes/22/9c/pvc-eced759f-7a81-4e1f-b4d2-a7e54048c0e1/backups/backup_backup-84051277adf44a39.cfg",
		},
		{target.BackingImageConfigKey("bi1"), "backupstore/backing-images/backing-images/bi1/backing-image.cfg"},
	} {
		if test.got != test.want {
			t.Errorf("%s, want %s", test.got, test.want)
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"net/url"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// CheckURL refuses what Longhorn would not take as the URL of a BackupTarget, or take
// and then not be able to use. The error is InvalidRequest and does not repeat the URL.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return invalidURL("it is no URL")
	case strings.TrimSpace(raw) != raw:
		return invalidURL("there are blanks around it")
	case u.Fragment != "":
		return invalidURL("there is a # in it")
	}
	if u.User != nil {
		if _, set := u.User.Password(); set {
			return invalidURL("there is a password in it; credentials belong into the Secret")
		}
	}
	// The webhook of Longhorn: checkBackupTargetURLFormat.
	if strings.Contains(u.Path, ",") || u.Scheme != TypeCIFS && strings.Contains(u.Path, "$") {
		return invalidURL("there is a comma or a $ in its path, which Longhorn refuses")
	}
	switch u.Scheme {
	case TypeS3:
		return checkS3(u)
	case TypeNFS:
		if !strings.HasSuffix(u.Host, ":") || len(u.Host) < 2 || u.User != nil || strings.Trim(u.Path, "/") == "" {
			return invalidURL("NFS is named as nfs://<server>:/<path>, with the colon")
		}
		return onlyOption(u, "nfsOptions")
	case TypeCIFS:
		if u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") == "" {
			return invalidURL("CIFS is named as cifs://<server>/<share>")
		}
		if strings.Contains(u.Query().Get("cifsOptions"), "password") {
			return invalidURL("there is a password in its options; credentials belong into the Secret")
		}
		return onlyOption(u, "cifsOptions")
	case TypeAzure:
		container := u.Host
		if u.User != nil {
			container = u.User.Username()
		}
		if container == "" || u.Path == "" {
			return invalidURL("Azure Blob Storage is named as azblob://<container>@<endpoint suffix>/<path>/ or azblob://<container>/<path>/")
		}
		return onlyOption(u)
	}
	return invalidURL("its scheme is none of s3, nfs, cifs, azblob")
}

func checkS3(u *url.URL) error {
	bucket := u.Host
	if u.User != nil {
		bucket = u.User.Username()
		if u.Host == "" {
			return invalidURL("the region after the @ is missing")
		}
	}
	if bucket == "" || u.Path == "" {
		return invalidURL("S3 is named as s3://<bucket>@<region>/ or s3://<bucket>@<region>/<path>/, with the / at the end")
	}
	if err := s3utils.CheckValidBucketName(bucket); err != nil {
		return invalidURL("bucket " + bucket + ": " + err.Error())
	}
	return onlyOption(u)
}

// onlyOption refuses other options than those named.
func onlyOption(u *url.URL, known ...string) error {
	for option := range u.Query() {
		if !slices.Contains(known, option) {
			return invalidURL("Longhorn does not know one of its options for a target of the type " + u.Scheme)
		}
	}
	return nil
}

// CheckCredentials refuses keys with which Longhorn cannot use a target of the type.
// The error is InvalidRequest or Forbidden, and never repeats a value.
func CheckCredentials(raw string, keys map[string][]byte) error {
	kind := Type(raw)
	required := map[string][]string{TypeCIFS: {"CIFS_USERNAME", "CIFS_PASSWORD"}, TypeAzure: {"AZBLOB_ACCOUNT_NAME", "AZBLOB_ACCOUNT_KEY"}}[kind]
	for _, key := range required {
		if len(keys[key]) == 0 {
			return invalidCredentials(key + " is missing, which a target of the type " + kind + " needs")
		}
	}
	for key, value := range keys {
		if strings.TrimSpace(string(value)) != string(value) {
			return invalidCredentials("there are blanks or line ends around the value of " + key + ", which Longhorn refuses")
		}
	}
	if kind != TypeS3 || len(keys["AWS_IAM_ROLE_ARN"]) > 0 {
		return nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return invalidURL("it is no URL")
	}
	config, err := s3ConfigOf(u, keys)
	if err != nil {
		return err
	}
	_, err = config.transport() // reads the certificate
	return err
}

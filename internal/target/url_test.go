// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target_test

import (
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestCheckURL(t *testing.T) {
	for _, good := range []string{
		"s3://bucket@eu-1/", "s3://bucket@eu-1/a/b/", "s3://bucket/", "nfs://10.0.0.5:/export", "nfs://host:/a/b?nfsOptions=soft,timeo=330",
		"cifs://server/share$", "cifs://server/share?cifsOptions=vers=3.0", "azblob://container@core.windows.net/", "azblob://container/path/",
	} {
		if err := target.CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, says := range map[string]string{
		"":                                    "scheme",
		"bucket":                              "scheme",
		"http://host/":                        "scheme",
		"vfs:///data":                         "scheme",
		" s3://bucket@eu-1/":                  "no URL",
		"s3://bucket@eu-1/ ":                  "blanks",
		"s3://bucket@eu-1":                    "/ at the end",
		"s3://bucket@/":                       "region",
		"s3://B@eu-1/":                        "bucket B",
		"s3://bucket:topsecret@eu-1/":         "password",
		"s3://bucket@eu-1/?x=topsecret":       "options",
		"s3://bucket@eu-1/#x":                 "#",
		"s3://bucket@eu-1/a,b/":               "comma",
		"nfs://10.0.0.5/export":               "colon",
		"nfs://10.0.0.5:/":                    "NFS is named",
		"nfs://10.0.0.5:/export?cifsOptions=": "options",
		"nfs://10.0.0.5:/a$b":                 "$",
		"cifs://server/":                      "CIFS is named",
		"cifs://server/s?cifsOptions=password=topsecret": "password",
		"azblob://container@suffix":                      "Azure",
		"%zz":                                            "no URL",
	} {
		err := target.CheckURL(bad)
		if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: %v, want InvalidRequest with %q", bad, err, says)
		}
	}
}

func TestCheckCredentials(t *testing.T) {
	good := map[string]map[string]string{
		"s3://bucket@eu-1/":    {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "topsecret", "VIRTUAL_HOSTED_STYLE": "true"},
		"s3://role@eu-1/":      {"AWS_IAM_ROLE_ARN": "arn:aws:iam::1:role/x"},
		"cifs://server/share":  {"CIFS_USERNAME": "a", "CIFS_PASSWORD": "topsecret"},
		"azblob://container/p": {"AZBLOB_ACCOUNT_NAME": "a", "AZBLOB_ACCOUNT_KEY": "topsecret"},
	}
	bytesOf := func(texts map[string]string) map[string][]byte {
		keys := map[string][]byte{}
		for k, v := range texts {
			keys[k] = []byte(v)
		}
		return keys
	}
	for url, texts := range good {
		if err := target.CheckCredentials(url, bytesOf(texts)); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		for key := range texts {
			if key == "VIRTUAL_HOSTED_STYLE" {
				continue
			}
			lacking := bytesOf(texts)
			delete(lacking, key)
			if err := target.CheckCredentials(url, lacking); err == nil || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%s without %s: %v", url, key, err)
			}
			blank := bytesOf(texts)
			blank[key] = append(blank[key], '\n')
			if err := target.CheckCredentials(url, blank); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || !strings.Contains(err.Error(), key) {
				t.Errorf("%s with a line end after %s: %v", url, key, err)
			}
		}
	}
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

func TestParseCredentials(t *testing.T) {
	want := map[string]string{"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "a=b#c", "AWS_CERT": "one\ntwo"}
	for name, content := range map[string]string{
		"JSON":  ` {"AWS_ACCESS_KEY_ID":" id ","AWS_SECRET_ACCESS_KEY":"a=b#c","AWS_CERT":"one\ntwo"}`,
		"lines": "# keys\nAWS_ACCESS_KEY_ID = id\r\n\nexport AWS_SECRET_ACCESS_KEY='a=b#c'\nAWS_CERT=\"one\\ntwo\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			got, err := target.ParseCredentials([]byte(content))
			if err != nil {
				t.Fatal(err)
			}
			texts := map[string]string{}
			for k, v := range got {
				texts[k] = string(v)
			}
			if !maps.Equal(texts, want) {
				t.Errorf("%q, want %q", texts, want)
			}
		})
	}
	for name, content := range map[string]string{
		"unknown key":    "AWS_SECRET=topsecret",
		"secret as key":  "topsecret=x",
		"no assignment":  "topsecret",
		"twice":          "CIFS_PASSWORD=topsecret\nCIFS_PASSWORD=topsecret",
		"JSON of others": `{"AWS_ACCESS_KEY_ID":{"topsecret":1}}`,
		"cut JSON":       `{"AWS_SECRET_ACCESS_KEY":"topsecret`,
		"unknown JSON":   `{"topsecret":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := target.ParseCredentials([]byte(content))
			if vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%v", err)
			}
		})
	}
}

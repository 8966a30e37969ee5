// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/internal/target"
	"github.com/vmbackup/kubectl-vmbackup/internal/target/targettest"
)

// The contract runs against a real S3 server when the environment names one.
const (
	// envS3 is the URL of a folder in a bucket that is there: s3://bucket@region/path/.
	envS3 = "VMBACKUP_TEST_S3"
	// envS3Credentials is a JSON file with the data of a BackupTarget's Secret,
	// values as plain text.
	envS3Credentials = "VMBACKUP_TEST_S3_CREDENTIALS"
)

func TestS3(t *testing.T) {
	url := os.Getenv(envS3)
	if url == "" {
		t.Skip(envS3 + " names no S3 server")
	}
	content, err := os.ReadFile(os.Getenv(envS3Credentials))
	if err != nil {
		t.Fatalf("%s: %v", envS3Credentials, err)
	}
	var values map[string]string
	if err := json.Unmarshal(content, &values); err != nil {
		t.Fatalf("%s: %v", envS3Credentials, err)
	}
	credentials := map[string][]byte{}
	for key, value := range values {
		credentials[key] = []byte(value)
	}
	targettest.Run(t, func(t *testing.T) target.Store {
		s, err := target.Open(target.Config{URL: strings.TrimSuffix(url, "/") + "/" + rand.Text() + "/", Credentials: credentials})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx := context.WithoutCancel(t.Context())
			err := s.List(ctx, "", func(o target.Object) error { return s.Delete(ctx, o.Key) })
			if err != nil {
				t.Errorf("emptying %s: %v", s, err)
			}
		})
		return s
	})
}

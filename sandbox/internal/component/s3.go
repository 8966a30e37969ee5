// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"encoding/json"
	"fmt"
	"os"
)

// S3Credentials are the root credentials of the instance's S3 server.
type S3Credentials struct {
	AccessKeyID     string `json:"accessKeyID"`
	SecretAccessKey string `json:"secretAccessKey"`
}

// S3Endpoint is the S3 server's URL, the same on the host and inside.
func (e *Env) S3Endpoint() string { return fmt.Sprintf("http://127.0.0.1:%d", e.S3Port) }

// S3CredentialsPath is the file, readable by its owner only, that holds the credentials as JSON.
func (e *Env) S3CredentialsPath() string { return e.Path("s3-credentials.json") }

// WriteS3Credentials stores the credentials in the state directory.
func WriteS3Credentials(e *Env, c S3Credentials) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return writeFileAtomic(e.S3CredentialsPath(), append(data, '\n'), 0o600)
}

// ReadS3Credentials reads them back.
func ReadS3Credentials(e *Env) (S3Credentials, error) {
	var c S3Credentials
	data, err := os.ReadFile(e.S3CredentialsPath())
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s: %w", e.S3CredentialsPath(), err)
	}
	return c, nil
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"

	"github.com/minio/minio-go/v7"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// failed tells a failed request. Only one with a key can find a file missing. The
// client's error is not wrapped: its text may repeat what the server or a proxy
// was sent.
func (s *s3Store) failed(ctx context.Context, doing, key string, err error) error {
	if err := interrupted(ctx, s, doing); err != nil {
		return err
	}
	what := doing + " on backup target " + s.url + " at " + s.endpoint
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%s: %s", what, redact(err.Error(), s.secrets)).WithHint("%s", s.connectHint(err))
	}
	reason, hint := s.classify(answer)
	if reason == vmbackup.ReasonNotFound {
		if key != "" {
			return notFound(s, key)
		}
		reason = vmbackup.ReasonTargetUnavailable
	}
	return vmbackup.Errorf(reason, "%s: %s: %s", what, redact(answer.Code, s.secrets), redact(answer.Message, s.secrets)).WithHint("%s", hint)
}

// classify turns a server's error code into a reason and what to do.
func (s *s3Store) classify(answer minio.ErrorResponse) (vmbackup.Reason, string) {
	switch answer.Code {
	case minio.NoSuchKey, "NotFound":
		return vmbackup.ReasonNotFound, "check that " + s.endpoint + " is an S3 server"
	case minio.NoSuchBucket:
		return vmbackup.ReasonTargetUnavailable, "check that bucket " + s.bucket + " exists at " + s.endpoint + "; nothing was changed"
	case minio.SignatureDoesNotMatch, "InvalidAccessKeyId", "InvalidToken", "ExpiredToken":
		return vmbackup.ReasonForbidden, "compare " + keyAccessKey + " and " + keySecretKey + " in the Secret of the BackupTarget with the server's"
	case "RequestTimeTooSkewed":
		return vmbackup.ReasonForbidden, "the clocks of this machine and of the server differ; set them right"
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException":
		return vmbackup.ReasonTargetUnavailable, "check the region in the URL s3://<bucket>@<region>/ and " + keyEndpoints + " in the Secret of the BackupTarget"
	}
	if answer.StatusCode == http.StatusInsufficientStorage || slices.Contains(fullCodes(), answer.Code) {
		return vmbackup.ReasonTargetUnavailable, "the target has no room: make some, then run the same command again; what lies on it is not affected"
	}
	if answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden {
		return vmbackup.ReasonForbidden, "the access key needs the rights to list, read, write and delete in bucket " + s.bucket
	}
	return vmbackup.ReasonTargetUnavailable, "the server answered, but not as expected; try again, and look at its own log"
}

// fullCodes are what servers say when their disk or the bucket's quota is full.
func fullCodes() []string {
	return []string{"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity", "ServiceQuotaExceededException"}
}

// connectHint says what to look at when there was no answer.
func (s *s3Store) connectHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		name      *net.DNSError
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid):
		return "the server's certificate is not trusted; put the authority that issued it into " + keyCert + " in the Secret of the BackupTarget"
	case errors.As(err, &name):
		return "the name of the server is not known here; this machine must reach " + s.endpoint + ", too, not only the cluster"
	}
	return "check that this machine reaches " + s.endpoint + "; the data of the backups is not affected"
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"path"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// answers is a server that gives one answer to everything.
type answers struct {
	status int
	body   []byte
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Last-Modified": {"Mon, 02 Jan 2026 15:04:05 GMT"}}, Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}, nil
}

// FuzzS3Answers feeds a server's answers, listings and errors. Every call ends, with
// a reason, and without a word of the secret key.
func FuzzS3Answers(f *testing.F) {
	const secret = "SECRETSECRET"
	for _, body := range []string{
		`<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>base/a</Key><Size>1</Size></Contents></ListBucketResult>`,
		`<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>base/%2e%2e/%00</Key><Size>-1</Size></Contents></ListBucketResult>`,
		`<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>`,
		`<Error><Code>NoSuchKey</Code><Message>` + secret + `</Message></Error>`, `<Error><Code>NoSuchBucket</Code></Error>`, `<html>`, ``,
	} {
		f.Add(200, []byte(body))
		f.Add(404, []byte(body))
		f.Add(403, []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 || retried(status) {
			return // the client waits before it tries those again
		}
		server := &answers{status: status, body: body}
		store, err := open(Config{URL: "s3://bkt@region/base/", Credentials: map[string][]byte{
			keyAccessKey: []byte("KEYID"), keySecretKey: []byte(secret), keyEndpoints: []byte("http://s3.test"),
		}}, func(http.RoundTripper) http.RoundTripper { return server })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		check := func(call string, err error) {
			if err != nil && vmbackup.ReasonOf(err) == vmbackup.ReasonInternal {
				t.Fatalf("%s: %v", call, err)
			}
			if err != nil && strings.Contains(err.Error()+vmbackup.AsError(err, "").Hint, secret) {
				t.Fatalf("%s: %v", call, err)
			}
		}
		_, noListing := readPage(io.NopCloser(bytes.NewReader(body)))
		if status != http.StatusOK || noListing == nil && !bytes.Contains(body, []byte("ontinuation")) {
			// Answers that are no listing, or go round, are tried again with a pause.
			check("List", store.List(ctx, "", func(o Object) error {
				if strings.HasPrefix(o.Key, tempFolder) || strings.HasSuffix(o.Key, "/") {
					t.Fatalf("listed %q", o.Key)
				}
				return nil
			}))
		}
		content, err := store.Get(ctx, "a", 64)
		check("Get", err)
		if len(content) > 64 {
			t.Fatalf("%d bytes", len(content))
		}
		_, err = store.Stat(ctx, "a")
		check("Stat", err)
	})
}

// retried lists the answers that the client asks for again.
func retried(status int) bool {
	switch status {
	case 408, 429, 499, 500, 502, 503, 504, 520:
		return true
	}
	return false
}

// FuzzOpen feeds URLs and credentials as a BackupTarget and its Secret hold them.
func FuzzOpen(f *testing.F) {
	for _, url := range []string{"s3://b@r/", "s3://bucket@region/path/../x/", "nfs://h/p?o=1", "cifs://h/p", "azblob://c@e/", "file:///tmp/x", "vfs:///x", "s3://u:PASSWORDX@r/", "http://x", "s3://", "%", ""} {
		f.Add(url, "http://127.0.0.1:9000", "false", "http://u:PASSWORDX@proxy:3128", "")
	}
	f.Add("s3://b@r/", "ftp://x", "maybe", "://", "no certificate")
	f.Fuzz(func(t *testing.T, url, endpoint, style, proxy, cert string) {
		store, err := Open(Config{URL: url, Credentials: map[string][]byte{
			keyAccessKey: []byte("KEYID"), keySecretKey: []byte("SECRETSECRET"), keyEndpoints: []byte(endpoint),
			keyVirtualHost: []byte(style), keyHTTPProxy: []byte(proxy), keyHTTPSProxy: []byte(proxy), keyCert: []byte(cert),
		}})
		var told string
		if err != nil {
			told = err.Error() + vmbackup.AsError(err, "").Hint
			if vmbackup.ReasonOf(err) == vmbackup.ReasonInternal || !vmbackup.AsError(err, "").Preflight {
				t.Fatalf("%v", err)
			}
		} else {
			told = store.String()
		}
		for _, secret := range []string{"SECRETSECRET", "PASSWORDX"} {
			if strings.Contains(told, secret) && !strings.Contains(url, "@"+secret) {
				t.Fatalf("%q", told)
			}
		}
	})
}

// FuzzKey compares what is taken for a key with a plain path.
func FuzzKey(f *testing.F) {
	for _, key := range []string{"a/b.cfg", "../a", "a/../b", "/a", "a//b", "a/.", "a\x00", "a\\b", "vmbackup/.tmp/x", "..0", strings.Repeat("k", 1025)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := checkKey(key)
		if err == nil && (path.Clean(key) != key || path.IsAbs(key) || key == ".." || strings.HasPrefix(key, "../") || strings.ContainsAny(key, "\x00\\\n\x1b") || len(key) > maxKeyLength) {
			t.Fatalf("%q is taken", key)
		}
		if err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
			t.Fatal(err)
		}
	})
}

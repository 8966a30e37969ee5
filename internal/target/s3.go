// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// attempts is how often a request is sent before its failure is told; the waits
// between them add up to about two seconds.
const attempts = 4

// s3Store is a Store in a bucket.
type s3Store struct {
	core     minio.Core
	bucket   string
	prefix   string // of every key: empty or with a trailing '/'
	url      string // without credentials
	endpoint string
	secrets  []string // what no message may hold
	// seen is set once the bucket has answered. Before, a missing file may be a
	// missing bucket, or a server that is no S3 server at all.
	seen atomic.Bool
}

var _ Store = (*s3Store)(nil)

func openS3(u *url.URL, creds map[string][]byte, between func(http.RoundTripper) http.RoundTripper) (Store, error) {
	cfg, err := s3ConfigOf(u, creds)
	if err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	client, err := minio.New(cfg.host, &minio.Options{
		Creds:        credentials.NewStaticV4(cfg.accessKey, cfg.secretKey, ""),
		Secure:       cfg.secure,
		Transport:    &listings{between(transport)},
		Region:       cfg.region,
		BucketLookup: cfg.lookup,
		MaxRetries:   attempts,
	})
	if err != nil {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "backup target %s: endpoint %s: %s", plainURL(u), cfg.endpoint, redact(err.Error(), cfg.secrets())).AsPreflight()
	}
	// Longhorn talks to Amazon's IPv4 names; a firewall may know no others.
	client.SetS3EnableDualstack(false)
	return &s3Store{
		core:     minio.Core{Client: client},
		bucket:   cfg.bucket,
		prefix:   cleanPrefix(u.Path),
		url:      plainURL(u),
		endpoint: cfg.endpoint,
		secrets:  cfg.secrets(),
	}, nil
}

// List implements Store. The folder markers that some tools leave are no files.
func (s *s3Store) List(ctx context.Context, prefix string, each func(Object) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	doing := strings.TrimSpace("listing " + prefix)
	for info := range s.core.ListObjectsIter(withPages(ctx), s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
		if info.Err != nil {
			return s.failed(ctx, doing, "", info.Err)
		}
		s.seen.Store(true)
		key, found := strings.CutPrefix(info.Key, s.prefix)
		if !found || !strings.HasPrefix(key, prefix) || strings.HasSuffix(key, "/") || strings.HasPrefix(key, tempFolder) {
			continue
		}
		if err := each(object(key, info)); err != nil {
			return err
		}
		if err := interrupted(ctx, s, doing); err != nil {
			return err
		}
	}
	return interrupted(ctx, s, doing)
}

// Stat implements Store.
func (s *s3Store) Stat(ctx context.Context, key string) (Object, error) {
	if err := checkKey(key); err != nil {
		return Object{}, err
	}
	info, err := s.core.StatObject(ctx, s.bucket, s.prefix+key, minio.StatObjectOptions{})
	if err != nil {
		return Object{}, s.confirmed(ctx, s.failed(ctx, "looking at "+key, key, err))
	}
	s.seen.Store(true)
	return object(key, info), nil
}

// Get implements Store.
func (s *s3Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		content, broken, err := s.get(ctx, key, limit)
		if !broken || attempt == attempts || ctx.Err() != nil {
			return content, err
		}
	}
}

// get reads the object once. It is broken when the answer ended before its time,
// which the client does not try again by itself.
func (s *s3Store) get(ctx context.Context, key string, limit int64) (content []byte, broken bool, err error) {
	doing := "reading " + key
	body, info, _, err := s.core.GetObject(ctx, s.bucket, s.prefix+key, minio.GetObjectOptions{})
	if err != nil {
		return nil, false, s.confirmed(ctx, s.failed(ctx, doing, key, err))
	}
	defer body.Close()
	s.seen.Store(true)
	if info.Size > limit {
		return nil, false, tooLarge(s, key, info.Size, limit)
	}
	content, err = io.ReadAll(io.LimitReader(body, limit+1))
	switch {
	case err != nil:
		return nil, true, s.failed(ctx, doing, key, err)
	case int64(len(content)) > limit:
		return nil, false, tooLarge(s, key, int64(len(content)), limit)
	case info.Size >= 0 && int64(len(content)) != info.Size:
		return nil, true, s.failed(ctx, doing, key, io.ErrUnexpectedEOF)
	}
	return content, false, nil
}

// Put implements Store.
func (s *s3Store) Put(ctx context.Context, key string, content []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := s.core.Client.PutObject(ctx, s.bucket, s.prefix+key, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{
		ContentType:      "application/json",
		DisableMultipart: true,
		// The server refuses what the network has damaged.
		SendContentMd5: true,
	})
	if err != nil {
		return s.failed(ctx, "writing "+key, "", err)
	}
	s.seen.Store(true)
	return nil
}

// Delete implements Store.
func (s *s3Store) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	err := s.core.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{})
	if err == nil {
		s.seen.Store(true)
		return nil
	}
	err = s.confirmed(ctx, s.failed(ctx, "deleting "+key, key, err))
	if vmbackup.ReasonOf(err) == vmbackup.ReasonNotFound {
		return nil
	}
	return err
}

// String implements Store.
func (s *s3Store) String() string { return s.url }

// confirmed lets a NotFound stand only if the bucket itself answers.
func (s *s3Store) confirmed(ctx context.Context, err error) error {
	if vmbackup.ReasonOf(err) != vmbackup.ReasonNotFound || s.seen.Load() {
		return err
	}
	for info := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, Recursive: true, MaxKeys: 1}) {
		if info.Err != nil {
			return s.failed(ctx, "listing", "", info.Err)
		}
		break
	}
	if err := interrupted(ctx, s, "listing"); err != nil {
		return err
	}
	s.seen.Store(true)
	return err
}

func object(key string, info minio.ObjectInfo) Object {
	return Object{Key: key, Size: info.Size, Modified: info.LastModified.UTC()}
}

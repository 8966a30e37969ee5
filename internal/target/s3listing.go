// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const (
	// pageLimit is the most bytes of one page of a listing: a thousand keys of a
	// thousand bytes, each percent-encoded, take less than 4 MiB.
	pageLimit = 16 << 20
	// pagesLimit is the most pages of one listing, ten million files. Longhorn's
	// blocks are never listed.
	pagesLimit = 10_000
)

// pages are what one listing has been answered. A server that goes round in its
// answers would otherwise be read for good.
type pages struct{ tokens map[string]bool }

type pagesKey struct{}

// withPages marks the requests of one listing.
func withPages(ctx context.Context) context.Context {
	return context.WithValue(ctx, pagesKey{}, &pages{tokens: map[string]bool{}})
}

// listings reads the answers to listings before the S3 client does, which takes any
// XML of any size for one: an empty listing must come from an S3 server.
type listings struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l *listings) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	if query.Get("list-type") == "" {
		return l.next.RoundTrip(r)
	}
	seen, _ := r.Context().Value(pagesKey{}).(*pages)
	token := query.Get("continuation-token")
	if seen != nil && (seen.tokens[token] || len(seen.tokens) >= pagesLimit) {
		return nil, errors.New("the server's listing does not end")
	}
	answer, err := l.next.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusOK {
		return answer, err
	}
	page, err := readPage(answer.Body)
	if err != nil {
		return nil, err
	}
	if seen != nil {
		seen.tokens[token] = true
	}
	answer.Body = io.NopCloser(bytes.NewReader(page))
	return answer, nil
}

// readPage reads one page of a listing and closes it.
func readPage(body io.ReadCloser) ([]byte, error) {
	defer body.Close()
	page, err := io.ReadAll(io.LimitReader(body, pageLimit+1))
	if err != nil {
		return nil, err
	}
	if len(page) > pageLimit {
		return nil, fmt.Errorf("a page of the server's listing has more than %d bytes", pageLimit)
	}
	for dec := xml.NewDecoder(bytes.NewReader(page)); ; {
		token, err := dec.Token()
		if err != nil {
			return nil, errors.New("the server's answer is no listing of S3")
		}
		root, found := token.(xml.StartElement)
		if !found {
			continue
		}
		if root.Name.Local != "ListBucketResult" {
			return nil, fmt.Errorf("the server's answer is no listing of S3, but %q", root.Name.Local)
		}
		return page, nil
	}
}

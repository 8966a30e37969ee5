// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// tempFolder holds files of a Directory that are being written. It is no folder
// of Longhorn's or Harvester's: Harvester reads every file that it finds in its
// own, and stops its discovery at one that it cannot parse.
const tempFolder = "vmbackup/.tmp"

// maxKeyLength is S3's limit, in bytes.
const maxKeyLength = 1024

// checkKey refuses keys that do not mean the same file in every store.
func checkKey(key string) error {
	if key == "" || strings.HasSuffix(key, "/") {
		return badKey(key, "it names no file")
	}
	return checkPath(key)
}

// checkPrefix refuses prefixes that no key begins with.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkPath(strings.TrimSuffix(prefix, "/"))
}

func checkPath(key string) error {
	switch {
	case len(key) > maxKeyLength:
		return badKey(key[:32]+"…", "it is too long")
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl) || strings.ContainsRune(key, '\\'):
		return badKey(key, "it has characters that not every target takes")
	case key == tempFolder || strings.HasPrefix(key, tempFolder+"/"):
		return badKey(key, "the folder is for files being written")
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return badKey(key, "it is not a plain path")
		}
	}
	return nil
}

func badKey(key, why string) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "key %q on the backup target: %s", key, why)
}

// notFound is the error for a missing file.
func notFound(store Store, key string) error {
	return vmbackup.Errorf(vmbackup.ReasonNotFound, "no file %s on backup target %s", key, store)
}

// tooLarge is the error for a file larger than its reader takes.
func tooLarge(store Store, key string, size, limit int64) error {
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "file %s on backup target %s has %d bytes, more than the %d to be read", key, store, size, limit)
}

// interrupted returns the error for a context that has ended, or nil.
func interrupted(ctx context.Context, store Store, doing string) error {
	err := ctx.Err()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return vmbackup.Errorf(vmbackup.ReasonTargetUnavailable, "%s on backup target %s: no answer in time: %w", doing, store, err)
	}
	return vmbackup.Errorf(vmbackup.ReasonCanceled, "%s on backup target %s: %w", doing, store, err)
}

// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// JournalLimit is the most bytes that EncodeJournal returns: what a Secret holds
// (1 MiB over all its values) less what the journal keeps beside the record.
const JournalLimit = 1<<20 - 64<<10

// EncodeRecord writes the record as the tool's own file on the target. The
// manifests are sanitized. The error is InvalidRequest and names the field.
func EncodeRecord(rec *Record) ([]byte, error) {
	clean, err := checked(rec)
	if err != nil {
		return nil, refused(rec, err)
	}
	content, err := json.Marshal(clean)
	if err != nil {
		return nil, refused(rec, err)
	}
	if len(content) > FileLimit {
		return nil, refused(rec, fmt.Errorf("%d bytes are more than the %d that metadata may have", len(content), FileLimit))
	}
	return content, nil
}

// DecodeRecord reads the tool's own file of a backup. The key is where it lay;
// the content must be of the backup that the key names. The error is DataDamaged
// and names the key and the field.
func DecodeRecord(key string, content []byte) (*Record, error) {
	kind, ref, ok := ParseKey(key)
	if !ok || kind != FileRecord {
		return nil, damaged(key, "the name is not that of a record")
	}
	return decodeRecord(key, ref, content)
}

func decodeRecord(key string, ref vmbackup.Ref, content []byte) (*Record, error) {
	rec := &Record{}
	if err := decode(key, content, rec); err != nil {
		return nil, err
	}
	if rec.Kind != RecordKind || rec.APIVersion != vmbackup.APIVersion {
		return nil, damaged(key, "apiVersion %q, kind %q is not the %s, %s that this build reads", rec.APIVersion, rec.Kind, vmbackup.APIVersion, RecordKind)
	}
	clean, err := checked(rec)
	if err != nil {
		return nil, damaged(key, "%w", err)
	}
	if got := clean.Backup.Ref(); got != ref {
		return nil, damaged(key, "field backup.metadata names backup %s, the file is of %s", got, ref)
	}
	return clean, nil
}

// EncodeJournal is EncodeRecord, compressed, for a Secret. A record that no
// Secret can hold is an InvalidRequest error.
func EncodeJournal(rec *Record) ([]byte, error) {
	content, err := EncodeRecord(rec)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	zip, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, refused(rec, err)
	}
	if _, err := zip.Write(content); err != nil {
		return nil, refused(rec, err)
	}
	if err := zip.Close(); err != nil {
		return nil, refused(rec, err)
	}
	if b.Len() > JournalLimit {
		return nil, vmbackup.Errorf(vmbackup.ReasonInvalidRequest,
			"record of backup %s has %d bytes compressed, a Secret of the journal holds %d", rec.Backup.Ref(), b.Len(), JournalLimit).
			WithHint("the secrets and config maps of the virtual machine are too large to be kept with its backup; make them smaller")
	}
	return b.Bytes(), nil
}

// DecodeJournal reads what EncodeJournal wrote for the backup.
func DecodeJournal(ref vmbackup.Ref, content []byte) (*Record, error) {
	place := "journal of backup " + ref.String()
	if len(content) > JournalLimit {
		return nil, damaged(place, "%d bytes are more than %d", len(content), JournalLimit)
	}
	zip, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, damaged(place, "%w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(zip, FileLimit+1))
	if err != nil {
		return nil, damaged(place, "%w", err)
	}
	return decodeRecord(place, ref, plain)
}

// refused says that a record cannot be written.
func refused(rec *Record, err error) error {
	var e *vmbackup.Error
	if errors.As(err, &e) && e.Error() == err.Error() {
		return e
	}
	if rec == nil {
		return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "record: %w", err)
	}
	return vmbackup.Errorf(vmbackup.ReasonInvalidRequest, "record of backup %s: %w", rec.Backup.Ref(), err)
}

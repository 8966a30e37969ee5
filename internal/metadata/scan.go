// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"unicode/utf8"

	kjson "sigs.k8s.io/json"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

const (
	// FileLimit is the largest file of metadata that is read or written, in
	// bytes. A virtual machine has at most 1.5 MiB in etcd, each of its secrets
	// 1 MiB and a third more in base64.
	FileLimit = 16 << 20
	// depthLimit is how deep objects and arrays may nest. A virtual machine needs
	// about 15.
	depthLimit = 64
)

// damaged says that a file, or the journal, is not what it should be.
func damaged(file, format string, args ...any) *vmbackup.Error {
	return vmbackup.Errorf(vmbackup.ReasonDataDamaged, "%s: %w", file, fmt.Errorf(format, args...)).
		WithHint("the file was not used and not changed; compare it with another copy, or make a new backup")
}

// DecodeStrict reads one JSON document as the files and records of the tool are
// read: bounded, no key twice, nothing after the end. The error is DataDamaged and
// names the place.
func DecodeStrict(place string, content []byte, into any) error {
	return decode(place, content, into)
}

// ReadObject reads a manifest into a type of Kubernetes as the API server does: a
// field is one in its own case only, where encoding/json would take others, too.
func ReadObject(manifest []byte, into any) error {
	return kjson.UnmarshalCaseSensitivePreserveInts(manifest, into)
}

// decode reads one JSON document strictly: bounded size and depth, no key twice, no
// known field in another case, which other readers of the file would take for it,
// nothing after the end. Unknown fields pass, since newer writers add some.
func decode(file string, content []byte, into any) error {
	if len(content) > FileLimit {
		return damaged(file, "%d bytes are more than the %d that metadata may have", len(content), FileLimit)
	}
	if err := scan(content, shapeOf(reflect.TypeOf(into))); err != nil {
		return damaged(file, "%w", err)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(content, into); err != nil {
		return damaged(file, "%w", err)
	}
	return nil
}

// scan checks the form of a JSON document, which is to become a value of the shape,
// without building it.
func scan(content []byte, s *shape) error {
	if !utf8.Valid(content) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	if err := scanValue(dec, nil, s); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one JSON document (at byte %d)", dec.InputOffset())
	}
	return nil
}

func scanValue(dec *json.Decoder, at []string, s *shape) error {
	tok, err := dec.Token()
	if err != nil {
		return scanError(at, err)
	}
	delim, isDelim := tok.(json.Delim)
	if !isDelim {
		return nil
	}
	if len(at) >= depthLimit {
		return fmt.Errorf("nested deeper than %d", depthLimit)
	}
	if delim == '[' {
		for i := 0; dec.More(); i++ {
			if err := scanValue(dec, append(at, "["+strconv.Itoa(i)+"]"), s.of("")); err != nil {
				return err
			}
		}
	} else {
		seen := map[string]bool{}
		for dec.More() {
			tok, err := dec.Token()
			if err != nil {
				return scanError(at, err)
			}
			key, ok := tok.(string)
			if !ok {
				return scanError(at, fmt.Errorf("key %v is not a string", tok))
			}
			if seen[key] {
				return scanError(append(at, key), errors.New("key given twice"))
			}
			seen[key] = true
			if known := s.otherCase(key); known != "" {
				return scanError(append(at, key), fmt.Errorf("it is not %q, but differs in case only", known))
			}
			if err := scanValue(dec, append(at, key), s.of(key)); err != nil {
				return err
			}
		}
	}
	if _, err := dec.Token(); err != nil {
		return scanError(at, err)
	}
	return nil
}

// scanError names the field. The parser's own message may quote a character of
// the file, never a value.
func scanError(at []string, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if len(at) == 0 {
		return err
	}
	return fmt.Errorf("field %s: %w", path(at), err)
}

// path joins the parts of a field's path: a.b[0].c.
func path(at []string) string {
	var b bytes.Buffer
	for i, part := range at {
		if i > 0 && part[:min(1, len(part))] != "[" {
			b.WriteByte('.')
		}
		const longest = 64
		if len(part) > longest {
			part = part[:longest] + "…"
		}
		b.WriteString(part)
	}
	return strconv.QuoteToGraphic(b.String())
}

// isObject reports whether raw is a JSON object.
func isObject(raw json.RawMessage) bool {
	trimmed := bytes.TrimLeft(raw, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '{'
}

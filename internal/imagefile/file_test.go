// Copyright The kubectl-vmbackup Authors.
// SPDX-License-Identifier: Apache-2.0

package imagefile

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmbackup/kubectl-vmbackup/pkg/vmbackup"
)

// qcow is the beginning of a qcow2 file with a disk of 1 GiB.
func qcow(version uint32, change func(b []byte)) []byte {
	b := make([]byte, 1024)
	copy(b, qcowMark)
	binary.BigEndian.PutUint32(b[qcowVersion:], version)
	binary.BigEndian.PutUint64(b[qcowVirtualSize:], 1<<30)
	if change != nil {
		change(b)
	}
	return b
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInspect(t *testing.T) {
	feature := func(bit byte) func([]byte) { return func(b []byte) { b[qcowIncompatible+7] = bit } }
	tar := make([]byte, 1024)
	copy(tar[257:], "ustar\x0000")
	vdi := make([]byte, 1024)
	copy(vdi, "<<< Oracle VM VirtualBox Disk Image >>>\n")
	copy(vdi[64:], "\x7f\x10\xda\xbe")
	for name, tc := range map[string]struct {
		content []byte
		format  Format
		virtual int64
		says    string
	}{
		"raw":             {make([]byte, 1024), Raw, 1024, ""},
		"one sector":      {make([]byte, 512), Raw, 512, ""},
		"qcow2, old":      {qcow(2, nil), QCOW2, 1 << 30, ""},
		"qcow2":           {qcow(3, nil), QCOW2, 1 << 30, ""},
		"lazy refcounts":  {qcow(3, func(b []byte) { b[80+7] = 1 }), QCOW2, 1 << 30, ""},
		"empty":           {nil, "", 0, "is empty"},
		"cut off":         {make([]byte, 1000), "", 0, "no multiple of 512"},
		"qcow2, cut off":  {qcow(3, nil)[:40], "", 0, "header is cut off"},
		"qcow2, cut late": {qcow(3, nil)[:74], "", 0, "header is cut off"},
		"qcow1":           {qcow(1, nil), "", 0, "version 1"},
		"with a backing":  {qcow(3, func(b []byte) { b[qcowBackingFile+7] = 1 }), "", 0, "backing file"},
		"encrypted":       {qcow(2, func(b []byte) { b[qcowEncryption+3] = 2 }), "", 0, "is encrypted"},
		"external data":   {qcow(3, feature(4)), "", 0, "another file"},
		"corrupt":         {qcow(3, feature(2)), "", 0, "corrupt"},
		"in use":          {qcow(3, feature(1)), "", 0, "not closed"},
		"no disk":         {qcow(2, func(b []byte) { binary.BigEndian.PutUint64(b[qcowVirtualSize:], 0) }), "", 0, "0 bytes"},
		"disk of nobody":  {qcow(2, func(b []byte) { b[qcowVirtualSize] = 0xff }), "", 0, "bytes"},
		"gzip":            {append([]byte("\x1f\x8b"), make([]byte, 510)...), "", 0, "gzip"},
		"xz":              {append([]byte("\xfd7zXZ\x00"), make([]byte, 100)...), "", 0, "xz"},
		"zstd":            {append([]byte("\x28\xb5\x2f\xfd"), make([]byte, 100)...), "", 0, "Zstandard"},
		"ova":             {tar, "", 0, "tar archive"},
		"vmdk":            {append([]byte("KDMV"), make([]byte, 508)...), "", 0, "VMDK"},
		"vdi":             {vdi, "", 0, "VDI"},
		"an error's page": {[]byte("<!DOCTYPE html><html>404"), "", 0, "web site"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, tc.content)
			f, err := Inspect(path)
			if tc.says != "" {
				e := vmbackup.AsError(err, vmbackup.ReasonInternal)
				if e == nil || e.Reason != vmbackup.ReasonInvalidRequest || !strings.Contains(e.Message, tc.says) || !strings.Contains(e.Message, path) {
					t.Fatalf("%v, not %q", err, tc.says)
				}
				if e.Hint == "" && name != "empty" {
					t.Error("nothing says what to do")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Format != tc.format || f.VirtualSizeBytes() != tc.virtual || f.SizeBytes() != int64(len(tc.content)) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestInspectRefusesWhatIsNoFile(t *testing.T) {
	for path, says := range map[string]string{
		t.TempDir():                            "is a directory",
		filepath.Join(t.TempDir(), "none.img"): "there is no file",
		os.DevNull:                             "no regular file",
	} {
		if _, err := Inspect(path); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestChecksum(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 160<<10) // 2.5 MiB
	f, err := Inspect(write(t, content))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := f.Checksum(t.Context())
	want := sha512.Sum512(content)
	if err != nil || sum != hex.EncodeToString(want[:]) {
		t.Errorf("%s, %v", sum, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Checksum(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	content := qcow(3, nil)
	path := write(t, content)
	f, err := Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(path, 2048); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(); err == nil || !strings.Contains(err.Error(), "it had 1024 bytes, and has 2048") {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Open(); vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest {
		t.Error(err)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add(qcow(2, nil))
	f.Add(qcow(3, nil))
	f.Add([]byte(qcowMark))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHead(b)
		switch {
		case err != nil && vmbackup.ReasonOf(err) != vmbackup.ReasonInvalidRequest:
			t.Error(err)
		case err == nil && h.format == QCOW2 && h.virtual <= 0:
			t.Errorf("%+v", h)
		}
	})
}
